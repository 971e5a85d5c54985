//! Definitions: immutable versions. A text goes into the [`Archive`] first, which outlives a lost Redis, then into the
//! [`Index`], which answers questions; plans and version lists are held in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_nats::jetstream;
use millrace_common::DefinitionRef;
use millrace_dsl::model::{Construct, Document, Feature, FunctionUse};
use millrace_dsl::{Diagnostic, Resources};
use millrace_engine::Plan;
use millrace_runtime::config::Redirects;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, Kept};
use super::fetch::Fetcher;
use super::index::{Changes, Index};
use super::source;
use super::store::{Store, StoreError};

/// What came of an accepted definition.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The exact version.
    pub definition: DefinitionRef,
    /// New; or else there already with the same content.
    pub created: bool,
    /// Remarks that did not stop it.
    pub warnings: Vec<Diagnostic>,
    /// The functions of the fleet that it calls.
    pub functions: Vec<FunctionUse>,
}

/// A text that may be stored.
#[derive(Clone, Debug)]
pub struct Valid {
    /// The exact version.
    pub definition: DefinitionRef,
    /// Remarks.
    pub warnings: Vec<Diagnostic>,
    /// The functions of the fleet that it calls.
    pub functions: Vec<FunctionUse>,
}

/// Why a definition was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The text is not a definition that can run here; every fault of it.
    #[error("the definition is invalid")]
    Invalid(Vec<Diagnostic>),
    /// The version exists with other content.
    #[error("{0} exists with other content")]
    Conflict(DefinitionRef),
    /// A server did not answer; applying again is safe.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A server did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Redis.
    #[error(transparent)]
    Redis(#[from] StoreError),
    /// JetStream.
    #[error("jetstream: {0}")]
    Nats(String),
}

/// One version as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredDefinition {
    /// The text as it was applied, comments and all.
    pub source: String,
    /// When, Unix ms.
    pub created_ms: i64,
    /// What it refers to elsewhere, as it was then.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
}

/// A definition with all its versions, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionInfo {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The newest version: what `latest` means.
    pub version: String,
    /// All versions, newest first.
    pub versions: Vec<String>,
}

/// Clonable handle.
#[derive(Clone)]
pub struct Definitions(Arc<Inner>);

struct Inner {
    archive: Archive,
    index: Index,
    fetcher: Fetcher,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    plans: HashMap<DefinitionRef, Arc<Plan>>,
    /// Ascending.
    versions: BTreeMap<(String, String), Vec<semver::Version>>,
    /// Those of which some version has a schedule.
    scheduled: Vec<(String, String)>,
    revision: i64,
}

impl fmt::Debug for Definitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Definitions")
    }
}

impl millrace_engine::Definitions for Definitions {
    fn plan(&self, definition: &DefinitionRef) -> Option<Arc<Plan>> {
        self.read(|k| k.plans.get(definition).cloned())
    }

    fn latest(&self, namespace: &str, name: &str) -> Option<String> {
        Self::latest(self, namespace, name).map(|d| d.version)
    }
}

impl Definitions {
    /// Empty; [`Self::refresh`] reads the lists.
    pub fn new(store: Store, jetstream: jetstream::Context, redirects: Redirects) -> Self {
        let (archive, index) = (Archive::new(jetstream), Index::new(store));
        Self(Arc::new(Inner {
            archive,
            index,
            fetcher: Fetcher::new(redirects),
            known: RwLock::default(),
        }))
    }

    fn read<T>(&self, f: impl FnOnce(&Known) -> T) -> T {
        f(&self.0.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.0.known.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest version: the highest by semantic versioning.
    pub fn latest(&self, namespace: &str, name: &str) -> Option<DefinitionRef> {
        let info = self.get(namespace, name)?;
        Some(DefinitionRef {
            namespace: info.namespace,
            name: info.name,
            version: info.version,
        })
    }

    /// Definitions of which some version has a schedule: (namespace, name).
    pub fn scheduled(&self) -> Vec<(String, String)> {
        self.read(|k| k.scheduled.clone())
    }

    /// Rises with every version that [`Self::refresh`] has learnt of.
    pub fn revision(&self) -> i64 {
        self.read(|k| k.revision)
    }

    /// Every definition in order.
    pub fn list(&self) -> Vec<DefinitionInfo> {
        self.read(|k| {
            k.versions
                .iter()
                .filter_map(|(key, versions)| info(key, versions))
                .collect()
        })
    }

    /// One definition with its versions.
    pub fn get(&self, namespace: &str, name: &str) -> Option<DefinitionInfo> {
        let key = (namespace.to_owned(), name.to_owned());
        self.read(|k| info(&key, k.versions.get(&key)?))
    }

    /// Checks a text without storing it.
    ///
    /// # Errors
    /// Every fault of the text.
    pub async fn validate(&self, text: &str) -> Result<Valid, Vec<Diagnostic>> {
        let (accepted, _) = self.resolve(text, Resources::new()).await?;
        Ok(Valid {
            definition: accepted.reference,
            warnings: accepted.warnings,
            functions: functions(&accepted.document),
        })
    }

    /// Accepts a text with all it refers to: fetches until nothing is missing, since a function may refer to others.
    async fn resolve(
        &self,
        text: &str,
        mut resources: Resources,
    ) -> Result<(source::Accepted, Resources), Vec<Diagnostic>> {
        loop {
            let accepted = source::accept_aside(text, &resources).await?;
            if accepted.missing.is_empty() {
                return Ok((accepted, resources));
            }
            self.0
                .fetcher
                .complete(text.len(), &accepted.missing, &mut resources)
                .await?;
        }
    }

    /// What a version that is there already was deployed with: it is not fetched again, so it cannot become another one.
    async fn pinned(&self, text: &str) -> Result<Resources, ApplyError> {
        let accepted = source::accept_aside(text, &Resources::new())
            .await
            .map_err(ApplyError::Invalid)?;
        if accepted.missing.is_empty() {
            return Ok(Resources::new());
        }
        let Some(earlier) = self.stored(&accepted.reference).await? else {
            return Ok(Resources::new());
        };
        agree(&accepted.reference, &accepted.document, &earlier)?;
        Ok(earlier.resources)
    }

    /// Stores a definition durably. The same content again is fine; other content under the same version is not.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply(&self, text: &str, now_ms: i64) -> Result<Applied, ApplyError> {
        let pinned = self.pinned(text).await?;
        let (accepted, resources) = self.resolve(text, pinned).await.map_err(ApplyError::Invalid)?;
        let source::Accepted {
            mut document,
            reference,
            warnings,
            ..
        } = accepted;
        let mut stored = StoredDefinition {
            source: text.into(),
            created_ms: now_ms,
            resources,
        };
        if let Kept::Earlier(earlier) = self.0.archive.keep(&reference, &stored).await? {
            agree(&reference, &document, &earlier)?;
            if earlier.resources != stored.resources {
                document = source::accept_aside(text, &earlier.resources)
                    .await
                    .map_err(ApplyError::Invalid)?
                    .document;
            }
            stored = earlier;
        }
        let before = self
            .0
            .index
            .enter(&reference, &stored, document.schedule.is_some())
            .await
            .map_err(Unavailable::from)?;
        if let Some(earlier) = &before {
            agree(&reference, &document, earlier)?;
        }
        let functions = functions(&document);
        self.remember(&reference, document);
        Ok(Applied {
            definition: reference,
            created: before.is_none(),
            warnings,
            functions,
        })
    }

    /// The plan of an exact version: from memory, else Redis, else the archive. `None` when there is no such version.
    ///
    /// # Errors
    /// [`Unavailable`]; whether the version exists is not known then.
    pub async fn load(&self, definition: &DefinitionRef) -> Result<Option<Arc<Plan>>, Unavailable> {
        if let Some(plan) = millrace_engine::Definitions::plan(self, definition) {
            return Ok(Some(plan));
        }
        let Some(stored) = self.stored(definition).await? else {
            return Ok(None);
        };
        match source::accept_aside(&stored.source, &stored.resources).await {
            Ok(accepted) => Ok(Some(self.remember(definition, accepted.document))),
            Err(faults) => {
                let first = faults.first().map(ToString::to_string).unwrap_or_default();
                tracing::error!(%definition, first, "stored definition is not readable by this build");
                Ok(None)
            }
        }
    }

    /// The text of an exact version.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn stored(&self, definition: &DefinitionRef) -> Result<Option<StoredDefinition>, Unavailable> {
        match self.0.index.fetch(definition).await? {
            Some(stored) => Ok(Some(stored)),
            None => self.0.archive.kept(definition).await,
        }
    }

    /// Reads what changed in Redis since the last time; everything when Redis went back.
    ///
    /// # Errors
    /// [`StoreError`]; what was known stays known.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let (known, newest) = (self.read(|k| k.revision), self.0.index.revision().await?);
        if newest == known {
            return Ok(());
        }
        let whole = newest < known;
        let Changes { versions, revision } = self.0.index.since(if whole { 0 } else { known }).await?;
        // After the revision, so that it knows of every version up to it.
        let scheduled = self.0.index.scheduled().await?;
        self.write(|k| {
            if whole {
                k.versions.clear();
            }
            for (key, texts) in versions {
                k.versions.insert(key, ascending(&texts));
            }
            k.scheduled = scheduled;
            k.revision = revision;
        });
        Ok(())
    }

    /// Fills an empty Redis from the archive; returns how many versions came back. Called once at start.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn restore(&self) -> Result<usize, Unavailable> {
        if self.0.index.revision().await? > 0 {
            return Ok(0);
        }
        let mut restored = 0;
        for stored in self.0.archive.all().await? {
            let Ok(accepted) = source::accept(&stored.source, &stored.resources) else {
                tracing::error!("archived definition is not readable by this build");
                continue;
            };
            let scheduled = accepted.document.schedule.is_some();
            self.0
                .index
                .enter(&accepted.reference, &stored, scheduled)
                .await?;
            restored += 1;
        }
        Ok(restored)
    }

    fn remember(&self, key: &DefinitionRef, document: Arc<Document>) -> Arc<Plan> {
        let fresh = Arc::new(Plan::new(document));
        self.write(|k| {
            let versions = k
                .versions
                .entry((key.namespace.clone(), key.name.clone()))
                .or_default();
            if let Ok(version) = semver::Version::parse(&key.version)
                && let Err(place) = versions.binary_search(&version)
            {
                versions.insert(place, version);
            }
            k.plans.entry(key.clone()).or_insert(fresh).clone()
        })
    }
}

/// What it needs of the fleet beyond what every worker offers: functions, and processes by their kind.
fn functions(document: &Document) -> Vec<FunctionUse> {
    let process = |c: &Construct| {
        let function = match c.feature {
            Feature::Shell => "run:shell",
            Feature::Script => "run:script",
            Feature::Container => "run:container",
            _ => return None,
        };
        Some(FunctionUse {
            function: function.into(),
            pointer: c.pointer.clone(),
            span: c.span,
        })
    };
    let processes = document.constructs.iter().filter_map(process);
    document.functions.iter().cloned().chain(processes).collect()
}

fn agree(key: &DefinitionRef, document: &Document, earlier: &StoredDefinition) -> Result<(), ApplyError> {
    match source::same(document, &earlier.source) {
        true => Ok(()),
        false => Err(ApplyError::Conflict(key.clone())),
    }
}

fn ascending(texts: &[String]) -> Vec<semver::Version> {
    let mut versions: Vec<_> = texts
        .iter()
        .filter_map(|t| semver::Version::parse(t).ok())
        .collect();
    versions.sort();
    versions
}

fn info((namespace, name): &(String, String), versions: &[semver::Version]) -> Option<DefinitionInfo> {
    Some(DefinitionInfo {
        namespace: namespace.clone(),
        name: name.clone(),
        version: versions.last()?.to_string(),
        versions: versions.iter().rev().map(ToString::to_string).collect(),
    })
}
