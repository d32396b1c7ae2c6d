//! The address of the fleet's database: a URL as libpq has it, without a password.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// `postgres://[USER@]HOST[:PORT][,HOST…]/DATABASE?sslmode=…&sslrootcert=…&service=…`. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    written: String,
    pub(super) address: DatabaseAddress,
    pub(super) service: Option<String>,
}

/// What a URL or a service says about a database. The URL comes first, then its service, then the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DatabaseAddress {
    pub hosts: Vec<DatabaseHost>,
    pub user: Option<String>,
    pub database: Option<String>,
    pub encryption: Option<Encryption>,
    pub root_certificate: Option<PathBuf>,
}

/// One server. A name that begins with `/` is the directory of its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatabaseHost {
    pub name: String,
    pub port: u16,
}

/// What `sslmode` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Disable,
    /// Encrypted, to a server whose certificate is not checked.
    Require,
    /// Encrypted, to a server whose certificate is valid for its host name.
    VerifyFull,
}

/// What is wrong with a URL, which is never part of the message: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("the URL of the database does not begin with postgres:// or postgresql://")]
    Scheme,
    #[error("the URL of the database holds a password, which others can read, or an @ after the host")]
    Password,
    #[error("the URL of the database names no database")]
    NoDatabase,
    #[error("the URL of the database names no host")]
    NoHost,
    #[error("the URL of the database names no user, and this uid has no name")]
    NoUser,
    #[error("invalid host or port in the URL of the database")]
    Host,
    #[error("the URL of the database holds a % that does not escape a character")]
    Escape,
    #[error("the URL of the database has an option that bookend does not know: {0}")]
    Option(String),
    #[error("sslmode={0} is not possible")]
    Encryption(String),
    #[error("sslrootcert={0} is not an absolute path")]
    RootCertificate(String),
    #[error("sslrootcert has no effect with sslmode=require, which does not check the certificate")]
    UnusedCertificate,
}

pub(super) const DEFAULT_PORT: u16 = 5432;

impl DatabaseUrl {
    pub fn parse(text: &str) -> Result<DatabaseUrl, UrlError> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let (rest, query) = split(rest.ok_or(UrlError::Scheme)?, '?');
        let (authority, database) = split(rest, '/');
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        // A password with a `/` or a `?` would end the part before the `@`.
        if user.is_some_and(|user| user.contains(':')) || database.contains('@') || query.contains('@') {
            return Err(UrlError::Password);
        }
        let mut address = DatabaseAddress {
            hosts: hosts.split(',').filter(|host| !host.is_empty()).map(host).collect::<Result<_, _>>()?,
            user: user.filter(|user| !user.is_empty()).map(decoded).transpose()?,
            database: Some(decoded(database)?).filter(|name| !name.is_empty()),
            ..DatabaseAddress::default()
        };
        let mut service = None;
        let mut port = None;
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = split(option, '=');
            match name {
                "service" => service = Some(decoded(value)?),
                "port" => port = Some(value.parse().map_err(|_| UrlError::Host)?),
                _ => address.set(name, &decoded(value)?)?,
            }
        }
        for host in &mut address.hosts {
            host.port = port.unwrap_or(host.port);
        }
        if service.is_none() && address.hosts.is_empty() {
            return Err(UrlError::NoHost);
        }
        if service.is_none() && address.database.is_none() {
            return Err(UrlError::NoDatabase);
        }
        Ok(DatabaseUrl { written: text.to_owned(), address, service })
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl DatabaseAddress {
    /// Sets what a parameter of libpq says.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), UrlError> {
        match name {
            "host" => {
                let hosts = value.split(',').filter(|name| !name.is_empty());
                let host = |name: &str| DatabaseHost { name: name.to_owned(), port: DEFAULT_PORT };
                self.hosts = hosts.map(host).collect();
            }
            "user" => self.user = Some(value.to_owned()),
            "dbname" => self.database = Some(value.to_owned()),
            "sslmode" => self.encryption = Some(Encryption::parse(value)?),
            "sslrootcert" if value == "system" => self.root_certificate = None,
            "sslrootcert" if value.starts_with('/') => self.root_certificate = Some(value.into()),
            "sslrootcert" => return Err(UrlError::RootCertificate(value.to_owned())),
            "password" | "sslpassword" => return Err(UrlError::Password),
            _ => return Err(UrlError::Option(name.to_owned())),
        }
        Ok(())
    }
}

impl DatabaseHost {
    /// Whether it is the directory of a Unix socket.
    pub(super) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

impl fmt::Display for DatabaseHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_socket() {
            true => write!(f, "{}/.s.PGSQL.{}", self.name, self.port),
            false if self.name.contains(':') => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

impl Encryption {
    fn parse(value: &str) -> Result<Encryption, UrlError> {
        match value {
            "disable" => Ok(Encryption::Disable),
            "require" => Ok(Encryption::Require),
            "verify-full" => Ok(Encryption::VerifyFull),
            other => Err(UrlError::Encryption(other.to_owned())),
        }
    }
}

impl UrlError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            UrlError::Scheme
            | UrlError::NoHost
            | UrlError::NoUser
            | UrlError::NoDatabase
            | UrlError::Host => "write it like postgres://bookend_HOST@db.example.org/bookend",
            UrlError::Password => {
                "write the password to ~/.pgpass, in a line like \
                 db.example.org:5432:bookend:bookend_HOST:PASSWORD; write an @ in a name as %40"
            }
            UrlError::Escape => "write % as %25",
            UrlError::Option(_) => "possible are host, port, dbname, user, service, sslmode and sslrootcert",
            UrlError::Encryption(_) => {
                "write verify-full, which is the default, or require, which does not check the certificate, \
                 or disable"
            }
            UrlError::RootCertificate(_) => "write the path from the root, or system",
            UrlError::UnusedCertificate => "write sslmode=verify-full, or leave sslrootcert out",
        };
        Some(hint.to_owned())
    }
}

fn split(text: &str, at: char) -> (&str, &str) {
    text.split_once(at).unwrap_or((text, ""))
}

fn decoded(text: &str) -> Result<String, UrlError> {
    let escapes = text.split('%').skip(1);
    let is_escape = |rest: &str| rest.len() > 1 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !escapes.clone().all(is_escape) {
        return Err(UrlError::Escape);
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Escape)?;
    if decoded.contains('\0') { Err(UrlError::Escape) } else { Ok(decoded.into_owned()) }
}

/// `name`, `name:port` or `[address]:port`.
fn host(text: &str) -> Result<DatabaseHost, UrlError> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
            (name, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")).ok_or(UrlError::Host)?)
        }
        None => split(text, ':'),
    };
    let port = if port.is_empty() { DEFAULT_PORT } else { port.parse().map_err(|_| UrlError::Host)? };
    Some(decoded(name)?)
        .filter(|name| !name.is_empty())
        .map(|name| DatabaseHost { name, port })
        .ok_or(UrlError::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_the_database_is() {
        let url = DatabaseUrl::parse(
            "postgresql://host%40a@db1,db2:5433,[::1]/fle%20et?sslrootcert=/etc/ca.pem&sslmode=verify-full",
        )
        .expect("a URL");
        let hosts: Vec<_> = url.address.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["db1:5432", "db2:5433", "[::1]:5432"]);
        assert_eq!(url.address.user.as_deref(), Some("host@a"));
        assert_eq!(url.address.database.as_deref(), Some("fle et"));
        assert_eq!(url.address.root_certificate, Some("/etc/ca.pem".into()));
        assert_eq!(url.address.encryption, Some(Encryption::VerifyFull));
    }

    #[test]
    fn a_unix_socket_is_the_host_in_both_forms() {
        for url in ["postgres://%2Frun%2Fpg:5433/x", "postgres:///x?host=/run/pg&port=5433"] {
            let url = DatabaseUrl::parse(url).expect("a URL");
            assert_eq!(url.address.hosts[0].to_string(), "/run/pg/.s.PGSQL.5433");
            assert!(url.address.hosts[0].is_socket());
        }
    }

    #[test]
    fn what_is_written_empty_is_as_if_it_were_left_out() {
        let of = |url: &str| DatabaseUrl::parse(url).expect("a URL").address;
        assert_eq!(of("postgres://@db/x").user, None);
        assert_eq!(of("postgres:///x?host=,db,").hosts, of("postgres://db/x").hosts);
        assert_eq!(of("postgres://db/x?sslrootcert=system").root_certificate, None);
    }

    #[test]
    fn a_password_is_refused_wherever_it_is_written_and_not_repeated() {
        let written = [
            "postgres://a:secret@db/x",
            "postgres://a:@db/x",
            "postgres://a@db/x?password=secret",
            "postgres://a:se%63ret@db/x?user=b",
            "postgres://db/x?sslpassword=secret",
            "postgres://a:1/secret@db/x",
            "postgres://a:1?secret@db/x",
        ];
        for url in written {
            let error = DatabaseUrl::parse(url).expect_err("a refusal");
            assert_eq!(error, UrlError::Password, "{url}");
            let shown = format!("{error} {:?} {error:?}", error.hint());
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn a_url_that_bookend_cannot_obey_is_refused() {
        let refused = |url: &str| DatabaseUrl::parse(url).expect_err(url);
        assert_eq!(refused("mysql://db/x"), UrlError::Scheme);
        assert_eq!(refused("postgres:///x"), UrlError::NoHost);
        assert_eq!(refused("postgres://db"), UrlError::NoDatabase);
        assert_eq!(refused("postgres://db:99999/x"), UrlError::Host);
        assert_eq!(refused("postgres://[::1/x"), UrlError::Host);
        assert_eq!(refused("postgres://d%zz/x"), UrlError::Escape);
        assert_eq!(refused("postgres://d%00/x"), UrlError::Escape);
        assert_eq!(refused("postgres://db/x?options=-csearch_path=evil"), UrlError::Option("options".into()));
        assert_eq!(refused("postgres://db/x?sslmode=prefer"), UrlError::Encryption("prefer".into()));
        assert_eq!(refused("postgres://db/x?sslrootcert=ca.pem"), UrlError::RootCertificate("ca.pem".into()));
    }
}
