//! The errors of the fleet's database: what failed, on which server, and what the user can do.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

use super::password::PasswordError;
use super::schema::SCHEMA_VERSION;
use super::service::ServiceError;
use super::tls::TlsError;
use super::url::UrlError;
use crate::error::Error;

/// Why the database of the fleet did not do what it was asked.
#[derive(Debug, Error)]
pub enum FleetError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nothing answers, or the connection broke. Trying again may help.
    #[error("PostgreSQL at {server} is not reachable")]
    Away { server: String, source: Box<dyn StdError + Send + Sync> },
    /// The server's certificate is not valid for its host name, or the server has no TLS.
    #[error("no secure connection to PostgreSQL at {server}")]
    Untrusted { server: String, source: Box<dyn StdError + Send + Sync> },
    #[error("PostgreSQL at {server} did not answer within {}", humantime::format_duration(*.within))]
    Silent { server: String, within: Duration },
    /// The server refused the user, the password or the database.
    #[error("PostgreSQL at {server} refused the connection")]
    Refused { server: String, source: Box<DbError> },
    /// This role may not do it, or the database has no fleet.
    #[error("PostgreSQL at {server} refused the request")]
    Denied { server: String, source: Box<DbError> },
    /// BK001: this node was declared lost, has left, or has registered again.
    #[error("this registration of the node is over")]
    Fenced { source: Box<DbError> },
    /// BK002: the node belongs to another role.
    #[error("this node belongs to another role")]
    OtherRole { source: Box<DbError> },
    /// BK003: the database knows younger rows of this ledger than the ledger itself.
    #[error("this ledger is older than what it published")]
    Restored { source: Box<DbError> },
    /// BK004: the schema and this program do not fit together.
    #[error("the fleet has another version than this program")]
    Version { source: Box<DbError> },
    #[error("the fleet's schema has version {found}, and this bookend knows version {}", SCHEMA_VERSION)]
    Schema { found: i64 },
    /// Any other error of a statement.
    #[error("a request to PostgreSQL at {server} failed")]
    Statement { server: String, source: Box<DbError> },
    #[error("unexpected answer from PostgreSQL")]
    Answer(#[source] Box<dyn StdError + Send + Sync>),
    #[error("starting the client of PostgreSQL failed")]
    Client(#[from] io::Error),
}

impl FleetError {
    /// Whether PostgreSQL cannot be reached now: trying again later may help, without anybody's doing.
    pub fn is_away(&self) -> bool {
        matches!(self, FleetError::Away { .. } | FleetError::Silent { .. })
    }

    /// Whether PostgreSQL answers, and this one statement can be repeated.
    pub fn is_of_call(&self) -> bool {
        matches!(self, FleetError::Away { source, .. } if source.is::<DbError>())
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            FleetError::Url(e) => return e.hint(),
            FleetError::Service(ServiceError::Setting { source, .. }) => return source.hint(),
            FleetError::Service(ServiceError::File(e)) | FleetError::Password(e) => return e.hint(),
            FleetError::Tls(e) => return e.hint(),
            FleetError::Untrusted { .. } => {
                "check the host name; if it signed its certificate itself, or an authority of your own did, \
                 add ?sslrootcert=/PATH/FILE.pem to the URL, with the certificate of the one or the other"
            }
            FleetError::Restored { .. } => {
                "stop its monitor, run `fleet join --new-node URL`, and start the monitor again"
            }
            FleetError::Schema { found } if *found < SCHEMA_VERSION => {
                "bring it up to date with `bookend fleet init URL`, as the role that created it"
            }
            FleetError::Schema { .. } => "install the version of bookend that the other hosts have",
            FleetError::Denied { source, .. } if is_missing(source) => {
                "create the fleet with `bookend fleet init URL`, as a role that may create a schema"
            }
            FleetError::Version { .. } => {
                "upgrade bookend on all hosts, and then the schema with `bookend fleet init URL`, as the \
                 role that created the fleet"
            }
            FleetError::Refused { source, .. } => return refusal_hint(source),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// As an error of a command for operators, with the advice that fits the role of a host.
    pub fn of_operator(self, user: &str) -> Error {
        let is_denied = matches!(self, FleetError::Denied { .. }) && self.hint().is_none();
        let error = Error::from(self);
        match is_denied {
            true => error.hint(format!(
                "name the database with --ledger postgres://OPERATOR@…, or let the role that created the \
                 fleet allow it to this one: GRANT bookend_operator TO \"{user}\""
            )),
            false => error,
        }
    }

    /// An error while connecting.
    pub(super) fn of_connecting(server: &str, error: tokio_postgres::Error) -> FleetError {
        let server = server.to_owned();
        match database_error(&error) {
            Some(source) if is_temporary(&source) => FleetError::Away { server, source },
            Some(source) => FleetError::Refused { server, source },
            None if is_untrusted(&error) => FleetError::Untrusted { server, source: Box::new(error) },
            None => FleetError::Away { server, source: Box::new(error) },
        }
    }

    /// An error of a statement.
    pub(super) fn of_statement(server: &str, error: tokio_postgres::Error) -> FleetError {
        let server = server.to_owned();
        let Some(source) = database_error(&error) else {
            return FleetError::Away { server, source: Box::new(error) };
        };
        match source.code().code() {
            "BK001" => FleetError::Fenced { source },
            "BK002" => FleetError::OtherRole { source },
            "BK003" => FleetError::Restored { source },
            "BK004" => FleetError::Version { source },
            _ if *source.code() == SqlState::INSUFFICIENT_PRIVILEGE || is_missing(&source) => {
                FleetError::Denied { server, source }
            }
            _ if is_temporary(&source) => FleetError::Away { server, source },
            _ => FleetError::Statement { server, source },
        }
    }
}

impl From<FleetError> for Error {
    fn from(e: FleetError) -> Error {
        let hint = e.hint();
        let error = match &e {
            FleetError::Url(_) => Error::usage(e),
            _ => Error::failed(e),
        };
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The handshake failed at what the server showed, not at the network.
fn is_untrusted(error: &tokio_postgres::Error) -> bool {
    let Some(cause) = error.source() else { return false };
    let of_tls = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    of_tls.is_some_and(|e| e.is::<rustls::Error>()) || cause.to_string() == "server does not support TLS"
}

/// What to do when the server refuses a connection, by the SQLSTATE of the refusal.
fn refusal_hint(refusal: &DbError) -> Option<String> {
    let hint = match *refusal.code() {
        SqlState::INVALID_PASSWORD => {
            "correct its line in the password file: ~/.pgpass, or the one that PGPASSFILE names"
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "let the role connect in pg_hba.conf of the server, or create it with `bookend fleet init URL \
             --host NAME`"
        }
        SqlState::INVALID_CATALOG_NAME => "check the name of the database in the URL",
        SqlState::INSUFFICIENT_PRIVILEGE => "let the role connect: GRANT CONNECT ON DATABASE",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn database_error(error: &tokio_postgres::Error) -> Option<Box<DbError>> {
    error.as_db_error().cloned().map(Box::new)
}

/// The schema, a table or a function does not exist.
fn is_missing(error: &DbError) -> bool {
    let missing = [SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION];
    missing.contains(error.code())
}

/// The server starts, stops or is full, or has cancelled the statement (classes 08, 53, 57 and 58), has
/// rolled it back because of others (40), has waited for a lock for too long, or is a standby. pgbouncer says
/// 08P01 for a server that it cannot reach, too.
fn is_temporary(error: &DbError) -> bool {
    let code = error.code().code();
    ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || *error.code() == SqlState::LOCK_NOT_AVAILABLE
        || *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION
}
