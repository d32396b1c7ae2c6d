//! Why the hub cannot work for its ledger now.

use thiserror::Error;

use crate::fleet::{FleetError, UrlError};
use crate::ledger::LedgerError;

/// An error of the hub. It never concerns the settling of tasks.
#[derive(Debug, Error)]
pub enum HubError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("the ledger's setting `fleet` cannot be read")]
    Setting(#[source] serde_json::Error),
    #[error("the ledger's setting `fleet` names no database")]
    Url(#[source] UrlError),
    /// Others may have written the setting, so nothing is sent where it says.
    #[error("the ledger is not published, since {0}")]
    Distrusted(String),
    #[error("this ledger was refused: {0}")]
    Refused(String),
    /// The lease is another monitor's, or its epoch is over: registering again settles it.
    #[error("the lease of this node was given to another monitor")]
    Superseded,
    /// Registering again publishes what it lacks.
    #[error("the fleet's database was restored: it lacks changes that it had confirmed")]
    DatabaseRestored,
    #[error("the fleet's database did not answer for each task that was sent")]
    Unanswered,
    #[error("starting the hub failed")]
    Client(#[from] std::io::Error),
}

impl HubError {
    /// Whether the ledger is to be opened again.
    pub fn is_of_ledger(&self) -> bool {
        matches!(self, HubError::Ledger(_) | HubError::Client(_))
    }

    /// Whether PostgreSQL answers, and registering again at once settles it.
    pub fn is_over_epoch(&self) -> bool {
        matches!(
            self,
            HubError::Superseded | HubError::DatabaseRestored | HubError::Fleet(FleetError::Fenced { .. })
        )
    }

    /// Whether the call may succeed later, without anybody's doing.
    pub fn is_away(&self) -> bool {
        matches!(self, HubError::Fleet(e) if e.is_away())
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            HubError::Fleet(e) => e.hint().or_else(|| {
                let grant =
                    "let the role that created the fleet run: GRANT bookend_host TO the role of this host";
                matches!(e, FleetError::Denied { .. }).then(|| grant.to_owned())
            }),
            HubError::Url(e) => e.hint(),
            _ => None,
        }
    }
}
