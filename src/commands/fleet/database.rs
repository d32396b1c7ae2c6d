//! Finds and connects the database of a command, and finds a host in it.

use std::path::Path;

use crate::error::{Error, Kind};
use crate::fleet::{ConnectOptions, DatabaseUrl, FleetConnection, FleetError, FleetMembership, FleetNode};
use crate::ledger::{self, Ledger, Location};
use crate::view;

/// The database that `--ledger` names, or that of the fleet in which the ledger is.
pub(super) fn url(ledger: Option<&Path>) -> Result<DatabaseUrl, Error> {
    if let Some(url) = ledger.and_then(ledger::database_url) {
        return DatabaseUrl::parse(url).map_err(|e| FleetError::from(e).into());
    }
    let at = ledger::locate(ledger)?;
    let membership = Ledger::open_read_only(&at)?.and_then(|ledger| membership(&ledger).transpose());
    let membership = membership.transpose()?.ok_or_else(|| no_fleet(&at))?;
    DatabaseUrl::parse(&membership.url).map_err(|e| FleetError::from(e).into())
}

/// The fleet that a ledger is in.
pub(super) fn membership(ledger: &Ledger) -> Result<Option<FleetMembership>, Error> {
    let parse = |setting: &str| FleetMembership::parse(setting);
    let failed = |e| Error::failed("reading which fleet the ledger is in").caused_by(e);
    ledger.fleet().map(parse).transpose().map_err(failed)
}

pub(super) fn no_fleet(at: &Location) -> Error {
    let join = view::suggestion(at.option(), "fleet join URL");
    Error::new(Kind::Nothing, format!("{} is in no fleet", at.file.display()))
        .hint(format!("run `{join}`, or name the database with --ledger postgres://…"))
}

pub(super) async fn connect(url: &DatabaseUrl) -> Result<FleetConnection, Error> {
    Ok(FleetConnection::connect(url, ConnectOptions::default()).await?)
}

/// Runs a command's part that waits for PostgreSQL.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    crate::fleet::block_on(future).map_err(FleetError::from)?
}

/// The only node in the fleet with this host name, or the one with this id.
pub(super) fn find<'a>(nodes: &'a [FleetNode], host: &str) -> Result<&'a FleetNode, Error> {
    let named = |node: &&FleetNode| node.host == host || node.id.to_string() == host;
    let members: Vec<_> = nodes.iter().filter(named).filter(|node| node.state.is_member()).collect();
    match members.as_slice() {
        [node] => Ok(node),
        [] => {
            let former = nodes.iter().find(named);
            let why = match former {
                Some(node) => format!("the host {host} is no longer in the fleet: {}", node.state.as_str()),
                None => format!("no host {host} in the fleet"),
            };
            Err(Error::new(Kind::Nothing, why).hint("`fleet status` lists the hosts"))
        }
        several => {
            let ids: Vec<_> = several.iter().map(|n| format!("{} ({})", n.id, n.state.as_str())).collect();
            Err(Error::usage(format!("{} nodes have the host {host}", ids.len()))
                .hint(format!("name one by its id: {}", ids.join(", "))))
        }
    }
}
