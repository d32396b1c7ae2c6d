//! The units: how a task ends after a stop, a restart, a kill and a power cut.

use serde_json::Value;

use crate::machine::{LEDGER, Machine};

const WORK: &str = "claude -p work --output-format stream-json --verbose";

#[test]
fn stop_grants_the_grace_period_and_records_systemd_as_the_sender() {
    let Some(m) = Machine::new("stop_grants_the_grace_period_and_records_systemd_as_the_sender") else {
        return;
    };
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    assert_eq!(m.row()["status"], "running");
    m.sh("systemctl stop bookend@one");
    let row = m.row();
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"signal".into()), "{row:#}");
    assert_eq!((row["stop_sender_pid"].as_i64(), row["stop_sender_uid"].as_i64()), (Some(1), Some(0)));
    assert_eq!(row["exit_code"], 143, "the agent exits by itself");
    assert_eq!(row["key"], "systemd:one");
    assert_eq!(row["end_source"], "wait");
    assert!(m.holds("test \"$(systemctl show -P Result bookend@one)\" = success"), "a stop is not a failure");
    assert!(!m.holds("pgrep -u bookend"), "no process is left");
    assert_eq!(
        m.sh("stat -c %a:%U /var/lib/bookend /var/lib/bookend/bookend.db"),
        "700:bookend\n600:bookend\n"
    );
}

#[test]
fn restart_ends_the_task_and_the_next_run_starts_fresh_with_one_report() {
    let Some(m) = Machine::new("restart_ends_the_task_and_the_next_run_starts_fresh_with_one_report") else {
        return;
    };
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.sh("systemctl restart bookend@one");
    m.working();
    let rows = m.rows();
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&"running".into(), &"interrupted".into()));
    let started = m.journal(&["MESSAGE_ID=1f1c8c6eb3504a31843ddd27f093cdf8"]);
    assert_eq!(started.len(), 2);
    assert!(started[1]["MESSAGE"].as_str().is_some_and(|t| t.contains("resume=<none>")), "{started:#?}");
    assert_eq!(rows[0]["resumed_from"], Value::Null);
    assert_ne!(rows[0]["session_id"], rows[1]["session_id"]);
    let interrupted = rows[1]["id"].as_str().expect("an id");
    let reports = reports(&m, interrupted);
    assert_eq!(reports.len(), 1, "{reports:#?}");
    m.sh("systemctl restart bookend-recover");
    assert_eq!(self::reports(&m, interrupted).len(), 1, "the task is reported once");
    assert_eq!(m.journal(&["MESSAGE_ID=323327e934c34dc78ae70bda9f6b5041"]).len(), 1, "the session");
}

#[test]
fn agents_start_before_the_hooks_of_lost_tasks_and_a_restart_recovers_again() {
    let Some(m) = Machine::new("agents_start_before_the_hooks_of_lost_tasks_and_a_restart_recovers_again")
    else {
        return;
    };
    m.show_boot_ids();
    // The hook of a lost task runs until the test creates the file `go`.
    let hook = "while ! [ -e /var/lib/bookend/go ]; do sleep 0.1; done; touch /var/lib/bookend/hook-ran";
    m.task("one", WORK, &format!("BOOKEND_ON_FINISH=\"{hook}\""));
    m.sh("systemctl enable -q bookend@one; systemctl start bookend@one");
    m.working();
    m.power_cut_and_boot();
    m.working();
    let rows = m.rows();
    assert_eq!(
        (&rows[0]["status"], &rows[1]["reason"]),
        (&"running".into(), &"rebooted".into()),
        "{rows:#?}"
    );
    m.until("systemctl show -P ActiveState bookend-report | grep -qx active");
    assert_eq!(rows[1]["hinted_at"], Value::Null, "the report follows");

    // While the hook still runs, another task is lost and its unit started again.
    m.sh("rm -f /tmp/working");
    m.write("/etc/systemd/system/bookend@.service.d/no.conf", "[Service]\nExecStopPost=\n");
    m.sh("systemctl daemon-reload; systemctl kill -s KILL bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    m.sh("systemctl reset-failed bookend@one; systemctl start bookend@one");
    m.working();
    let rows = m.rows();
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&"running".into(), &"interrupted".into()));
    m.sh("touch /var/lib/bookend/go");
    for row in &rows[1..] {
        let id = row["id"].as_str().expect("an id").to_owned();
        let reports = "journalctl --sync; journalctl -o cat --no-pager -q -u bookend-report";
        m.until(&format!("{reports} | grep '^.recovery' | grep -q {id}"));
    }
    assert!(m.holds("test -e /var/lib/bookend/hook-ran"));
}

/// The recovery reports about one task in the journal.
pub fn reports(m: &Machine, task: &str) -> Vec<String> {
    let output = m.sh("journalctl --sync; journalctl -o cat --no-pager -q SYSLOG_IDENTIFIER=bookend");
    output.lines().filter(|l| l.starts_with("[recovery]") && l.contains(task)).map(str::to_owned).collect()
}

#[test]
fn a_killed_supervisor_is_settled_at_once_and_leaves_no_process() {
    let Some(m) = Machine::new("a_killed_supervisor_is_settled_at_once_and_leaves_no_process") else {
        return;
    };
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.sh("systemctl kill -s KILL --kill-who=main bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    let row = m.row();
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"supervisor_lost".into()));
    assert_eq!(
        (&row["exit_code"], &row["finished_at"]),
        (&Value::Null, &Value::Null),
        "unknown values stay NULL"
    );
    assert!(!m.holds("pgrep -u bookend"), "no process is left");
    assert_eq!(reports(&m, row["id"].as_str().expect("an id")).len(), 1);
}

#[test]
fn a_task_killed_with_its_whole_unit_is_settled_before_the_next_start() {
    let Some(m) = Machine::new("a_task_killed_with_its_whole_unit_is_settled_before_the_next_start") else {
        return;
    };
    // As if the unit's own recovery had been killed, too.
    m.write("/etc/systemd/system/bookend@.service.d/no.conf", "[Service]\nExecStopPost=\n");
    m.sh("systemctl daemon-reload");
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.sh("systemctl kill -s KILL bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    assert_eq!(m.row()["status"], "running", "no process is left that could end the row");
    m.sh("systemctl reset-failed bookend@one; systemctl start bookend@one");
    m.working();
    let rows = m.rows();
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&"running".into(), &"interrupted".into()));
    let settled = m.journal(&["MESSAGE_ID=a3dc6471ea4c48e98f7cd5727872de78"]);
    assert_eq!(settled.len(), 1);
    assert_eq!(settled[0]["_SYSTEMD_UNIT"], "bookend-recover.service");
    assert_eq!(settled[0]["TASK_ID"], rows[1]["id"]);
}

#[test]
fn after_a_power_cut_recovery_runs_before_agents_and_nothing_is_resumed() {
    let Some(m) = Machine::new("after_a_power_cut_recovery_runs_before_agents_and_nothing_is_resumed") else {
        return;
    };
    m.show_boot_ids();
    m.task("one", WORK, "BOOKEND_KEY=forgejo:dev:charles/claude-hooks:1104");
    m.sh("systemctl enable -q bookend@one; systemctl start bookend@one");
    m.working();
    let before = m.row();
    m.power_cut_and_boot();
    m.working();
    let rows = m.rows();
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let (now, lost) = (&rows[0], &rows[1]);
    assert_eq!(lost["id"], before["id"]);
    assert_eq!((&lost["status"], &lost["reason"]), (&"interrupted".into(), &"rebooted".into()), "{lost:#}");
    assert_eq!((&lost["finished_at"], &lost["end_source"]), (&Value::Null, &"recovery".into()));
    assert_ne!(lost["boot_id"], now["boot_id"]);
    assert_eq!((&now["status"], &now["resumed_from"]), (&"running".into(), &Value::Null), "{now:#}");
    assert_ne!(now["session_id"], lost["session_id"]);
    let id = lost["id"].as_str().expect("an id");
    assert_eq!(reports(&m, id).len(), 1);
    let settled = m.journal(&["MESSAGE_ID=a3dc6471ea4c48e98f7cd5727872de78", &format!("TASK_ID={id}")]);
    let started = m.journal(&["-b", "MESSAGE_ID=1f1c8c6eb3504a31843ddd27f093cdf8"]);
    let at = |message: &Value| {
        let text = message["__REALTIME_TIMESTAMP"].as_str().expect("a time").to_owned();
        text.parse::<u64>().expect("microseconds")
    };
    assert!(at(&settled[0]) < at(&started[0]), "lost tasks are settled before agents start");
    let session = lost["session_id"].as_str().expect("a session");
    let key = "forgejo:dev:charles/claude-hooks:1104";
    let output = m.exec(&[
        "runuser",
        "-u",
        "bookend",
        "--",
        "bookend",
        "--ledger",
        LEDGER,
        "session",
        "resume-id",
        key,
    ]);
    assert!(!output.out.contains(session), "{output:?}");
}

#[test]
fn the_units_are_valid_and_hardened() {
    let Some(m) = Machine::new("the_units_are_valid_and_hardened") else { return };
    m.task("one", WORK, "");
    let units = "bookend-recover.service bookend-report.service bookend-monitor.service \
                 bookend-monitor.socket bookend@one.service bookend@one.timer bookend-prune.service \
                 bookend-prune.timer";
    let output =
        m.exec(&["sh", "-c", &format!("systemd-analyze verify --recursive-errors=one {units} 2>&1")]);
    assert_eq!((output.code, output.out.as_str()), (Some(0), ""));
    let user = "export XDG_RUNTIME_DIR=/run HOME=/root; cd /usr/lib/systemd/user; \
                systemd-analyze --user verify --recursive-errors=one";
    let output = m.exec(&["sh", "-c", &format!("{user} {units} 2>&1")]);
    assert_eq!((output.code, output.out.as_str()), (Some(0), ""));
    m.sh("bookend units --dir /tmp/system; bookend units --user --dir /tmp/user; cd /tmp
          for unit in system/* user/*; do cmp $unit /usr/lib/systemd/$unit; done");
    for unit in ["bookend-recover", "bookend-report", "bookend-monitor", "bookend-prune"] {
        m.sh(&format!("systemd-analyze security --threshold=40 {unit}.service >/dev/null"));
    }
    assert!(
        !m.holds("systemctl is-enabled -q bookend-prune.timer"),
        "deleting tasks needs the operator's decision"
    );
}

#[test]
fn a_user_manager_recovers_before_it_starts_agents() {
    let Some(m) = Machine::new("a_user_manager_recovers_before_it_starts_agents") else { return };
    let ctl = m.ada();
    m.write("/home/ada/.config/bookend/one.env", &format!("COMMAND=\"{WORK}\"\n"));
    m.sh("chown -R ada: /home/ada/.config");
    m.sh(&format!("{ctl} enable -q bookend-recover bookend@one && {ctl} start bookend@one"));
    m.working();
    let ledger = "/home/ada/.local/state/bookend/bookend.db";
    let row = m.rows_of("ada", ledger).remove(0);
    assert!(row["cgroup"].as_str().is_some_and(|c| c.contains("/user@") && c.contains("/task-")), "{row:#}");
    m.power_cut_and_boot();
    m.working();
    let rows = m.rows_of("ada", ledger);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert_eq!((&rows[0]["status"], &rows[1]["reason"]), (&"running".into(), &"rebooted".into()));
    m.sh(&format!("{ctl} stop bookend@one"));
    assert_eq!(m.rows_of("ada", ledger)[0]["reason"], "signal");
    assert!(!m.holds("pgrep -u ada claude"), "no process is left");
}

/// A unit with its own /proc sees the boot id of the host, which does not change here. The ledger then looks
/// as after the restart of a container: another pid namespace on the same boot.
#[test]
fn with_an_unchanged_boot_id_the_journal_names_the_command_that_settles_the_task() {
    let test = "with_an_unchanged_boot_id_the_journal_names_the_command_that_settles_the_task";
    let Some(m) = Machine::new(test) else { return };
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.power_cut_and_boot();
    m.until("systemctl show -P ActiveState bookend-recover | grep -Eq '^(active|failed|inactive)$'");
    let row = m.row();
    let id = row["id"].as_str().expect("an id");
    if row["status"] == "running" {
        let output = m.sh("journalctl --sync; journalctl -b -o cat --no-pager -q -u bookend-recover");
        let command = output.lines().find_map(|l| l.split("if it has ended: ").nth(1));
        let command = command.unwrap_or_else(|| panic!("no command in {output}"));
        assert!(command.ends_with(&format!("--ttl 0 {id}")), "{command}");
        m.sh(&format!("runuser -u bookend -- {command}"));
    }
    let row = m.row();
    assert_eq!((&row["status"], &row["end_source"]), (&"interrupted".into(), &"recovery".into()), "{row:#}");
    m.sh("systemctl restart bookend-recover");
}

/// A program acts on the watchdog only if WATCHDOG_PID names itself: sd_watchdog_enabled(3).
#[test]
fn an_agent_can_notify_systemd_and_feed_the_watchdog_until_it_hangs() {
    let Some(m) = Machine::new("an_agent_can_notify_systemd_and_feed_the_watchdog_until_it_hangs") else {
        return;
    };
    m.program(
        "watched",
        r#"#!/bin/sh
[ "$WATCHDOG_PID" = $$ ] && [ "$SYSTEMD_EXEC_PID" = $$ ] || exit 7
systemd-notify --ready --status="ready: $$"
while ! [ -e /run/hang ]; do
  systemd-notify WATCHDOG=1
  sleep 0.1
done
exec sleep 1000
"#,
    );
    let unit = "[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=10\nKillMode=mixed\nDelegate=yes\n\
                StateDirectory=watched\nExecStart=/usr/bin/bookend run -- watched\n";
    m.write("/etc/systemd/system/watched.service", unit);
    m.sh("systemctl daemon-reload; systemctl start watched");
    let row = || m.rows_of("root", "/var/lib/watched/bookend.db").remove(0);
    let status = m.sh("systemctl show -P StatusText watched");
    assert_eq!(status, format!("ready: {}\n", row()["agent_pid"]));
    let fed = || m.sh("systemctl show -P WatchdogTimestampMonotonic watched");
    let first = fed();
    m.until(&format!("[ $(systemctl show -P WatchdogTimestampMonotonic watched) -gt {} ]", first.trim()));
    m.sh("touch /run/hang");
    m.until("[ $(systemctl show -P Result watched) = watchdog ]");
    m.until("[ $(systemctl show -P ActiveState watched) = failed ]");
    let row = row();
    assert_eq!((&row["status"], &row["term_signal"]), (&"failure".into(), &6.into()), "{row:#}");
}
