//! The start: what must be there before the agent is executed, and the end of a task that never was.

use std::ffi::{CString, OsStr};
use std::io;
use std::path::Path;

use crate::agent;
use crate::error::{Error, chain};
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::helper;
use crate::helper::Helper;
use crate::hook;
use crate::log;
use crate::process::leftovers::{self, LeftoverSweep};
use crate::process::spawn::caller::Caller;
use crate::process::spawn::gate::{Gated, StartError, StartStep};
use crate::run::options::RunOptions;
use crate::run::supervisor::{End, Supervisor, Traces};
use crate::task::{Cancel, Ending, Failure, Interrupt, OnTerm, Stop};
use crate::view;

use super::{Who, deliver, output_pipe};

/// Why the agent is not, or was not, executed.
pub(super) struct NoStart {
    ending: Ending,
    error: Option<Error>,
    leave: Exit,
}

impl NoStart {
    pub(super) fn failed(reason: Failure, error: Error, code: i32) -> NoStart {
        NoStart { ending: Ending::Failure(reason), error: Some(error), leave: Exit::Code(code) }
    }

    pub(super) fn stopped(stop: Stop, on_term: OnTerm) -> NoStart {
        let ending = match stop {
            Stop::Signal { signal: libc::SIGTERM | libc::SIGHUP, .. } if on_term == OnTerm::Interrupted => {
                Ending::Interrupted(Interrupt::Signal)
            }
            _ => Ending::Cancelled(Cancel::Operator),
        };
        let signal = match stop {
            Stop::Signal { signal, .. } => signal,
            _ => libc::SIGTERM,
        };
        let error = Some(Error::failed("stopped before the agent was executed"));
        NoStart { ending, error, leave: Exit::Signal(signal) }
    }

    pub(super) fn not_executed(failed: StartError, program: &OsStr, cwd: Option<&Path>) -> NoStart {
        let why = io::Error::from_raw_os_error(failed.errno);
        // A name with a slash was looked for nowhere else, and is told apart from what it needs.
        let names_a_file = Path::new(program).components().count() > 1;
        let needs = names_a_file && std::fs::metadata(program).is_ok();
        let word = view::quoted(&program.to_string_lossy());
        let program = program.display();
        let (code, error) = match (failed.step, failed.errno) {
            (StartStep::Chdir, _) => {
                let cwd = cwd.unwrap_or(Path::new("")).display();
                let error = Error::failed(format!("entering the agent's directory {cwd}")).caused_by(why);
                (exit_code::FAILED, error.hint("create the directory, or use another --cwd"))
            }
            (StartStep::Stdio, _) => {
                (exit_code::FAILED, Error::failed("giving the agent its stdout").caused_by(why))
            }
            (StartStep::Exec, libc::ENOENT) if needs => {
                let error =
                    format!("{program}: the interpreter named in its first line, or its loader, is missing");
                let error = Error::failed(error).hint(format!("run `file {word}` to see what it needs"));
                (exit_code::NOT_FOUND, error)
            }
            (StartStep::Exec, libc::ENOENT | libc::ENOTDIR) if names_a_file => {
                let error = Error::failed(format!("{program}: not found")).caused_by(why);
                (exit_code::NOT_FOUND, error.hint("check the path"))
            }
            (StartStep::Exec, libc::ENOENT | libc::ENOTDIR) => {
                let error = Error::failed(format!("{program}: command not found in PATH"));
                (exit_code::NOT_FOUND, error.hint("install it, or use its full path"))
            }
            (StartStep::Exec, libc::ENOEXEC) => {
                let error =
                    format!("{program}: not a program for this machine, or a script without a #! line");
                (exit_code::NOT_EXECUTABLE, Error::failed(error).caused_by(why))
            }
            (StartStep::Exec, _) => {
                let error = Error::failed(format!("{program}: not executable")).caused_by(why);
                (exit_code::NOT_EXECUTABLE, error.hint(format!("run `ls -l {word}` to see its mode")))
            }
        };
        NoStart::failed(Failure::Spawn, error, code)
    }
}

/// Ends a task whose agent was never executed. The prepare command may have left something all the same.
pub(super) fn end_without_agent(
    run: &mut Supervisor<'_>,
    no: NoStart,
    whose: leftovers::SweptTask,
    request: &RunOptions,
    caller: &Caller,
) -> Result<Exit, Error> {
    if let (Exit::Code(_), Some(error)) = (no.leave, &no.error) {
        log::error(error);
    }
    let ends = request.leftovers.ends(false);
    let mut sweep = LeftoverSweep::new(whose, ends, request.grace);
    if request.prepare.is_some() {
        run.look_for_leftovers(&mut sweep);
    }
    run.settle(End {
        ending: no.ending,
        error: no.error.as_ref().map(|e| chain(e)),
        exit: None,
        leftovers: Some(sweep.summary()),
        traces: Traces::default(),
    });
    run.end_leftovers(sweep, ends)?;
    deliver(run, request, caller)?;
    Ok(no.leave)
}

/// Runs `--prepare`. Its output is shown, and kept in the row, when it fails.
pub(super) fn prepare(
    run: &mut Supervisor<'_>,
    request: &RunOptions,
    env: &[CString],
    caller: &Caller,
) -> Result<Result<(), NoStart>, Error> {
    let Some(command) = &request.prepare else { return Ok(Ok(())) };
    let failed = |error: Error| Ok(Err(NoStart::failed(Failure::Prepare, error, exit_code::FAILED)));
    let started = output_pipe().and_then(|(output, theirs)| {
        let launch = helper::shell(command, env.to_vec())?
            .stdio(0, helper::dev_null()?)
            .stdio(1, theirs.try_clone()?)
            .stdio(2, theirs);
        Ok((Gated::start(launch, caller)?, output))
    });
    let (mut child, output) = match started {
        Ok(started) => started,
        Err(e) => return failed(Error::failed("starting --prepare").caused_by(e)),
    };
    child.open();
    run.helper = Some(Helper::new(child, Some(output)));
    run.await_helper(None)?;
    let Some(helper) = run.helper.take() else { return Ok(Ok(())) };
    let how = match (helper.start_error, helper.ended.map(hook::outcome)) {
        (Some(e), _) => format!("could not be started: {}", io::Error::from_raw_os_error(e.errno)),
        (None, Some(Ok(()))) => return Ok(Ok(())),
        (None, Some(Err(how))) => how,
        (None, None) => "did not end".to_owned(),
    };
    let said = String::from_utf8_lossy(&helper.tail);
    let said = said.trim_end();
    let after = if said.is_empty() { String::new() } else { format!("\n{said}") };
    failed(Error::failed(format!("--prepare {how}; the agent was not started{after}")))
}

pub(super) fn require_skill(request: &RunOptions, who: &Who) -> Result<(), NoStart> {
    let Some(name) = &request.require_skill else { return Ok(()) };
    if agent::has_skill(who.adapter, name, &who.cwd, &who.asked) {
        return Ok(());
    }
    let folders = who.adapter.skill_folders(&who.cwd, &who.asked);
    let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    let looked = match folders.is_empty() {
        true => format!("bookend knows no skill folders of {}", request.argv[0].display()),
        false => format!("looked in {}", folders.join(", ")),
    };
    Err(NoStart {
        ending: Ending::AbortedNoSkill(name.clone()),
        error: Some(Error::failed(format!("the agent has no skill {name}: {looked}"))),
        leave: Exit::Code(exit_code::FAILED),
    })
}
