//! Interactive use of Claude Code in a terminal, with Ctrl-C, Ctrl-Z and fg, and the row at the end.

use crate::Real;
use crate::harness::{Pty, eventually, state};

#[test]
fn an_interactive_session_can_be_suspended_resumed_and_ended() {
    let test = "an_interactive_session_can_be_suspended_resumed_and_ended";
    let Some(real) = Real::new(test, "text:pong-from-the-api;hangmid") else { return };
    let mut pty = Pty::bash(&real.world);
    // The size of the screen: without it Claude Code draws nothing.
    pty.resize(120, 40);
    let exports: Vec<String> = real
        .environment()
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().expect("UTF-8")))
        .collect();
    pty.line(&format!("export TERM=xterm {}; cd", exports.join(" ")));
    pty.prompt();

    pty.line("bookend run -- claude");
    pty.expect("✳");
    pty.expect("❯");
    pty.send("ping");
    pty.shows("ping");
    pty.send("\r");
    pty.shows("pong-from-the-api");
    let row = real.world.row();
    assert_eq!(row.text("status"), "running");
    let (supervisor, agent) = (row.pid("supervisor_pid"), row.pid("agent_pid"));

    // Claude Code stops only itself; the shell shows its prompt nevertheless.
    pty.send("\x1a");
    pty.expect("Stopped");
    assert_eq!(pty.prompt(), 148);
    assert_eq!((state(agent), state(supervisor)), (Some('T'), Some('T')));
    pty.line("fg");
    pty.expect("❯");
    eventually(real.world.deadline(), "both to continue", || {
        state(agent) != Some('T') && state(supervisor) != Some('T')
    });

    // The API hangs in the middle of an answer; Ctrl-C ends the turn, not the program.
    pty.send("more");
    pty.shows("more");
    pty.send("\r");
    pty.shows("The first half");
    pty.send("\x03");
    pty.shows("Interrupted");
    assert_eq!(real.world.row().text("status"), "running");

    // Pressed twice, the key ends the program.
    pty.send("\x03");
    pty.shows("again");
    pty.send("\x03");
    assert_eq!(pty.prompt(), 0);
    let row = real.world.row();
    assert_eq!(row.ending(), "success/");
    assert_eq!(row.number("exit_code"), Some(0));
    assert!(real.has_transcript(&row.text("session_id")), "{row:?}");
}
