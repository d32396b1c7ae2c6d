//! The arguments of `bookend fleet`.

use std::time::Duration;

use clap::{ArgAction, Subcommand, ValueHint};

use super::values::duration;
use crate::commands::fleet::{
    DeclareLostOptions, FleetAction, FleetInitOptions, FleetJoinOptions, FleetPruneOptions,
    FleetStatusOptions,
};

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Create a fleet in a PostgreSQL database
    ///
    /// It creates the schema `bookend`, or brings it up to date, and a role for each --host. It prints a line
    /// for the password file of each host, and how the host joins. The role in the URL needs the right to
    /// create a schema in the database, and CREATEROLE unless the roles exist.
    Init {
        /// Database, as postgres://USER@HOST/DATABASE
        ///
        /// Its options: sslmode (verify-full, the default; require; disable), sslrootcert, service, host,
        /// port, user, dbname. A password is refused here: bookend reads it from the credential
        /// bookend-pgpass of systemd, PGPASSFILE, ~/.pgpass or the service file.
        #[arg(value_hint = ValueHint::Url)]
        url: String,
        /// Create the role bookend_NAME for a host
        ///
        /// May be repeated. A role that exists keeps its password.
        #[arg(long = "host", value_name = "NAME", action = ArgAction::Append)]
        hosts: Vec<String>,
        /// Whether hosts publish command lines and prompts
        ///
        /// They do not, unless this is set to true once.
        #[arg(long, value_name = "BOOL")]
        publish_argv: Option<bool>,
    },
    /// Make this ledger a part of a fleet
    ///
    /// The monitor publishes all tasks of the ledger, and from then on a key is held by one run in the whole
    /// fleet. The URL is stored in the ledger; it holds no password. Joining again changes the URL, and
    /// publishes all tasks once more.
    Join {
        /// Database, as postgres://bookend_NAME@HOST/DATABASE
        #[arg(value_hint = ValueHint::Url)]
        url: String,
        /// Join as another node than before
        ///
        /// For a ledger that is a copy, as on a cloned machine, or that was restored from a backup.
        #[arg(long)]
        new_node: bool,
    },
    /// Make this ledger independent again
    ///
    /// Its tasks stay in the database.
    Leave {
        /// Leave even if tasks run or PostgreSQL is not reachable
        ///
        /// What is not published by then is published only if the ledger joins again. The keys of running
        /// tasks stay held until then, or until an operator declares this host lost.
        #[arg(long)]
        force: bool,
    },
    /// Show the hosts of the fleet
    ///
    /// A host is unreachable if its monitor has missed three renewals of its lease, which takes 15 seconds.
    /// Its tasks may still run, and its keys stay held.
    Status {
        /// Print one JSON object: {"fleet", "own", "nodes": [...]}
        #[arg(long)]
        json: bool,
    },
    /// Delete ended tasks of all hosts from the database
    ///
    /// The ledgers of the hosts keep theirs. It needs the role bookend_operator.
    Prune {
        /// Delete the tasks that ended longer ago than this
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        older_than: Duration,
        /// Print what would be deleted; delete nothing
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON object: {"dry_run", "removed"}
        #[arg(long)]
        json: bool,
    },
    /// Settle the tasks of a host that is gone for good
    ///
    /// Its running tasks become `interrupted` with the reason host_lost, their sessions are invalidated, and
    /// its keys are free. bookend never does this by itself, since it cannot tell a machine that is off from
    /// one that is not reachable. It needs the role bookend_operator. On a terminal it asks, unless --yes is
    /// given.
    DeclareLost {
        /// Name of the host, or id of its node
        #[arg(value_name = "HOST")]
        host: String,
        /// Confirm that the machine is off
        #[arg(long)]
        yes: bool,
        /// Print one JSON object: {"host", "tasks", "released", …}
        #[arg(long)]
        json: bool,
    },
}

impl FleetCommand {
    pub fn request(self) -> FleetAction {
        match self {
            FleetCommand::Init { url, hosts, publish_argv } => {
                FleetAction::Init(FleetInitOptions { url, hosts, publish_argv })
            }
            FleetCommand::Join { url, new_node } => FleetAction::Join(FleetJoinOptions { url, new_node }),
            FleetCommand::Leave { force } => FleetAction::Leave { force },
            FleetCommand::Status { json } => FleetAction::Status(FleetStatusOptions { json }),
            FleetCommand::Prune { older_than, dry_run, json } => {
                FleetAction::Prune(FleetPruneOptions { older_than, dry_run, json })
            }
            FleetCommand::DeclareLost { host, yes, json } => {
                FleetAction::DeclareLost(DeclareLostOptions { host, yes, json })
            }
        }
    }
}
