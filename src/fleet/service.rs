//! A service of libpq: a named section of `pg_service.conf` that says where a database is.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::password::{self, PasswordError};
use super::private_files::PrivateFiles;
use super::url::{DatabaseAddress, UrlError};

/// What a service says.
#[derive(Default)]
pub(super) struct DatabaseService {
    pub address: DatabaseAddress,
    pub password: Option<Vec<u8>>,
}

/// Why a service cannot be used.
#[derive(Debug, Error)]
pub enum ServiceError {
    #[error("no service {name} in {}", password::either(.files))]
    Unknown { name: String, files: Vec<PathBuf> },
    #[error("{}, line {line}: a setting is written NAME=VALUE", .file.display())]
    Syntax { file: PathBuf, line: usize },
    #[error("{}, line {line}", .file.display())]
    Setting { file: PathBuf, line: usize, source: UrlError },
    #[error(transparent)]
    File(#[from] PasswordError),
}

/// Settings of libpq that change neither the server nor what is asked. bookend uses its own values.
const WITHOUT_EFFECT: [&str; 9] = [
    "application_name",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "load_balance_hosts",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// Finds the service in the user's file or in the system's.
pub(super) fn find(name: &str, files: &PrivateFiles) -> Result<DatabaseService, ServiceError> {
    let files = files.service_files();
    for file in &files {
        // Whether others may read it matters only if it holds a password.
        let Some(text) = password::read(file, false)? else { continue };
        if let Some(service) = section(&String::from_utf8_lossy(&text), name, file)? {
            if service.password.is_some() {
                password::read(file, true)?;
            }
            return Ok(service);
        }
    }
    Err(ServiceError::Unknown { name: name.to_owned(), files })
}

fn section(text: &str, name: &str, file: &Path) -> Result<Option<DatabaseService>, ServiceError> {
    let header = format!("[{name}]");
    let lines = (1..).zip(text.lines().map(str::trim));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    if !lines.any(|(_, line)| line == header) {
        return Ok(None);
    }
    let mut service = DatabaseService::default();
    let mut port = None;
    for (line, setting) in lines.take_while(|(_, line)| !line.starts_with('[')) {
        let syntax = || ServiceError::Syntax { file: file.to_owned(), line };
        let (name, value) = setting.split_once('=').ok_or_else(syntax)?;
        match name {
            "password" => service.password = Some(value.into()),
            "port" => port = Some(value.parse().map_err(|_| syntax())?),
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => {
                let wrong = |source| ServiceError::Setting { file: file.to_owned(), line, source };
                service.address.set(name, value).map_err(wrong)?;
            }
        }
    }
    for host in &mut service.address.hosts {
        host.port = port.unwrap_or(host.port);
    }
    Ok(Some(service))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fleet::url::Encryption;

    const FILE: &str = "# services\n[other]\nhost=elsewhere\n\n[fleet]\n  host=db1,db2  \n# in\nport=5433\n\
                        dbname=bookend\nsslmode=verify-full\nconnect_timeout=5\n[last]\nuser=x\n";

    fn of(text: &str, name: &str) -> Result<Option<DatabaseService>, ServiceError> {
        section(text, name, Path::new("services"))
    }

    #[test]
    fn a_section_says_where_the_database_is() {
        let service = of(FILE, "fleet").expect("no error").expect("the section").address;
        let hosts: Vec<_> = service.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["db1:5433", "db2:5433"]);
        assert_eq!(service.database.as_deref(), Some("bookend"));
        assert_eq!((service.encryption, service.user), (Some(Encryption::VerifyFull), None));
        assert!(of(FILE, "none").expect("no error").is_none());
    }

    #[test]
    fn a_setting_that_would_be_weaker_than_written_is_refused() {
        let refused = |setting: &str| {
            let error = of(&format!("[fleet]\n{setting}\n"), "fleet").err().expect("a refusal");
            crate::error::chain(&error)
        };
        assert!(refused("sslmode=prefer").contains("services, line 2: sslmode=prefer is not possible"));
        assert!(refused("channel_binding=require").contains("channel_binding"));
        assert!(refused("sslcert=/etc/x").contains("sslcert"));
        assert!(refused("host").contains("NAME=VALUE"));
    }

    #[test]
    fn a_service_file_with_a_password_must_be_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("services");
        fs::write(&file, "[open]\nhost=db\n[fleet]\nhost=db\npassword=secret\n").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("a mode");
        let files = PrivateFiles { service_file: Some(file.clone()), ..PrivateFiles::default() };
        assert!(find("open", &files).is_ok());
        let refused = find("fleet", &files).err().expect("a refusal").to_string();
        assert!(refused.contains("0644") && !refused.contains("secret"), "{refused}");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a mode");
        assert_eq!(find("fleet", &files).ok().and_then(|s| s.password).as_deref(), Some(&b"secret"[..]));
        assert!(matches!(find("none", &files), Err(ServiceError::Unknown { .. })));
    }
}
