//! The owner of the ledger: root becomes that user before it opens the ledger; other readers are told whose
//! ledger they see.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, execve, geteuid, initgroups, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Error, Kind};
use crate::ledger::{self, ChosenBy, Location};
use crate::log;
use crate::sys;
use crate::view;

/// What a command does with the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Read,
    /// Write to it, execute commands that it stores, or signal processes that it names.
    Act,
}

/// The variables that a command keeps when root becomes a user.
const KEPT: [&str; 3] = ["PATH", "TERM", "LANG"];
/// The directories of sudo's usual secure_path.
const SUDO_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// The group of a user without a passwd entry: nogroup. Never the file's group, which the user may choose.
const NO_GROUP: u32 = 65534;

/// Reports whose ledger a command reads, if it is not the caller's. Root starts the command again as the
/// owner; then this does not return.
///
/// # Errors
/// When root cannot become the owner. The ledger itself checks whether another user may use it.
pub fn settle(ledger: Option<&Path>, intent: Intent, args: &[OsString]) -> Result<(), Error> {
    // The command reports what is wrong with the location.
    let Ok(at) = ledger::locate(ledger) else { return Ok(()) };
    let me = geteuid();
    if at.chosen_by == ChosenBy::System {
        settle_system(&at, intent, args)?;
    }
    let Ok(meta) = fs::symlink_metadata(&at.file) else { return Ok(()) };
    let owner = meta.uid();
    if owner == me.as_raw() || !meta.is_file() {
        return Ok(());
    }
    let whose = format!("{} belongs to {}", at.file.display(), sys::user_name(owner));
    if me.is_root() {
        log::note(&format!("{whose}; this command continues as that user"));
        let Err(e) = become_owner(owner, intent, &at, args);
        return Err(e);
    }
    if intent == Intent::Read {
        log::note(&whose);
    }
    Ok(())
}

/// Root becomes the user of the system units, whether or not their ledger exists, so that it creates no file
/// there. Other users get the command to run.
fn settle_system(at: &Location, intent: Intent, args: &[OsString]) -> Result<(), Error> {
    let directory = at.file.parent().unwrap_or(Path::new("/"));
    let Ok(meta) = fs::metadata(directory) else {
        return match intent {
            Intent::Read => Ok(()),
            Intent::Act => Err(Error::new(
                Kind::Nothing,
                format!("there is no ledger of system units: {} does not exist", directory.display()),
            )
            .hint("install the package, or write the units with `bookend units --dir DIR`")),
        };
    };
    let (me, owner) = (geteuid(), meta.uid());
    if owner == me.as_raw() {
        return Ok(());
    }
    if me.is_root() {
        let Err(e) = become_owner(owner, intent, at, args);
        return Err(e);
    }
    match fs::symlink_metadata(&at.file) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let whose = sys::user_name(owner);
            let message =
                format!("the ledger of the system units, {}, belongs to {whose}", at.file.display());
            Err(Error::failed(message).hint(format!("run `{}`", as_root(args))))
        }
        _ => Ok(()),
    }
}

/// The same command line for root. sudo looks for programs only in the directories of the system.
fn as_root(args: &[OsString]) -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let is_found = program.parent().is_some_and(|dir| SUDO_PATH.iter().any(|known| dir == Path::new(known)));
    let program = if is_found { "bookend".to_owned() } else { program.to_string_lossy().into_owned() };
    let words = args.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = [program].into_iter().chain(words).map(|word| view::quoted(&word)).collect();
    format!("sudo {}", words.join(" "))
}

/// Becomes the user `owner` permanently and starts the same command line again. Nothing of root remains: not
/// its environment and memory, which the user could read, nor its terminal and directory.
fn become_owner(owner: u32, intent: Intent, at: &Location, args: &[OsString]) -> Result<Infallible, Error> {
    let file = at.file.display();
    let failed = |what: &str, e: io::Error| {
        Error::failed(format!("becoming {}, to whom {file} belongs: {what}", sys::user_name(owner)))
            .caused_by(e)
            .hint("run the command as that user")
    };
    let user = User::from_uid(owner.into()).map_err(|e| failed("reading its passwd entry", e.into()))?;
    if user.is_none() && intent == Intent::Act {
        let message =
            format!("{file} belongs to uid {owner}, which has no passwd entry: root cannot become it");
        return Err(Error::failed(message).hint(
            "run the command as that user; a unit with DynamicUser=yes can run it itself (ExecStartPre=)",
        ));
    }
    let environment = environment(user.as_ref(), at);
    let is_there = fs::exists(&at.file).unwrap_or(false);
    sys::give_up_terminal();
    rustix::thread::set_keep_capabilities(intent == Intent::Read)
        .map_err(|e| failed("keeping capabilities", e.into()))?;
    change_user(owner, user.as_ref()).map_err(|e| failed("changing the user", e))?;
    let is_out_of_reach = || is_there && !fs::exists(&at.file).unwrap_or(false);
    let must_search = intent == Intent::Read && is_out_of_reach();
    keep_capabilities(must_search).map_err(|e| failed("dropping capabilities", e))?;
    if is_out_of_reach() {
        let message = format!("{} cannot reach {file}, which is its own", sys::user_name(owner));
        return Err(
            Error::failed(message).hint("check the modes of the directories above it with `namei -l`")
        );
    }
    if !must_search {
        leave_unreachable_directory().map_err(|e| failed("changing to the directory /", e))?;
    }
    sys::keep_only_stdio().map_err(|e| failed("closing descriptors", e))?;
    let args: Vec<CString> = args.iter().filter_map(|word| CString::new(word.as_bytes()).ok()).collect();
    execve(c"/proc/self/exe", &args, &environment).map_err(|e| failed("executing bookend again", e.into()))
}

fn change_user(uid: u32, user: Option<&User>) -> io::Result<()> {
    let gid = user.map_or(Gid::from_raw(NO_GROUP), |user| user.gid);
    match user {
        Some(user) => initgroups(&CString::new(user.name.as_bytes())?, gid)?,
        None => setgroups(&[])?,
    }
    let uid = Uid::from_raw(uid);
    Ok(setresgid(gid, gid, gid).and_then(|()| setresuid(uid, uid, uid))?)
}

/// Keeps no capability, or only CAP_DAC_READ_SEARCH. With it, root reads a ledger that its owner cannot
/// reach: below `/var/lib/private`, which systemd opens only to units with `DynamicUser=yes`. The owner
/// cannot trace a process that has more capabilities: ptrace(2).
fn keep_capabilities(must_search: bool) -> io::Result<()> {
    let kept = if must_search { CapabilitySet::DAC_READ_SEARCH } else { CapabilitySet::empty() };
    let permitted = rustix::thread::capabilities(None)?.permitted & kept;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: permitted };
    rustix::thread::set_capabilities(None, sets)?;
    if !permitted.is_empty() {
        // execve(2) clears it otherwise.
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::DAC_READ_SEARCH, true)?;
    }
    Ok(())
}

/// Changes to `/` if the current directory cannot be reached by its path. A process in that directory, or a
/// tracer of one, could read it.
fn leave_unreachable_directory() -> io::Result<()> {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let by_path = std::env::current_dir().ok().and_then(|path| identity(&path));
    if by_path.is_some() && by_path == identity(Path::new(".")) {
        return Ok(());
    }
    std::env::set_current_dir("/")
}

/// The environment of a user as after a login, with [`KEPT`] of the caller's.
fn environment(user: Option<&User>, at: &Location) -> Vec<CString> {
    let mut entries: Vec<(&str, OsString)> =
        KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
    if let Some(user) = user {
        entries.push(("HOME", user.dir.clone().into()));
        entries.push(("USER", user.name.clone().into()));
        entries.push(("LOGNAME", user.name.clone().into()));
        entries.push(("SHELL", user.shell.clone().into()));
        let runtime = PathBuf::from(format!("/run/user/{}", user.uid));
        if fs::metadata(&runtime).is_ok_and(|m| m.is_dir() && m.uid() == user.uid.as_raw()) {
            entries.push(("XDG_RUNTIME_DIR", runtime.into()));
        }
    }
    if !matches!(at.chosen_by, ChosenBy::System | ChosenBy::Option) {
        entries.push(("BOOKEND_LEDGER", at.file.clone().into()));
    }
    let entry = |(name, value): (&str, OsString)| {
        CString::new([OsStr::new(name), OsStr::new("="), &value].join(OsStr::new("")).into_vec()).ok()
    };
    entries.into_iter().filter_map(entry).collect()
}
