//! Who is in the fleet, in Redis: one field per worker for what it said at registration, one for its last beat.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_common::{BEAT_MS, Beat, Register, names};
use serde::{Deserialize, Serialize};

use super::Offers;
use crate::registry::{FunctionEntry, Functions, Store, StoreError};

/// Without a beat for this long a worker is `late`: three are missing.
const LATE: Duration = Duration::from_millis(3 * BEAT_MS + BEAT_MS / 2);
/// Without a beat for this long it is `gone`.
const GONE: Duration = Duration::from_secs(30);
/// Without a beat for this long it is removed.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// What is said about waiting instances may be this old: they are looked at often, and by many.
const OFFERS_AGE_MAX: Duration = Duration::from_secs(1);
/// Behind a worker's id in the name of its beat's field. Ids hold no space.
const BEAT_SUFFIX: &str = " beat";

/// Health of a worker by the age of its last beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Beats.
    Alive,
    /// Missed some.
    Late,
    /// Missed so many that nobody should wait for it; its steps are delivered to others.
    Gone,
}

/// A worker as the API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    /// Its id.
    pub id: String,
    /// By the age of the last beat.
    pub health: Health,
    /// It takes nothing new.
    pub draining: bool,
    /// Build of its binary.
    pub build: String,
    /// The machine.
    pub host: String,
    /// Queues it pulls from.
    pub queues: Vec<String>,
    /// `name:version` of every function.
    pub functions: Vec<String>,
    /// Other abilities.
    pub capabilities: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Steps it can run at a time.
    pub slots: u32,
    /// Steps it runs.
    pub slots_used: u32,
    /// The longest running steps.
    pub running: Vec<millrace_common::RunningStep>,
    /// Ended with an output since its start.
    pub done_total: u64,
    /// Ended with an error since its start.
    pub failed_total: u64,
    /// Unix ms.
    pub registered_ms: i64,
    /// Unix ms.
    pub last_beat_ms: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    register: Register,
    at_ms: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct BeatEntry {
    beat: Beat,
    at_ms: i64,
}

/// When it was read.
type Remembered = (Instant, Arc<Offers>);

/// Clonable handle.
#[derive(Clone, Debug)]
pub struct Roster {
    store: Store,
    pending: Arc<Mutex<HashMap<String, BeatEntry>>>,
    offers: Arc<Mutex<Option<Remembered>>>,
}

impl Roster {
    /// Over the registry's Redis.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            pending: Arc::default(),
            offers: Arc::default(),
        }
    }

    /// Every worker in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn all(&self) -> Result<Vec<WorkerView>, StoreError> {
        let fields: HashMap<String, String> = self
            .store
            .query(redis::cmd("HGETALL").arg(names::WORKERS_KEY))
            .await?;
        let mut workers: Vec<_> = fields
            .iter()
            .filter(|(field, _)| !field.ends_with(BEAT_SUFFIX))
            .filter_map(|(id, text)| view(text, fields.get(&beat_field(id)), now_ms()))
            .collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }

    /// What the fleet can run now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn offers(&self) -> Result<Arc<Offers>, StoreError> {
        let offers = Arc::new(Offers::of(&self.all().await?));
        *self.remembered() = Some((Instant::now(), offers.clone()));
        Ok(offers)
    }

    /// What the fleet could run a second ago at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn recent_offers(&self) -> Result<Arc<Offers>, StoreError> {
        let remembered = self.remembered().clone();
        match remembered {
            Some((at, offers)) if at.elapsed() < OFFERS_AGE_MAX => Ok(offers),
            _ => self.offers().await,
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Option<Remembered>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One worker.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, id: &str) -> Result<Option<WorkerView>, StoreError> {
        let mut read = redis::cmd("HMGET");
        read.arg(names::WORKERS_KEY).arg(id).arg(beat_field(id));
        let [entry, beat]: [Option<String>; 2] = self.store.query(&read).await?;
        Ok(entry.and_then(|text| view(&text, beat.as_ref(), now_ms())))
    }

    /// Stores a registration.
    pub(super) async fn enter(&self, register: &Register) -> Result<(), StoreError> {
        let entry = Entry {
            register: register.clone(),
            at_ms: now_ms(),
        };
        let mut write = redis::cmd("HSET");
        write
            .arg(names::WORKERS_KEY)
            .arg(&register.worker)
            .arg(encode(&entry));
        self.store.query(&write).await
    }

    /// The reason to refuse a worker: another one that is there serves one of its functions through another queue.
    pub(super) async fn rival(
        &self,
        register: &Register,
        wanted: &BTreeMap<String, FunctionEntry>,
        known: &Functions,
    ) -> Result<Option<String>, StoreError> {
        let moved = |(name, entry): &(&String, &FunctionEntry)| {
            known.queue_of(name).is_some_and(|q| q != entry.queue)
        };
        let moved: Vec<_> = wanted.iter().filter(moved).collect();
        if moved.is_empty() {
            return Ok(None);
        }
        let others = self.all().await?;
        Ok(moved.into_iter().find_map(|(name, entry)| {
            let holder = others.iter().find(|w| {
                w.id != register.worker && w.health != Health::Gone && w.functions.contains(name)
            })?;
            let queue = known.queue_of(name)?;
            Some(format!(
                "function {name} is served by {} through queue `{queue}`, not `{}`",
                holder.id, entry.queue
            ))
        }))
    }

    /// Keeps a beat for the next [`Self::flush`]; a newer one replaces it.
    pub(super) fn beat(&self, beat: Beat) {
        let entry = BeatEntry {
            beat,
            at_ms: now_ms(),
        };
        self.pending().insert(entry.beat.worker.clone(), entry);
    }

    /// Writes all beats in one command.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let beats = std::mem::take(&mut *self.pending());
        if beats.is_empty() {
            return Ok(());
        }
        let mut write = redis::cmd("HSET");
        write.arg(names::WORKERS_KEY);
        for (id, entry) in &beats {
            write.arg(beat_field(id)).arg(encode(entry));
        }
        self.store.query(&write).await
    }

    /// Removes workers without a beat for an hour.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let limit = now_ms() - ms(FORGOTTEN);
        let forgotten: Vec<_> = self
            .all()
            .await?
            .into_iter()
            .filter(|w| w.last_beat_ms < limit)
            .collect();
        for worker in forgotten {
            let mut remove = redis::cmd("HDEL");
            remove
                .arg(names::WORKERS_KEY)
                .arg(&worker.id)
                .arg(beat_field(&worker.id));
            self.store.query::<()>(&remove).await?;
            tracing::info!(
                worker.id = worker.id,
                "worker removed after an hour without a beat"
            );
        }
        Ok(())
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<String, BeatEntry>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `name:version` of every function of a worker, with its queue.
pub(super) fn functions(register: &Register) -> BTreeMap<String, FunctionEntry> {
    let entry = |f: &millrace_common::FunctionInfo| {
        (
            format!("{}:{}", f.name, f.version),
            FunctionEntry {
                queue: f.queue.clone(),
            },
        )
    };
    register.functions.iter().map(entry).collect()
}

/// Every queue that a worker pulls from or names.
pub(super) fn queues(register: &Register) -> BTreeSet<String> {
    register
        .queues
        .iter()
        .chain(register.functions.iter().map(|f| &f.queue))
        .cloned()
        .collect()
}

fn view(entry: &str, beat: Option<&String>, now_ms: i64) -> Option<WorkerView> {
    let Entry { register, at_ms } = read(entry)?;
    let beat: Option<BeatEntry> = beat.and_then(|text| read(text));
    let last_beat_ms = beat.as_ref().map_or(at_ms, |b| b.at_ms.max(at_ms));
    let functions = functions(&register).into_keys().collect();
    // A worker that came back under its id does not go on draining.
    let draining = beat.as_ref().is_some_and(|b| b.beat.draining && b.at_ms >= at_ms);
    let beat = beat.map(|b| b.beat);
    Some(WorkerView {
        id: register.worker,
        health: health(now_ms - last_beat_ms),
        draining,
        build: register.build,
        host: register.host,
        queues: register.queues,
        functions,
        capabilities: register.capabilities,
        labels: register.labels,
        slots: register.slots,
        slots_used: beat.as_ref().map_or(0, |b| b.slots_used),
        done_total: beat.as_ref().map_or(0, |b| b.done_total),
        failed_total: beat.as_ref().map_or(0, |b| b.failed_total),
        running: beat.map(|b| b.running).unwrap_or_default(),
        registered_ms: at_ms,
        last_beat_ms,
    })
}

fn health(age_ms: i64) -> Health {
    match age_ms {
        age if age >= ms(GONE) => Health::Gone,
        age if age >= ms(LATE) => Health::Late,
        _ => Health::Alive,
    }
}

fn beat_field(id: &str) -> String {
    format!("{id}{BEAT_SUFFIX}")
}

fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("entries have string keys")
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text)
        .inspect_err(|error| tracing::warn!(%error, "worker entry is not readable"))
        .ok()
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn now_ms() -> i64 {
    ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register() -> Register {
        serde_json::from_value(serde_json::json!({
            "worker": "w-1", "build": "b", "host": "h", "queues": ["default"], "slots": 4,
            "functions": [{"name": "pay", "version": "1.0.0", "queue": "money"}]
        }))
        .unwrap()
    }

    #[test]
    fn health_follows_the_age_of_the_last_beat() {
        assert_eq!(health(0), Health::Alive);
        assert_eq!(health(6_999), Health::Alive);
        assert_eq!(health(7_000), Health::Late);
        assert_eq!(health(30_000), Health::Gone);
    }

    #[test]
    fn a_worker_without_beats_is_as_old_as_its_registration() {
        let entry = encode(&Entry {
            register: register(),
            at_ms: 1_000,
        });
        let view = view(&entry, None, 9_000).unwrap();
        assert_eq!(
            (view.health, view.last_beat_ms, view.slots_used),
            (Health::Late, 1_000, 0)
        );
        assert_eq!(view.functions, ["pay:1.0.0"]);
    }

    #[test]
    fn queues_of_functions_are_ensured_too() {
        assert_eq!(
            queues(&register()).into_iter().collect::<Vec<_>>(),
            ["default", "money"]
        );
    }
}
