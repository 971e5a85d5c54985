//! From a `.proto` file to the description of a method. Imports are loaded from beside the file, except for those that
//! come with every compiler (`google/protobuf/…`).

use std::collections::{BTreeMap, VecDeque};

use millrace_common::limits;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use reqwest::Url;

use crate::builtin::exchange::configuration;
use crate::builtin::http::shown;
use crate::builtin::resource::{self, Resource};
use crate::{Context, Failure};

const WHAT: &str = "the proto file";
/// Name of the first file among its imports.
const ROOT: &str = "millrace/root.proto";
/// Files of one service's description, imports included.
const FILES_MAX: usize = 64;

/// Loads a description and finds a method in it.
///
/// # Errors
/// `configuration` when the file is no description, or has no such service or method; as [`Resource::load`] otherwise.
pub(super) async fn method(
    ctx: &Context,
    proto: &Resource,
    service: &str,
    method: &str,
) -> Result<MethodDescriptor, Failure> {
    let root = proto.load(ctx, WHAT).await?;
    let shown = shown(root.url.as_str());
    let files = gather(ctx, proto, root).await?;
    // Takes milliseconds, and much longer for a file made to.
    let pool = tokio::task::spawn_blocking(move || compile(files)).await?;
    let pool = pool.map_err(|e| configuration(format!("{WHAT} `{shown}`: {e}")))?;
    let found = find(&pool, service).ok_or_else(|| {
        let names: Vec<String> = pool.services().map(|s| s.full_name().to_owned()).collect();
        let known = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        configuration(format!(
            "{WHAT} `{shown}` has no service `{service}`; it has {known}"
        ))
    })?;
    found.methods().find(|m| m.name() == method).ok_or_else(|| {
        let names: Vec<String> = found.methods().map(|m| m.name().to_owned()).collect();
        let text = format!(
            "service `{service}` has no method `{method}`; it has {}",
            names.join(", ")
        );
        configuration(text)
    })
}

/// By its full name, or by its last part when that is the only one.
fn find(pool: &DescriptorPool, name: &str) -> Option<ServiceDescriptor> {
    if let Some(service) = pool.get_service_by_name(name.trim_start_matches('.')) {
        return Some(service);
    }
    let mut named = pool.services().filter(|s| s.name() == name);
    named.next().filter(|_| named.next().is_none())
}

/// The file and everything that it imports, by the names they import each other with.
async fn gather(
    ctx: &Context,
    proto: &Resource,
    root: resource::Loaded,
) -> Result<BTreeMap<String, File>, Failure> {
    let base = root.url.clone();
    let mut files = BTreeMap::new();
    let mut open: VecDeque<(String, Url, String)> = [(ROOT.to_owned(), root.url, root.text)].into();
    let (mut bytes, standard) = (0, GoogleFileResolver::new());
    while let Some((name, url, text)) = open.pop_front() {
        bytes += text.len();
        if files.len() >= FILES_MAX || bytes > limits::RESOURCE_BYTES_MAX {
            let max = limits::RESOURCE_BYTES_MAX;
            let base = shown(base.as_str());
            let text = format!("{WHAT} `{base}` imports more than {FILES_MAX} files or {max} bytes");
            return Err(configuration(text));
        }
        let file = File::from_source(&name, &text)
            .map_err(|e| configuration(format!("{WHAT} `{}`: {e}", shown(url.as_str()))))?;
        for import in &file.file_descriptor_proto().dependency {
            let is_known = files.contains_key(import) || open.iter().any(|(name, ..)| name == import);
            if is_known || *import == name || standard.open_file(import).is_ok() {
                continue;
            }
            let loaded = load(ctx, proto, &base, import).await?;
            open.push_back((import.clone(), loaded.url, loaded.text));
        }
        files.insert(name, file);
    }
    Ok(files)
}

async fn load(
    ctx: &Context,
    proto: &Resource,
    base: &Url,
    import: &str,
) -> Result<resource::Loaded, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        let text = format!(
            "{WHAT} `{}`: cannot import `{import}`: {why}",
            shown(base.as_str())
        );
        configuration(text)
    };
    let url = base.join(import).map_err(|e| wrong(&e))?;
    // Files have no origin.
    let is_elsewhere = url.scheme() != "file" && url.origin() != base.origin();
    if url.scheme() != base.scheme() || is_elsewhere {
        return Err(wrong(&"it is in another place"));
    }
    // The file may have been redirected, and its credentials are for where it was asked for.
    let asked = Url::parse(proto.endpoint.uri()).map(|url| url.origin());
    let policy = proto
        .endpoint
        .policy()
        .filter(|_| asked.is_ok_and(|origin| origin == url.origin()));
    let what = format!("the import `{import}` of {WHAT}");
    resource::load(ctx, &what, url, policy).await
}

struct Gathered(BTreeMap<String, File>);

impl FileResolver for Gathered {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let file = self.0.get(name).cloned();
        file.ok_or_else(|| protox::Error::file_not_found(name))
    }
}

fn compile(files: BTreeMap<String, File>) -> Result<DescriptorPool, protox::Error> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Gathered(files));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file(ROOT)?;
    Ok(compiler.descriptor_pool())
}
