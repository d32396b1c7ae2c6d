//! The user's own declarations: `agents/NAME.toml` in the configuration directories. Only the file of the
//! agent that is run is opened, and only root and the user may be able to write to it.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
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

/// The path and text of the user's declaration of `name`; `None`: there is none, or it is empty.
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
            // The shell empties the file of `agents show NAME >NAME.toml` before bookend reads it.
            Ok((bytes, _)) if bytes.is_empty() => {}
            Ok((bytes, attributes)) => {
                check_trust(&path, &attributes)?;
                let unreadable = |source| DeclarationError::Unreadable { path: path.clone(), source };
                check_trust(folder, &fs::metadata(folder).map_err(unreadable)?)?;
                let text = utf8(bytes, &path)?;
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

fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, DeclarationError> {
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let problem = "a byte is not UTF-8; allowed is: UTF-8 text".to_owned();
        DeclarationError::Invalid { file: path.display().to_string(), line, problem }
    })
}

/// The declarations in `folders`, by their names. Of two with one name, the first counts.
pub fn files() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for path in folders().iter().filter_map(|f| fs::read_dir(f).ok()).flatten().flatten().map(|e| e.path()) {
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".toml")) else { continue };
        let is_empty = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == 0);
        if is_name(name) && !is_empty && !found.iter().any(|(known, _)| known == name) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder(tmp: &tempfile::TempDir, name: &str) -> PathBuf {
        let folder = tmp.path().join(name);
        fs::create_dir(&folder).expect("a folder");
        set_mode(&folder, 0o755);
        folder
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    fn write(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file");
        set_mode(&path, mode);
        path
    }

    #[test]
    fn the_first_folder_that_has_the_file_counts() {
        let tmp = tempfile::tempdir().expect("a folder");
        let (own, system) = (folder(&tmp, "own"), folder(&tmp, "system"));
        let folders = [own.clone(), system.clone()];
        assert!(file_in(&folders, "a").expect("none").is_none());
        let of_all = write(&system, "a.toml", "all", 0o644);
        assert_eq!(file_in(&folders, "a").expect("one"), Some((of_all, "all".to_owned())));
        let of_user = write(&own, "a.toml", "own", 0o600);
        assert_eq!(file_in(&folders, "a").expect("two"), Some((of_user, "own".to_owned())));
        write(&own, "a.toml", "", 0o600);
        let found = file_in(&folders, "a").expect("one").map(|(path, _)| path);
        assert_eq!(found, Some(system.join("a.toml")), "an empty file is none");
        for name in ["../own/a", "b", "", ".", "A"] {
            assert!(file_in(&folders, name).expect("none").is_none(), "{name}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_to_is_refused() {
        let tmp = tempfile::tempdir().expect("a folder");
        let own = folder(&tmp, "agents");
        let elsewhere = write(tmp.path(), "shared.toml", "a", 0o666);
        let file = write(&own, "a.toml", "a", 0o620);
        symlink(&elsewhere, own.join("link.toml")).expect("a link");
        write(&own, "good.toml", "a", 0o644);
        let refused = |name: &str| file_in(std::slice::from_ref(&own), name).map_err(|e| e.advice());
        assert_eq!(refused("a"), Err(format!("run `chmod go-w {}`", file.display())));
        let link = own.join("link.toml");
        assert_eq!(refused("link"), Err(format!("run `chmod go-w {}`", link.display())));
        assert!(refused("good").is_ok_and(|found| found.is_some()));
        set_mode(&own, 0o775);
        assert_eq!(refused("good"), Err(format!("run `chmod go-w {}`", own.display())));
    }

    #[test]
    fn what_is_not_a_file_of_text_cannot_be_read() {
        let tmp = tempfile::tempdir().expect("a folder");
        let own = folder(&tmp, "agents");
        fs::create_dir(own.join("dir.toml")).expect("a folder");
        fs::write(own.join("bytes.toml"), b"schema = 1\nname = \"\xff\"\n").expect("a file");
        set_mode(&own.join("bytes.toml"), 0o600);
        let error = |name: &str| file_in(std::slice::from_ref(&own), name).expect_err(name);
        assert!(matches!(error("dir"), DeclarationError::Unreadable { .. }));
        let said = error("bytes").to_string();
        assert!(said.ends_with("bytes.toml:2: a byte is not UTF-8; allowed is: UTF-8 text"), "{said}");
    }
}
