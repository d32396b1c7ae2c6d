//! Job control on a terminal, in an interactive bash, works as without bookend.

use std::fs;

use crate::harness::{
    End, Fifo, Pty, World, Wrapper, children, eventually, group, on_path, pending, possible, stat_field,
    state,
};

/// A world with bash on a terminal.
fn shell(test: &str) -> Option<(World, Pty)> {
    if !possible(test, on_path("bash"), "bash") {
        return None;
    }
    let world = World::new();
    let pty = Pty::bash(&world);
    Some((world, pty))
}

/// Starts `$W probe stay` in the foreground and waits until it runs.
fn stay(world: &World, pty: &mut Pty, name: &str) -> Fifo {
    let mut out = world.fifo(name);
    pty.line(&format!("$W probe stay {}", out.path()));
    out.pid("stay");
    out
}

fn number(pid: i32, field: usize) -> i32 {
    stat_field(pid, field).and_then(|f| f.parse().ok()).unwrap_or_else(|| panic!("no process {pid}"))
}

fn await_state(world: &World, pid: i32, wanted: char) {
    eventually(world.deadline(), &format!("state {wanted} of {pid}"), || state(pid) == Some(wanted));
}

#[test]
fn ctrl_c_and_ctrl_backslash_end_the_agent_and_the_shell_sees_the_signal() {
    let Some((world, mut pty)) =
        shell("ctrl_c_and_ctrl_backslash_end_the_agent_and_the_shell_sees_the_signal")
    else {
        return;
    };
    for (n, (key, status, ending)) in [("\x03", 130, 2), ("\x1c", 131, 3)].into_iter().enumerate() {
        stay(&world, &mut pty, &format!("stay{n}"));
        pty.send(key);
        assert_eq!(pty.prompt(), status);
        if world.wrapper == Wrapper::Bookend {
            let row = &world.rows()[n];
            assert_eq!(row.ending(), "cancelled/operator");
            assert_eq!(row.number("term_signal"), Some(ending));
        }
    }
}

#[test]
fn ctrl_c_ends_the_enclosing_shell_loop() {
    let Some((world, mut pty)) = shell("ctrl_c_ends_the_enclosing_shell_loop") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("while :; do $W probe stay {}; done", out.path()));
    out.pid("stay");
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130);
    assert!(out.rest().is_empty(), "the loop did not run again");
}

#[test]
fn ctrl_c_ends_the_enclosing_script() {
    let Some((world, mut pty)) = shell("ctrl_c_ends_the_enclosing_script") else {
        return;
    };
    let mut out = world.fifo("stay");
    let script = format!("$W probe stay {}; echo continued", out.path());
    world.program("script", &format!("#!/usr/bin/env bash\n{script}\n"));
    pty.line("script");
    out.pid("stay");
    pty.send("\x03");
    let (output, status) = pty.output();
    assert_eq!(status, 130);
    assert!(!output.contains("continued"), "{output}");
}

/// A program that handles Ctrl-C continues, and so does the script.
#[test]
fn an_agent_that_handles_ctrl_c_keeps_its_own_exit_code() {
    let Some((world, mut pty)) = shell("an_agent_that_handles_ctrl_c_keeps_its_own_exit_code") else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!("trap 'echo caught; exit 4' INT; echo ready 1 >{}; read x", out.path());
    pty.line(&format!("$W sh -c \"{script}\""));
    out.pid("ready");
    pty.send("\x03");
    let (output, status) = pty.output();
    assert_eq!(status, 4);
    assert_eq!(output.matches("caught").count(), 2, "once in the echo, once printed: {output}");
}

#[test]
fn each_terminal_signal_arrives_once() {
    let Some((world, mut pty)) = shell("each_terminal_signal_arrives_once") else {
        return;
    };
    let mut out = world.fifo("count");
    pty.line(&format!("$W probe count {}", out.path()));
    let agent = out.pid("ready");
    let supervisor = number(agent, 5);
    for (n, (key, signal)) in [("\x03", 2), ("\x1c", 3), ("\x1a", 20)].into_iter().enumerate() {
        for _ in 0..3 {
            pty.send(key);
            let line = out.line();
            assert!(line.starts_with(&format!("{signal} ")), "{signal}, round {n}: {line}");
        }
    }
    for columns in [100, 50, 132] {
        pty.resize(columns, 30);
        let line = out.line();
        assert!(line.starts_with("28 "), "SIGWINCH: {line}");
    }
    world.send(supervisor, ["64:7"]);
    let line = out.line();
    assert!(line.starts_with("64 7"), "nothing arrived twice: {line}");
    world.send(agent, ["64:1006"]);
    assert_eq!(pty.prompt(), 6);
}

/// The sentinel reports signals to the whole group. A signal from the terminal always goes to the whole
/// foreground group, so bookend does not need the report.
#[test]
fn a_key_press_arrives_once_even_if_the_sentinel_is_stopped() {
    let Some((world, mut pty)) = shell("a_key_press_arrives_once_even_if_the_sentinel_is_stopped") else {
        return;
    };
    if world.wrapper != Wrapper::Bookend {
        return;
    }
    let mut out = world.fifo("count");
    pty.line(&format!("$W probe count {}", out.path()));
    let agent = out.pid("ready");
    let supervisor = number(agent, 4);
    let sentinel = children(supervisor).into_iter().find(|c| *c != agent).expect("the sentinel");
    world.send(sentinel, [19]);
    await_state(&world, sentinel, 'T');
    for (key, signal) in [("\x03", "2 "), ("\x1c", "3 "), ("\x1a", "20 ")] {
        pty.send(key);
        let line = out.line();
        assert!(line.starts_with(signal), "{signal}: {line}");
        world.send(supervisor, ["64:7"]);
        let line = out.line();
        assert!(line.starts_with("64 7"), "nothing arrived twice: {line}");
    }
    world.send(agent, ["64:1006"]);
    assert_eq!(pty.prompt(), 6);
}

#[test]
fn the_agent_sees_a_terminal_resize() {
    let Some((world, mut pty)) = shell("the_agent_sees_a_terminal_resize") else {
        return;
    };
    let mut out = world.fifo("out");
    // A trap interrupts only `wait`.
    let script =
        format!("trap 'kill $!; stty size >{out}; exit 3' WINCH; probe stay {out} & wait", out = out.path());
    world.program("resized", &format!("#!/bin/sh\n{script}\n"));
    pty.line("$W resized");
    out.pid("stay");
    pty.resize(99, 44);
    assert_eq!(out.line(), "44 99");
    assert_eq!(pty.prompt(), 3);
}

#[test]
fn ctrl_z_stops_both_and_fg_continues_both() {
    let Some((world, mut pty)) = shell("ctrl_z_stops_both_and_fg_continues_both") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {}", out.path()));
    let agent = out.pid("stay");
    let supervisor = number(agent, 5);
    for _ in 0..3 {
        pty.send("\x1a");
        assert_eq!(pty.prompt(), 148);
        await_state(&world, agent, 'T');
        await_state(&world, supervisor, 'T');
        pty.line("fg");
        await_state(&world, agent, 'S');
        await_state(&world, supervisor, 'S');
    }
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130);
}

#[test]
fn bg_kill_and_wait_work_after_ctrl_z() {
    let Some((world, mut pty)) = shell("bg_kill_and_wait_work_after_ctrl_z") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {}", out.path()));
    let agent = out.pid("stay");
    pty.send("\x1a");
    assert_eq!(pty.prompt(), 148);
    pty.line("bg");
    assert_eq!(pty.prompt(), 0);
    await_state(&world, agent, 'S');
    await_state(&world, number(agent, 5), 'S');
    pty.line("kill %1; wait %1");
    assert_eq!(pty.prompt(), 143);
    assert!(out.rest().is_empty());
}

#[test]
fn a_stopped_job_can_be_killed() {
    let Some((world, mut pty)) = shell("a_stopped_job_can_be_killed") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {}", out.path()));
    out.pid("stay");
    pty.send("\x1a");
    assert_eq!(pty.prompt(), 148);
    // bash continues a stopped job that it kills.
    pty.line("kill %1");
    assert_eq!(pty.prompt(), 0);
    // Without -f, wait returns at once while bash believes that the job is stopped.
    pty.line("wait -f %1");
    assert_eq!(pty.prompt(), 143);
}

#[test]
fn stop_and_continue_signals_to_the_job_reach_both_processes() {
    let Some((world, mut pty)) = shell("stop_and_continue_signals_to_the_job_reach_both_processes") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {} &", out.path()));
    let agent = out.pid("stay");
    let supervisor = number(agent, 5);
    for signal in ["STOP", "TSTP", "TTIN", "TTOU"] {
        pty.line(&format!("kill -{signal} %1"));
        await_state(&world, agent, 'T');
        await_state(&world, supervisor, 'T');
        pty.line("kill -CONT %1");
        await_state(&world, agent, 'S');
        await_state(&world, supervisor, 'S');
    }
}

#[test]
fn a_stop_signal_to_either_process_stops_both() {
    let Some((world, mut pty)) = shell("a_stop_signal_to_either_process_stops_both") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {} &", out.path()));
    let agent = out.pid("stay");
    let supervisor = number(agent, 5);
    for (to, signal) in [(supervisor, 20), (agent, 20), (agent, 19), (supervisor, 21), (agent, 22)] {
        world.send(to, [signal]);
        await_state(&world, agent, 'T');
        await_state(&world, supervisor, 'T');
        // The shell knows only the supervisor.
        world.send(supervisor, [18]);
        await_state(&world, agent, 'S');
        await_state(&world, supervisor, 'S');
    }
}

/// Claude Code stops only its own process on Ctrl-Z.
#[test]
fn the_shell_gets_its_prompt_when_an_agent_stops_only_itself() {
    let Some((world, mut pty)) = shell("the_shell_gets_its_prompt_when_an_agent_stops_only_itself") else {
        return;
    };
    for (signal, status) in [(19, 147), (20, 148)] {
        let mut out = world.fifo(&format!("out{signal}"));
        pty.line(&format!("$W probe stop-self {signal} {}", out.path()));
        out.pid("ready");
        assert_eq!(pty.prompt(), status);
        pty.line("fg");
        assert_eq!(out.line(), "continued");
        assert_eq!(pty.prompt(), 0);
    }
}

/// Waits until `supervisor` has seen that its agent stopped, and asserts that it does not stop itself.
fn assert_keeps_running(world: &World, supervisor: i32, agent: i32) {
    await_state(world, agent, 'T');
    eventually(world.deadline(), "the supervisor to handle the stop", || {
        let is_pending = pending(supervisor) & (1 << (17 - 1)) != 0;
        !is_pending && matches!(state(supervisor), Some('S' | 'T'))
    });
    assert_eq!(state(supervisor), Some('S'), "no shell would continue it");
}

/// No shell watches it, so nothing would continue it.
#[test]
fn without_a_terminal_a_stopped_agent_does_not_stop_bookend() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let process = world.run(["probe", "stay", &out.path()]).with(["setsid"]).start();
    let agent = out.pid("stay");
    world.send(agent, [19]);
    if process.supervised() {
        assert_keeps_running(&world, process.pid(), agent);
    }
    world.send(agent, [9]);
    process.wait().ended(End::Signal(9));
}

/// The group of a session leader is orphaned, so no shell would continue it.
#[test]
fn a_stopped_agent_does_not_stop_a_session_leader() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let pty = Pty::of(&world, world.run(["probe", "stay", &out.path()]));
    let agent = out.pid("stay");
    world.send(agent, [19]);
    if world.wrapper == Wrapper::Bookend {
        assert_keeps_running(&world, number(agent, 4), agent);
    }
    world.send(agent, [9]);
    pty.wait().ended(End::Signal(9));
}

#[test]
fn the_agent_is_in_the_foreground_and_can_read_the_terminal() {
    let Some((world, mut pty)) = shell("the_agent_is_in_the_foreground_and_can_read_the_terminal") else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!("echo ready $$ >{0}; read -r x; echo \"<<$x>>\" >{0}", out.path());
    world.program("reader", &format!("#!/bin/sh\n{script}\n"));
    pty.line("$W reader");
    let agent = out.pid("ready");
    assert_eq!(number(agent, 5), pty.foreground(), "the agent's group is the foreground group");
    pty.line("some words");
    assert_eq!(out.line(), "<<some words>>");
    assert_eq!(pty.prompt(), 0);
}

#[test]
fn a_background_job_does_not_take_the_terminal() {
    let Some((world, mut pty)) = shell("a_background_job_does_not_take_the_terminal") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {} &", out.path()));
    out.pid("stay");
    assert_eq!(pty.foreground(), pty.pid(), "bash keeps the terminal");
}

#[test]
fn a_background_job_that_reads_is_stopped_and_fg_lets_it_read() {
    let Some((world, mut pty)) = shell("a_background_job_that_reads_is_stopped_and_fg_lets_it_read") else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!("echo ready $$ >{0}; read -r x; echo \"got $x\" >{0}", out.path());
    world.program("reader", &format!("#!/bin/sh\n{script}\n"));
    pty.line("$W reader &");
    let agent = out.pid("ready");
    await_state(&world, agent, 'T');
    await_state(&world, number(agent, 5), 'T');
    pty.line("jobs");
    pty.expect("Stopped");
    pty.line("fg");
    await_state(&world, agent, 'S');
    pty.line("words");
    assert_eq!(out.line(), "got words");
}

#[test]
fn a_background_job_that_writes_is_stopped_under_tostop() {
    let Some((world, mut pty)) = shell("a_background_job_that_writes_is_stopped_under_tostop") else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!("echo ready $$ >{}; echo some words", out.path());
    world.program("writer", &format!("#!/bin/sh\n{script}\n"));
    pty.line("stty tostop");
    assert_eq!(pty.prompt(), 0);
    pty.line("$W writer &");
    let agent = out.pid("ready");
    await_state(&world, agent, 'T');
    await_state(&world, number(agent, 5), 'T');
    pty.line("fg");
    pty.expect("some words\r\n");
    assert_eq!(pty.prompt(), 0);
}

#[test]
fn a_hangup_ends_the_foreground_agent() {
    let Some((world, mut pty)) = shell("a_hangup_ends_the_foreground_agent") else {
        return;
    };
    let mut out = stay(&world, &mut pty, "stay");
    pty.hang_up();
    assert!(out.rest().is_empty());
    if world.wrapper == Wrapper::Bookend {
        eventually(world.deadline(), "the end of the task", || world.row().text("status") != "running");
        assert_eq!(world.row().ending(), "interrupted/signal");
        assert_eq!(world.row().number("stop_signal"), Some(1));
    }
}

/// Without a shell the supervisor leads the session, and the kernel sends SIGHUP to it alone.
#[test]
fn a_hangup_reaches_the_agent_of_a_session_leader() {
    let world = World::new();
    let mut out = world.fifo("count");
    let mut pty = Pty::of(&world, world.run(["probe", "count", &out.path()]));
    let agent = out.pid("ready");
    pty.hang_up();
    assert!(out.line().starts_with("1 "), "SIGHUP");
    world.send(agent, ["64:1004"]);
    pty.wait().ended(End::Code(4));
}

#[test]
fn a_pipeline_on_a_terminal_ends_by_sigpipe() {
    let Some((_world, mut pty)) = shell("a_pipeline_on_a_terminal_ends_by_sigpipe") else {
        return;
    };
    pty.line("$W yes | head -1; echo \"${PIPESTATUS[*]}\"");
    pty.expect("\r\ny\r\n");
    pty.expect("141 0\r\n");
    assert_eq!(pty.prompt(), 0);
}

#[test]
fn ctrl_c_reaches_every_process_of_a_pipeline() {
    let Some((world, mut pty)) = shell("ctrl_c_reaches_every_process_of_a_pipeline") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {} | $W cat", out.path()));
    out.pid("stay");
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130);
}

#[test]
fn terminal_modes_stay_as_the_agent_set_them() {
    let Some((_world, mut pty)) = shell("terminal_modes_stay_as_the_agent_set_them") else {
        return;
    };
    pty.line("$W stty -echo; stty | grep -c -e -echo");
    pty.expect("1\r\n");
    assert_eq!(pty.prompt(), 0);
}

/// This includes the helper processes of bookend.
#[test]
fn no_process_of_the_job_remains_after_its_end() {
    let Some((world, mut pty)) = shell("no_process_of_the_job_remains_after_its_end") else {
        return;
    };
    let mut out = world.fifo("stay");
    pty.line(&format!("$W probe stay {}", out.path()));
    let job = number(out.pid("stay"), 5);
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130);
    assert_eq!(group(job), Vec::<i32>::new());
    assert!(fs::metadata(format!("/proc/{job}")).is_err());
}

/// The shell waits for bookend, also before the agent starts and after it exits.
#[test]
fn ctrl_z_stops_the_run_during_prepare_and_on_finish() {
    let Some((world, mut pty)) = shell("ctrl_z_stops_the_run_during_prepare_and_on_finish") else {
        return;
    };
    if world.wrapper != Wrapper::Bookend {
        return;
    }
    for variable in ["BOOKEND_PREPARE", "BOOKEND_ON_FINISH"] {
        let name = |what: &str| format!("{what}{variable}");
        let (mut begun, mut go) = (world.fifo(&name("begun")), world.fifo(&name("go")));
        let command = format!("echo begun 1 >{}; read x <{}", begun.path(), go.path());
        pty.line(&format!("{variable}='{command}' $W true"));
        begun.pid("begun");
        pty.send("\x1a");
        assert_eq!(pty.prompt(), 128 + 20, "{variable}");
        pty.line("fg");
        go.write_line("now");
        assert_eq!(pty.prompt(), 0, "{variable}");
    }
    assert!(world.rows().iter().all(|r| r.ending() == "success/"));
}
