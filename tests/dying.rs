//! A killed process exits some time later: the next command waits for its exit and then settles the task.
//!
//! `BOOKEND_KILLS=N` sets the number of kills of each kind; the default is 5.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    End, Fifo, Output, Proc, World, eventually, is_root, on_path, possible, print_line, stat_field, state,
};
use crate::standins::{Busy, bookend};

/// The processes that the test kills.
#[derive(Debug, Clone, Copy)]
enum Killed {
    Supervisor,
    Both,
}

/// The commands that run immediately after the kill.
const NEXT: [&[&str]; 4] = [
    &["recover", "--grace", "100ms"],
    &["run", "-q", "--grace", "100ms", "--key", "k", "--", "true"],
    &["run", "-q", "--grace", "100ms", "--key", "k", "--wait", "--", "true"],
    &["run", "-q", "--grace", "100ms", "--key", "k", "--replace", "--", "true"],
];

fn kills() -> usize {
    let asked = std::env::var("BOOKEND_KILLS").ok();
    asked.map_or(5, |n| n.parse().expect("BOOKEND_KILLS is a number"))
}

fn kill(pid: i32) {
    // It may have ended with its supervisor.
    let _ = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
}

/// Kills supervisors, with and without their agents of one kind, and runs the next command immediately.
fn each_is_settled(test: &str, agent: &str, companion: impl Fn(&World, &mut Fifo, i32) -> Option<Proc>) {
    let Some(mut world) = World::of_bookend(test) else { return };
    let mut out = world.fifo("out");
    let mut wrong = Vec::new();
    for n in 0..kills() {
        for killed in [Killed::Supervisor, Killed::Both] {
            for next in NEXT {
                world.renew_deadline();
                out.renew_deadline(world.deadline());
                let id = format!("{n}-{killed:?}-{}", next.join("_"));
                let script = format!("exec {} {}", agent, out.path());
                let run = world.run_sh(&script).options(["--id", &id, "--key", "k"]).start();
                let pid = out.pid("ready");
                let mut tracer = companion(&world, &mut out, pid);
                run.signal(Signal::KILL);
                if matches!(killed, Killed::Both) {
                    kill(pid);
                }
                let output = bookend(&world, next);
                wrong.extend(wrong_with(&world, &id, pid, &output).map(|w| format!("{id}: {w}: {output:?}")));
                kill(pid);
                run.wait();
                tracer.as_mut().map(Proc::wait_here);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), kills() * 8, wrong.join("\n"));
    if kills() > 5 {
        print_line(&format!("{test}: {} kills, each settled", kills() * 8));
    }
}

fn wrong_with(world: &World, id: &str, agent: i32, output: &Output) -> Option<String> {
    let row = world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'")).remove(0);
    if output.end != End::Code(0) || row.ending() != "interrupted/supervisor_lost" {
        return Some(format!("the task is {}", row.ending()));
    }
    let is_gone = matches!(state(agent), None | Some('Z')) && stat_field(agent, 20).is_none_or(|n| n == "1");
    (!is_gone).then(|| format!("its agent, pid {agent}, still runs: {:?}", state(agent)))
}

fn no_companion(_: &World, _: &mut Fifo, _: i32) -> Option<Proc> {
    None
}

#[test]
fn a_task_with_a_killed_sleeping_agent_is_settled_at_once() {
    each_is_settled(
        "a_task_with_a_killed_sleeping_agent_is_settled_at_once",
        "sh -c 'echo ready $$ >$0; exec sleep 1000'",
        no_companion,
    );
}

#[test]
fn waits_for_a_killed_agent_with_much_memory() {
    each_is_settled("waits_for_a_killed_agent_with_much_memory", "probe large 600", no_companion);
}

#[test]
fn waits_for_a_killed_agent_with_many_threads() {
    each_is_settled("waits_for_a_killed_agent_with_many_threads", "probe threads 16", no_companion);
}

#[test]
fn an_agent_whose_first_thread_has_ended_is_found_and_ended() {
    each_is_settled(
        "an_agent_whose_first_thread_has_ended_is_found_and_ended",
        "probe headless",
        no_companion,
    );
}

#[test]
fn waits_for_a_killed_agent_that_is_traced() {
    let test = "waits_for_a_killed_agent_that_is_traced";
    let Some(world) = World::of_bookend(test) else { return };
    let mut out = world.fifo("out");
    let tracee = world.bare(["sleep", "1000"]).start();
    let _tracer = world.bare(["probe", "tracer", &tracee.pid().to_string(), &out.path()]).start();
    if !possible(test, out.line() != "no", "ptrace(2)") {
        return;
    }
    let agent = "sh -c 'echo ready $$ >$0; exec sleep 1000'";
    each_is_settled(test, agent, |world, out, pid| {
        let tracer = world.bare(["probe", "tracer", &pid.to_string(), &out.path()]).start();
        out.pid("traced");
        Some(tracer)
    });
}

/// The process is a daemon, so the row does not contain its identity.
#[test]
fn a_daemon_whose_first_thread_has_ended_is_found_by_its_mark() {
    let Some(world) = World::of_bookend("a_daemon_whose_first_thread_has_ended_is_found_by_its_mark") else {
        return;
    };
    let mut out = world.fifo("out");
    let script =
        format!("probe daemon -- probe with setsid -- probe headless {}; exec sleep 1000", out.path());
    let run = world.run_sh(&script).options(["--id", "one", "--key", "k"]).start();
    let daemon = out.pid("ready");
    run.signal(Signal::KILL);
    let audit = bookend(&world, &["recover", "--grace", "100ms"]).ended(End::Code(0));
    assert!(audit.stdout.contains("1 task interrupted"), "{audit:?}");
    let pid = Pid::from_raw(daemon).expect("a pid");
    let is_hidden = stat_field(daemon, 20).is_none() && rustix::process::test_kill_process(pid).is_ok();
    if is_hidden {
        kill_process(pid, Signal::KILL).expect("SIGKILL");
    }
    let what =
        "a /proc that shows a process whose first thread has ended (hidepid hides it from plain users)";
    if !possible("a_daemon_whose_first_thread_has_ended_is_found_by_its_mark", !is_hidden, what) {
        return;
    }
    let left = world.row().json("leftovers");
    assert!(left["pids"].as_array().is_some_and(|pids| pids.contains(&daemon.into())), "{left}");
    assert_eq!(left["ended"], left["found"], "{left}");
    assert!(matches!(stat_field(daemon, 20).as_deref(), None | Some("1")), "its other thread has ended");
}

/// The files of a thread that has ended belong to root, so a plain user reads those of another thread.
#[test]
fn a_plain_user_finds_a_daemon_whose_first_thread_has_ended() {
    let test = "a_plain_user_finds_a_daemon_whose_first_thread_has_ended";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("setpriv"), "root and setpriv") {
        return;
    }
    let (mut out, dir) = (world.fifo("out"), world.path("plain"));
    fs::create_dir(&dir).expect("a directory");
    for path in [dir, out.path().into()] {
        chown(path, Some(65534), Some(65534)).expect("another owner");
    }
    fs::set_permissions(world.path(""), Permissions::from_mode(0o755)).expect("a mode");
    // The programs may be in a directory that other users cannot enter.
    let [program, probe] = ["plain/bookend", "plain/probe"].map(|name| world.name(name));
    world.bare(["cp", env!("CARGO_BIN_EXE_bookend"), &program]).run().ended(End::Code(0));
    world.bare(["cp", "-L", &world.name("bin/probe"), &probe]).run().ended(End::Code(0));
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &program];
    let plain = |words: &[&str]| {
        let command = world.bare(user.iter().chain(words).copied());
        command.env("HOME", world.name("plain")).env("BOOKEND_LEDGER", world.name("plain/ledger.db"))
    };
    let script =
        format!("{probe} daemon -- {probe} with setsid -- {probe} headless {}; exec sleep 1000", out.path());
    let run = plain(&["run", "--id", "one", "--", "sh", "-c", &script]).start();
    out.pid("ready");
    run.signal(Signal::KILL);
    let output = plain(&["recover", "--grace", "100ms"]).run().ended(End::Code(0));
    assert!(output.stdout.contains("ended 1 leftover process"), "{output:?}");
}

/// Immediately after the kill, a child of the supervisor may still hold the supervisor's live lock.
#[test]
fn cancel_suggests_recover_if_the_supervisor_was_killed() {
    let Some(world) = World::of_bookend("cancel_suggests_recover_if_the_supervisor_was_killed") else {
        return;
    };
    let busy = Busy::sleep(&world, "one");
    let agent = busy.agent;
    busy.supervisor.signal(Signal::KILL);
    let output = bookend(&world, &["cancel", "one"]).ended(End::Code(1));
    let text = output.stdout + &output.stderr;
    assert!(
        text.contains("supervisor") && text.contains("was killed") && text.contains("bookend recover"),
        "{text}"
    );
    kill(agent);
    eventually(world.deadline(), "the end of the agent", || matches!(state(agent), None | Some('Z')));
}

/// `probe tracer … hold` prevents its exit, as a blocked disk does.
fn hold_back(world: &World, out: &mut Fifo, pid: i32) -> Option<Proc> {
    let tracer = world.bare(["probe", "tracer", &pid.to_string(), &out.path(), "hold"]).start();
    let line = out.line();
    possible("cancel_suggests_recover_if_the_supervisor_was_killed", line != "no", "ptrace(2)")
        .then_some(tracer)
}

#[test]
fn a_killed_process_that_does_not_exit_is_reported_and_delays_no_other_task() {
    let Some(mut world) =
        World::of_bookend("a_killed_process_that_does_not_exit_is_reported_and_delays_no_other_task")
    else {
        return;
    };
    let mut out = world.fifo("out");
    let mut start = |id: &str| {
        let script = format!("echo ready $$ >{}; exec sleep 1000", out.path());
        let run = world.run_sh(&script).options(["--id", id, "--key", id]).start();
        let pid = out.pid("ready");
        (run, pid)
    };
    let (agent, supervisor, quick) = (start("agent"), start("supervisor"), start("quick"));
    let Some(first) = hold_back(&world, &mut out, agent.1) else { return };
    let Some(second) = hold_back(&world, &mut out, supervisor.0.pid()) else { return };
    for (run, pid) in [&agent, &supervisor, &quick] {
        run.signal(Signal::KILL);
        kill(*pid);
    }
    let ending =
        |id: &str| world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'")).remove(0).ending();
    let recover = world.bare(["bookend", "recover", "--grace", "0s"]).start();
    eventually(world.deadline(), "the end of the task quick", || ending("quick") != "running/");
    assert_ne!(state(recover.pid()), Some('Z'), "recover still waits for the others");
    world.run(["true"]).options(["--key", "quick"]).run().ended(End::Code(0));
    let refused = world.run(["true"]).options(["--key", "agent", "--grace", "0s"]).start();
    let output = recover.wait().ended(End::Code(1)).stdout;
    let killed = "was killed but has not ended (state t)";
    for part in [
        "task agent stays running: its supervisor has ended, but some of its processes could not be ended"
            .to_owned(),
        format!("pid {}, which {killed}", agent.1),
        format!("task supervisor stays running: its supervisor (pid {}) {killed}", supervisor.0.pid()),
        "1 task interrupted, 2 stuck tasks".to_owned(),
    ] {
        assert!(output.contains(&part), "{part} in {output}");
    }
    let output = refused.wait().ended(End::Code(75)).stderr;
    assert!(output.contains(killed), "{output}");
    world.renew_deadline();
    // They exit when their tracers exit.
    drop((first, second));
    let output = bookend(&world, &["recover", "--grace", "0s"]).ended(End::Code(0)).stdout;
    assert!(output.contains("2 tasks interrupted"), "{output}");
}
