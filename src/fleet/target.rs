//! The servers, the user and the database of a connection: the URL, completed by its service and the defaults
//! of libpq.

use std::path::PathBuf;

use nix::unistd::{User, geteuid};

use super::error::FleetError;
use super::password::{self, LoginWanted, PasswordLookup};
use super::private_files::PrivateFiles;
use super::service::{self, DatabaseService};
use super::url::{DatabaseHost, DatabaseUrl, Encryption, UrlError};

/// A database, with every default filled in.
pub(super) struct DatabaseTarget {
    pub hosts: Vec<DatabaseHost>,
    pub user: String,
    pub database: String,
    encryption: Option<Encryption>,
    pub root_certificate: Option<PathBuf>,
    password: Option<Vec<u8>>,
    files: PrivateFiles,
}

impl DatabaseTarget {
    pub fn of(url: &DatabaseUrl) -> Result<DatabaseTarget, FleetError> {
        DatabaseTarget::with(url, PrivateFiles::from_environment())
    }

    fn with(url: &DatabaseUrl, files: PrivateFiles) -> Result<DatabaseTarget, FleetError> {
        let service = match &url.service {
            Some(name) => service::find(name, &files)?,
            None => DatabaseService::default(),
        };
        let (own, general) = (url.address.clone(), service.address);
        let hosts = if own.hosts.is_empty() { general.hosts } else { own.hosts };
        if hosts.is_empty() {
            return Err(UrlError::NoHost.into());
        }
        let me = || User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
        let target = DatabaseTarget {
            hosts,
            user: own.user.or(general.user).or_else(me).ok_or(UrlError::NoUser)?,
            database: own.database.or(general.database).ok_or(UrlError::NoDatabase)?,
            encryption: own.encryption.or(general.encryption),
            root_certificate: own.root_certificate.or(general.root_certificate),
            password: service.password,
            files,
        };
        // libpq would check the certificate then.
        if target.root_certificate.is_some() && target.encryption == Some(Encryption::Require) {
            return Err(UrlError::UnusedCertificate.into());
        }
        Ok(target)
    }

    /// Over TCP, the connection is encrypted and the server's certificate is checked, unless a weaker
    /// `sslmode` is written.
    pub fn encryption(&self, host: &DatabaseHost) -> Encryption {
        match host.is_socket() {
            true => Encryption::Disable,
            false => self.encryption.unwrap_or(Encryption::VerifyFull),
        }
    }

    pub fn password(&self, host: &DatabaseHost) -> PasswordLookup {
        match &self.password {
            Some(password) => PasswordLookup::Password(password.clone()),
            None => {
                let wanted = LoginWanted { host, database: &self.database, user: &self.user };
                password::look_up(&wanted, &self.files)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, services: &str) -> Result<DatabaseTarget, FleetError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("services");
        std::fs::write(&file, services).expect("a file");
        let files = PrivateFiles { service_file: Some(file), ..PrivateFiles::default() };
        DatabaseTarget::with(&DatabaseUrl::parse(url).expect("a URL"), files)
    }

    #[test]
    fn the_url_comes_before_its_service() {
        let services = "[fleet]\nhost=db\nuser=general\ndbname=bookend\nsslmode=require\n";
        let of = target("postgres://own@/?service=fleet", services).expect("a target");
        assert_eq!(
            (of.user.as_str(), of.database.as_str(), of.hosts[0].name.as_str()),
            ("own", "bookend", "db")
        );
        assert_eq!(of.encryption(&of.hosts[0]), Encryption::Require);
        let services = "[fleet]\nhost=db\ndbname=bookend\nsslrootcert=/general.pem\n";
        let of = target("postgres://own@/other?service=fleet&sslrootcert=/own.pem", services);
        let of = of.expect("a target");
        assert_eq!((of.database.as_str(), of.root_certificate), ("other", Some("/own.pem".into())));
        let services = "[fleet]\nhost=db\ndbname=bookend\nsslmode=require\n";
        let strict = "postgres://own@/?service=fleet&sslmode=verify-full";
        let of = target(strict, services).expect("a target");
        assert_eq!(of.encryption(&of.hosts[0]), Encryption::VerifyFull);
    }

    #[test]
    fn tcp_is_checked_fully_unless_weaker_is_written() {
        let encryption = |url: &str| {
            let of = target(url, "").expect("a target");
            of.encryption(&of.hosts[0])
        };
        assert_eq!(encryption("postgres://a@db/x"), Encryption::VerifyFull);
        assert_eq!(encryption("postgres://a@db/x?sslmode=require"), Encryption::Require);
        assert_eq!(encryption("postgres://a@db/x?sslmode=disable"), Encryption::Disable);
        assert_eq!(encryption("postgres://a@/x?host=/run/postgresql"), Encryption::Disable);
        assert!(target("postgres://a@db/x?sslmode=require&sslrootcert=/etc/ca.pem", "").is_err());
    }
}
