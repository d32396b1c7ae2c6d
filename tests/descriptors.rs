//! bookend keeps no descriptor of the agent open: when the agent closes its end, the other side sees that at
//! once, although the agent and bookend still run.

use std::io::{ErrorKind, Write};

use crate::harness::{End, World, eventually, state};

#[test]
fn a_reader_sees_eof_when_the_agent_closes_stdout() {
    let world = World::new();
    let mut out = world.fifo("out");
    let mut agent = world.run(["probe", "close", "1", &out.path()]).start();
    out.pid("closed");
    assert_eq!(agent.read_stdout_to_end(), "");
    assert_ne!(state(agent.pid()), Some('Z'), "the agent still runs");
}

#[test]
fn a_writer_gets_a_broken_pipe_when_the_agent_closes_stdin() {
    let world = World::new();
    let mut out = world.fifo("out");
    let mut agent = world.run(["probe", "close", "0", &out.path()]).piped_input().start();
    out.pid("closed");
    let mut stdin = agent.stdin.take().expect("a pipe");
    eventually(world.deadline(), "a broken pipe", || {
        stdin.write(b"x").is_err_and(|e| e.kind() == ErrorKind::BrokenPipe)
    });
    assert_ne!(state(agent.pid()), Some('Z'), "the agent still runs");
}

#[test]
fn a_reader_sees_eof_when_the_agent_closes_another_descriptor() {
    let world = World::new();
    let mut out = world.fifo("out");
    let mut five = world.fifo("five");
    let open = format!("open=5:w:{}", five.path());
    let agent = world.run(["probe", "close", "5", &out.path()]).with([open]).start();
    out.pid("closed");
    assert!(five.rest().is_empty());
    assert_ne!(state(agent.pid()), Some('Z'), "the agent still runs");
}

#[test]
fn bookend_prints_messages_after_it_has_closed_other_descriptors() {
    let world = World::new();
    let run = world.run(["true"]).options(["-v"]).with(["open=5:w:/dev/null"]).run();
    let printed = run.ended(End::Code(0)).stderr;
    assert!(printed.contains("ended as success"), "{printed}");
}

/// If bookend kept one of the two ends open, neither side would see the end.
#[test]
fn a_pipe_inherited_with_both_ends_reaches_eof() {
    let world = World::new();
    let output = world.run_sh("exec 4>&-; cat <&3; echo done").with(["pipe=3:4"]).run();
    assert_eq!(output.ended(End::Code(0)).stdout, "done\n");
}

#[test]
fn only_the_agent_reads_standard_input() {
    let world = World::new();
    let mut agent = world.run(["cat"]).piped_input().start();
    let mut stdin = agent.stdin.take().expect("a pipe");
    stdin.write_all(b"one\n").expect("a line");
    assert_eq!(agent.line(), "one");
    stdin.write_all(b"two\n").expect("a line");
    assert_eq!(agent.line(), "two");
    drop(stdin);
    agent.wait().ended(End::Code(0)).silent();
}

#[test]
fn descriptors_are_not_made_non_blocking() {
    let world = World::new();
    let mut agent = world.run_sh("cat /proc/self/fdinfo/0").piped_input().start();
    agent.stdin = None;
    let output = agent.wait().ended(End::Code(0));
    let flags = output.stdout.lines().find_map(|l| l.strip_prefix("flags:")).expect("flags");
    let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
    assert_eq!(flags & 0o4000, 0, "O_NONBLOCK is not set");
}

/// Other processes share stdout: the script around bookend keeps writing to it.
#[test]
fn capture_does_not_make_stdout_non_blocking() {
    let world = World::new();
    world.program("claude", "#!/bin/sh\necho one\n");
    let agent = "claude -p --output-format stream-json --verbose x";
    let script = format!("$W {agent}; cat /proc/self/fdinfo/3 3>&1 >&2");
    let output = world.bare(["sh", "-c", &script]).run();
    assert_eq!(output.stdout, "one\n");
    let flags = output.stderr.lines().find_map(|l| l.strip_prefix("flags:")).expect("flags");
    let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
    assert_eq!(flags & 0o4000, 0, "O_NONBLOCK is not set");
}
