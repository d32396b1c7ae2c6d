//! The agent's output when stdout does not accept it: a full disk or device, a file size limit, a reader that
//! stalls, and a log that other processes append to.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;

use crate::harness::{
    End, Proc, STREAM, World, eventually, is_root, on_path, open_files, pause, possible, state,
};
use crate::spool::Tmpfs;

const ID: &str = "0197a6a0-0000-4000-8000-00000000abcd";
const CURSOR: [&str; 5] = ["cursor-agent", "-p", "--output-format", "stream-json", "do it"];

/// The pipe that process `pid` writes its stdout to.
fn pipe_of(pid: i32) -> Option<File> {
    let path = format!("/proc/{pid}/fd/1");
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
}

/// Whether the pipe is empty.
fn is_drained(pipe: &File) -> bool {
    ioctl_fionread(pipe) == Ok(0)
}

/// A small file system that is full until [`clear`].
fn full_disk(world: &World, test: &str, size: &str) -> Option<Tmpfs> {
    if !possible(test, is_root() && on_path("mount"), "root, to mount a small file system") {
        return None;
    }
    let disk = Tmpfs::mount(world, "disk", size);
    // An empty file needs no block.
    File::create(disk.0.join("out")).expect("the file for stdout");
    let mut filler = File::create(disk.0.join("filler")).expect("the filler");
    while filler.write_all(&[0; 1 << 20]).is_ok() {}
    Some(disk)
}

fn clear(disk: &Tmpfs) {
    fs::remove_file(disk.0.join("filler")).expect("the filler is removed");
}

/// Waits until the agent, a shell or its child, is blocked: its pipe was full for 100 checks in a row.
fn wait_until_blocked(world: &World, agent: i32) {
    let mut checks = 0;
    eventually(world.deadline(), "the agent to block on its full pipe", || {
        let is_full = |pipe: &File| {
            let held = ioctl_fionread(pipe).expect("what the pipe holds") as usize;
            held + 4096 > fcntl_getpipe_size(pipe).expect("its size")
        };
        checks = if pipe_of(agent).is_some_and(|pipe| is_full(&pipe)) { checks + 1 } else { 0 };
        checks == 100
    });
}

#[test]
fn output_that_cannot_be_written_makes_the_run_a_failure() {
    for (program, format) in [("claude", "json"), ("claude", "stream-json"), ("cursor-agent", "stream-json")]
    {
        let Some(world) = World::of_bookend("output_that_cannot_be_written_makes_the_run_a_failure") else {
            return;
        };
        world.stand_in(program, &format!("result {ID} 0.5; exit 0"));
        let run = world.run([program, "-p", "--output-format", format]).options(["--grace", "200ms"]);
        let output = run.with(["open=1:w:/dev/full"]).run().ended(End::Code(74));
        let row = world.row();
        assert_eq!(row.ending(), "failure/output", "{program} {format}");
        let lost = "238 bytes of the agent's output could not be written to stdout: ENOSPC: No space left";
        assert!(row.text("error").starts_with(lost), "{row:?}");
        assert!(output.stderr.contains(&format!("bookend: error: {lost}")), "{output:?}");
        // The output was read nevertheless.
        assert_eq!((row.number("exit_code"), row.text("session_id")), (Some(0), ID.to_owned()));
    }
}

#[test]
fn output_is_kept_while_the_disk_is_full_and_written_later() {
    let test = "output_is_kept_while_the_disk_is_full_and_written_later";
    for ends_first in [false, true] {
        let Some(world) = World::of_bookend(test) else { return };
        let Some(disk) = full_disk(&world, test, "1m") else { return };
        let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
        let lines = "for n in 1 2 3 4 5 6 7 8 9; do echo \"{\\\"type\\\":\\\"user\\\",\\\"n\\\":$n}\"; done";
        let wait = if ends_first { "" } else { "read x <../go;" };
        let script = format!("init {ID}; {lines}; echo up $$ >../up; {wait} result {ID} 0.5; exit 0");
        world.stand_in("cursor-agent", &script);
        let file = world.name("disk/out");
        let process = world.run(CURSOR).with([format!("open=1:w:{file}")]).start();
        let agent = up.pid("up");
        // bookend records the session after it tried to pass on the event that names it.
        eventually(world.deadline(), "the session", || world.row().text("session_id") == ID);
        if ends_first {
            eventually(world.deadline(), "the agent to exit", || state(agent).is_none());
            assert_eq!(world.row().text("status"), "running", "its output is not written yet");
        }
        assert_eq!(fs::metadata(&file).expect("the file").len(), 0);
        clear(&disk);
        go.write_line("on");
        process.wait().ended(End::Code(0)).silent();
        assert_eq!(world.row().ending(), "success/");
        assert_eq!(fs::read_to_string(&file).expect("the file").lines().count(), 11);
    }
}

#[test]
fn the_agent_waits_while_stdout_and_tmpdir_are_full() {
    let test = "the_agent_waits_while_stdout_and_tmpdir_are_full";
    let Some(world) = World::of_bookend(test) else { return };
    let Some(disk) = full_disk(&world, test, "16m") else { return };
    let mut up = world.fifo("up");
    let bulk = "{\"type\":\"user\",\"text\":\"0123456789\"}\n".repeat(100_000);
    fs::write(world.path("home/bulk"), &bulk).expect("the bulk");
    world.stand_in("claude", &format!("echo up $$ >../up; cat bulk; result {ID} 0.5; exit 0"));
    let file = world.name("disk/out");
    let run = world.run(STREAM).env("TMPDIR", world.path("disk"));
    let process = run.with([format!("open=1:w:{file}")]).start();
    wait_until_blocked(&world, up.pid("up"));
    clear(&disk);
    process.wait().ended(End::Code(0)).silent();
    assert_eq!(world.row().ending(), "success/");
    let written = fs::read_to_string(&file).expect("the file");
    assert!(written.starts_with(&bulk) && written.lines().count() == 100_001, "{} bytes", written.len());
}

/// RLIMIT_FSIZE: the write that crosses it ends with EFBIG, and the kernel sends SIGXFSZ, setrlimit(2).
#[test]
fn output_beyond_a_file_size_limit_is_a_failure_without_sigxfsz() {
    let Some(world) = World::of_bookend("output_beyond_a_file_size_limit_is_a_failure_without_sigxfsz")
    else {
        return;
    };
    const LIMIT: u64 = 64 << 20;
    let file = world.name("home/out");
    File::create(&file).expect("the file").set_len(LIMIT - 10).expect("its length");
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script =
        format!("echo up $$ >../up; init {ID}; echo written >../up; read x <../go; result {ID} 0.5; exit 0");
    world.stand_in("claude", &script);
    let specs = [format!("open=1:a:{file}"), format!("rlimit=1:{LIMIT}:{LIMIT}")];
    let process = world.run(STREAM).with(specs).start();
    let pipe = pipe_of(up.pid("up")).expect("the agent's stdout");
    assert_eq!(up.line(), "written");
    eventually(world.deadline(), "bookend to read it", || is_drained(&pipe));
    drop(pipe);
    go.write_line("on");
    let output = process.wait().ended(End::Code(74));
    let row = world.row();
    assert_eq!((row.ending().as_str(), row.number("exit_code")), ("failure/output", Some(0)));
    let lost = "365 bytes of the agent's output could not be written to stdout: EFBIG: File too large";
    assert_eq!(row.text("error"), lost);
    assert!(output.stderr.contains("could not be written to stdout: EFBIG"), "{output:?}");
    assert_eq!(fs::metadata(&file).expect("the file").len(), LIMIT, "the bytes below the limit were written");
}

#[test]
fn a_full_backlog_blocks_the_agent_and_pauses_the_idle_timeout() {
    let Some(world) = World::of_bookend("a_full_backlog_blocks_the_agent_and_pauses_the_idle_timeout") else {
        return;
    };
    let mut up = world.fifo("up");
    let bulk = "{\"type\":\"user\",\"text\":\"0123456789\"}\n".repeat(250_000);
    fs::write(world.path("home/bulk"), &bulk).expect("the bulk");
    world.stand_in("claude", &format!("echo up $$ >../up; cat bulk; result {ID} 0.5; exit 0"));
    let options = ["--backlog", "2MiB", "--idle-timeout", "5s", "--grace", "200ms"];
    let process: Proc = world.run(STREAM).options(options).start();
    let agent = up.pid("up");
    wait_until_blocked(&world, agent);
    // Longer than the idle timeout.
    pause(Duration::from_secs(7));
    wait_until_blocked(&world, agent);
    let spilled = open_files(process.pid()).into_iter().filter(|f| f.ends_with(" (deleted)")).count();
    assert_eq!((spilled, world.row().text("status")), (1, "running".to_owned()));
    let output = process.wait().ended(End::Code(0)).silent();
    assert!(output.stdout.starts_with(&bulk) && output.stdout.lines().count() == 250_001);
    assert_eq!(world.row().ending(), "success/");
}

/// Other processes may append between two writes of bookend, so each write consists of whole lines.
#[test]
fn a_shared_log_receives_only_complete_lines() {
    let Some(world) = World::of_bookend("a_shared_log_receives_only_complete_lines") else { return };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    world.stand_in(
        "claude",
        &format!(
            "echo up $$ >../up\nwhile read word; do printf '{{\"type\":\"us'; echo written >../up\n\
             read word; echo 'er\"}}'; echo written >../up; [ $word = last ] && break; done <../go\n\
             printf '{{\"type\":\"user\"'; echo written >../up; read word <../go; echo '}}'\n\
             result {ID} 0.5; printf 'the end'"
        ),
    );
    let file = world.name("home/log");
    let read = || fs::read_to_string(&file).expect("the log");
    let process = world.run(STREAM).with([format!("open=1:a:{file}")]).start();
    let pipe = pipe_of(up.pid("up")).expect("the agent's stdout");
    let mut expected = String::new();
    // bookend holds an incomplete line for one second. A slower check proves nothing and is repeated.
    for is_seen in std::iter::repeat_with(|| {
        let began = Instant::now();
        go.write_line("half");
        assert_eq!(up.line(), "written");
        eventually(world.deadline(), "bookend to read it", || is_drained(&pipe));
        let log = read();
        let is_seen = began.elapsed() < Duration::from_secs(1);
        if is_seen {
            assert_eq!(log, expected, "an incomplete line is not written");
            File::options()
                .append(true)
                .open(&file)
                .and_then(|mut f| f.write_all(b"another's\n"))
                .expect("an appended line");
            expected.push_str("another's\n");
        }
        go.write_line(if is_seen { "last" } else { "again" });
        assert_eq!(up.line(), "written");
        expected.push_str("{\"type\":\"user\"}\n");
        eventually(world.deadline(), "the whole line", || read() == expected);
        is_seen
    }) {
        if is_seen {
            break;
        }
    }
    assert_eq!(up.line(), "written");
    expected.push_str("{\"type\":\"user\"");
    eventually(world.deadline(), "a line without its newline, after a second", || read() == expected);
    go.write_line("on");
    process.wait().ended(End::Code(0)).silent();
    let log = read();
    assert!(log.starts_with(&format!("{expected}}}\n")) && log.ends_with("}\nthe end"), "{log}");
}
