//! The agent inherits everything from the caller: its report is compared with that of the same command
//! without bookend.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::Value;

use crate::harness::{Cmd, End, World, Wrapper, is_root};

fn hex(s: &str) -> String {
    s.bytes().map(|b| format!("{b:02x}")).collect()
}

/// The agent's report without process ids and inodes of pipes, which differ between runs.
fn report(world: &World, command: Cmd<'_>, file: &str, code: i32) -> Value {
    let output = command.run();
    assert_eq!(output.end, End::Code(code), "{output:?}");
    let text = fs::read_to_string(world.path(file)).expect("a report");
    let mut report: Value = serde_json::from_str(&text).expect("JSON");
    for name in ["pid", "ppid"] {
        report["process"][name] = Value::Null;
    }
    for fd in report["descriptors"].as_array_mut().expect("descriptors") {
        let target = fd["target"].as_str().expect("a target");
        if let Some(colon) = target.find(":[") {
            fd["target"] = target[..colon].into();
        }
    }
    report
}

/// Removes the two variables that bookend adds from the report and returns them.
fn take_added(report: &mut Value) -> Vec<String> {
    let all = report["environ"].as_array_mut().expect("environ");
    let is_added = |entry: &Value| {
        let entry = entry.as_str().expect("hex");
        entry.starts_with(&hex("BOOKEND_TASK_ID=")) || entry.starts_with(&hex("BOOKEND_LEDGER="))
    };
    let added =
        all.iter().filter(|e| is_added(e)).map(|e| e.as_str().unwrap_or_default().to_owned()).collect();
    all.retain(|e| !is_added(e));
    added
}

/// Compares the reports without and with bookend in the environment that `specs` set up.
fn assert_same(specs: &[&str]) {
    assert_same_os(&specs.iter().map(OsString::from).collect::<Vec<_>>());
}

fn assert_same_os(specs: &[OsString]) {
    let world = World::new();
    let file = world.name("report");
    let argv = ["probe", "report", &file];
    let bare = report(&world, world.bare(argv).with(specs), "report", 0);
    fs::remove_file(world.path("report")).expect("the report");
    let mut wrapped = report(&world, world.run(argv).with(specs), "report", 0);
    let added = take_added(&mut wrapped);
    let expected = if world.wrapper == Wrapper::Bookend { 2 } else { 0 };
    assert_eq!(added.len(), expected, "{specs:?}: added variables {added:?}");
    for (name, value) in bare.as_object().expect("an object") {
        assert_eq!(&wrapped[name], value, "{specs:?}: {name} differs from that of the bare command");
    }
}

#[test]
fn a_plain_environment_is_inherited() {
    assert_same(&["dup=2:2"]);
}

#[test]
fn blocked_signals_stay_blocked() {
    assert_same(&["mask=10"]);
    assert_same(&["mask=1,2,3,15,17,20,32,33,34,64"]);
}

#[test]
fn ignored_signals_stay_ignored() {
    for signal in ["1", "2,3", "13", "15", "17", "18", "20,21,22", "34,64"] {
        assert_same(&[&format!("ignore={signal}")]);
    }
}

#[test]
fn the_action_of_sigpipe_is_inherited() {
    assert_same(&["default=13"]);
    assert_same(&["ignore=13"]);
}

#[test]
fn closed_standard_descriptors_stay_closed() {
    for fds in ["0", "1", "2", "0,1", "0,2", "1,2", "0,1,2"] {
        assert_same(&[&format!("close={fds}")]);
    }
}

#[test]
fn other_descriptors_are_inherited_and_none_is_added() {
    assert_same(&[
        "open=3:r:/dev/null",
        "open=5:w:/dev/null",
        "open=9:rw:/dev/zero",
        "open=200:r:/proc/version",
    ]);
    assert_same(&["pipe=3:4", "close=2"]);
    assert_same(&["open=0:rw:/dev/null", "open=1:r:/dev/null", "open=2:w:/dev/full"]);
}

/// With capture, the agent's stdout is one end of a pipe; it gets no other descriptor.
#[test]
fn a_captured_agent_gets_no_additional_descriptor() {
    let world = World::new();
    let file = world.name("report");
    world.program("claude", &format!("#!/bin/sh\nexec probe report {file}\n"));
    let agent = ["claude", "-p", "--output-format", "json", "x"];
    let numbers = |command: Cmd<'_>| -> Vec<Option<i64>> {
        let report = report(&world, command, "report", 0);
        report["descriptors"].as_array().expect("descriptors").iter().map(|fd| fd["fd"].as_i64()).collect()
    };
    let bare = numbers(world.bare(agent).with(["open=5:w:/dev/null"]));
    assert_eq!(numbers(world.run(agent).with(["open=5:w:/dev/null"])), bare);
}

#[test]
fn limits_umask_and_nice_are_inherited() {
    assert_same(&["umask=000"]);
    assert_same(&["umask=077", "nice=5"]);
    assert_same(&["rlimit=7:40:64", "rlimit=4:0:0", "rlimit=1:1000000000:2000000000"]);
    assert_same(&["rlimit=3:1048576:2097152", "timerslack=70000"]);
}

#[test]
fn the_working_directory_is_inherited() {
    assert_same(&["cwd=/"]);
    assert_same(&["cwd=/usr"]);
}

#[test]
fn environment_entries_of_any_bytes_are_inherited() {
    let raw = |b: &[u8]| OsString::from_vec([b"env=", b].concat());
    assert_same_os(&[
        raw(b"TWICE=1"),
        raw(b"TWICE=2"),
        raw(b"no equals sign"),
        raw(b"=starts with it"),
        raw(b""),
        raw(b"BYTES=\xff\xfe\x80"),
        raw(b"LD_PRELOAD="),
        raw(b"BOOKEND=of the user"),
        raw(b"BOOKENDS_NOT=ours"),
    ]);
}

#[test]
fn arguments_of_any_bytes_are_passed_unchanged() {
    let world = World::new();
    let file = world.name("report");
    let strange: [&[u8]; 8] = [b"", b"\xff\xfe", b"--", b"-v", b"--key", b"a b", b"--help", b"\n"];
    let argv = || {
        ["probe", "report", &file]
            .map(OsString::from)
            .into_iter()
            .chain(strange.map(|a| OsStr::from_bytes(a).to_owned()))
            .collect::<Vec<_>>()
    };
    let bare = report(&world, world.bare(argv()), "report", 0);
    let wrapped = report(&world, world.run(argv()), "report", 0);
    assert_eq!(wrapped["argv"], bare["argv"]);
}

#[test]
fn a_command_without_the_double_dash_is_passed_unchanged() {
    let Some(world) = World::of_bookend("a_command_without_the_double_dash_is_passed_unchanged") else {
        return;
    };
    let file = world.name("report");
    let agent = ["probe", "report", &file, "-v", "--key", "--", "x"];
    let bare = report(&world, world.bare(agent), "report", 0);
    let wrapped = report(&world, world.bare(["bookend", "run"].into_iter().chain(agent)), "report", 0);
    assert_eq!(wrapped["argv"], bare["argv"]);
}

#[test]
fn the_oom_score_adjustment_is_inherited() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let file = world.name("report");
    let mut seen = Vec::new();
    for wrapped in ["", "$W"] {
        let line = format!("echo 123 >/proc/self/oom_score_adj && exec {wrapped} probe report {file}");
        let shell = world.bare(["sh", "-c", &line]);
        seen.push(report(&world, shell, "report", 0)["files"].clone());
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn option_variables_are_removed_and_two_variables_are_added() {
    let Some(world) = World::of_bookend("option_variables_are_removed_and_two_variables_are_added") else {
        return;
    };
    let file = world.name("report");
    let command = world
        .run(["probe", "report", &file])
        .env("BOOKEND_KEY", "forgejo:dev:charles/claude-hooks:1104")
        .env("BOOKEND_GRACE", "3s")
        .env("BOOKEND_LEFTOVERS", "leave")
        .env("BOOKEND_TASK_ID", "outer")
        .env("BOOKEND_LEDGER", world.path("other.db"));
    let seen = report(&world, command, "report", 0);
    let ours: Vec<String> = seen["environ"]
        .as_array()
        .expect("environ")
        .iter()
        .filter_map(Value::as_str)
        .filter(|e| e.starts_with(&hex("BOOKEND_")))
        .map(str::to_owned)
        .collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    let ledger = hex(&format!("BOOKEND_LEDGER={}", world.name("other.db")));
    assert!(ours.contains(&ledger), "{ours:?}");
    assert!(ours.iter().any(|e| e.starts_with(&hex("BOOKEND_TASK_ID="))));
    assert!(!ours.contains(&hex("BOOKEND_TASK_ID=outer")));
}

#[test]
fn the_mark_is_the_row_id_and_the_absolute_ledger_path() {
    let Some(world) = World::of_bookend("the_mark_is_the_row_id_and_the_absolute_ledger_path") else {
        return;
    };
    let command =
        world.run_sh("echo $BOOKEND_TASK_ID; echo $BOOKEND_LEDGER; echo $$").options(["--ledger", "here.db"]);
    let output = command.run().ended(End::Code(0));
    let printed: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(printed[1], world.name("home/here.db"));
    let rows = world.sql_of("home/here.db", "SELECT * FROM task_history");
    assert_eq!(rows[0].text("id"), printed[0]);
    assert_eq!(rows[0].text("agent_pid"), printed[2]);
}

#[test]
fn a_socket_passed_by_systemd_reaches_the_agent() {
    let world = World::new();
    let script =
        "test \"$LISTEN_PID\" = $$ && test \"$LISTEN_FDS\" = 1 && read -r x <&3 && test \"$x\" = hello";
    fs::write(world.path("socket"), "hello\n").expect("a stand-in for a socket");
    let open = format!("open=3:r:{}", world.name("socket"));
    world.run_sh(script).with([open.as_str(), "listen-pid"]).run().ended(End::Code(0)).silent();
}

/// It identifies bookend, so an agent that checks it would ignore the sockets.
#[test]
fn a_listen_pidfd_of_bookend_is_removed() {
    let Some(world) = World::of_bookend("a_listen_pidfd_of_bookend_is_removed") else {
        return;
    };
    let output =
        world.run_sh("echo ${LISTEN_PIDFDID-none}").with(["listen-pid", "env=LISTEN_PIDFDID=7"]).run();
    assert_eq!(output.ended(End::Code(0)).stdout, "none\n");
}

#[test]
fn a_listen_pid_of_another_process_is_unchanged() {
    let world = World::new();
    let output = world.run_sh("echo $LISTEN_PID").env("LISTEN_PID", "1").env("LISTEN_FDS", "1").run();
    assert_eq!(output.ended(End::Code(0)).stdout, "1\n");
}

/// sd_watchdog_enabled(3) and systemd.exec(5): a program acts on them only if they contain its own pid.
#[test]
fn watchdog_pid_and_systemd_exec_pid_name_the_agent() {
    let world = World::new();
    let script = "echo $$ $LISTEN_PID $WATCHDOG_PID $SYSTEMD_EXEC_PID $WATCHDOG_USEC";
    let specs = ["own-pid=SYSTEMD_EXEC_PID", "listen-pid", "own-pid=WATCHDOG_PID", "env=WATCHDOG_USEC=7"];
    let output = world.run_sh(script).with(specs).run().ended(End::Code(0)).silent();
    let printed: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(printed, [printed[0], printed[0], printed[0], printed[0], "7"]);
}

#[test]
fn watchdog_pid_and_systemd_exec_pid_of_another_process_are_unchanged() {
    let world = World::new();
    let script = "echo $WATCHDOG_PID $SYSTEMD_EXEC_PID $MY_WATCHDOG_PID";
    let specs = ["env=WATCHDOG_PID=1", "env=SYSTEMD_EXEC_PID=0000000000", "own-pid=MY_WATCHDOG_PID"];
    let process = world.run_sh(script).with(specs).start();
    let (pid, output) = (process.pid(), process.wait().ended(End::Code(0)).silent());
    assert_eq!(output.stdout, format!("1 0000000000 {pid}\n"));
}

#[test]
fn the_agent_is_in_the_group_and_session_of_the_caller() {
    let world = World::new();
    let mut out = world.fifo("out");
    let script = format!("cut -d' ' -f5,6 /proc/self/stat >{}", out.path());
    let agent = world.run_sh(&script).own_group().start();
    let line = out.line();
    let group: i32 = line.split(' ').next().and_then(|g| g.parse().ok()).expect("a group");
    assert_eq!(group, agent.pid());
    agent.wait().ended(End::Code(0));
}

#[test]
fn an_alarm_set_before_exec_reaches_the_agent() {
    let world = World::new();
    let mut out = world.fifo("out");
    let agent = world.run(["probe", "count", &out.path()]).with(["alarm=1"]).start();
    let pid = out.pid("ready");
    assert!(out.line().starts_with("14 "), "SIGALRM");
    world.send(pid, ["64:1000"]);
    agent.wait().ended(End::Code(0));
}
