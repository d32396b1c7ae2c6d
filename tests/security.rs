//! Attacks: ledger files that are links or belong to others, text with escapes, processes with forged marks,
//! agents that may not be signalled, and repositories whose settings execute programs.

mod git;
mod journal;
mod ledger_content;
mod ledger_files;
mod marks;
mod owner;
mod setuid;
mod shared_ledger;
mod sizes;
mod stored;
mod timeline_page;
pub mod untrusted_text;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::harness::{Fifo, World, is_root, possible};

/// An unprivileged user other than that of [`World::unprivileged`].
const OTHER_USER: u32 = 65533;
const NOBODY: u32 = 65534;

/// A world that every user can enter. `None` unless the test runs as root, which can become any user.
fn world_for_all_users(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    if !possible(test, is_root(), "root, to become another user") {
        return None;
    }
    set_mode(&world, "", 0o755);
    // The programs may be in a directory that only their owner can enter.
    for name in ["bookend", "probe"] {
        copy_program(&world, name, name);
    }
    Some(world)
}

/// Copies a program of the world to another name in its PATH, or replaces the link to it by a copy.
fn copy_program(world: &World, from: &str, to: &str) {
    let from = fs::canonicalize(world.path("bin").join(from)).expect("the program");
    let (draft, to) = (world.path("draft"), world.path("bin").join(to));
    // A child copies it: a fork in another test could inherit our descriptor, and executing would fail
    // (ETXTBSY).
    let copied = Command::new("cp").args([&from, &draft]).status();
    assert!(copied.is_ok_and(|s| s.success()), "copying {}", from.display());
    fs::rename(draft, to).expect("the copy moved to its name");
}

/// A pipe that every user can write to.
fn open_fifo(world: &World, name: &str) -> Fifo {
    let fifo = world.fifo(name);
    set_mode(world, name, 0o666);
    fifo
}

fn set_mode(world: &World, name: &str, mode: u32) {
    fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
}

fn set_owner(world: &World, name: &str, user: u32) {
    chown(world.path(name), Some(user), Some(user)).expect("another owner");
}
