//! The private directory of one process: readable by nobody else, gone after its end.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
}

impl Room {
    /// An empty one below the system's directory for temporary files.
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("millrace-process-{}", millrace_runtime::random::nonce());
        let room = Self {
            path: std::env::temp_dir().join(name),
        };
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.create(&room.path)?;
        builder.create(room.work())?;
        Ok(room)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the process begins: its current and its home directory.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// What it reads from standard input.
    pub(super) fn stdin(&self) -> PathBuf {
        self.path.join("stdin")
    }

    /// Its exit code.
    pub(super) fn status(&self) -> PathBuf {
        self.path.join("status")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove the directory of a process");
            }
            _ => {}
        }
    }
}
