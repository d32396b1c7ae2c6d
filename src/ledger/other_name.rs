//! Whether a ledger file may have a second name: two programs that use two names corrupt it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, statx};

use super::error::{LedgerError, Result};
use crate::shell::quoted_path;

/// Evidence of a second name. SQLite names the log after the path, so two names of one file have two logs and
/// corrupt it: <https://www.sqlite.org/howtocorrupt.html>, section 2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherName {
    HardLink,
    /// The file itself is a mount point: `docker -v ledger.db:/x.db`.
    Mount,
}

impl OtherName {
    /// The evidence that the kernel gives. `None` also where it gives none.
    pub fn of(file: &Path) -> Option<OtherName> {
        let asked = StatxFlags::NLINK | StatxFlags::TYPE;
        let meta = statx(CWD, file, AtFlags::SYMLINK_NOFOLLOW, asked).ok()?;
        if !FileType::from_raw_mode(meta.stx_mode.into()).is_file() {
            // Opening it reports the wrong type.
            return None;
        }
        if meta.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            Some(OtherName::Mount)
        } else {
            (meta.stx_nlink > 1).then_some(OtherName::HardLink)
        }
    }

    /// What is wrong with the file.
    pub fn explain(self, file: &Path) -> String {
        let path = file.display();
        match self {
            OtherName::HardLink => {
                format!("{path} has more than one hard link, and writing to it under two names corrupts it")
            }
            OtherName::Mount => {
                format!("{path} is mounted as a single file, and writing to it under two names corrupts it")
            }
        }
    }

    /// The command that finds the other name.
    pub fn hint(self, file: &Path) -> String {
        let word = quoted_path(file);
        match self {
            OtherName::HardLink => {
                let top = quoted_path(file_system_of(file));
                format!("run `find {top} -xdev -samefile {word}` to find the other name, and remove it")
            }
            OtherName::Mount => {
                format!("run `findmnt -T {word}` to find the source, and mount its directory instead")
            }
        }
    }
}

/// Refuses a file that may have another name.
pub fn refuse_other_name(file: &Path) -> Result<()> {
    match OtherName::of(file) {
        Some(other) => Err(LedgerError::OtherName { why: other.explain(file), hint: other.hint(file) }),
        None => Ok(()),
    }
}

/// The highest directory above a file that is on the same file system: its hard links are below it.
fn file_system_of(file: &Path) -> &Path {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let own = device(file);
    let above = file.ancestors().skip(1);
    above.take_while(|dir| device(dir) == own).last().unwrap_or(Path::new("/"))
}
