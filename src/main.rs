//! Parses, dispatches, and turns what came of it into an exit code: the only place that exits.
//!
#![doc = include_str!("ARCHITECTURE.md")]
#![cfg_attr(not(test), no_main)]

mod agent;
mod cli;
mod commands;
mod error;
mod exit;
mod failpoint;
mod fleet;
#[cfg(test)]
#[path = "../tests/fuzz/properties/mod.rs"]
mod fuzz;
mod git;
mod helper;
mod hook;
mod ledger;
mod log;
mod owner;
mod process;
mod recovery;
mod run;
mod shell;
mod stop;
mod sys;
mod task;
mod view;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tracing::level_filters::LevelFilter;

use crate::cli::CommandRequest;
use crate::commands::fleet::FleetAction;
use crate::commands::{
    adopt, agents, artifact, audit, backup, cancel, deliver, doctor, list, logs, man, monitor, overview,
    prune, recover, redispatch, resume, session, show, stats, timeline, units, wait,
};
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::owner::Intent;
use crate::process::spawn::caller::Caller;
use crate::task::Signal;

/// The program's entry. Not Rust's own: that would ignore SIGPIPE and open closed descriptors before the
/// first line of ours, and the agent would inherit both.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    sys::ready_heap();
    // After a panic the message has been printed, and the destructor of the supervisor has ended the row.
    let leave = catch_unwind(AssertUnwindSafe(start)).unwrap_or(Exit::Code(exit_code::FAILED));
    log::flush();
    match leave {
        Exit::Code(code) => sys::exit_now(code),
        Exit::Signal(signal) => {
            sys::forbid_core();
            die_by(signal);
            // As a shell reports a death by a signal.
            sys::exit_now(128 + signal.number())
        }
    }
}

/// Dies by `signal`. Returns where that is impossible: PID 1 ignores a signal with its default action
/// (pid_namespaces(7)), and a sandbox may forbid kill(2). The emulation would abort there.
fn die_by(signal: Signal) {
    let own = nix::unistd::getpid();
    if own.as_raw() == 1 || nix::sys::signal::kill(own, None).is_err() {
        return;
    }
    // It refuses real-time signals, SIGPWR and SIGSTKFLT, and does nothing for SIGIO.
    let _ = signal_hook::low_level::emulate_default_handler(signal.number());
    sys::set_disposition(signal, false);
    sys::raise_unblocked(signal);
}

fn start() -> Exit {
    if sys::is_elevated() {
        log::fail(
            &Error::failed(
                "bookend has more rights than its caller (a set-user-ID or set-group-ID bit, or file \
                 capabilities), and would run whatever its environment says",
            )
            .hint("remove these rights from the program file"),
        );
        return Exit::Code(exit_code::FAILED);
    }
    let args: Vec<OsString> = std::env::args_os().collect();
    cli::variables::forget_empty();
    let invocation = match cli::parse(args.clone()) {
        Ok(invocation) => invocation,
        Err(message) => {
            match message.use_stderr() {
                true => log::say(&cli::usage_report(&message, &args)),
                // Nobody left to tell if this fails.
                false => drop(message.print()),
            }
            return Exit::Code(message.exit_code());
        }
    };
    let ledger = invocation.ledger.as_deref();
    if let Some((file, intent)) = ledger_use(&invocation.request, ledger)
        && let Err(e) = owner::settle(file, intent, &args)
    {
        log::fail(&e);
        return Exit::Code(e.code());
    }
    let take_over = |level| {
        let caller = Caller::take_over();
        log::start(level, invocation.log);
        cli::variables::warn_of_misspelt();
        caller
    };
    let done = match &invocation.request {
        CommandRequest::Run(request) => {
            let caller = Caller::take_over();
            if log::is_journal(invocation.log) {
                // journald notes the command line of whoever speaks: the agent's holds the prompt.
                sys::hide_arguments(request.argv.len().saturating_sub(1));
            }
            log::start(request.level, invocation.log);
            cli::variables::warn_of_misspelt();
            run::run(request, ledger, caller)
        }
        CommandRequest::Recover(request) => recover::recover(request, ledger, &take_over(request.level)),
        CommandRequest::Monitor(request) => monitor::monitor(request, ledger, take_over(request.level)),
        CommandRequest::Deliver(request) => deliver::deliver(request, ledger, &take_over(request.level)),
        CommandRequest::Redispatch(request) => {
            redispatch::redispatch(request, ledger, take_over(request.level))
        }
        CommandRequest::Resume(request) => resume::resume(request, ledger, take_over(request.level)),
        CommandRequest::Session(request) => {
            log::start(LevelFilter::WARN, invocation.log);
            session::session(request, ledger).and_then(|text| say(&text))
        }
        CommandRequest::Fleet(action) => {
            log::start(LevelFilter::WARN, invocation.log);
            commands::fleet::fleet(action, ledger).and_then(|text| say(&text))
        }
        CommandRequest::Adopt(request) => adopt::adopt(request).and_then(|text| say(&text)),
        CommandRequest::Backup(request) => backup::backup(request, ledger).and_then(|text| say(&text)),
        CommandRequest::List(request) => list::list(request, ledger),
        CommandRequest::Show(request) => show::show(request, ledger),
        CommandRequest::Logs(request) => logs::logs(request, ledger),
        CommandRequest::Artifact(request) => {
            log::start(LevelFilter::WARN, invocation.log);
            artifact::add(request, ledger)
        }
        CommandRequest::Audit(request) => audit::audit(request, ledger),
        CommandRequest::Cancel(request) => cancel::cancel(request, ledger),
        CommandRequest::Wait(request) => wait::wait(request, ledger),
        CommandRequest::Prune(request) => {
            log::start(LevelFilter::WARN, invocation.log);
            prune::prune(request, ledger)
        }
        CommandRequest::Stats(request) => stats::stats(request, ledger),
        CommandRequest::Timeline(request) => timeline::timeline(request, ledger),
        CommandRequest::Agents(action) => agents::agents(action),
        CommandRequest::Doctor(request) => doctor::doctor(request, ledger),
        CommandRequest::Overview { stale_after } => overview::overview(ledger, *stale_after),
        CommandRequest::Say(text) => say(text),
        CommandRequest::Complete(completion) => say(&completion.candidates()),
        CommandRequest::Man(request) => man::man(request),
        CommandRequest::Units(request) => units::units(request),
    };
    done.unwrap_or_else(|e| {
        if e.kind == Kind::ReaderGone {
            return Exit::Signal(Signal::PIPE);
        }
        log::fail(&e);
        Exit::Code(e.code())
    })
}

/// Which ledger a command uses, and what for. A run is never root's for a user: it refuses the ledger.
fn ledger_use<'a>(
    request: &'a CommandRequest,
    ledger: Option<&'a Path>,
) -> Option<(Option<&'a Path>, Intent)> {
    use session::SessionAction as Session;
    let acts = |acts: bool| Some((ledger, if acts { Intent::Act } else { Intent::Read }));
    match request {
        CommandRequest::Run(_)
        | CommandRequest::Agents(_)
        | CommandRequest::Say(_)
        | CommandRequest::Complete(_)
        | CommandRequest::Man(_)
        | CommandRequest::Units(_) => None,
        CommandRequest::Adopt(request) => Some((Some(&request.file), Intent::Act)),
        CommandRequest::Recover(request) => acts(!request.dry_run),
        CommandRequest::Prune(request) => acts(!request.dry_run),
        CommandRequest::Monitor(_)
        | CommandRequest::Deliver(_)
        | CommandRequest::Redispatch(_)
        | CommandRequest::Resume(_)
        | CommandRequest::Cancel(_)
        | CommandRequest::Artifact(_) => acts(true),
        CommandRequest::Fleet(FleetAction::Init(_)) => None,
        CommandRequest::Fleet(action) => match action.acts_on_ledger() {
            true => acts(true),
            false => acts(false).filter(|_| ledger.and_then(ledger::database_url).is_none()),
        },
        CommandRequest::Session(Session::Invalidate { .. } | Session::Restore { .. }) => acts(true),
        CommandRequest::Session(_)
        | CommandRequest::Backup(_)
        | CommandRequest::List(_)
        | CommandRequest::Show(_)
        | CommandRequest::Logs(_)
        | CommandRequest::Wait(_)
        | CommandRequest::Audit(_)
        | CommandRequest::Stats(_)
        | CommandRequest::Timeline(_)
        | CommandRequest::Doctor(_)
        | CommandRequest::Overview { .. } => acts(false),
    }
}

fn say(text: &str) -> Result<Exit, Error> {
    sys::stdout::print(text).map(|()| Exit::Code(0))
}
