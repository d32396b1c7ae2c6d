//! Whose ledger it is: root becomes the owner of a user's ledger before it is opened, and what somebody else
//! reads of it is said to be the owner's.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, execve, geteuid, initgroups, setresgid, setresuid};

use crate::error::Error;
use crate::ledger::{self, ChosenBy, Location};
use crate::log;
use crate::sys;

/// What a command does with the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Read,
    /// Write to it, execute what it says, or signal processes that it names.
    Act,
}

/// What of root's environment a command keeps that goes on as a user.
const KEPT: [&str; 3] = ["PATH", "TERM", "LANG"];

/// Says whose ledger a reading command shows, if it is not the caller's. Root starts the command again as the
/// owner, and this does not return.
///
/// # Errors
/// When root cannot become the owner. Whether somebody else may use the ledger is for the ledger to say.
pub fn settle(ledger: Option<&Path>, intent: Intent, args: &[OsString]) -> Result<(), Error> {
    // What is wrong with the choice is said by the command.
    let Ok(at) = ledger::locate(ledger) else { return Ok(()) };
    let Ok(meta) = fs::symlink_metadata(&at.file) else { return Ok(()) };
    let (me, owner) = (geteuid(), meta.uid());
    if owner == me.as_raw() || !meta.is_file() {
        return Ok(());
    }
    let whose = format!("{} belongs to {}", at.file.display(), sys::user_name(owner));
    if me.is_root() {
        log::note(&format!("{whose}; this command goes on as that user"));
        let Err(e) = become_owner(owner, &at, args);
        return Err(e);
    }
    if intent == Intent::Read {
        log::note(&whose);
    }
    Ok(())
}

/// Becomes the user `owner` for good and starts the same command line again, so that nothing of root is left:
/// neither its environment nor its memory, which the user could read.
fn become_owner(owner: u32, at: &Location, args: &[OsString]) -> Result<Infallible, Error> {
    let file = at.file.display();
    let failed = |what: &str, e: io::Error| {
        Error::failed(format!("becoming {}, to whom {file} belongs: {what}: {e}", sys::user_name(owner)))
            .hint("run the command as that user")
    };
    let user = User::from_uid(owner.into()).map_err(|e| failed("reading its passwd entry", e.into()))?;
    let Some(user) = user else {
        let message =
            format!("{file} belongs to uid {owner}, which has no passwd entry: root cannot become it");
        return Err(Error::failed(message).hint("run the command as that user, or give the ledger an owner"));
    };
    let name = CString::new(user.name.as_bytes()).map_err(|e| failed("its name", e.into()))?;
    let environment = environment(&user, at);
    initgroups(&name, user.gid)
        .and_then(|()| setresgid(user.gid, user.gid, user.gid))
        .and_then(|()| setresuid(user.uid, user.uid, user.uid))
        .map_err(|e| failed("changing the user", e.into()))?;
    if !fs::exists(&at.file).unwrap_or(false) {
        let message = format!("{} cannot reach {file}, which is its own", sys::user_name(owner));
        return Err(Error::failed(message).hint("look at the modes of the directories above it"));
    }
    sys::keep_only_stdio().map_err(|e| failed("closing descriptors", e))?;
    let args: Vec<CString> = args.iter().filter_map(|word| CString::new(word.as_bytes()).ok()).collect();
    execve(c"/proc/self/exe", &args, &environment).map_err(|e| failed("executing bookend again", e.into()))
}

/// The environment of a user as a log-in would make it, with no more of ours than [`KEPT`].
fn environment(user: &User, at: &Location) -> Vec<CString> {
    let mut entries: Vec<(&str, OsString)> =
        KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
    entries.push(("HOME", user.dir.clone().into()));
    entries.push(("USER", user.name.clone().into()));
    entries.push(("LOGNAME", user.name.clone().into()));
    entries.push(("SHELL", user.shell.clone().into()));
    let runtime = PathBuf::from(format!("/run/user/{}", user.uid));
    if fs::metadata(&runtime).is_ok_and(|m| m.is_dir() && m.uid() == user.uid.as_raw()) {
        entries.push(("XDG_RUNTIME_DIR", runtime.into()));
    }
    if at.chosen_by != ChosenBy::Option {
        entries.push(("BOOKEND_LEDGER", at.file.clone().into()));
    }
    let entry = |(name, value): (&str, OsString)| {
        CString::new([OsStr::new(name), OsStr::new("="), &value].join(OsStr::new("")).into_vec()).ok()
    };
    entries.into_iter().filter_map(entry).collect()
}
