//! The monitor as a service: when it is ready, how systemd restarts it, and what a stop leaves alone.

use serde_json::Value;

use crate::machine::{LEDGER, Machine};
use crate::units::reports;

const WORK: &str = "claude -p work --output-format stream-json --verbose";
const UNIT: &str = "bookend-monitor";

/// A machine whose agent units do not recover by themselves, so that only the monitor can.
fn machine(test: &str) -> Option<Machine> {
    let m = Machine::new(test)?;
    m.write("/etc/systemd/system/bookend@.service.d/no.conf", "[Service]\nExecStopPost=\n");
    m.sh("systemctl daemon-reload");
    Some(m)
}

/// A property of the monitor's unit.
fn property(m: &Machine, name: &str) -> String {
    m.sh(&format!("systemctl show -P {name} {UNIT}")).trim().to_owned()
}

/// Writes settings of the monitor's unit.
fn set(m: &Machine, settings: &str) {
    m.write("/etc/systemd/system/bookend-monitor.service.d/test.conf", &format!("[Service]\n{settings}\n"));
    m.sh("systemctl daemon-reload");
}

/// Starts the task `one`, which works until it is stopped, and returns its row.
fn working(m: &Machine) -> Value {
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.row()
}

/// Waits until the row has this status.
fn until_status(m: &Machine, id: &Value, status: &str) {
    let id = id.as_str().expect("an id");
    let show = format!("runuser -u bookend -- bookend --ledger {LEDGER} show {id} --json");
    m.until(&format!("{show} | grep -q '\"to_status\": *\"{status}\"'"));
}

/// The transitions of a task, oldest first, as `STATUS by COMMAND`.
fn transitions(m: &Machine, id: &Value) -> Vec<String> {
    let id = id.as_str().expect("an id");
    let page = m.sh(&format!("runuser -u bookend -- bookend --ledger {LEDGER} show {id} --json"));
    let page: Value = serde_json::from_str(&page).expect("JSON");
    let said = |t: &Value| {
        let word = |name: &str| t[name].as_str().expect("a text").to_owned();
        format!("{} by {}", word("to_status"), word("by_command"))
    };
    page["transitions"].as_array().expect("an array").iter().map(said).collect()
}

#[test]
fn the_monitor_is_ready_when_lost_tasks_are_settled_and_before_their_hooks_have_run() {
    let test = "the_monitor_is_ready_when_lost_tasks_are_settled_and_before_their_hooks_have_run";
    let Some(m) = machine(test) else { return };
    // A tool of the agent that ignores SIGTERM runs until the grace of the monitor has passed.
    m.program("stubborn", "#!/bin/sh\ntrap '' TERM\ntouch /run/stubborn/up\nwhile :; do sleep 1; done\n");
    m.sh("install -d -o bookend /run/stubborn");
    let hook = "while ! [ -e /run/stubborn/go ]; do sleep 0.1; done; env >/run/stubborn/hook-ran";
    m.task("one", "stubborn", &format!("BOOKEND_ON_FINISH=\"{hook}\""));
    m.write("/etc/systemd/system/bookend@.service.d/keep.conf", "[Service]\nKillMode=process\n");
    // The first recovery takes longer than a start may, and asks for more time.
    let settings = "ReadWritePaths=/run/stubborn\nEnvironment=BOOKEND_GRACE=4s\nTimeoutStartSec=2s";
    set(&m, &format!("{settings}\nWatchdogSec=20s"));
    m.sh("systemctl start bookend@one");
    m.until("test -e /run/stubborn/up");
    let row = m.row();
    m.sh("systemctl kill -s KILL --kill-who=main bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");

    m.sh(&format!("systemctl start --no-block {UNIT}"));
    m.until(&format!("systemctl show -P ActiveState {UNIT} | grep -qx activating"));
    assert_eq!(m.row()["status"], "running", "its process has not ended");
    m.until(&format!("systemctl is-active -q {UNIT}"));
    let settled = m.row();
    assert_eq!((&settled["id"], &settled["status"]), (&row["id"], &"interrupted".into()), "{settled:#}");
    assert!(!m.holds("pgrep stubborn"), "no process is left");
    assert!(!m.holds("test -e /run/stubborn/hook-ran"), "no agent waits for a hook");
    let status = property(&m, "StatusText");
    assert!(status.contains(LEDGER), "{status}");
    m.sh("touch /run/stubborn/go");
    m.until("grep -q ^BOOKEND_FINISHED_STATUS=interrupted /run/stubborn/hook-ran");
    let environment = m.sh("cat /run/stubborn/hook-ran");
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!environment.contains(variable), "a hook is not the monitor: {environment}");
    }
    m.sh(&format!("systemctl stop {UNIT}"));
}

#[test]
fn systemd_restarts_a_monitor_that_hangs_and_leaves_one_alone_that_works() {
    let test = "systemd_restarts_a_monitor_that_hangs_and_leaves_one_alone_that_works";
    let Some(m) = machine(test) else { return };
    set(&m, "WatchdogSec=4s\nRestartSec=100ms");
    m.sh(&format!("systemctl start {UNIT}"));
    let pid = property(&m, "MainPID");
    for _ in 0..3 {
        let fed = property(&m, "WatchdogTimestampMonotonic");
        m.until(&format!("[ $(systemctl show -P WatchdogTimestampMonotonic {UNIT}) -gt {fed} ]"));
    }
    assert_eq!((property(&m, "NRestarts"), property(&m, "MainPID")), ("0".to_owned(), pid.clone()));
    m.sh(&format!("kill -STOP {pid}"));
    m.until(&format!("systemctl is-active -q {UNIT} && [ $(systemctl show -P NRestarts {UNIT}) = 1 ]"));
    assert_ne!(property(&m, "MainPID"), pid);
    let row = working(&m);
    m.sh("systemctl kill -s KILL bookend@one");
    until_status(&m, &row["id"], "interrupted");
    assert_eq!(property(&m, "NRestarts"), "1");
}

#[test]
fn a_monitor_that_was_killed_starts_again_and_settles_what_it_missed() {
    let Some(m) = machine("a_monitor_that_was_killed_starts_again_and_settles_what_it_missed") else {
        return;
    };
    set(&m, "RestartSec=3s");
    m.sh(&format!("systemctl start {UNIT}"));
    let row = working(&m);
    m.sh(&format!("systemctl kill -s KILL {UNIT}"));
    m.until(&format!("systemctl show -P SubState {UNIT} | grep -qx auto-restart"));
    m.sh("systemctl kill -s KILL bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    until_status(&m, &row["id"], "interrupted");
    assert_eq!(property(&m, "NRestarts"), "1");
    assert_eq!(m.row()["reason"], "supervisor_lost");
    m.until(&format!("systemctl is-active -q {UNIT}"));
    assert_eq!(reports(&m, row["id"].as_str().expect("an id")).len(), 1);
}

#[test]
fn a_second_monitor_exits_with_75_and_is_not_started_again() {
    let Some(m) = machine("a_second_monitor_exits_with_75_and_is_not_started_again") else { return };
    m.sh(&format!(
        "systemd-run --quiet --unit=by-hand --uid=bookend --property=Type=notify \
         bookend --ledger {LEDGER} monitor"
    ));
    assert!(!m.holds(&format!("systemctl start {UNIT}")));
    assert_eq!(property(&m, "ExecMainStatus"), "75");
    assert_eq!((property(&m, "SubState"), property(&m, "NRestarts")), ("failed".to_owned(), "0".to_owned()));
    assert!(m.holds("systemctl is-active -q by-hand"));
    // An agent needs no monitor of systemd's.
    working(&m);
    m.sh(&format!("systemctl stop by-hand; systemctl start {UNIT}"));
}

#[test]
fn stopping_the_monitor_touches_no_task() {
    let Some(m) = machine("stopping_the_monitor_touches_no_task") else { return };
    m.sh(&format!("systemctl start {UNIT}"));
    let running = working(&m);
    // A task that a hook has started in the monitor's unit.
    m.task("two", WORK, "BOOKEND_ON_FINISH=\"bookend run --key by-hook -- sleep 1000 >/dev/null 2>&1 &\"");
    m.sh("systemctl start bookend@two");
    m.working();
    m.sh("systemctl kill -s KILL bookend@two");
    let by_hook = |m: &Machine| m.rows().into_iter().find(|r| r["key"] == "by-hook");
    m.until(&format!(
        "grep -qs sleep $(sed 's|.*|/proc/&/comm|' /sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs)"
    ));
    m.sh(&format!("systemctl restart {UNIT}"));
    m.sh(&format!("systemctl stop {UNIT}"));
    assert_eq!(property(&m, "Result"), "success");
    let rows = m.rows();
    let now = rows.iter().find(|r| r["id"] == running["id"]).expect("the row");
    assert_eq!((&now["status"], &now["agent_pid"]), (&"running".into(), &running["agent_pid"]), "{now:#}");
    assert!(m.holds("systemctl is-active -q bookend@one"));
    let by_hook = by_hook(&m).expect("the row of the hook's task");
    assert_eq!(by_hook["status"], "running", "{by_hook:#}");
    assert!(m.holds(&format!("kill -0 {}", by_hook["supervisor_pid"])));
    m.sh(&format!("kill {}", by_hook["supervisor_pid"]));
}

#[test]
fn a_killed_supervisor_is_settled_once_by_the_monitor_and_the_recovery_of_its_unit() {
    let test = "a_killed_supervisor_is_settled_once_by_the_monitor_and_the_recovery_of_its_unit";
    let Some(m) = Machine::new(test) else { return };
    m.sh(&format!("systemctl start {UNIT}"));
    let row = working(&m);
    m.sh("systemctl kill -s KILL --kill-who=main bookend@one");
    until_status(&m, &row["id"], "interrupted");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    assert!(!m.holds("pgrep -u bookend claude"), "no process is left");
    assert_eq!(transitions(&m, &row["id"]).len(), 2, "{:?}", transitions(&m, &row["id"]));
    assert_eq!(reports(&m, row["id"].as_str().expect("an id")).len(), 1);

    // Without the recovery of the unit.
    m.write("/etc/systemd/system/bookend@.service.d/no.conf", "[Service]\nExecStopPost=\n");
    m.sh("systemctl daemon-reload; systemctl reset-failed bookend@one; systemctl start bookend@one");
    m.working();
    let row = m.rows().remove(0);
    m.sh("systemctl kill -s KILL --kill-who=main bookend@one");
    until_status(&m, &row["id"], "interrupted");
    assert_eq!(transitions(&m, &row["id"]), ["running by run", "interrupted by monitor"]);
    let settled = m.journal(&[
        "MESSAGE_ID=a3dc6471ea4c48e98f7cd5727872de78",
        &format!("TASK_ID={}", row["id"].as_str().expect("an id")),
    ]);
    assert_eq!(settled.len(), 1, "{settled:#?}");
    assert_eq!(settled[0]["_SYSTEMD_UNIT"], "bookend-monitor.service");
}

#[test]
fn agents_start_where_the_monitor_is_disabled_or_masked_and_do_not_start_it() {
    let test = "agents_start_where_the_monitor_is_disabled_or_masked_and_do_not_start_it";
    let Some(m) = machine(test) else { return };
    for action in ["disable -q", "mask -q"] {
        m.sh(&format!("systemctl {action} {UNIT}"));
        m.task("one", WORK, "");
        m.sh("systemctl start bookend@one");
        m.working();
        assert!(!m.holds(&format!("systemctl is-active -q {UNIT}")), "{action}");
        m.sh("systemctl stop bookend@one");
    }
}

#[test]
fn the_monitor_of_a_user_watches_the_ledger_of_the_user() {
    let Some(m) = Machine::new("the_monitor_of_a_user_watches_the_ledger_of_the_user") else { return };
    let ctl = m.ada();
    m.write("/home/ada/.config/bookend/one.env", &format!("COMMAND=\"{WORK}\"\n"));
    m.write("/home/ada/.config/systemd/user/bookend@.service.d/no.conf", "[Service]\nExecStopPost=\n");
    m.sh(&format!("chown -R ada: /home/ada/.config; {ctl} daemon-reload"));
    m.sh(&format!("{ctl} enable -q --now {UNIT}; {ctl} start bookend@one"));
    m.working();
    let ledger = "/home/ada/.local/state/bookend/bookend.db";
    let status = m.sh(&format!("{ctl} show -P StatusText {UNIT}"));
    assert!(status.contains(ledger), "{status}");
    m.sh(&format!("{ctl} kill -s KILL bookend@one"));
    m.until(&format!("runuser -u ada -- bookend --ledger {ledger} list --jsonl | grep -q supervisor_lost"));
}

#[test]
fn doctor_says_whether_a_monitor_runs_and_how_to_start_it() {
    let Some(m) = Machine::new("doctor_says_whether_a_monitor_runs_and_how_to_start_it") else { return };
    let point = || {
        let page = m.sh("bookend --system doctor");
        let line = page.lines().find(|line| line.split_whitespace().nth(1) == Some("monitor"));
        line.unwrap_or_else(|| panic!("no monitor in {page}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    m.sh("bookend --system recover");
    let none = point();
    let follows = "a lost task waits for the next recovery or run under its key; to start it:";
    let start = "systemctl enable --now bookend-monitor";
    let states = "(bookend-monitor.service is disabled, inactive)";
    assert_eq!(none, format!("- monitor it does not run {states}: {follows} `{start}`"));
    m.sh(none.split('`').nth(1).expect("a command"));
    let states = "(bookend-monitor.service is enabled, active)";
    assert_eq!(point(), format!("ok monitor it runs {states}: lost tasks are settled at once"));
    m.sh(&format!("systemctl stop {UNIT}"));
    let stopped = point();
    assert!(
        stopped.starts_with("warn monitor it does not run (bookend-monitor.service is enabled, "),
        "{stopped}"
    );
    assert!(stopped.ends_with("`systemctl start bookend-monitor`"), "{stopped}");
}

#[test]
fn systemd_gives_up_on_a_monitor_that_may_not_use_its_ledger() {
    let Some(m) = machine("systemd_gives_up_on_a_monitor_that_may_not_use_its_ledger") else { return };
    set(&m, "RestartSec=100ms");
    m.sh(&format!("systemctl start {UNIT}; systemctl stop {UNIT}; chown root {LEDGER}"));
    assert!(!m.holds(&format!("systemctl start {UNIT}")));
    m.until(&format!("systemctl is-failed -q {UNIT} && systemctl show -P SubState {UNIT} | grep -qx failed"));
    assert_eq!(
        (property(&m, "ExecMainStatus"), property(&m, "NRestarts")),
        ("125".to_owned(), "5".to_owned())
    );
}

#[test]
fn at_boot_agents_start_after_the_first_recovery_of_the_monitor() {
    let Some(m) = machine("at_boot_agents_start_after_the_first_recovery_of_the_monitor") else { return };
    m.show_boot_ids();
    set(&m, "ExecStartPre=/bin/sleep 2");
    m.sh(&format!("systemctl disable -q bookend-recover; systemctl enable -q {UNIT} bookend@one"));
    let lost = working(&m);
    m.power_cut_and_boot();
    m.working();
    let at = |unit: &str, event: &str| {
        let text = m.sh(&format!("systemctl show -P {event}TimestampMonotonic {unit}"));
        text.trim().parse::<u64>().expect("microseconds")
    };
    let ready = at(UNIT, "ActiveEnter");
    assert!(at(UNIT, "ExecMainStart") > at("bookend-recover", "ExecMainExit"));
    assert!(ready > 0 && ready < at("bookend@one", "ExecMainStart"), "the agent waits for the monitor");
    let rows = m.rows();
    assert_eq!((&rows[0]["status"], &rows[1]["id"]), (&"running".into(), &lost["id"]), "{rows:#?}");
    assert_eq!((&rows[1]["reason"], &rows[1]["end_source"]), (&"rebooted".into(), &"recovery".into()));
    let id = lost["id"].as_str().expect("an id");
    m.until(&format!(
        "journalctl --sync; journalctl -o cat -q --no-pager | grep '^.recovery' | grep -q {id}"
    ));
    assert_eq!(reports(&m, id).len(), 1);
}

/// A unit that stands for the network: it is stopped when the machine's addresses would go.
const NETWORK: &str = "[Unit]\nWants=network.target\nBefore=network.target\n[Service]\nType=oneshot\n\
    RemainAfterExit=yes\nExecStart=true\nExecStop=/bin/echo the network stops\n\
    [Install]\nWantedBy=multi-user.target\n";

#[test]
fn a_shutdown_stops_agents_then_the_monitor_then_the_network_and_no_boot_waits_for_it() {
    let test = "a_shutdown_stops_agents_then_the_monitor_then_the_network_and_no_boot_waits_for_it";
    let Some(m) = Machine::new(test) else { return };
    m.write("/etc/systemd/system/wires.service", NETWORK);
    // Stops take a moment, so that a wrong order shows.
    set(&m, "ExecStop=/bin/sh -c 'sleep 1; echo the monitor stops'");
    let slow = "[Service]\nExecStopPost=\nExecStopPost=/bin/sh -c 'sleep 1; echo the agent stops'\n";
    m.write("/etc/systemd/system/bookend@.service.d/no.conf", slow);
    m.sh(&format!("systemctl daemon-reload; systemctl enable -q --now wires {UNIT}"));
    working(&m);
    m.shut_down_and_boot();
    let stops = m.sh("journalctl -b -1 -o cat --no-pager -q | grep -E '^the (agent|monitor|network) stops'");
    assert_eq!(stops, "the agent stops\nthe monitor stops\nthe network stops\n");
    assert!(m.holds(&format!("systemctl is-active -q {UNIT}")), "the monitor runs");
    assert!(!m.holds("systemctl is-active -q network-online.target"), "it waits for no network");
}
