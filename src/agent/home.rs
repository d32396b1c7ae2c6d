//! The home directory, the folders above the working directory, and names made of paths.

use std::path::{Path, PathBuf};

/// The `places` below `cwd` and each of its parents, the nearest first.
pub(super) fn skills_above(cwd: &Path, places: &[&str]) -> Vec<PathBuf> {
    let dirs = cwd.ancestors();
    dirs.flat_map(|dir| places.iter().map(|p| dir.join(p))).collect()
}

pub(super) fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|h| !h.as_os_str().is_empty())
}

/// A path as a folder's name: each UTF-16 code unit that is not an ASCII letter or digit is a dash.
pub(super) fn dashed(path: &Path) -> String {
    let mut name = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else {
            name.extend(std::iter::repeat_n('-', c.len_utf16()));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_equal_those_of_claude_code() {
        assert_eq!(dashed(Path::new("/home/a.b/x_1")), "-home-a-b-x-1");
        assert_eq!(dashed(Path::new("/é/😀")), "-----");
    }
}
