//! Each task has its own cgroup if one was delegated, and none otherwise.

use serde_json::Value;

use crate::machine::{CommandOutput, Machine};

const LEDGER: &str = "/srv/state/bookend/bookend.db";

/// Runs a script as a separate unit and waits for its end.
fn unit(m: &Machine, delegate: &str, script: &str) -> String {
    let output = m.exec(&[
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--setenv=XDG_STATE_HOME=/srv/state",
        "-p",
        delegate,
        "-p",
        "TimeoutStopSec=20",
        "sh",
        "-euc",
        script,
    ]);
    assert_eq!(output.code, Some(0), "{script}\n{}{}", output.out, output.err);
    output.out
}

fn row(m: &Machine) -> Value {
    let mut rows = m.rows_of("root", LEDGER);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows.remove(0)
}

#[test]
fn a_task_has_its_own_cgroup_which_accounts_its_cpu_time() {
    let Some(m) = Machine::new("a_task_has_its_own_cgroup_which_accounts_its_cpu_time") else { return };
    // It uses CPU time in a child that no process waits for.
    let agent = "grep ^0: /proc/self/cgroup; grep ^0: /proc/$PPID/cgroup; \
                 (setsid sh -c 'n=0; while [ $n -lt 300000 ]; do n=$((n + 1)); done; touch /tmp/done' &) ; \
                 until test -e /tmp/done; do sleep 0.05; done";
    let output = unit(&m, "Delegate=yes", &format!("exec bookend run -- sh -c {}", quoted(agent)));
    let row = row(&m);
    assert_eq!(row["status"], "success", "{row:#}");
    let cgroup = row["cgroup"].as_str().expect("a cgroup");
    let (parent, own) = cgroup.rsplit_once('/').expect("a path");
    assert!(own.starts_with(&format!("task-{}-", row["id"].as_str().expect("an id"))), "{cgroup}");
    let seen: Vec<&str> = output.lines().collect();
    assert_eq!(seen[0], format!("0::{cgroup}"));
    assert_eq!(seen[1], format!("0::{parent}/supervisor"));
    assert!(row["cpu_ms"].as_i64() >= Some(100), "the CPU time of the child counts: {row:#}");
}

#[test]
fn processes_that_fork_faster_than_a_scan_end_with_their_cgroup() {
    let Some(m) = Machine::new("processes_that_fork_faster_than_a_scan_end_with_their_cgroup") else {
        return;
    };
    m.program("hopper", "#!/bin/sh\ntrap '' TERM\nexec 0</dev/null >/dev/null 2>&1\n\"$0\" &\n");
    let script = "bookend run --leftovers end --grace 1s -- sh -c 'env -i setsid /usr/local/bin/hopper'; \
                  test ! -s /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/task-*/cgroup.procs 2>&1; \
                  if pgrep -r D,R,S,T hopper; then exit 9; fi";
    unit(&m, "Delegate=yes", script);
    assert_eq!(row(&m)["status"], "success");
}

#[test]
fn recovery_finds_unmarked_processes_in_the_cgroup() {
    let Some(m) = Machine::new("recovery_finds_unmarked_processes_in_the_cgroup") else { return };
    m.program("unmarked", "#!/bin/sh\nexec sleep 1000\n");
    m.sh("systemd-run --quiet --unit=host --setenv=XDG_STATE_HOME=/srv/state -p Delegate=yes sh -c \
          'bookend run --id lost -- sh -c \"env -i setsid /usr/local/bin/unmarked & exec sleep 1001\"; \
           sleep 1002'");
    m.until("pgrep -f 'sleep 1000' && pgrep -f 'sleep 1001'");
    let supervisor = row(&m)["supervisor_pid"].as_i64().expect("a pid");
    m.sh(&format!("kill -KILL {supervisor}"));
    m.until("! pgrep -f '^sleep 1001'");
    assert!(m.holds("pgrep -f '^sleep 1000'"), "the unmarked process outlives both");
    let output = m.sh("export XDG_STATE_HOME=/srv/state; bookend recover");
    assert!(!m.holds("pgrep -f '^sleep 1000'"), "{output}");
    assert!(m.holds("pgrep -f '^sleep 1002'"), "a process beside the task still runs");
    let row = row(&m);
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"supervisor_lost".into()));
    assert!(!m.holds("ls -d /sys/fs/cgroup/system.slice/host.service/task-lost-*"), "the cgroup is removed");
}

/// An id is unique only within its ledger.
#[test]
fn tasks_with_the_same_id_in_two_ledgers_do_not_share_a_cgroup() {
    let Some(m) = Machine::new("tasks_with_the_same_id_in_two_ledgers_do_not_share_a_cgroup") else { return };
    let agent = "env -i setsid sleep 1001 & exec sleep 1002";
    let script = format!(
        "mkdir -m 700 -p /srv/a
         bookend --ledger /srv/a/l.db run --id same -- sh -c {} &
         until pgrep -f '^sleep 1001' && pgrep -f '^sleep 1002'; do sleep 0.05; done
         bookend run --id same --grace 1s -- sh -c 'env -i setsid sleep 1003 & exit 3' || test $? = 3
         ! pgrep -f '^sleep 1003'; pgrep -f '^sleep 1001'; pgrep -f '^sleep 1002'; kill $!",
        quoted(agent)
    );
    unit(&m, "Delegate=yes", &script);
    let row = row(&m);
    assert_eq!((&row["status"], &row["reason"]), (&"failure".into(), &"exit".into()), "{row:#}");
}

/// The caller may not signal the agent, but the owner of the cgroup may kill everything in it.
#[test]
fn an_agent_that_became_another_user_ends_with_its_cgroup() {
    let Some(m) = Machine::new("an_agent_that_became_another_user_ends_with_its_cgroup") else { return };
    let probe = std::path::Path::new(env!("CARGO_BIN_EXE_bookend")).with_file_name("examples").join("probe");
    std::fs::copy(probe, m.file("/usr/local/bin/raised")).expect("a program in the machine");
    m.sh("chmod 4755 /usr/local/bin/raised; install -d -o bookend -m 700 /srv/state");
    let agent = "bookend run --timeout 1s --grace 1s -- raised with uid=0 -- sleep 1000 || test $? = 124";
    let output = as_user(&m, agent);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.err.contains("could not send SIGKILL"), "the agent belongs to root: {output:?}");
    assert!(!m.holds("pgrep -f '^sleep 1000'"), "the process has ended");
    let row = row(&m);
    assert_eq!((&row["status"], &row["reason"]), (&"cancelled".into(), &"timeout".into()), "{row:#}");
    assert_eq!((&row["term_signal"], &row["error"]), (&9.into(), &Value::Null), "{row:#}");

    let left = "bookend run --grace 1s -- sh -c 'raised with uid=0 setsid -- sleep 1000 & \
                until pgrep -f \"^sleep 1000\"; do sleep 0.05; done; exit 3' || test $? = 3";
    let output = as_user(&m, left);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!m.holds("pgrep -f '^sleep 1000'"), "the process has ended");
    let rows = m.rows_of("root", LEDGER);
    let left = &rows[0]["leftovers"];
    assert_eq!((&left["found"], &left["ended"]), (&1.into(), &1.into()), "{rows:#?}");
}

/// Runs a script as a unit of the user `bookend`, with a cgroup delegated to it.
fn as_user(m: &Machine, script: &str) -> CommandOutput {
    m.exec(&[
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--uid=bookend",
        "--setenv=XDG_STATE_HOME=/srv/state",
        "-p",
        "Delegate=yes",
        "sh",
        "-euc",
        script,
    ])
}

#[test]
fn without_delegation_no_cgroup_is_created_and_no_process_moved() {
    let Some(m) = Machine::new("without_delegation_no_cgroup_is_created_and_no_process_moved") else {
        return;
    };
    let script = "own=$(sed -n 's/^0:://p' /proc/self/cgroup); \
                  bookend run -- sh -c 'grep ^0: /proc/self/cgroup; grep ^0: /proc/$PPID/cgroup'; \
                  find /sys/fs/cgroup$own -mindepth 1 -type d; echo 0::$own";
    let output = unit(&m, "Delegate=no", script);
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines.len() == 3 && lines.iter().all(|l| *l == lines[0]), "{output}");
    assert_eq!(row(&m)["cgroup"].as_str(), lines[0].strip_prefix("0::"));
}

fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', r"'\''"))
}
