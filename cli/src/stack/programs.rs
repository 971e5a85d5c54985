//! Finds the programs of a stack: servers by variable, PATH or the project's `.tools`; our own binaries beside this one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Exit, Failure, Outcome};

/// Oldest servers that will do; the coordinator checks again.
const NATS_MIN: [u32; 3] = [2, 10, 25];
const REDIS_MIN: [u32; 3] = [6, 2, 0];
const VALKEY_MIN: [u32; 3] = [7, 2, 0];

/// What a stack needs.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) nats: PathBuf,
    pub(super) redis: PathBuf,
    pub(super) coordinator: PathBuf,
    pub(super) worker: PathBuf,
}

impl Programs {
    /// Finds all of them, or says what is missing.
    pub(super) fn find() -> Outcome<Self> {
        Ok(Self {
            nats: server("MILLRACE_NATS_SERVER", &["nats-server"], nats_fault).map_err(|why| {
                why.hint(
                    "install nats-server 2.10.25 or newer and set MILLRACE_NATS_SERVER to its path; \
                     in the project's directory `tools/servers` brings it",
                )
            })?,
            redis: server("MILLRACE_REDIS_SERVER", &["redis-server", "valkey-server"], redis_fault).map_err(
                |why| {
                    why.hint(
                        "install redis-server 6.2 or newer, or valkey-server 7.2 or newer, from your system's packages, \
                         or set MILLRACE_REDIS_SERVER to its path",
                    )
                },
            )?,
            coordinator: own("millrace-coordinator")?,
            worker: own("millrace-worker")?,
        })
    }
}

/// One of our own binaries: beside this one, else in PATH.
pub(super) fn own(name: &str) -> Outcome<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(name)));
    beside
        .filter(|path| path.is_file())
        .or_else(|| in_path(name))
        .ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                format!("cannot find {name} beside this program or in PATH"),
            )
            .hint("build everything with `cargo build --workspace --bins`")
        })
}

/// A server: the variable decides when it is set; otherwise the first one found that is new enough.
fn server(variable: &str, names: &[&str], fault: fn(&Path) -> Option<String>) -> Result<PathBuf, Failure> {
    if let Some(given) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        return match fault(&path) {
            None => Ok(path),
            Some(fault) => Err(Failure::new(
                Exit::Failed,
                format!("{variable} is {}: {fault}", path.display()),
            )),
        };
    }
    let mut unfit = Vec::new();
    for candidate in names
        .iter()
        .filter_map(|name| in_path(name))
        .chain(in_tools(names))
    {
        match fault(&candidate) {
            None => return Ok(candidate),
            Some(fault) => unfit.push(format!("not using {}: {fault}\n", candidate.display())),
        }
    }
    let failure = Failure::new(Exit::Failed, format!("cannot find {}", names.join(" or ")));
    Err(if unfit.is_empty() {
        failure
    } else {
        failure.report(unfit.concat())
    })
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// `.tools/NAME-VERSION/NAME` in the project that this binary or the working directory belongs to.
fn in_tools(names: &[&str]) -> Vec<PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let dirs = starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors().map(|dir| dir.join(".tools")));
    let mut found: Vec<PathBuf> = dirs
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flat_map(|entries| entries.filter_map(Result::ok))
        .flat_map(|entry| names.iter().map(move |name| entry.path().join(name)))
        .filter(|path| path.is_file())
        .collect();
    // The newest first, as far as names tell.
    found.sort();
    found.reverse();
    found
}

fn nats_fault(path: &Path) -> Option<String> {
    fault(path, &[("nats-server", "v", NATS_MIN)])
}

fn redis_fault(path: &Path) -> Option<String> {
    fault(
        path,
        &[
            ("Redis server", "v=", REDIS_MIN),
            ("Valkey server", "v=", VALKEY_MIN),
        ],
    )
}

/// Why a program will not do; `None` when it will.
fn fault(path: &Path, kinds: &[(&str, &str, [u32; 3])]) -> Option<String> {
    let output = match Command::new(path).arg("--version").output() {
        Ok(output) => output,
        Err(e) => return Some(e.to_string()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    for (name, mark, min) in kinds {
        let Some(version) = text
            .split_once(name)
            .and_then(|(_, rest)| version(rest.split_once(mark)?.1))
        else {
            continue;
        };
        let dotted = |v: &[u32; 3]| v.map(|n| n.to_string()).join(".");
        return (version < *min).then(|| format!("{} is older than {}", dotted(&version), dotted(min)));
    }
    Some("its `--version` is not that of the server".into())
}

fn version(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.trim_start().split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_say() {
        assert_eq!(version("2.12.8\n"), Some([2, 12, 8]));
        assert_eq!(version("7.0.15 sha=0"), Some([7, 0, 15]));
        assert_eq!(version("x"), None);
    }

    #[test]
    fn other_programs_are_refused() {
        assert!(nats_fault(Path::new("/bin/echo")).is_some());
        assert!(nats_fault(Path::new("/no/such/program")).is_some());
    }
}
