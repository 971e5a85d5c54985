//! Where a stack keeps data and logs: a directory that stays, held by one stack at a time, or one that is removed.

use std::fs::{DirEntry, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::failure::{Exit, Failure, Outcome};

/// See the module.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    temporary: bool,
    /// Held as long as the stack lives; the kernel lets go of it with the process.
    lock: File,
}

/// Name of the lock in a directory.
const LOCK: &str = "lock";

impl Dir {
    /// A directory that stays.
    pub(crate) fn kept(path: &Path) -> Outcome<Self> {
        let cannot = |e: io::Error| {
            Failure::new(
                Exit::Failed,
                format!("cannot use directory {}: {e}", path.display()),
            )
        };
        std::fs::create_dir_all(path).map_err(cannot)?;
        let path = path.canonicalize().map_err(cannot)?;
        let lock = File::create(path.join(LOCK)).map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path,
                temporary: false,
                lock,
            }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another stack is running in {}", path.display());
                Err(Failure::new(Exit::Failed, message).hint("stop it, or choose another place with --dir"))
            }
            Err(TryLockError::Error(e)) => Err(cannot(e)),
        }
    }

    /// A new directory that is removed in the end. What killed stacks have left is removed, too.
    pub(crate) fn temporary() -> Outcome<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..100 {
            let path = base.join(format!("millrace-{}-{attempt}", std::process::id()));
            let made = std::fs::create_dir(&path).and_then(|()| {
                let lock = File::create(path.join(LOCK))?;
                lock.try_lock()?;
                Ok((path.metadata()?.uid(), lock))
            });
            match made {
                Ok((uid, lock)) => {
                    for left in swept(&base, uid) {
                        eprintln!("removed {}, left by a stack that was killed", left.display());
                    }
                    return Ok(Self {
                        path,
                        temporary: true,
                        lock,
                    });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
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
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("warning: cannot remove {}: {error}", self.path.display());
        }
        // Closing the file is not enough: a child that is just being spawned shares it until it runs its program.
        if let Err(error) = self.lock.unlock() {
            eprintln!("warning: cannot release {}: {error}", self.path.display());
        }
    }
}

/// Removes the directories of a user's stacks that were killed, and tells which. One that cannot be read or removed stays,
/// with a warning: no reason not to start.
fn swept(base: &Path, uid: u32) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(base) {
        Ok(entries) => entries,
        Err(e) => {
            eprintln!("warning: cannot read {}: {e}", base.display());
            return Vec::new();
        }
    };
    let mut gone = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        match sweep(&entry, uid) {
            Ok(true) => gone.push(path),
            // Another stack that starts right now was faster.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => eprintln!("warning: cannot remove {}: {e}", path.display()),
            Ok(false) => {}
        }
    }
    gone
}

/// Removes a directory if nobody can miss it: it has a name that only we give, belongs to that user, is no link, its process is
/// gone, and nobody holds its lock, also not from another namespace of processes. One without a lock is not looked at.
fn sweep(entry: &DirEntry, uid: u32) -> io::Result<bool> {
    let Some(pid) = entry.file_name().to_str().and_then(maker) else {
        return Ok(false);
    };
    // Of the entry itself: a link is not followed.
    let kind = entry.metadata()?;
    if !kind.is_dir() || kind.uid() != uid || kill(pid, None) != Err(Errno::ESRCH) {
        return Ok(false);
    }
    let lock = match File::open(entry.path().join(LOCK)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match lock.try_lock() {
        Ok(()) => std::fs::remove_dir_all(entry.path()).map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The process that made the directory of that name: `millrace-<process>-<attempt>`.
fn maker(name: &str) -> Option<Pid> {
    let (pid, attempt) = name.strip_prefix("millrace-")?.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(pid) && is_number(attempt))
        .then(|| pid.parse().ok())?
        .filter(|pid| *pid > 0)
        .map(Pid::from_raw)
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

    #[test]
    fn only_what_a_dead_stack_left_is_swept() {
        let outer = Dir::temporary().unwrap();
        let base = outer.path().join("base");
        let uid = outer.path().metadata().unwrap().uid();
        let made = |name: &str, is_locked: bool| {
            let path = base.join(name);
            std::fs::create_dir_all(path.join("nats")).unwrap();
            let lock = File::create(path.join(LOCK)).unwrap();
            if is_locked {
                lock.try_lock().unwrap();
            }
            lock
        };
        // No process has so high a number: the kernel's bound is 2^22.
        let dead = "2000000000";
        let held = made(&format!("millrace-{dead}-0"), true);
        made(&format!("millrace-{dead}-1"), false);
        made(&format!("millrace-{}-0", std::process::id()), false);
        for name in [
            "millrace-test-1",
            "millrace-7",
            "millrace--0",
            "millrace-0-0",
            "other",
        ] {
            made(name, false);
        }
        std::fs::create_dir(base.join(format!("millrace-{dead}-2"))).unwrap();
        std::os::unix::fs::symlink(outer.path(), base.join(format!("millrace-{dead}-3"))).unwrap();
        let before = std::fs::read_dir(&base).unwrap().count();
        assert_eq!(swept(&base, uid), [base.join(format!("millrace-{dead}-1"))]);
        assert_eq!(std::fs::read_dir(&base).unwrap().count(), before - 1);
        drop(held);
        assert!(swept(&base, uid + 1).is_empty(), "of somebody else");
        assert_eq!(swept(&base, uid), [base.join(format!("millrace-{dead}-0"))]);
        assert!(swept(&base, uid).is_empty());
    }
}
