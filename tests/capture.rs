//! Capture: the output of a captured agent reaches the reader at once and unchanged, whatever the reader
//! does. Without capture, the agent inherits the descriptor of the caller.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{End, Proc, Pty, STREAM, World, eventually, on_path, open_files, possible, state};

const CURSOR: [&str; 5] = ["cursor-agent", "-p", "--output-format", "stream-json", "do it"];
const ID: &str = "0197a6a0-0000-4000-8000-00000000abcd";

#[test]
fn bytes_pass_through_unchanged() {
    let Some(world) = World::of_bookend("bytes_pass_through_unchanged") else { return };
    // Every byte value, every kind of line end, and no line end at the end.
    let mut bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    bytes.extend_from_slice(b"\r\n\n\r\0{\"type\":\xff}\n\xe2\x82");
    fs::write(world.path("home/bytes"), &bytes).expect("the bytes");
    for program in ["claude", "cursor-agent"] {
        world.stand_in(program, "cat bytes; exit 4");
        let argv = [program, "-p", "--output-format", "stream-json", "--verbose", "do it"];
        let output = world.run(argv).run().ended(End::Code(4));
        assert!(output.bytes == bytes, "{program}: {} of {} bytes arrived", output.bytes.len(), bytes.len());
        let file = world.name("home/out");
        let to_file = world.run(argv).with([format!("open=1:w:{file}")]).run().ended(End::Code(4));
        assert_eq!(to_file.stdout, "");
        assert!(fs::read(&file).expect("the file") == bytes, "{program}, into a file");
        fs::remove_file(file).expect("the file");
    }
}

#[test]
fn each_byte_is_passed_on_at_once() {
    let Some(world) = World::of_bookend("each_byte_is_passed_on_at_once") else { return };
    let mut go = world.fifo("go");
    let script = "for part in one two '\n{\"three' '\":1}\n'; do printf \"$part\"; read x; done <../go";
    world.stand_in("claude", script);
    let mut process = world.run(STREAM).start();
    // Each part arrives although no line is complete and the agent waits for the test.
    for part in ["one", "onetwo", "onetwo\n{\"three", "onetwo\n{\"three\":1}\n"] {
        process.wait_for_output(part.as_bytes());
        go.write_line("on");
    }
    process.wait().ended(End::Code(0));
}

#[test]
fn a_line_of_a_mebibyte_is_passed_on_and_read() {
    let Some(world) = World::of_bookend("a_line_of_a_mebibyte_is_passed_on_and_read") else { return };
    let text = "x".repeat(1 << 20);
    // The type is the last member.
    let line = [
        r#"{"message":{"content":[{"type":"text","text":""#,
        &text,
        r#""}],"id":"m","usage":{"input_tokens":7,"output_tokens":9}},"session_id":""#,
        ID,
        "\",\"type\":\"assistant\"}\n",
    ]
    .concat();
    fs::write(world.path("home/line"), &line).expect("the line");
    // There is no result, so the values in the row come from the long line.
    world.stand_in("claude", "cat line; exit 1");
    let output = world.run(STREAM).run().ended(End::Code(1));
    assert!(output.stdout == line);
    let row = world.row();
    assert_eq!((row.number("input_tokens"), row.number("output_tokens")), (Some(7), Some(9)));
    assert_eq!(row.text("session_id"), ID);
}

#[test]
fn a_line_that_is_not_json_is_ignored() {
    let Some(world) = World::of_bookend("a_line_that_is_not_json_is_ignored") else { return };
    let script =
        format!("echo 'warning: {{\"type\":'; init {ID}; echo '{{'; echo; result {ID} 0.5; echo ']}}'");
    world.stand_in("claude", &script);
    let output = world.run(STREAM).run().ended(End::Code(0)).silent();
    assert_eq!(output.stdout.lines().count(), 6, "{}", output.stdout);
    let row = world.row();
    assert_eq!(row.ending(), "success/");
    assert_eq!((row.real("cost_usd"), row.number("turns")), (Some(0.5), Some(2)));
}

#[test]
fn a_split_character_is_passed_on_at_once_and_parsed_whole() {
    let Some(world) = World::of_bookend("a_split_character_is_passed_on_at_once_and_parsed_whole") else {
        return;
    };
    let mut go = world.fifo("go");
    let script = format!(
        "printf '{{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"{ID}\",\"model\":\"mod\\303'\n\
         read x <../go\nprintf '\\250le\"}}\\n'; result {ID} 1"
    );
    world.stand_in("claude", &script);
    let mut process = world.run(STREAM).start();
    process.wait_for_output(b"mod\xc3");
    go.write_line("on");
    let output = process.wait().ended(End::Code(0)).silent();
    assert!(output.stdout.contains("\"modèle\""), "{}", output.stdout);
    assert_eq!(world.row().text("model"), "modèle");
}

#[test]
fn a_reader_sees_the_end_of_stdout_while_the_agent_works_on() {
    let Some(world) = World::of_bookend("a_reader_sees_the_end_of_stdout_while_the_agent_works_on") else {
        return;
    };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    for (printed, ending, code) in [
        ("init $id; result $id 0.5", "success/", 0),
        ("init $id", "failure/no_result", 0),
        ("", "failure/exit", 3),
    ] {
        let script = format!("{printed}\nexec >&-\necho up $$ >../up\nread x <../go\nexit {code}");
        world.stand_in("claude", &script);
        let mut process = world.run(STREAM).start();
        let agent = up.pid("up");
        process.read_stdout_to_end();
        assert!(state(agent).is_some(), "the agent still runs");
        go.write_line("on");
        process.wait().ended(End::Code(code));
        assert_eq!(world.rows().pop().expect("a row").ending(), ending);
    }
}

/// Large and small writes for a reader that pauses, catches up and finally keeps pace.
#[test]
fn output_stays_in_order_for_a_slow_reader() {
    let Some(world) = World::of_bookend("output_stays_in_order_for_a_slow_reader") else { return };
    let (mut done, mut go) = (world.fifo("done"), world.fifo("go"));
    let byte = |i: u64| ((i * i) >> 9) as u8 ^ i as u8;
    let bulk: Vec<u8> = (0..2_000_000).map(byte).filter(|b| *b != b'\n').collect();
    fs::write(world.path("home/bulk"), &bulk).expect("the bulk");
    world.stand_in(
        "claude",
        "for n in 1 2 3; do cat bulk; echo \" line $n\"; echo done >../done; read x; done <../go\n\
         cat bulk bulk; echo; cat bulk; exit 4",
    );
    let mut process = world.run(STREAM).start();
    let text = String::from_utf8_lossy(&bulk);
    for n in 1..=3 {
        // The agent has written everything although the reader has read none of it.
        assert_eq!(done.line(), "done");
        assert!(process.line() == format!("{text} line {n}"), "line {n}");
        go.write_line("on");
    }
    let output = process.wait().ended(End::Code(4));
    let expected = [&bulk[..], &bulk, b"\n", &bulk].concat();
    assert!(output.bytes == expected, "{} of {} bytes arrived", output.bytes.len(), expected.len());
}

/// The open files of a process that have no name.
fn unlinked_files(pid: i32) -> Vec<String> {
    open_files(pid).into_iter().filter(|f| f.ends_with(" (deleted)") && f.starts_with('/')).collect()
}

/// 50 MB for a reader that reads nothing: Claude Code itself would truncate them and lose its result.
#[test]
fn a_slow_reader_does_not_throttle_the_agent_and_receives_everything() {
    let Some(world) = World::of_bookend("a_slow_reader_does_not_throttle_the_agent_and_receives_everything")
    else {
        return;
    };
    let mut done = world.fifo("done");
    let line = format!("{{\"type\":\"user\",\"x\":\"{}\"}}", "y".repeat(977));
    assert_eq!(line.len() + 1, 1000);
    fs::write(world.path("home/line"), &line).expect("a line");
    let script = format!(
        "init {ID}; yes \"$(cat line)\" | head -c 50000000; result {ID} 0.25; echo done $$ >../done; exit 0"
    );
    world.stand_in("claude", &script);
    let process = world.run(STREAM).start();
    let agent = done.pid("done");
    eventually(world.deadline(), "the end of the agent while the reader pauses", || {
        matches!(state(agent), None | Some('Z'))
    });
    eventually(world.deadline(), "the terminal row while the reader pauses", || {
        world.row().text("status") == "success"
    });
    let spilled = unlinked_files(process.pid());
    assert!(
        spilled.iter().any(|f| f.starts_with(&world.name("tmp"))),
        "the buffer file is there: {spilled:?}"
    );
    assert_eq!(fs::read_dir(world.path("tmp")).expect("tmp").count(), 0, "the buffer file has no name");

    let output = process.wait().ended(End::Code(0)).silent();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 50_002);
    assert!(lines[1..=50_000].iter().all(|l| *l == line), "the lines are complete and in order");
    assert!(lines[50_001].contains("\"result\":\"done\""));
    assert_eq!(world.row().real("cost_usd"), Some(0.25));
}

#[test]
fn output_of_claude_is_parsed_after_the_reader_has_exited() {
    let Some(world) = World::of_bookend("output_of_claude_is_parsed_after_the_reader_has_exited") else {
        return;
    };
    let mut go = world.fifo("go");
    let script = format!("init {ID}; read x <../go; yes '{{}}' | head -c 3000000; result {ID} 0.5; exit 0");
    world.stand_in("claude", &script);
    let mut process = world.run(STREAM).start();
    process.line();
    process.close_stdout();
    go.write_line("on");
    process.wait().ended(End::Code(0)).silent();
    let row = world.row();
    assert_eq!(row.ending(), "success/");
    assert_eq!((row.real("cost_usd"), row.number("turns")), (Some(0.5), Some(2)));
}

#[test]
fn another_agent_gets_sigpipe_after_the_reader_has_exited() {
    let Some(world) = World::of_bookend("another_agent_gets_sigpipe_after_the_reader_has_exited") else {
        return;
    };
    world.stand_in("cursor-agent", &format!("init {ID}; exec yes '{{}}'"));
    let mut process = world.run(CURSOR).start();
    process.line();
    process.close_stdout();
    process.wait().ended(End::Signal(13));
    let row = world.row();
    assert_eq!(row.ending(), "failure/signal");
    assert_eq!((row.number("term_signal"), row.text("session_id")), (Some(13), ID.to_owned()));
}

#[test]
fn a_grandchild_that_holds_the_pipe_delays_the_exit_by_one_second_and_is_named() {
    let Some(world) =
        World::of_bookend("a_grandchild_that_holds_the_pipe_delays_the_exit_by_one_second_and_is_named")
    else {
        return;
    };
    let (mut stay, mut go) = (world.fifo("stay"), world.fifo("go"));
    let script = format!(
        "init {ID}; probe daemon -- probe with setsid -- probe stay {}\nread x <../go; result {ID} 1; exit 0",
        stay.path()
    );
    world.stand_in("claude", &script);
    let process = world.run(STREAM).start();
    let holder = stay.pid("stay");
    let started = Instant::now();
    go.write_line("on");
    let output = process.wait().ended(End::Code(0));
    // The limit is one second; the rest allows for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(output.stdout.contains("\"result\":\"done\""), "the output before the end: {}", output.stdout);
    assert_eq!(world.row().ending(), "success/");
    assert!(state(holder).is_some(), "the holder still runs");
    let message = format!("at {} bytes: it is still open in process {holder} (probe)\n", output.bytes.len());
    assert!(output.stderr.contains(&message), "{} does not contain {message}", output.stderr);
}

/// The grandchild writes after the agent was reaped, well within the second.
#[test]
fn output_of_a_grandchild_after_the_agents_exit_reaches_the_reader() {
    let Some(world) = World::of_bookend("output_of_a_grandchild_after_the_agents_exit_reaches_the_reader")
    else {
        return;
    };
    world.stand_in(
        "claude",
        &format!("init {ID}; (while kill -0 $$ 2>/dev/null; do :; done; echo late) & result {ID} 1; exit 0"),
    );
    let output = world.run(STREAM).run().ended(End::Code(0));
    assert!(output.stdout.ends_with("late\n"), "{}", output.stdout);
}

/// As in `exec > >(filter)`: each line arrives within a second of the previous one, the last one after more
/// than a second.
#[test]
fn a_filter_that_outlives_the_agent_is_read_until_its_result() {
    let Some(world) = World::of_bookend("a_filter_that_outlives_the_agent_is_read_until_its_result") else {
        return;
    };
    fs::write(world.path("home/line"), "{\"type\":\"user\",\"round\":@}\n").expect("a line");
    let talk = "probe talk line \"$id\" 20 125 never";
    world.stand_in("claude", &format!("init $id; ({talk}; result $id 0.5) & exit 0"));
    let output = world.run(STREAM).run().ended(End::Code(0)).silent();
    assert_eq!(output.stdout.lines().count(), 128, "{}", output.stdout);
    assert_eq!((world.row().ending(), world.row().real("cost_usd")), ("success/".to_owned(), Some(0.5)));
}

#[test]
fn a_process_that_never_stops_writing_delays_the_exit_by_ten_seconds() {
    let Some(world) = World::of_bookend("a_process_that_never_stops_writing_delays_the_exit_by_ten_seconds")
    else {
        return;
    };
    let mut up = world.fifo("up");
    fs::write(world.path("home/line"), "{\"type\":\"user\",\"round\":@}\n").expect("a line");
    let talk = "exec probe talk line \"$id\" 20 1000000 never";
    world.stand_in("claude", &format!("result $id 0.5; ({talk}) & echo up $! >../up; exit 0"));
    let process = world.run(STREAM).start();
    let writer = up.pid("up");
    let began = Instant::now();
    let output = process.wait().ended(End::Code(0));
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(output.stderr.contains(&format!("process {writer} (probe)")), "{}", output.stderr);
    assert_eq!(world.row().ending(), "success/");
}

/// Runs a command line and returns whether the agent's stdout is that of the caller.
fn stdout_is_inherited(world: &World, argv: &str) -> bool {
    world.stand_in("claude", "x=$(readlink /proc/$$/fd/1); echo \"$x\" >theirs");
    let script = format!("x=$(readlink /proc/$$/fd/1); echo \"$x\" >ours; exec $W {argv}");
    let process: Proc = world.bare(["sh", "-c", &script]).start();
    process.wait().ended(End::Code(0));
    let read = |name: &str| fs::read_to_string(world.path("home").join(name)).expect("a link");
    let (ours, theirs) = (read("ours"), read("theirs"));
    ours == theirs
}

#[test]
fn text_is_not_captured_and_json_is() {
    let Some(world) = World::of_bookend("text_is_not_captured_and_json_is") else { return };
    for argv in ["claude -p hi", "claude -p hi --output-format text", "claude hi", "claude mcp list"] {
        assert!(stdout_is_inherited(&world, argv), "{argv}");
    }
    // With the agent type `command`, bookend never captures.
    world.stand_in("claude", "x=$(readlink /proc/$$/fd/1); echo \"$x\" >theirs");
    let script = "x=$(readlink /proc/$$/fd/1); echo \"$x\" >ours; \
                  exec bookend run --agent-type command -- claude --output-format json";
    world.bare(["sh", "-c", script]).run().ended(End::Code(0));
    let read = |name: &str| fs::read_to_string(world.path("home").join(name)).expect("a link");
    assert_eq!(read("ours"), read("theirs"));

    for format in ["json", "stream-json"] {
        world.stand_in("claude", &format!("x=$(readlink /proc/$$/fd/1); echo \"$x\" >theirs; result {ID} 1"));
        let script = format!(
            "x=$(readlink /proc/$$/fd/1); echo \"$x\" >ours; exec $W claude -p hi --output-format {format}"
        );
        world.bare(["sh", "-c", &script]).run().ended(End::Code(0));
        assert_ne!(read("ours"), read("theirs"), "{format}");
    }
}

#[test]
fn a_closed_stdout_stays_closed() {
    let Some(world) = World::of_bookend("a_closed_stdout_stays_closed") else { return };
    world.stand_in("claude", "if [ -e /proc/$$/fd/1 ]; then exit 9; fi; exit 0");
    world.run(STREAM).with(["close=1"]).run().ended(End::Code(0)).silent();
    assert_eq!(world.row().ending(), "success/");
}

#[test]
fn a_terminal_is_not_captured() {
    let test = "a_terminal_is_not_captured";
    if !possible(test, on_path("bash"), "bash") {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    world.stand_in("claude", "test -t 0 && test -t 1 && test -t 2 && echo terminal");
    let mut pty = Pty::bash(&world);
    pty.line(&format!("bookend run -- {}", STREAM.join(" ").replace("do it", "hi")));
    let (printed, code) = pty.output();
    assert!(code == 0 && printed.contains("\nterminal\r\n"), "{code}: {printed:?}");
    assert_eq!(world.row().ending(), "success/", "without capture, no result is expected");
}
