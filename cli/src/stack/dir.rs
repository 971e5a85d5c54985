//! Where a stack keeps data and logs: a directory that stays, held by one stack at a time, or one that is removed.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Outcome};

/// See the module.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    temporary: bool,
    /// Held as long as the stack lives; the kernel lets go of it with the process.
    lock: Option<File>,
}

impl Dir {
    /// A directory that stays.
    pub(crate) fn kept(path: &Path) -> Outcome<Self> {
        let cannot = |e: std::io::Error| {
            Failure::new(
                Exit::Failed,
                format!("cannot use directory {}: {e}", path.display()),
            )
        };
        std::fs::create_dir_all(path).map_err(cannot)?;
        let path = path.canonicalize().map_err(cannot)?;
        let lock = File::create(path.join("lock")).map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path,
                temporary: false,
                lock: Some(lock),
            }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another stack is running in {}", path.display());
                Err(Failure::new(Exit::Failed, message).hint("stop it, or choose another place with --dir"))
            }
            Err(TryLockError::Error(e)) => Err(cannot(e)),
        }
    }

    /// A new directory that is removed in the end.
    pub(crate) fn temporary() -> Outcome<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..100 {
            let path = base.join(format!("millrace-{}-{attempt}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        temporary: true,
                        lock: None,
                    });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(Failure::new(
                        Exit::Failed,
                        format!("cannot make {}: {e}", path.display()),
                    ));
                }
            }
        }
        Err(Failure::new(
            Exit::Failed,
            format!("cannot make a directory in {}", base.display()),
        ))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that is just being spawned shares it until it runs its program.
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            eprintln!("warning: cannot release {}: {error}", self.path.display());
        }
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("warning: cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_stack() {
        let outer = Dir::temporary().unwrap();
        let path = outer.path().join("kept");
        let first = Dir::kept(&path).unwrap();
        let second = Dir::kept(&path).unwrap_err();
        assert!(second.message.contains("another stack"), "{}", second.message);
        drop(first);
        assert!(Dir::kept(&path).is_ok());
        let gone = outer.path().to_owned();
        drop(outer);
        assert!(!gone.exists());
    }
}
