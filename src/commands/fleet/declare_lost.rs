//! `bookend fleet declare-lost`: a person vouches that a host is off, so that its keys become free.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::database::{self, block_on, connect, find};
use super::options::DeclareLostOptions;
use crate::error::{Error, Kind};
use crate::fleet::{FleetNode, NodeState};
use crate::view;

/// What PostgreSQL says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum LostAnswer {
    Lost {
        host: String,
        tasks: Vec<String>,
        released: Vec<String>,
    },
    /// It was renewed since it was looked at.
    Moved,
    AlreadyLost,
    Left,
    Unknown,
}

const DECLARE_LOST: &str = "SELECT bookend.declare_lost($1, $2, $3)";

pub(super) fn declare_lost(options: &DeclareLostOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let url = database::url(ledger)?;
    let answer = block_on(async {
        let connection = connect(&url).await?;
        let nodes = connection.nodes().await?;
        let node = find(&nodes, &options.host)?;
        check(node, options)?;
        let arguments = [node.id.into(), node.epoch.into(), node.seq.into()];
        let called = connection.call(DECLARE_LOST, &arguments).await;
        called.map_err(|e| e.of_operator(connection.user()))
    })?;
    let LostAnswer::Lost { host, tasks, released } = &answer else {
        return Err(Error::failed(format!(
            "{} was not declared lost: it has just renewed its lease, left, or \
                                          been declared lost by another",
            options.host
        ))
        .hint("look at it again with `bookend fleet status`"));
    };
    if options.json {
        return Ok(view::pretty(&answer));
    }
    let host = view::one_line(host);
    let (tasks, keys) = (counted(tasks.len(), "task"), counted(released.len(), "key"));
    Ok(format!("{host} is declared lost: {tasks} interrupted, {keys} released\n"))
}

fn check(node: &FleetNode, options: &DeclareLostOptions) -> Result<(), Error> {
    let host = &node.host;
    if node.state == NodeState::Reachable {
        return Err(Error::new(Kind::Busy, format!("{host} is reachable: it renews its lease"))
            .hint("stop its monitor first, or switch the machine off"));
    }
    if options.yes {
        return Ok(());
    }
    let (tasks, keys) = (counted(usize::try_from(node.running).unwrap_or(0), "task"), node.claims);
    Err(Error::usage(format!(
        "declaring {host} lost needs --yes: {tasks} count as running there, with {keys} keys"
    ))
    .hint("make sure that the machine is off: an agent that still runs there would work beside the next one"))
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
