//! The password of the database, from a password file as libpq reads it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::private_files::PrivateFiles;
use super::url::DatabaseHost;

/// Why there is no password. No variant holds a line of a password file.
#[derive(Debug, Error)]
pub enum PasswordError {
    #[error("reading the password file {}", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("the password file {} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    #[error("other users may read {}, which holds a password: its mode is {:04o}", .0.display(), .1)]
    Mode(PathBuf, u32),
    #[error("the server asks for a password, and {} has none for {wanted}", either(.files))]
    Missing { files: Vec<PathBuf>, wanted: String, is_in_variable: bool },
}

/// A password, or why there is none. It has no `Debug`: no message shows it.
pub(super) enum PasswordLookup {
    Password(Vec<u8>),
    /// It matters only if the server asks for one.
    None(PasswordError),
}

/// What a line of a password file must match.
pub(super) struct LoginWanted<'a> {
    pub host: &'a DatabaseHost,
    pub database: &'a str,
    pub user: &'a str,
}

/// The directories for which libpq, as upstream or Debian builds it, looks for `localhost`.
const DEFAULT_SOCKETS: [&str; 3] = ["/run/postgresql", "/tmp", "/var/run/postgresql"];

impl PasswordError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            PasswordError::Mode(file, _) => Some(format!("chmod 0600 {}", file.display())),
            PasswordError::Missing { is_in_variable: true, .. } => Some(
                "bookend ignores PGPASSWORD, since agents would inherit it; write the password to ~/.pgpass"
                    .to_owned(),
            ),
            PasswordError::Missing { wanted, .. } => {
                Some(format!("write a line like {wanted}:PASSWORD to ~/.pgpass, with mode 0600"))
            }
            PasswordError::Unreadable(..) | PasswordError::NotRegular(_) => None,
        }
    }
}

/// Looks in the credential of systemd, then in the password file.
pub(super) fn look_up(wanted: &LoginWanted<'_>, files: &PrivateFiles) -> PasswordLookup {
    let mut searched = Vec::new();
    // systemd itself gave the credential to this service, with an ACL that looks like a right of the group.
    let credential = files.credential.as_deref().map(|file| (file, false));
    let own = files.password_file();
    for (file, has_mode) in credential.into_iter().chain(own.as_deref().map(|file| (file, true))) {
        match read(file, has_mode) {
            Ok(Some(text)) => match find(&text, wanted) {
                Some(password) => return PasswordLookup::Password(password),
                None => searched.push(file.to_owned()),
            },
            Ok(None) => searched.push(file.to_owned()),
            Err(e) => return PasswordLookup::None(e),
        }
    }
    let (wanted, is_in_variable) = (wanted.fields().map(|f| escaped(&f)).join(":"), files.has_variable);
    PasswordLookup::None(PasswordError::Missing { files: searched, wanted, is_in_variable })
}

/// What is in a private file. `None`: it does not exist. As libpq does, it refuses one that others may read.
pub(super) fn read(file: &Path, has_mode: bool) -> Result<Option<Vec<u8>>, PasswordError> {
    let unreadable = |e| PasswordError::Unreadable(file.to_owned(), e);
    // A pipe would block before its kind is known.
    match std::fs::metadata(file) {
        Ok(meta) if !meta.is_file() => return Err(PasswordError::NotRegular(file.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(_) => {}
        Err(e) => return Err(unreadable(e)),
    }
    let mut open = File::open(file).map_err(unreadable)?;
    let mode = open.metadata().map_err(unreadable)?.mode() & 0o777;
    if has_mode && mode & 0o077 != 0 {
        return Err(PasswordError::Mode(file.to_owned(), mode));
    }
    let mut text = Vec::new();
    open.read_to_end(&mut text).map_err(unreadable)?;
    Ok(Some(text))
}

impl LoginWanted<'_> {
    fn fields(&self) -> [String; 4] {
        let is_local = DEFAULT_SOCKETS.contains(&self.host.name.as_str());
        let host = if is_local { "localhost" } else { &self.host.name };
        [host.to_owned(), self.host.port.to_string(), self.database.to_owned(), self.user.to_owned()]
    }
}

/// The password of the first line that matches, as `passwordFromFile` of libpq finds it.
fn find(text: &[u8], wanted: &LoginWanted<'_>) -> Option<Vec<u8>> {
    let fields = wanted.fields();
    text.split(|b| *b == b'\n').find_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"#") {
            return None;
        }
        let rest = fields.iter().try_fold(line, |rest, field| {
            let (found, rest) = field_of(rest);
            rest.filter(|_| found == b"*" || unescaped(found) == field.as_bytes())
        })?;
        Some(unescaped(field_of(rest).0))
    })
}

/// The text before the first `:` that no backslash escapes, and what follows it.
fn field_of(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b':' => return (&line[..at], Some(&line[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (line, None)
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = field.iter().copied().peekable();
    let mut text = Vec::with_capacity(field.len());
    while let Some(byte) = bytes.next() {
        text.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    text
}

/// A field of a password file.
pub fn escaped(field: &str) -> String {
    field.replace('\\', r"\\").replace(':', r"\:")
}

pub(super) fn either(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    if files.is_empty() { "no file".to_owned() } else { files.join(" or ") }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn found(text: &str, host: &str, user: &str) -> Option<String> {
        let host = DatabaseHost { name: host.to_owned(), port: 5432 };
        let wanted = LoginWanted { host: &host, database: "fleet", user };
        find(text.as_bytes(), &wanted).map(|p| String::from_utf8(p).expect("UTF-8"))
    }

    #[test]
    fn the_first_line_that_matches_has_the_password() {
        let text = "# db:5432:fleet:a:comment\r\nother:5432:fleet:a:wrong\n*:5432:fleet:b:any host\r\n\
                    db:5432:fleet:a:first\ndb:*:*:*:second\n";
        assert_eq!(found(text, "db", "a").as_deref(), Some("first"));
        assert_eq!(found(text, "db", "b").as_deref(), Some("any host"));
        assert_eq!(found(text, "db", "c").as_deref(), Some("second"));
        assert_eq!(found(text, "db2", "a"), None);
        assert_eq!(found("db:5432:fleet:a", "db", "a"), None, "a line that is cut off");
        assert_eq!(found("db:5433:fleet:a:x", "db", "a"), None, "another port");
    }

    #[test]
    fn a_backslash_escapes_a_colon_and_itself() {
        let text = r"::1:5432:fleet:a:wrong
\:\:1:5432:fleet:a\\b:p\:a\\s\s:rest";
        assert_eq!(found(text, "::1", r"a\b").as_deref(), Some(r"p:a\ss"));
        assert_eq!(found(r"\*:5432:fleet:a:x", "db", "a"), None, "an escaped star is a star");
        assert_eq!(escaped(r"a:b\"), r"a\:b\\");
    }

    #[test]
    fn the_usual_socket_directory_is_localhost() {
        assert_eq!(found("localhost:5432:fleet:a:x", "/var/run/postgresql", "a").as_deref(), Some("x"));
        assert_eq!(found("localhost:5432:fleet:a:x", "/srv/socket", "a"), None);
        assert_eq!(found("/srv/socket:5432:fleet:a:x", "/srv/socket", "a").as_deref(), Some("x"));
    }

    #[test]
    fn a_password_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pgpass");
        fs::write(&file, "db:5432:fleet:a:secret").expect("a file");
        let read_with = |mode| {
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a mode");
            read(&file, true)
        };
        for mode in [0o604, 0o640, 0o620] {
            let refused = read_with(mode).expect_err("a refusal").to_string();
            assert!(refused.contains(&format!("{mode:04o}")) && !refused.contains("secret"), "{refused}");
        }
        assert!(matches!(read_with(0o600), Ok(Some(_))));
        assert!(matches!(read(&dir.path().join("none"), true), Ok(None)));
        assert!(matches!(read(dir.path(), true), Err(PasswordError::NotRegular(_))));
    }

    #[test]
    fn a_credential_of_systemd_comes_first_and_pgpassword_is_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        let (credential, own) = (dir.path().join("bookend-pgpass"), dir.path().join(".pgpass"));
        let host = DatabaseHost { name: "db".to_owned(), port: 5432 };
        let wanted = LoginWanted { host: &host, database: "fleet", user: "a" };
        let files = PrivateFiles {
            home: Some(dir.path().to_owned()),
            credential: Some(credential.clone()),
            has_variable: true,
            ..PrivateFiles::default()
        };
        let look = || match look_up(&wanted, &files) {
            PasswordLookup::Password(password) => String::from_utf8(password).expect("UTF-8"),
            PasswordLookup::None(e) => format!("{e}; {}", e.hint().expect("a hint")),
        };
        let nothing = look();
        assert!(nothing.contains("bookend ignores PGPASSWORD"), "{nothing}");
        assert!(nothing.contains("db:5432:fleet:a") && nothing.contains("bookend-pgpass"), "{nothing}");
        fs::write(&own, "db:5432:fleet:a:own").expect("a file");
        fs::set_permissions(&own, Permissions::from_mode(0o600)).expect("a mode");
        assert_eq!(look(), "own");
        fs::set_permissions(&own, Permissions::from_mode(0o644)).expect("a mode");
        assert!(look().contains("its mode is 0644"), "{}", look());
        fs::write(&credential, "db:5432:fleet:a:given").expect("a file");
        fs::set_permissions(&credential, Permissions::from_mode(0o440)).expect("a mode");
        assert_eq!(look(), "given");
    }
}
