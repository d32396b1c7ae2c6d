//! A cgroup of its own for each task, where one was delegated; nothing of the kind elsewhere.

use serde_json::Value;

use crate::machine::Machine;

const LEDGER: &str = "/srv/state/bookend/bookend.db";

/// Runs a script as a unit of its own, to its end.
fn unit(m: &Machine, delegate: &str, script: &str) -> String {
    let said = m.exec(&[
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
    assert_eq!(said.code, Some(0), "{script}\n{}{}", said.out, said.err);
    said.out
}

fn row(m: &Machine) -> Value {
    let mut rows = m.rows_of("root", LEDGER);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows.remove(0)
}

#[test]
fn a_task_has_its_own_cgroup_and_what_it_used_comes_from_there() {
    let Some(m) = Machine::new("a_task_has_its_own_cgroup_and_what_it_used_comes_from_there") else { return };
    // It burns its time in a child that nobody waits for.
    let agent = "grep ^0: /proc/self/cgroup; grep ^0: /proc/$PPID/cgroup; \
                 (setsid sh -c 'n=0; while [ $n -lt 300000 ]; do n=$((n + 1)); done; touch /tmp/burnt' &) ; \
                 until test -e /tmp/burnt; do sleep 0.05; done";
    let said = unit(&m, "Delegate=yes", &format!("exec bookend run -- sh -c {}", quoted(agent)));
    let row = row(&m);
    assert_eq!(row["status"], "success", "{row:#}");
    let cgroup = row["cgroup"].as_str().expect("a cgroup");
    let (around, own) = cgroup.rsplit_once('/').expect("a path");
    assert!(own.starts_with(&format!("task-{}-", row["id"].as_str().expect("an id"))), "{cgroup}");
    let seen: Vec<&str> = said.lines().collect();
    assert_eq!(seen[0], format!("0::{cgroup}"));
    assert_eq!(seen[1], format!("0::{around}/supervisor"));
    assert!(row["cpu_ms"].as_i64() >= Some(100), "the child's time counts: {row:#}");
}

#[test]
fn who_forks_faster_than_he_is_found_ends_with_his_cgroup() {
    let Some(m) = Machine::new("who_forks_faster_than_he_is_found_ends_with_his_cgroup") else { return };
    m.program("hopper", "#!/bin/sh\ntrap '' TERM\nexec 0</dev/null >/dev/null 2>&1\n\"$0\" &\n");
    let script = "bookend run --leftovers end --grace 1s -- sh -c 'env -i setsid /usr/local/bin/hopper'; \
                  test ! -s /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/task-*/cgroup.procs 2>&1; \
                  if pgrep -r D,R,S,T hopper; then exit 9; fi";
    unit(&m, "Delegate=yes", script);
    assert_eq!(row(&m)["status"], "success");
}

#[test]
fn recovery_finds_in_the_cgroup_what_has_shed_its_mark() {
    let Some(m) = Machine::new("recovery_finds_in_the_cgroup_what_has_shed_its_mark") else { return };
    m.program("shy", "#!/bin/sh\nexec sleep 1000\n");
    m.sh("systemd-run --quiet --unit=host --setenv=XDG_STATE_HOME=/srv/state -p Delegate=yes sh -c \
          'bookend run --id lost -- sh -c \"env -i setsid /usr/local/bin/shy & exec sleep 1001\"; \
           sleep 1002'");
    m.until("pgrep -f 'sleep 1000' && pgrep -f 'sleep 1001'");
    let supervisor = row(&m)["supervisor_pid"].as_i64().expect("a pid");
    m.sh(&format!("kill -KILL {supervisor}"));
    m.until("! pgrep -f '^sleep 1001'");
    assert!(m.holds("pgrep -f '^sleep 1000'"), "it has outlived both, without a mark");
    let said = m.sh("export XDG_STATE_HOME=/srv/state; bookend recover");
    assert!(!m.holds("pgrep -f '^sleep 1000'"), "{said}");
    assert!(m.holds("pgrep -f '^sleep 1002'"), "what is beside the task lives");
    let row = row(&m);
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"supervisor_lost".into()));
    assert!(!m.holds("ls -d /sys/fs/cgroup/system.slice/host.service/task-lost-*"), "the cgroup is removed");
}

#[test]
fn without_delegation_nothing_is_made_and_nothing_moved() {
    let Some(m) = Machine::new("without_delegation_nothing_is_made_and_nothing_moved") else { return };
    let script = "own=$(sed -n 's/^0:://p' /proc/self/cgroup); \
                  bookend run -- sh -c 'grep ^0: /proc/self/cgroup; grep ^0: /proc/$PPID/cgroup'; \
                  find /sys/fs/cgroup$own -mindepth 1 -type d; echo 0::$own";
    let said = unit(&m, "Delegate=no", script);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 3 && lines.iter().all(|l| *l == lines[0]), "{said}");
    assert_eq!(row(&m)["cgroup"].as_str(), lines[0].strip_prefix("0::"));
}

fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', r"'\''"))
}
