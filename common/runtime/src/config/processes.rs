//! Which processes a worker runs for definitions, and what they may use up.

use std::path::PathBuf;
use std::time::Duration;

use super::source::Reader;
use super::value::{Bytes, List};

/// Nothing is allowed by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// `run: shell`.
    pub shell: bool,
    /// `run: script`.
    pub script: bool,
    /// `run: container`.
    pub container: bool,
    /// Processes at a time; further ones wait.
    pub at_a_time: usize,
    /// Longest run of one, also when its task has no timeout.
    pub time_max: Duration,
    /// Memory of one in bytes; 0: no bound.
    pub memory_bytes_max: u64,
    /// Where containers run; `None`: Kubernetes in a pod, else the local Docker or Podman.
    pub container_host: Option<String>,
    /// Images that may be run, `*` for any text; empty: all.
    pub container_images: Vec<String>,
    /// Directories of the host that containers may mount: these themselves.
    pub container_volumes: Vec<PathBuf>,
}

impl ProcessConfig {
    /// Names of the kinds that are allowed.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let kinds = [
            (self.shell, "shell"),
            (self.script, "script"),
            (self.container, "container"),
        ];
        kinds.into_iter().filter_map(|(on, kind)| on.then_some(kind))
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let kinds = kinds(r);
        let has = |kind: &str| kinds.iter().any(|k| k == kind);
        let (shell, script, container) = (has("shell"), has("script"), has("container"));
        Self {
            shell,
            script,
            container,
            at_a_time: r.bounded("MILLRACE_PROCESS_COUNT", "1 to 4096", |n| (1..=4096).contains(n)),
            time_max: r.bounded("MILLRACE_PROCESS_TIME", "at least 1s", |d| {
                *d >= Duration::from_secs(1)
            }),
            memory_bytes_max: r
                .bounded("MILLRACE_PROCESS_MEMORY", "0, or at least 16MiB", |n: &Bytes| {
                    n.0 == 0 || n.0 >= 16 << 20
                })
                .0,
            container_host: container_host(r),
            container_images: r
                .optional("MILLRACE_CONTAINER_IMAGES")
                .map_or_else(Vec::new, |l: List| l.0),
            container_volumes: container_volumes(r),
        }
    }
}

fn kinds(r: &mut Reader<'_>) -> Vec<String> {
    const NAME: &str = "MILLRACE_PROCESSES";
    let kinds = r.optional(NAME).map_or_else(Vec::new, |l: List| l.0);
    for kind in &kinds {
        if !["shell", "script", "container"].contains(&kind.as_str()) {
            r.fault(NAME, format!("`{kind}` is not one of shell, script, container"));
        }
    }
    kinds
}

fn container_host(r: &mut Reader<'_>) -> Option<String> {
    const NAME: &str = "MILLRACE_CONTAINER_HOST";
    let host: String = r.optional(NAME)?;
    let is_known = host == "kubernetes"
        || host.starts_with("unix:///")
        || host.starts_with("http://")
        || host.starts_with("https://");
    if !is_known {
        r.fault(
            NAME,
            format!("`{host}` is neither `kubernetes` nor a URL with unix:///, http:// or https://"),
        );
    }
    Some(host)
}

fn container_volumes(r: &mut Reader<'_>) -> Vec<PathBuf> {
    const NAME: &str = "MILLRACE_CONTAINER_VOLUMES";
    let dirs = r.optional(NAME).map_or_else(Vec::new, |l: List| l.0);
    for dir in dirs.iter().filter(|d| !d.starts_with('/')) {
        r.fault(NAME, format!("`{dir}` is not an absolute path"));
    }
    for dir in dirs.iter().filter(|d| d.contains(':')) {
        r.fault(
            NAME,
            format!("`{dir}` holds a `:`, which separates paths where they are mounted"),
        );
    }
    let dirs: Vec<PathBuf> = dirs.into_iter().map(PathBuf::from).collect();
    for dir in &dirs {
        if let Some(above) = dirs.iter().find(|above| dir != *above && dir.starts_with(above)) {
            let (dir, above) = (dir.display(), above.display());
            // Who mounts the upper one can replace the lower one by a link.
            r.fault(
                NAME,
                format!("`{dir}` is below `{above}`: name directories apart from each other"),
            );
        }
    }
    dirs
}
