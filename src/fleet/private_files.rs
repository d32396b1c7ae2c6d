//! Where the password and the services of a database are written: the files of libpq, and a credential.

use std::env;
use std::path::PathBuf;

use nix::unistd::{User, geteuid};

/// The files, as the environment of this process names them. No variable itself holds a secret, since agents
/// inherit variables.
#[derive(Debug, Clone, Default)]
pub(super) struct PrivateFiles {
    pub home: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY/bookend-pgpass`, by `LoadCredential=` of systemd.
    pub credential: Option<PathBuf>,
    /// `PGPASSFILE`, instead of `~/.pgpass`.
    pub password_file: Option<PathBuf>,
    /// `PGSERVICEFILE`, instead of `~/.pg_service.conf`.
    pub service_file: Option<PathBuf>,
    /// `PGSYSCONFDIR`.
    pub system: Option<PathBuf>,
    /// `PGPASSWORD` is set. bookend ignores it.
    pub has_variable: bool,
}

/// Where Debian keeps `pg_service.conf` for all users.
const SYSTEM: &str = "/etc/postgresql-common";

impl PrivateFiles {
    pub fn from_environment() -> PrivateFiles {
        let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
        PrivateFiles {
            home: path("HOME").or_else(home),
            credential: path("CREDENTIALS_DIRECTORY").map(|dir| dir.join("bookend-pgpass")),
            password_file: path("PGPASSFILE"),
            service_file: path("PGSERVICEFILE"),
            system: path("PGSYSCONFDIR").or_else(|| Some(SYSTEM.into())),
            has_variable: path("PGPASSWORD").is_some(),
        }
    }

    pub fn password_file(&self) -> Option<PathBuf> {
        self.password_file.clone().or_else(|| Some(self.home.as_ref()?.join(".pgpass")))
    }

    /// The files in which a service may be, in order.
    pub fn service_files(&self) -> Vec<PathBuf> {
        let own = self.service_file.clone().or_else(|| Some(self.home.as_ref()?.join(".pg_service.conf")));
        let system = self.system.as_ref().map(|dir| dir.join("pg_service.conf"));
        own.into_iter().chain(system).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_variable_names_replaces_the_one_in_the_home_directory() {
        let mut files = PrivateFiles { home: Some("/home/a".into()), ..PrivateFiles::default() };
        assert_eq!(files.password_file(), Some("/home/a/.pgpass".into()));
        assert_eq!(files.service_files(), [PathBuf::from("/home/a/.pg_service.conf")]);
        files.password_file = Some("/srv/pgpass".into());
        files.service_file = Some("/srv/services".into());
        files.system = Some("/etc/x".into());
        assert_eq!(files.password_file(), Some("/srv/pgpass".into()));
        let services = ["/srv/services", "/etc/x/pg_service.conf"].map(PathBuf::from);
        assert_eq!(files.service_files(), services);
    }
}
