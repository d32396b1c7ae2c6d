//! The journal: no text creates another field, and neither a prompt nor an argv is sent.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use super::untrusted_text::{HOSTILE, assert_harmless};
use crate::harness::{End, Output, Proc, World, is_root, on_path, possible};

const SECRET: &str = "open-the-pod-bay-doors";

/// The fields that a message may have: those of bookend and those that tracing-journald adds.
const FIELDS: [&str; 23] = [
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "TASK_ID",
    "KEY",
    "LEDGER",
    "STATUS",
    "REASON",
    "SESSION_ID",
    "RESUMED_FROM",
    "DURATION_MS",
    "COST_USD",
    "STOP_SENDER_PID",
    "SPOOL_FILE",
    "INVOCATION_ID",
    "TARGET",
    "CODE_FILE",
    "CODE_LINE",
    "SPAN_NAME",
    "SPAN_TARGET",
    "SPAN_CODE_FILE",
    "SPAN_CODE_LINE",
];

type Message = Vec<(String, Vec<u8>)>;

/// Runs `words` with the socket at `path` in place of journald's socket.
fn start_with_socket(world: &World, path: &Path, words: &[&str]) -> Proc {
    let script = format!(
        "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal; : >/run/systemd/journal/socket
         mount --bind {} /run/systemd/journal/socket; exec \"$@\"",
        path.display()
    );
    world.bare([&["unshare", "--mount", "sh", "-euc", &script, "sh"], words].concat()).start()
}

/// Runs `words` while the test receives the messages instead of journald. Returns the messages and the
/// output.
fn run_and_receive(world: &World, words: &[&str], code: i32) -> (Vec<Message>, Output) {
    let path = world.path("journal");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let process = start_with_socket(world, &path, words);
    // A thread reads during the run: bookend drops a message that the socket does not take at once.
    let reader = std::thread::spawn(move || {
        let mut messages = Vec::new();
        let mut datagram = vec![0; 1 << 20];
        loop {
            let n = socket.recv(&mut datagram).expect("a message or the end marker");
            if datagram[..n] == *b"done" {
                return messages;
            }
            // bookend sends an empty message to find out whether a process listens.
            if n > 0 {
                messages.push(parse(&datagram[..n]));
            }
        }
    });
    let output = process.wait().ended(End::Code(code));
    UnixDatagram::unbound().and_then(|s| s.send_to(b"done", &path)).expect("the end marker");
    let messages = reader.join().expect("messages");
    (messages, output)
}

/// Parses a datagram as journald does: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
fn parse(mut rest: &[u8]) -> Message {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').expect("a whole line");
        let line = &rest[..end];
        let (name, value) = match line.iter().position(|b| *b == b'=') {
            Some(cut) => {
                rest = &rest[end + 1..];
                (&line[..cut], line[cut + 1..].to_vec())
            }
            None => {
                let (length, tail) = rest[end + 1..].split_first_chunk::<8>().expect("a length");
                let length = u64::from_le_bytes(*length) as usize;
                assert_eq!(tail[length], b'\n', "a value has the length that precedes it");
                rest = &tail[length + 1..];
                (line, tail[..length].to_vec())
            }
        };
        fields.push((String::from_utf8(name.to_vec()).expect("a name"), value));
    }
    fields
}

/// Asserts that each field occurs once, has an allowed name and a valid priority, and is free of secrets.
fn assert_sound(messages: &[Message]) {
    assert!(!messages.is_empty());
    for message in messages {
        let mut names: Vec<&str> = message.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|n| FIELDS.contains(n)), "{names:?}");
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "each field once: {message:?}");
        let priority = field(message, "PRIORITY").expect("a priority");
        assert!(["3", "4", "6", "7"].contains(&priority.as_str()), "{priority}");
        assert_eq!(field(message, "SYSLOG_IDENTIFIER").as_deref(), Some("bookend"));
        let is_harmful = |c: char| c.is_control() && c != '\n';
        assert!(!field(message, "MESSAGE").expect("a message").contains(is_harmful), "{message:?}");
        for (name, value) in message {
            let text = String::from_utf8_lossy(value);
            assert!(!text.contains(SECRET), "{name} contains the prompt: {text}");
        }
    }
}

fn field(message: &Message, name: &str) -> Option<String> {
    let found = message.iter().find(|(n, _)| n == name)?;
    Some(String::from_utf8(found.1.clone()).expect("UTF-8"))
}

fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    possible(test, is_root() && on_path("unshare"), "root and unshare, to stand in for journald")
        .then_some(world)
}

#[test]
fn no_text_creates_another_field() {
    let Some(world) = world("no_text_creates_another_field") else { return };
    let error = serde_json::json!({ "type": "result", "subtype": HOSTILE, "is_error": true, "result": HOSTILE,
        "session_id": HOSTILE });
    std::fs::write(world.path("printed"), format!("{error}\n")).expect("a file");
    world.program("claude", &format!("#!/bin/sh\ncat {}\nexit 1\n", world.name("printed")));
    let run = [
        "bookend",
        "--log",
        "journald",
        "run",
        "-v",
        "-v",
        "--key",
        HOSTILE,
        "--repo",
        HOSTILE,
        "--agent",
        HOSTILE,
        "--model",
        HOSTILE,
        "--",
        "claude",
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        SECRET,
    ];
    let (messages, output) = run_and_receive(&world, &run, 1);
    assert_sound(&messages);
    assert_eq!(output.stderr, "", "all messages went to the journal");
    assert!(messages.iter().any(|m| field(m, "STATUS").as_deref() == Some("failure")), "{messages:?}");
    for message in &messages {
        assert!(field(message, "KEY").is_none_or(|k| k == HOSTILE), "{message:?}");
    }

    // A lost predecessor, and one that still runs.
    world.write("UPDATE task_history SET status = 'running', finished_at = NULL WHERE 0");
    let busy = crate::standins::Busy::start(&world, "say", |_| {
        world.run_sh("echo ready $$ >$SAY; exec sleep 1000").options(["--key", HOSTILE])
    });
    let again = [
        "bookend", "--log", "journald", "run", "-v", "-v", "--key", HOSTILE, "--", "sh", "-c", "exit 3",
        SECRET,
    ];
    let (messages, _) = run_and_receive(&world, &again, 75);
    assert_sound(&messages);
    assert!(messages.iter().any(|m| field(m, "MESSAGE").is_some_and(|t| t.contains("is held by"))));
    busy.kill_all();
    let (messages, _) = run_and_receive(&world, &again, 3);
    assert_sound(&messages);
    assert!(messages.iter().any(|m| field(m, "MESSAGE").is_some_and(|t| t.contains("settled task"))));
}

#[test]
fn program_names_and_prepare_output_stay_within_their_message() {
    let Some(world) = world("program_names_and_prepare_output_stay_within_their_message") else { return };
    let name = "x\u{1b}[2J\nPRIORITY=0\nMESSAGE=forged";
    world.program(name, "#!/bin/sh\nexit 3\n");
    let log = ["bookend", "--log", "journald", "run", "-v", "-v"];
    let (messages, _) = run_and_receive(&world, &[&log[..], &["--key", "k", "--", name, SECRET]].concat(), 3);
    assert_sound(&messages);
    let missing = [&log[..], &["--", "no-such-program\nPRIORITY=0", SECRET]].concat();
    let (messages, _) = run_and_receive(&world, &missing, 127);
    assert_sound(&messages);
    let prepare = "printf '\\033[2J\\nPRIORITY=0\\nMESSAGE=forged\\n'; exit 3";
    let (messages, _) =
        run_and_receive(&world, &[&log[..], &["--prepare", prepare, "--", "true", SECRET]].concat(), 125);
    assert_sound(&messages);
}

#[test]
fn a_long_value_is_cut_and_the_message_arrives() {
    let Some(world) = world("a_long_value_is_cut_and_the_message_arrives") else { return };
    let long = format!("{HOSTILE}{}", "x".repeat(120_000));
    let run = ["bookend", "--log", "journald", "run", "--key", &long, "--", "sh", "-c", "exit 3"];
    let (messages, output) = run_and_receive(&world, &run, 3);
    assert_sound(&messages);
    let with_id = messages.iter().filter(|m| field(m, "MESSAGE_ID").is_some()).count();
    assert_eq!(with_id, 2, "the start and the end: {output:?}");
    assert!(messages.iter().all(|m| field(m, "KEY").is_none_or(|k| k.len() == 16 * 1024)));
}

/// A few runs fill the queue of the socket (net.unix.max_dgram_qlen), and some run at the same time.
#[test]
fn a_journald_that_does_not_read_delays_no_run() {
    let Some(world) = world("a_journald_that_does_not_read_delays_no_run") else { return };
    let path = world.path("journal");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let runs = "for n in $(seq 15); do bookend --log journald run -- true; done";
    let script =
        format!("{runs} & {runs} & {runs} & {runs}; wait; exec bookend --log journald run -v -- true");
    let output = start_with_socket(&world, &path, &["sh", "-c", &script]).wait().ended(End::Code(0));
    assert_eq!(world.rows().iter().filter(|r| r.text("status") == "success").count(), 61);
    let lost = "bookend: warning: 2 messages lost: journald does not read its socket\n";
    assert_eq!(output.stderr, lost, "only the last run has -v");
    drop(socket);
}

/// If stderr is a pipe to journald, each line is a message and a leading `<0>` is its priority.
#[test]
fn no_text_starts_a_line_on_stderr() {
    let Some(world) = World::of_bookend("no_text_starts_a_line_on_stderr") else { return };
    let options =
        ["--id", "one", "-v", "-v", "--key", HOSTILE, "--agent", HOSTILE, "--require-skill", HOSTILE];
    let run = world.run(["claude", SECRET]).options(options).run().ended(End::Code(125));
    assert_harmless(&run.stderr, "run");
    assert!(!run.stderr.contains(SECRET), "{run:?}");
    let hint = "hint: install the skill in one of these directories, or omit --require-skill";
    for line in run.stderr.lines() {
        assert!(line.starts_with("bookend: ") || line.starts_with("  ") || line == hint, "{line}");
    }
}
