//! What `bookend doctor` says about the fleet that the ledger is in.

use super::database::{block_on, connect, membership};
use super::join::check_role;
use super::status::{to_publish, trouble};
use crate::error::Error;
use crate::fleet::socket::{self, HubStatus, SOCKET_NAME};
use crate::fleet::{DatabaseUrl, FleetConnection, FleetError, FleetMembership, FleetNode, NodeState};
use crate::ledger::{Ledger, Location};
use crate::view::{self, Health, Point};

/// Nothing if the ledger is in no fleet, or cannot be opened, which is another point.
pub(super) fn of(at: &Location) -> Vec<Point> {
    let Ok(Some(ledger)) = Ledger::open_read_only(at) else { return Vec::new() };
    match membership(&ledger) {
        Ok(None) => Vec::new(),
        Ok(Some(membership)) => vec![database(&membership), monitor(at, &ledger)],
        Err(e) => vec![bad(&e)],
    }
}

fn point(health: Health, text: String) -> Point {
    Point { name: "fleet".to_owned(), health, text }
}

fn bad(error: &Error) -> Point {
    point(Health::Bad, error.in_line())
}

fn database(membership: &FleetMembership) -> Point {
    let checked = block_on(async {
        let url = DatabaseUrl::parse(&membership.url).map_err(FleetError::from)?;
        let connection = connect(&url).await?;
        check_role(&connection).await?;
        connection.check_schema().await?;
        let nodes = connection.nodes().await?;
        Ok(nodes_point(&connection, &nodes, membership))
    });
    checked.unwrap_or_else(|e| bad(&e))
}

/// PostgreSQL cannot distinguish two nodes of one role: each could act for the other.
fn nodes_point(connection: &FleetConnection, nodes: &[FleetNode], own: &FleetMembership) -> Point {
    let (role, server) = (connection.user(), connection.server());
    let members: Vec<_> = nodes.iter().filter(|node| node.state.is_member()).collect();
    if let Some(other) = members.iter().find(|node| node.role == role && node.id != own.node) {
        let host = &other.host;
        let text = format!(
            "the role {role} is also that of the node {} of the host {host}: each needs a role of its own \
             (`bookend fleet init URL --host NAME`); if {host} is gone for good, an operator \
             declares it lost: `fleet declare-lost {}`",
            other.id, other.id
        );
        return point(Health::Bad, text);
    }
    let reachable = members.iter().filter(|node| node.state == NodeState::Reachable).count();
    let all = members.len();
    let hosts = if all == 1 { "host" } else { "hosts" };
    let text =
        format!("PostgreSQL at {server} answers the role {role}; {reachable} of {all} {hosts} reachable");
    point(if reachable == all { Health::Fine } else { Health::Odd }, text)
}

/// What the monitor itself says: it may have another password, or another ledger's lease, than this command.
fn connection(status: &HubStatus, waiting: &str) -> Point {
    let Some(trouble) = trouble(status) else {
        return point(Health::Fine, format!("the monitor is connected to it; {waiting}"));
    };
    let health = if *status == HubStatus::Connecting { Health::Odd } else { Health::Bad };
    point(health, format!("the monitor {trouble}; {waiting}"))
}

/// Runs with a key ask the monitor, which systemd can start for them by its socket.
fn monitor(at: &Location, ledger: &Ledger) -> Point {
    let socket = at.private_dir().join(SOCKET_NAME);
    let waiting = match ledger.count_unpublished() {
        Ok(n) => to_publish(n),
        Err(e) => return bad(&e.into()),
    };
    match (ledger.has_monitor(), socket.exists()) {
        (Err(e), _) => bad(&e.into()),
        (Ok(true), true) => connection(&socket::status(&at.private_dir()), &waiting),
        (Ok(true), false) => {
            let text = format!("the monitor runs without the socket {}; {waiting}", socket.display());
            point(Health::Bad, text)
        }
        (Ok(false), true) => point(
            Health::Odd,
            format!("no monitor runs; a run with a key asks for one at its socket; {waiting}"),
        ),
        (Ok(false), false) => {
            let monitor = view::suggestion(at.option(), "monitor");
            let text = format!("no monitor runs: runs with a key fail; {waiting}; start it: `{monitor}`");
            point(Health::Bad, text)
        }
    }
}
