//! Copying a whole database with SQLite's backup API while others write to it. The file alone is not a copy:
//! the last commits are in the log. <https://www.sqlite.org/backup.html>

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::busy;

/// The pause before a copy tries a locked database again.
const PAUSE: Duration = Duration::from_millis(5);

/// Creates a file of mode 0600, whatever the umask.
pub fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?
        .set_permissions(Permissions::from_mode(0o600))
}

/// Copies a database into the empty file `to`, in one step: later commits are not in the copy. SQLite opens
/// the file by its path, where another user may have put a link to another database meanwhile: links are not
/// followed.
pub fn copy(source: &Connection, to: &Path) -> rusqlite::Result<()> {
    let flags =
        OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let real = to.parent().and_then(|dir| Some(dir.canonicalize().ok()?.join(to.file_name()?)));
    let mut target = Connection::open_with_flags(real.as_deref().unwrap_or(to), flags)?;
    target.pragma_update(None, "synchronous", "FULL")?;
    let since = Instant::now();
    {
        let backup = Backup::new(source, &mut target)?;
        loop {
            match backup.step(-1)? {
                StepResult::Done => break,
                _ if since.elapsed() < busy::patience() => std::thread::sleep(PAUSE),
                _ => {
                    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                    return Err(rusqlite::Error::SqliteFailure(busy, None));
                }
            }
        }
    }
    target.close().map_err(|(_, e)| e)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_that_replaces_the_new_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let source = Connection::open(path("source.db")).unwrap();
        source.execute_batch("CREATE TABLE mine (x)").unwrap();
        let other = Connection::open(path("other.db")).unwrap();
        other.execute_batch("CREATE TABLE precious (x)").unwrap();
        fs::create_dir(path("real")).unwrap();
        symlink("real", path("link_to_real")).unwrap();
        let to = path("link_to_real/copy.db");
        create(&to).unwrap();
        copy(&source, &to).unwrap();
        fs::remove_file(&to).unwrap();
        create(&to).unwrap();
        symlink(path("other.db"), path("link")).unwrap();
        fs::rename(path("link"), &to).unwrap();
        copy(&source, &to).unwrap_err();
        other.query_row("SELECT count(*) FROM precious", [], |_| Ok(())).unwrap();
    }
}
