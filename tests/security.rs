//! What somebody who means harm can put in bookend's way: places that are not what they seem, text that is
//! more than text, processes that pretend, users who may not be signalled, repositories that execute.

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
mod untrusted_text;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::harness::{Fifo, World, is_root, possible};

/// A user without privileges, and not the one of [`World::unprivileged`].
const SOMEBODY: u32 = 65533;
const NOBODY: u32 = 65534;

/// A world that every user can enter, where we are root and can be anybody.
fn open_world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    if !possible(test, is_root(), "root, to be somebody else") {
        return None;
    }
    set_mode(&world, "", 0o755);
    // The programs may lie where only their owner can go.
    for name in ["bookend", "probe"] {
        copy_program(&world, name, name);
    }
    Some(world)
}

/// A copy of a program of the world under another name in its PATH, or in the place of the link to it.
fn copy_program(world: &World, from: &str, to: &str) {
    let from = fs::canonicalize(world.path("bin").join(from)).expect("the program");
    let (draft, to) = (world.path("draft"), world.path("bin").join(to));
    // By another process: a fork of another test could hold our descriptor, and then nobody could execute it.
    let copied = Command::new("cp").args([&from, &draft]).status();
    assert!(copied.is_ok_and(|s| s.success()), "copying {}", from.display());
    fs::rename(draft, to).expect("the copy in its place");
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

fn give(world: &World, name: &str, user: u32) {
    chown(world.path(name), Some(user), Some(user)).expect("another owner");
}
