//! The home directory and the folders above the working directory.

use std::path::{Path, PathBuf};

/// The `places` below `cwd` and each of its parents, the nearest first.
pub(super) fn skills_above(cwd: &Path, places: &[&str]) -> Vec<PathBuf> {
    let dirs = cwd.ancestors();
    dirs.flat_map(|dir| places.iter().map(|p| dir.join(p))).collect()
}

pub(super) fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|h| !h.as_os_str().is_empty())
}
