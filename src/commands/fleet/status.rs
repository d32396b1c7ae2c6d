//! `bookend fleet status`: the nodes of the fleet, and what of this ledger is not published.

use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use super::database::{self, block_on, connect, membership};
use super::options::FleetStatusOptions;
use crate::error::Error;
use crate::fleet::socket::{self, HubStatus};
use crate::fleet::{FleetNode, NodeState};
use crate::ledger::{self, Ledger};
use crate::task::{RecordedTime, Time};
use crate::view::{self, NodeLine, Screen};

/// This ledger's part of the fleet.
#[derive(Debug, Serialize)]
struct OwnNode {
    ledger: String,
    node: Uuid,
    /// Whether its monitor runs.
    monitor: bool,
    /// Whether the monitor can use the database, as it says itself.
    connection: Option<HubStatus>,
    /// How many tasks wait to be published.
    unpublished: u64,
}

#[derive(Debug, Serialize)]
struct FleetStatus<'a> {
    /// The database, without a password.
    fleet: String,
    own: Option<OwnNode>,
    nodes: &'a [FleetNode],
}

pub(super) fn status(options: &FleetStatusOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let url = database::url(ledger)?;
    let own = own(ledger)?;
    let nodes = block_on(async {
        let connection = connect(&url).await?;
        Ok(connection.nodes().await?)
    })?;
    let status = FleetStatus { fleet: url.to_string(), own, nodes: &nodes };
    Ok(if options.json { view::pretty(&status) } else { text(&status) })
}

fn own(ledger: Option<&Path>) -> Result<Option<OwnNode>, Error> {
    if ledger.and_then(ledger::database_url).is_some() {
        return Ok(None);
    }
    let at = ledger::locate(ledger)?;
    let Some(ledger) = Ledger::open_read_only(&at)? else { return Ok(None) };
    let Some(membership) = membership(&ledger)? else { return Ok(None) };
    let monitor = ledger.has_monitor()?;
    Ok(Some(OwnNode {
        ledger: at.file.display().to_string(),
        node: membership.node,
        monitor,
        // Without a monitor, systemd may listen on the socket.
        connection: monitor.then(|| socket::status(&at.private_dir())),
        unpublished: ledger.count_unpublished()?,
    }))
}

fn text(status: &FleetStatus<'_>) -> String {
    let mut text = format!("fleet    {}\n", status.fleet);
    if let Some(own) = &status.own {
        let monitor = if own.monitor { "its monitor runs" } else { "its monitor does not run" };
        let waiting = to_publish(own.unpublished);
        text += &format!("ledger   {}: {monitor}, {waiting}\n", view::one_line(&own.ledger));
        let trouble = own.connection.as_ref().and_then(trouble);
        text += &trouble.map(|trouble| format!("monitor  {trouble}\n")).unwrap_or_default();
    }
    let shown: Vec<_> = status.nodes.iter().filter(|n| n.state != NodeState::Left).collect();
    if shown.is_empty() {
        return text + "no host is registered: a monitor registers its host\n";
    }
    let now = Time::now();
    let own = status.own.as_ref().map(|own| own.node);
    let lines: Vec<_> = shown.iter().map(|node| line(node, &shown, own, now)).collect();
    text + "\n" + &view::nodes(&lines, Screen::of(&std::io::stdout()))
}

/// Why a monitor does not work for the fleet. `None`: it does.
pub(super) fn trouble(status: &HubStatus) -> Option<String> {
    let text = match status {
        HubStatus::Connected => return None,
        HubStatus::Connecting => "has not registered the ledger yet".to_owned(),
        HubStatus::Away { since, why, hint } => {
            let hint = hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
            format!("has not been able to use the database since {since}: {why}{hint}")
        }
        HubStatus::Silent { why } => format!("did not say whether it can use the database: {why}"),
    };
    Some(view::one_line(&text).into_owned())
}

/// How many tasks of the ledger PostgreSQL does not have yet.
pub(super) fn to_publish(tasks: u64) -> String {
    match tasks {
        0 => "all tasks are published".to_owned(),
        1 => "1 task is to be published".to_owned(),
        n => format!("{n} tasks are to be published"),
    }
}

fn line(node: &FleetNode, all: &[&FleetNode], own: Option<Uuid>, now: Time) -> NodeLine {
    let is_ambiguous = all.iter().filter(|other| other.host == node.host).count() > 1;
    let since = node.since.map(|time| format!(" {}", view::ago(&RecordedTime::from(time), now)));
    NodeLine {
        host: if own == Some(node.id) { format!("{} *", node.host) } else { node.host.clone() },
        node: if is_ambiguous { node.id.to_string() } else { String::new() },
        state: format!("{}{}", node.state.as_str(), since.unwrap_or_default()),
        is_reachable: node.state == NodeState::Reachable,
        running: node.running,
        claims: node.claims,
        waiting: node.waiting,
        version: node.version.clone().unwrap_or_default(),
    }
}
