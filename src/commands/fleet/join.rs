//! `bookend fleet join`: makes a ledger a node of a fleet.

use std::path::Path;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::database::{block_on, connect, membership};
use super::options::FleetJoinOptions;
use crate::error::{Error, Kind};
use crate::fleet::socket;
use crate::fleet::{DatabaseUrl, FleetConnection, FleetError, FleetMembership, FleetNode, NodeState};
use crate::ledger::{self, Ledger, Location};
use crate::log;
use crate::process::procfs::identity;
use crate::task::Time;
use crate::view;

const MONITOR_PATIENCE: Duration = Duration::from_secs(3);
const SOCKET_POLL: Duration = Duration::from_millis(10);
const NODE_POLL: Duration = Duration::from_millis(100);

/// The node that a ledger is already.
struct PriorNode {
    membership: FleetMembership,
    /// It has left by force, and these changes may be published. `None`: it is in the fleet.
    former_rev: Option<i64>,
}

impl PriorNode {
    fn of(ledger: &Ledger) -> Result<Option<PriorNode>, Error> {
        if let Some(membership) = membership(ledger)? {
            return Ok(Some(PriorNode { membership, former_rev: None }));
        }
        let Some(former) = ledger.former_fleet()? else { return Ok(None) };
        let membership = FleetMembership::parse(&former.setting).ok();
        Ok(membership.map(|membership| PriorNode { membership, former_rev: Some(former.rev) }))
    }

    /// Whether the fleet has it: one that was left may have been declared lost since, or is of another fleet.
    fn is_among(&self, nodes: &[FleetNode], role: &str) -> bool {
        let is_it = |n: &FleetNode| n.id == self.membership.node && n.role == role && n.state.is_member();
        self.former_rev.is_none() || nodes.iter().any(is_it)
    }
}

pub(super) fn join(options: &FleetJoinOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let url = DatabaseUrl::parse(&options.url).map_err(FleetError::from)?;
    let at = ledger::locate(ledger)?;
    // A join that is refused creates no ledger.
    let opened = if at.file.exists() { Some(open(&at)?) } else { None };
    let prior = opened.as_ref().map(PriorNode::of).transpose()?.flatten();
    let (membership, prior, role) = block_on(async {
        let connection = connect(&url).await?;
        check_role(&connection).await?;
        connection.check_schema().await?;
        let (nodes, role) = (connection.nodes().await?, connection.user());
        if let Some(prior) = &prior {
            check_left(prior, &nodes, &url, &at).await?;
        }
        warn_of_rights(&connection).await?;
        let prior = prior.filter(|prior| prior.is_among(&nodes, role));
        let kept = prior.as_ref().filter(|_| !options.new_node).map(|prior| &prior.membership);
        let membership = FleetMembership {
            url: url.to_string(),
            node: kept.map_or_else(Uuid::new_v4, |kept| kept.node),
            ledger: kept.map_or_else(Uuid::new_v4, |kept| kept.ledger),
            joined_at: Time::now().to_string(),
        };
        let replaced = prior.as_ref().filter(|_| options.new_node).map(|prior| prior.membership.node);
        let is_replaced = |node: &FleetNode| {
            let is_silent = || opened.as_ref().is_some_and(|ledger| is_silent(node, ledger));
            replaced == Some(node.id) && (node.state != NodeState::Reachable || is_silent())
        };
        check_nodes(nodes.iter().filter(|node| !is_replaced(node)), &membership, replaced, role)?;
        Ok((membership, prior, role.to_owned()))
    })?;
    let mut ledger = opened.map_or_else(|| open(&at), Ok)?;
    let former_rev = prior.as_ref().filter(|_| !options.new_node).and_then(|prior| prior.former_rev);
    match former_rev {
        Some(rev) => ledger.join_fleet_after(&membership.to_setting(), rev)?,
        None => ledger.join_fleet(&membership.to_setting())?,
    }
    if former_rev.is_some() {
        log::note(&format!("it is the node {} again, as before it left", membership.node));
    } else if let Some(prior) = prior.filter(|prior| prior.membership.url != membership.url) {
        log::note(&format!("it was in the fleet at {} before", prior.membership.url));
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

fn open(at: &Location) -> Result<Ledger, Error> {
    let (ledger, merged) = Ledger::open(at)?;
    ledger::report_merged(&merged);
    Ok(ledger)
}

/// Refuses to join another fleet while a node of the ledger is left in the one before: its keys would be held
/// there, and its tasks run, until somebody declares it lost.
async fn check_left(
    prior: &PriorNode,
    nodes: &[FleetNode],
    url: &DatabaseUrl,
    at: &Location,
) -> Result<(), Error> {
    let PriorNode { membership, former_rev } = prior;
    let is_own = |node: &FleetNode| node.id == membership.node;
    if former_rev.is_some() || membership.url == url.to_string() || nodes.iter().any(is_own) {
        return Ok(());
    }
    let before = DatabaseUrl::parse(&membership.url).map_err(FleetError::from)?;
    let there = async { Ok::<_, Error>(connect(&before).await?.nodes().await?) }.await;
    if there.as_ref().is_ok_and(|nodes| !nodes.iter().any(|node| is_own(node) && node.state.is_member())) {
        return Ok(());
    }
    let leave = view::suggestion(at.option(), "fleet leave");
    let (why, hint) = match there {
        Ok(_) => (String::new(), format!("leave it first: `{leave}`")),
        Err(e) => (
            format!(", which cannot be asked: {}", e.in_line()),
            format!("leave it first; if it is gone: `{leave} --force`"),
        ),
    };
    Err(Error::failed(format!("the ledger is in another fleet, at {before}{why}")).hint(hint))
}

/// Agents can read the password file of their host.
async fn warn_of_rights(connection: &FleetConnection) -> Result<(), Error> {
    if connection.may_change_schema().await? {
        log::warn(
            &format!("the role {} may change the schema, and agents can use its password", connection.user()),
            "make a role for this host: `bookend fleet init URL --host NAME`",
        );
    }
    Ok(())
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
    let message = format!("the role {role} belongs to the node {} of the host {host}", node.id);
    let error = Error::new(Kind::Failed, message);
    Err(match replaced == Some(node.id) {
        true => error.hint(format!(
            "{host} renews its lease: if that is another machine, make a role for this one with `{init}`; if \
             it is this one, stop its monitor, and try again after a minute"
        )),
        false => error.hint(format!(
            "make a role for this ledger with `{init}`; if the ledger of that node is gone for good, an \
             operator declares it lost: `fleet declare-lost {}`",
            node.id
        )),
    })
}
