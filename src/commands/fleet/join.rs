//! `bookend fleet join`: makes a ledger a node of a fleet.

use std::path::Path;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::database::{block_on, connect, membership};
use super::options::FleetJoinOptions;
use crate::error::{Error, Kind};
use crate::fleet::socket;
use crate::fleet::{DatabaseUrl, FleetConnection, FleetError, FleetMembership, FleetNode, NodeState};
use crate::ledger::{self, Ledger};
use crate::log;
use crate::process::procfs::identity;
use crate::task::Time;
use crate::view;

const MONITOR_PATIENCE: Duration = Duration::from_secs(3);
const SOCKET_POLL: Duration = Duration::from_millis(10);
const NODE_POLL: Duration = Duration::from_millis(100);

pub(super) fn join(options: &FleetJoinOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let url = DatabaseUrl::parse(&options.url).map_err(FleetError::from)?;
    let at = ledger::locate(ledger)?;
    let (mut ledger, merged) = Ledger::open(&at)?;
    ledger::report_merged(&merged);
    let before = membership(&ledger)?;
    let node = before.as_ref().filter(|_| !options.new_node);
    let membership = FleetMembership {
        url: url.to_string(),
        node: node.map_or_else(Uuid::new_v4, |before| before.node),
        ledger: node.map_or_else(Uuid::new_v4, |before| before.ledger),
        joined_at: Time::now().to_string(),
    };
    let replaced = before.as_ref().filter(|_| options.new_node).map(|before| before.node);
    let is_replaced = |node: &FleetNode| {
        replaced == Some(node.id) && (node.state != NodeState::Reachable || is_silent(node, &ledger))
    };
    let role = block_on(async {
        let connection = connect(&url).await?;
        check_role(&connection).await?;
        connection.check_schema().await?;
        let nodes = connection.nodes().await?;
        let others = nodes.iter().filter(|node| !is_replaced(node));
        check_nodes(others, &membership, replaced, connection.user())?;
        Ok(connection.user().to_owned())
    })?;
    ledger.join_fleet(&membership.to_setting())?;
    if let Some(before) = before.filter(|before| before.url != membership.url) {
        log::note(&format!("it was in the fleet at {} before", before.url));
    }
    let file = view::one_line(&at.file.to_string_lossy()).into_owned();
    let mut text = format!("{file} is in the fleet at {url}, as the role {role}\n");
    if ledger.has_monitor()? {
        await_socket(&at.private_dir());
        if !is_registered(&url, membership.node) {
            let status = view::suggestion(at.option(), "fleet status");
            text += &format!("its monitor has not registered it yet: `{status}` shows when it has\n");
        }
    } else {
        let monitor = view::suggestion(at.option(), "monitor");
        text += &format!("its monitor does not run: runs with a key need it; start it: `{monitor}`\n");
    }
    Ok(text)
}

/// Waits for the monitor to notice the fleet, so that the next run with a key starts. It may be busy.
fn await_socket(private_dir: &Path) {
    let until = Instant::now() + MONITOR_PATIENCE;
    while !socket::is_bound(private_dir) && Instant::now() < until {
        std::thread::sleep(SOCKET_POLL);
    }
}

/// Waits for the monitor to register the ledger. It does not if it gets another password than this command,
/// and takes 15 s if the ledger may be a copy.
fn is_registered(url: &DatabaseUrl, own: Uuid) -> bool {
    let until = Instant::now() + MONITOR_PATIENCE;
    let is_own = |node: &FleetNode| node.id == own && node.state == NodeState::Reachable;
    loop {
        let nodes = block_on(async { Ok(connect(url).await?.nodes().await?) });
        if nodes.is_ok_and(|nodes| nodes.iter().any(is_own)) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(NODE_POLL);
    }
}

/// Refuses a pooler that logs in as one user for all hosts: they would be one node.
pub(super) async fn check_role(connection: &FleetConnection) -> Result<(), Error> {
    let (user, seen) = (connection.user(), connection.session_user().await?);
    if seen == user {
        return Ok(());
    }
    Err(Error::failed(format!(
        "PostgreSQL at {} sees the role {seen} instead of {user}",
        connection.server()
    ))
    .hint("each host needs a role of its own: configure the pooler to keep the user, not to force one"))
}

/// Whether this ledger, on this boot, was the one that renewed the lease last, and its monitor has stopped.
fn is_silent(node: &FleetNode, ledger: &Ledger) -> bool {
    let is_here = || {
        let (dev, ino) = ledger.file_identity().ok()?;
        let file = format!("{dev}:{ino}");
        Some(node.boot_id.as_ref() == Some(&identity::boot_id()?) && node.ledger_file.as_ref() == Some(&file))
    };
    is_here() == Some(true) && matches!(ledger.has_monitor(), Ok(false))
}

/// Refuses a role that another node has: PostgreSQL distinguishes nodes by their roles.
fn check_nodes<'a>(
    mut nodes: impl Iterator<Item = &'a FleetNode>,
    own: &FleetMembership,
    replaced: Option<Uuid>,
    role: &str,
) -> Result<(), Error> {
    let is_other = |node: &&FleetNode| node.id != own.node && node.role == role && node.state.is_member();
    let Some(node) = nodes.find(is_other) else { return Ok(()) };
    let (host, init) = (view::one_line(&node.host), "bookend fleet init URL --host NAME");
    let error = Error::new(Kind::Failed, format!("the role {role} belongs to the node of the host {host}"));
    Err(match replaced == Some(node.id) {
        true => error.hint(format!(
            "{host} renews its lease: if that is another machine, make a role for this one with `{init}`; if \
             it is this one, stop its monitor, and try again after a minute"
        )),
        false => error.hint(format!(
            "make a role for this host with `{init}`; if {host} is gone for good, an operator \
             declares it lost: `bookend fleet declare-lost {}`",
            node.id
        )),
    })
}
