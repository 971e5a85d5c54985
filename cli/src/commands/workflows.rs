//! `--workflows DIR` of `dev`: applies the definitions of a directory, and again whenever one is saved.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::apply;
use crate::args::Format;
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::source;
use crate::terminal::Style;

/// What tells that a file was saved.
type Stamp = (SystemTime, u64);

/// See the module.
#[derive(Debug)]
pub(super) struct Workflows {
    dir: PathBuf,
    seen: HashMap<PathBuf, Stamp>,
}

impl Workflows {
    /// Of a directory that must exist.
    pub(super) fn new(dir: PathBuf) -> Outcome<Self> {
        if dir.is_dir() {
            return Ok(Self {
                dir,
                seen: HashMap::new(),
            });
        }
        Err(Failure::new(
            Exit::Usage,
            format!("--workflows is not a directory: {}", dir.display()),
        ))
    }

    /// Applies every file that is new or was saved since the last time.
    pub(super) async fn look(&mut self, client: &Client) {
        let found = match files(&self.dir) {
            Ok(found) => found,
            Err(error) => return eprintln!("warning: cannot read {}: {error}", self.dir.display()),
        };
        self.seen.retain(|path, _| found.contains_key(path));
        let mut changed: Vec<_> = found
            .into_iter()
            .filter(|(path, stamp)| self.seen.get(path) != Some(stamp))
            .collect();
        changed.sort();
        for (path, stamp) in changed {
            if self.apply(client, &path).await {
                self.seen.insert(path, stamp);
            }
        }
    }

    /// Applies one file and says what came of it; false when it should be tried again.
    async fn apply(&self, client: &Client, path: &Path) -> bool {
        let style = Style::stderr();
        let applied = match source::read(path) {
            Ok(source) => {
                let name = format!("{} {}", source.name, source.version);
                apply::apply_once(client, path, &source)
                    .await
                    .map(|created| (name, created))
            }
            Err(failure) => Err(failure),
        };
        match applied {
            Ok((name, true)) => eprintln!("{} {}: {name}", style.green("applied"), path.display()),
            Ok((name, false)) => eprintln!("{} {}: {name}", style.dim("unchanged"), path.display()),
            Err(failure) if failure.exit == Exit::Unreachable => return false,
            Err(failure) => drop(failure.finish(Format::Table)),
        }
        true
    }
}

fn files(dir: &Path) -> std::io::Result<HashMap<PathBuf, Stamp>> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let wanted = [OsStr::new("yaml"), OsStr::new("yml"), OsStr::new("json")];
        if !path.extension().is_some_and(|e| wanted.contains(&e)) {
            continue;
        }
        // A file that was removed in this moment is none.
        if let Ok(metadata) = std::fs::metadata(&path)
            && metadata.is_file()
        {
            found.insert(path, (metadata.modified()?, metadata.len()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_definitions_are_looked_at() {
        let dir = std::env::temp_dir().join(format!("millrace-workflows-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sub.yaml")).unwrap();
        for name in ["a.yaml", "b.yml", "c.json", "d.txt", "e.yaml~"] {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        let mut names: Vec<_> = files(&dir)
            .unwrap()
            .into_keys()
            .map(|p| p.file_name().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["a.yaml", "b.yml", "c.json"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
