//! The user's own declarations: `agents/NAME.toml` in the configuration directories. Only the file of the
//! agent that is run is opened, and only root and the user may be able to write to it.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::error::DeclarationError;
use crate::agent::home::home;
use crate::sys::{self, files};

/// The folder of all users' declarations.
const SYSTEM_FOLDER: &str = "/etc/xdg/bookend/agents";
/// The longest declaration that is read, in bytes.
const LONGEST: u64 = 1 << 20;
const OTHERS_WRITE: u32 = 0o022;

/// The folders with declarations, in the order in which they are searched.
pub fn folders() -> Vec<PathBuf> {
    // XDG base directory specification: a relative path is invalid and must be ignored.
    let set = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let config = set.or_else(|| home().map(|home| home.join(".config")));
    config.map(|dir| dir.join("bookend/agents")).into_iter().chain([SYSTEM_FOLDER.into()]).collect()
}

/// The path and text of the user's declaration of `name`; `None`: there is none.
///
/// # Errors
/// When it cannot be read, or others can write to it or to its folder.
pub fn declaration_file(name: &str) -> Result<Option<(PathBuf, String)>, DeclarationError> {
    file_in(&folders(), name)
}

fn file_in(folders: &[PathBuf], name: &str) -> Result<Option<(PathBuf, String)>, DeclarationError> {
    if !is_name(name) {
        return Ok(None);
    }
    for folder in folders {
        let path = folder.join(format!("{name}.toml"));
        match files::read_regular(&path, 0, LONGEST) {
            Ok((bytes, attributes)) => {
                check_trust(&path, &attributes)?;
                let unreadable = |source| DeclarationError::Unreadable { path: path.clone(), source };
                check_trust(folder, &fs::metadata(folder).map_err(unreadable)?)?;
                let text = String::from_utf8(bytes).map_err(|e| unreadable(io::Error::other(e)))?;
                return Ok(Some((path, text)));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            // The caller may not look into the folder: then the file is none of its own.
            Err(_) if fs::symlink_metadata(&path).is_err() => {}
            Err(source) => return Err(DeclarationError::Unreadable { path, source }),
        }
    }
    Ok(None)
}

/// The declarations in `folders`, by their names. Of two with one name, the first counts.
pub fn files() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for path in folders().iter().filter_map(|f| fs::read_dir(f).ok()).flatten().flatten().map(|e| e.path()) {
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".toml")) else { continue };
        if is_name(name) && !found.iter().any(|(known, _)| known == name) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    found
}

/// Whether this is a plain name of an agent: a file can be named like it, and so can its program.
pub fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(is_plain)
}

fn check_trust(path: &Path, attributes: &Metadata) -> Result<(), DeclarationError> {
    let shown = path.display();
    let owner = attributes.uid();
    let (why, fix) = if owner != 0 && owner != geteuid().as_raw() {
        let owner = sys::user_name(owner);
        (format!("{shown} belongs to {owner}, who may write to it"), format!("chown {} {shown}", geteuid()))
    } else if attributes.mode() & OTHERS_WRITE != 0 {
        let mode = attributes.mode() & 0o777;
        (format!("other users may write to {shown} (mode {mode:04o})"), format!("chmod go-w {shown}"))
    } else {
        return Ok(());
    };
    Err(DeclarationError::NotTrusted { why, fix })
}
