//! Where the programs are that tests start.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// A binary of this workspace, from the directory that the running test was built into.
///
/// # Errors
/// When it is not there: `cargo test` alone builds only the binaries of the package that it tests.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find the running test")?;
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built beside {}\nhint: cargo build --workspace --bins",
            me.display()
        )
    })
}

/// A server: from `variable`, else from `PATH`, else from `.tools/`, where `tools/servers` puts it.
///
/// # Errors
/// When there is none.
pub(crate) fn server(variable: &str, names: &[&str]) -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        if !path.is_file() {
            bail!("{variable} is {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let fetched = fetched();
    // What was fetched is the version that the project pins; prefer it to whatever PATH holds.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = fetched.into_iter().chain(std::env::split_paths(&path));
    let found = dirs
        .flat_map(|dir| names.iter().map(move |name| dir.join(name)))
        .find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "no {} found\nhint: run tools/servers and set {variable} to what it prints, or use tools/test",
            names.join(" or ")
        )
    })
}

fn fetched() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir())
        .collect()
}
