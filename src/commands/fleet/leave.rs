//! `bookend fleet leave`: makes a ledger independent again. Its rows in PostgreSQL stay.

use std::path::Path;

use serde::Deserialize;
use uuid::Uuid;

use super::database::{block_on, connect, membership, no_fleet};
use crate::error::{Error, Kind};
use crate::fleet::{DatabaseUrl, FleetConnection, FleetError};
use crate::ledger::{self, Ledger};
use crate::log;
use crate::view;

/// Whether or not the monitor has registered the node: it may be about to.
const LEAVE: &str = "SELECT bookend.leave($1, NULL)";

/// The answer of `leave`.
#[derive(Debug, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum LeaveAnswer {
    Left,
    Running { tasks: Vec<String> },
}

/// What became of the ledger's node.
enum FormerNode {
    Left,
    /// It is still a part of the fleet.
    Stays,
}

pub(super) fn leave(force: bool, ledger: Option<&Path>) -> Result<String, Error> {
    let at = ledger::locate(ledger)?;
    if !at.file.exists() {
        return Err(no_fleet(&at));
    }
    let (mut ledger, merged) = Ledger::open(&at)?;
    ledger::report_merged(&merged);
    let membership = membership(&ledger)?.ok_or_else(|| no_fleet(&at))?;
    if !force {
        check_published(&ledger)?;
    }
    let url = DatabaseUrl::parse(&membership.url).map_err(FleetError::from)?;
    let left = block_on(async {
        let connection = connect(&url).await?;
        left(&connection, membership.node, force).await
    });
    let former = left.or_else(|e| {
        if !force {
            return Err(e);
        }
        let message = format!("the fleet still has this node: {}", e.in_line());
        log::warn(&message, &settled_by(membership.node));
        Ok(FormerNode::Stays)
    })?;
    match former {
        FormerNode::Left => ledger.leave_fleet()?,
        FormerNode::Stays => ledger.leave_fleet_by_force()?,
    }
    let file = view::one_line(&at.file.to_string_lossy()).into_owned();
    Ok(format!("{file} has left the fleet at {url}; its tasks stay there\n"))
}

/// What is not published now is published only if the ledger joins again.
fn check_published(ledger: &Ledger) -> Result<(), Error> {
    let forced = view::suggestion(ledger.option(), "fleet leave --force");
    match ledger.count_unpublished()? {
        0 => Ok(()),
        n => {
            let tasks = if n == 1 { "1 task is".to_owned() } else { format!("{n} tasks are") };
            let publishes = match ledger.has_monitor()? {
                true => "the monitor publishes what is left when PostgreSQL is reachable".to_owned(),
                false => format!("`{}` publishes what is left", view::suggestion(ledger.option(), "monitor")),
            };
            Err(Error::new(Kind::Busy, format!("{tasks} not published yet"))
                .hint(format!("{publishes}; to leave without that: `{forced}`")))
        }
    }
}

async fn left(connection: &FleetConnection, node: Uuid, force: bool) -> Result<FormerNode, Error> {
    let nodes = connection.nodes().await?;
    if nodes.iter().any(|known| known.id == node && !known.state.is_member()) {
        return Ok(FormerNode::Left);
    }
    let answer = connection.call(LEAVE, &[node.into()]).await?;
    match answer {
        LeaveAnswer::Running { tasks } if !force => {
            let tasks: Vec<_> = tasks.iter().map(|id| view::one_line(id)).collect();
            let error = format!("tasks of this ledger run or hold keys: {}", tasks.join(", "));
            Err(Error::new(Kind::Busy, error).hint("leave when they have ended, or use --force"))
        }
        LeaveAnswer::Running { tasks } => {
            let stay = if tasks.len() == 1 {
                "1 task stays".to_owned()
            } else {
                format!("{} tasks stay", tasks.len())
            };
            log::warn(&format!("{stay} `running` in the fleet, or hold keys"), &settled_by(node));
            Ok(FormerNode::Stays)
        }
        LeaveAnswer::Left => Ok(FormerNode::Left),
    }
}

fn settled_by(node: Uuid) -> String {
    let declare_lost = view::suggestion(None, &format!("fleet declare-lost {node}"));
    format!("its tasks and keys stay until this ledger joins again, or an operator runs `{declare_lost}`")
}
