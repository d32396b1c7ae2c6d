//! What must happen before the agent's exec: `--prepare` and the required skill. Ends a task without an exec.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::agent;
use crate::error::{Error, chain};
use crate::exit::{Exit, exit_code};
use crate::helper::{self, Wait};
use crate::hook;
use crate::log;
use crate::process::leftovers::{self, LeftoverSweep};
use crate::process::spawn::caller::Caller;
use crate::process::spawn::gate::{Gated, StartError, StartStep};
use crate::run::command::{AgentCommand, RunContext};
use crate::run::options::RunOptions;
use crate::run::outcome::deliver;
use crate::run::supervisor::Supervisor;
use crate::run::supervisor::settle::{RunEnd, SessionTraces};
use crate::task::{CancelReason, Ending, FailureReason, InterruptReason, OnTerm, Signal, StopRequest};
use crate::view;
use nix::fcntl::{FcntlArg, OFlag};

/// Why the agent was not executed.
pub(super) struct NoStart {
    ending: Ending,
    error: Option<Error>,
    exit: Exit,
}

impl NoStart {
    fn failed(reason: FailureReason, error: Error, code: i32) -> NoStart {
        NoStart { ending: Ending::Failure(reason), error: Some(error), exit: Exit::Code(code) }
    }

    fn stopped(stop: StopRequest, on_term: OnTerm) -> NoStart {
        let ending = match stop {
            StopRequest::Signal { signal: Signal::TERM | Signal::HUP, .. }
                if on_term == OnTerm::Interrupted =>
            {
                Ending::Interrupted(InterruptReason::Signal)
            }
            _ => Ending::Cancelled(CancelReason::Operator),
        };
        let signal = match stop {
            StopRequest::Signal { signal, .. } => signal,
            _ => Signal::TERM,
        };
        let error = Some(Error::failed("stopped before the agent was executed"));
        NoStart { ending, error, exit: Exit::Signal(signal) }
    }
}

/// A name with a slash is not searched in PATH.
fn names_a_file(program: &OsStr) -> bool {
    program.as_bytes().contains(&b'/')
}

/// The agent's program, if it exists, although it could not be executed.
fn located(program: &OsStr, cwd: Option<&Path>) -> Option<PathBuf> {
    if names_a_file(program) {
        return Some(cwd.unwrap_or(Path::new("")).join(program)).filter(|file| file.exists());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The agent's exec failed.
pub(super) fn not_executed(failed: StartError, options: &RunOptions) -> NoStart {
    let why = io::Error::from_raw_os_error(failed.errno);
    let program = &options.argv[0];
    let names_a_file = names_a_file(program);
    let file = located(program, options.cwd.as_deref());
    let word = view::quoted(&file.as_deref().unwrap_or(Path::new(program)).to_string_lossy());
    let program = program.display();
    let (code, error) = match (failed.step, failed.errno) {
        (StartStep::Chdir, _) => {
            let cwd = options.cwd.as_deref().unwrap_or(Path::new("")).display();
            let error = Error::failed(format!("entering the agent's directory {cwd}")).caused_by(why);
            (exit_code::FAILED, error.hint("create the directory, or use another --cwd"))
        }
        (StartStep::Stdio, _) => {
            (exit_code::FAILED, Error::failed("giving the agent its stdout").caused_by(why))
        }
        (StartStep::Exec, libc::ENOENT) if file.is_some() => {
            let error =
                format!("{program}: the interpreter named in its first line, or its loader, is missing");
            let error = Error::failed(error).hint(format!("run `file {word}` to see what it needs"));
            (exit_code::NOT_FOUND, error)
        }
        (StartStep::Exec, libc::ENOENT | libc::ENOTDIR) if names_a_file => {
            let is_missing = failed.errno == libc::ENOENT;
            let why = if is_missing { "no such file" } else { "a part of its path is not a directory" };
            let error = Error::failed(format!("{program}: {why}"));
            (exit_code::NOT_FOUND, error.hint("check the path"))
        }
        (StartStep::Exec, libc::ENOENT | libc::ENOTDIR) => {
            let error = Error::failed(format!("{program}: command not found in PATH"));
            (exit_code::NOT_FOUND, error.hint("install it, or use its full path"))
        }
        (StartStep::Exec, libc::ENOEXEC) => {
            let error = format!("{program}: not a program for this machine, or a script without a #! line");
            (exit_code::NOT_EXECUTABLE, Error::failed(error).caused_by(why))
        }
        (StartStep::Exec, _) => {
            let error = Error::failed(format!("{program}: not executable")).caused_by(why);
            (exit_code::NOT_EXECUTABLE, error.hint(format!("run `ls -l {word}` to see its mode")))
        }
    };
    NoStart::failed(FailureReason::Spawn, error, code)
}

/// `ready`, unless a stop was requested before the agent's exec.
///
/// # Errors
/// When the kernel has no memory left to watch with.
pub(super) fn ready_unless_stopped(
    run: &mut Supervisor<'_>,
    options: &RunOptions,
    ready: Result<(), NoStart>,
) -> Result<Result<(), NoStart>, Error> {
    Ok(match run.stop_before_exec()? {
        Some(stop) => Err(NoStart::stopped(stop, options.on_term)),
        None => ready,
    })
}

/// Ends a task whose agent was never executed. The prepare command may have left something all the same.
pub(super) fn end_without_agent(
    run: &mut Supervisor<'_>,
    no_start: NoStart,
    target: leftovers::SweptTask,
    options: &RunOptions,
    caller: &Caller,
) -> Result<Exit, Error> {
    if let (Exit::Code(_), Some(error)) = (no_start.exit, &no_start.error) {
        log::error(error);
    }
    let ends = options.leftovers.ends(false);
    let mut sweep = LeftoverSweep::new(target, ends, options.grace);
    if options.prepare.is_some() {
        sweep = run.find_leftovers(sweep);
    }
    run.settle(RunEnd {
        ending: no_start.ending,
        error: no_start.error.as_ref().map(|e| chain(e)),
        exit: None,
        leftovers: Some(sweep.summary()),
        traces: SessionTraces::default(),
    });
    run.end_leftovers(sweep, ends)?;
    deliver(run, options, caller)?;
    Ok(no_start.exit)
}

/// Runs `--prepare`, then looks for the required skill.
///
/// # Errors
/// As [`helper::Attendant::wait`].
pub(super) fn prepare(
    run: &mut Supervisor<'_>,
    context: &RunContext<'_>,
    env: &[CString],
    caller: &Caller,
) -> Result<Result<(), NoStart>, Error> {
    Ok(match run_prepare(run, context.options, env, caller)? {
        Ok(()) => require_skill(context.options, context.command),
        Err(how) => {
            let error = Error::failed(format!("--prepare {how}"));
            Err(NoStart::failed(FailureReason::Prepare, error, exit_code::FAILED))
        }
    })
}

/// Runs `--prepare`. The inner error says how it failed, with the end of its output.
fn run_prepare(
    run: &mut Supervisor<'_>,
    options: &RunOptions,
    env: &[CString],
    caller: &Caller,
) -> Result<Result<(), String>, Error> {
    let Some(command) = &options.prepare else { return Ok(Ok(())) };
    let started = output_pipe().and_then(|(output, theirs)| {
        let launch = helper::shell(command, env.to_vec())?
            .stdio(0, helper::dev_null()?)
            .stdio(1, theirs.try_clone()?)
            .stdio(2, theirs);
        Ok((Gated::start(launch, caller)?, output))
    });
    let not_started = |e: io::Error| format!("could not be started: {e}; the agent was not started");
    let (child, output) = match started {
        Ok(started) => started,
        Err(e) => return Ok(Err(not_started(e))),
    };
    let to_its_end = Wait::Until(None);
    let helper = helper::attend(child, Some(output), to_its_end, run, &mut |_, _| to_its_end)?;
    let Some(helper) = helper else { return Ok(Ok(())) };
    let how = match (helper.start_error, helper.ended.map(hook::outcome)) {
        (Some(e), _) => return Ok(Err(not_started(io::Error::from_raw_os_error(e.errno)))),
        (None, Some(Ok(()))) => return Ok(Ok(())),
        (None, Some(Err(how))) => how,
        (None, None) => "did not end".to_owned(),
    };
    let output = String::from_utf8_lossy(&helper.tail);
    let output = output.trim_end();
    let output = if output.is_empty() { String::new() } else { format!("\n{output}") };
    Ok(Err(format!("{how}; the agent was not started{output}")))
}

/// A pipe whose reading end does not block.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

fn require_skill(options: &RunOptions, command: &AgentCommand) -> Result<(), NoStart> {
    let Some(name) = &options.require_skill else { return Ok(()) };
    if agent::has_skill(command.adapter, name, &command.cwd, &command.asked) {
        return Ok(());
    }
    let folders = command.adapter.skill_folders(&command.cwd, &command.asked);
    let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    let (looked, hint) = match folders.is_empty() {
        true => (
            format!("bookend knows no skill folders of {}", options.argv[0].display()),
            "omit --require-skill, or use --agent-type if the program is an agent under another name",
        ),
        false => (
            format!("looked in {}", folders.join(", ")),
            "install the skill in one of these directories, or omit --require-skill",
        ),
    };
    Err(NoStart {
        ending: Ending::AbortedNoSkill(name.clone()),
        error: Some(Error::failed(format!("the agent has no skill {name}: {looked}")).hint(hint)),
        exit: Exit::Code(exit_code::FAILED),
    })
}
