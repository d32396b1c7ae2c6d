//! What an operator sets up and asks for: an agent unit's file, its program, its schedule, and the ledger of
//! the system units.

use crate::machine::{LEDGER, Machine};

const WORK: &str = "claude -p work --output-format stream-json --verbose";

/// The end of `systemctl start` on this unit: its exit code, and what the unit's journal says.
fn start(m: &Machine, unit: &str) -> (Option<i32>, String) {
    let output = m.exec(&["systemctl", "start", unit]);
    let journal = m.sh(&format!("journalctl --sync; journalctl -q -o cat --no-pager -u {unit}"));
    (output.code, output.err + &journal)
}

#[test]
fn a_start_fails_and_names_the_cause_without_a_file_or_a_command() {
    let Some(m) = Machine::new("a_start_fails_and_names_the_cause_without_a_file_or_a_command") else {
        return;
    };
    let manager = m.ada();
    let (code, text) = start(&m, "bookend@nosuch");
    assert_eq!(code, Some(1));
    assert!(text.contains("Assertion failed"), "{text}");
    assert!(!m.holds(&format!("{manager} start bookend@nosuch")));

    for (lines, cause) in [
        ("COMAND=\"claude -p work\"", "COMMAND is empty or missing in /etc/bookend/one.env"),
        ("COMMAND=", "COMMAND is empty or missing in /etc/bookend/one.env"),
        ("COMMAND=\" \"", "COMMAND is empty or missing in /etc/bookend/one.env"),
        ("COMMAND=\"cluade -p *\"", "COMMAND in /etc/bookend/one.env: cluade is not found in PATH (/usr/"),
    ] {
        m.write("/etc/bookend/one.env", &format!("{lines}\n"));
        let (code, text) = start(&m, "bookend@one");
        assert_eq!(code, Some(1), "{lines}: {text}");
        assert!(text.contains(cause), "{lines}: {text}");
        m.sh("systemctl reset-failed bookend@one; journalctl -q --rotate --vacuum-time=1us");
        m.write("/home/ada/.config/bookend/one.env", &format!("{lines}\n"));
        assert!(!m.holds(&format!("{manager} start bookend@one")), "{lines}");
        m.sh(&format!("{manager} reset-failed bookend@one"));
    }
    assert!(
        !m.holds(&format!("test -e {LEDGER}.d/live && bookend --system list --jsonl | grep .")),
        "no task"
    );
}

#[test]
fn an_agent_is_found_where_its_installer_puts_it_or_the_file_says() {
    let Some(m) = Machine::new("an_agent_is_found_where_its_installer_puts_it_or_the_file_says") else {
        return;
    };
    for (n, (directory, more)) in
        [("/var/lib/bookend/.local/bin", ""), ("/opt/agents", "PATH=/opt/agents:/usr/bin:/bin")]
            .iter()
            .enumerate()
    {
        let agent = format!("agent{n}");
        m.sh(&format!("mkdir -p {directory}; cp /usr/local/bin/claude {directory}/{agent}"));
        m.sh(&format!("chown -R bookend: {directory}"));
        m.task(&agent, &format!("{agent} -p done"), more);
        m.sh(&format!("systemctl start bookend@{agent}"));
        m.until(&format!("systemctl show -P ActiveState bookend@{agent} | grep -Eq 'inactive|failed'"));
        assert_eq!(m.rows()[0]["status"], "success", "{directory}");
    }
    // A quoted path, and a program that --prepare installs.
    m.sh("mkdir /srv/made; chown bookend: /srv/made");
    m.task("path", "'/usr/local/bin/claude' -p done", "");
    let prepare = "BOOKEND_PREPARE=\"cp /usr/local/bin/claude /srv/made/late\"\nPATH=/srv/made:/usr/bin:/bin";
    m.task("late", "late -p done", prepare);
    for unit in ["path", "late"] {
        m.sh(&format!("systemctl start bookend@{unit}"));
        m.until(&format!("systemctl show -P ActiveState bookend@{unit} | grep -Eq 'inactive|failed'"));
        assert_eq!(m.rows()[0]["status"], "success", "{unit}: {:#}", m.rows()[0]);
    }
}

#[test]
fn a_timer_starts_the_task_of_its_name_on_the_schedule_that_was_edited() {
    let test = "a_timer_starts_the_task_of_its_name_on_the_schedule_that_was_edited";
    let Some(m) = Machine::new(test) else { return };
    m.task("one", WORK, "");
    m.sh("systemctl enable -q --now bookend@one.timer");
    let calendar = || m.sh("systemctl show -P TimersCalendar bookend@one.timer");
    assert!(calendar().contains("OnCalendar=*-*-* 00:00:00"), "{}", calendar());
    // What `systemctl edit` writes.
    let schedule = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nAccuracySec=1ms\n";
    m.write("/etc/systemd/system/bookend@one.timer.d/override.conf", schedule);
    m.sh("systemctl daemon-reload; systemctl restart bookend@one.timer");
    assert_eq!(calendar().matches("OnCalendar=").count(), 1, "{}", calendar());
    m.working();
    let row = m.row();
    assert_eq!((&row["key"], &row["status"]), (&"systemd:one".into(), &"running".into()), "{row:#}");
    // While the task runs, the timer waits for its end: no second one is started.
    m.until("systemctl show -P SubState bookend@one.timer | grep -qx running");
    m.sh("systemctl stop bookend@one");
    m.working();
    let rows = m.rows();
    assert_eq!((rows.len(), &rows[0]["status"]), (2, &"running".into()), "{rows:#?}");
    m.sh("systemctl stop bookend@one.timer bookend@one");
}

#[test]
fn root_acts_as_the_user_of_the_system_units_and_others_get_the_command() {
    let test = "root_acts_as_the_user_of_the_system_units_and_others_get_the_command";
    let Some(m) = Machine::new(test) else { return };
    let owners = || m.sh("find /var/lib/bookend ! -user bookend -o ! -group bookend");
    // Before the first task, a command that writes creates the ledger of the units' user.
    m.sh("bookend --system recover");
    assert_eq!((owners().as_str(), m.rows().len()), ("", 0));
    let home = "env HOME=/home/ada XDG_STATE_HOME=/home/ada/state";
    m.sh("useradd --create-home --shell /bin/sh ada");
    let ada = |words: &str| m.exec(&["sh", "-c", &format!("cd /; runuser -u ada -- {home} {words}")]);
    let hint = "system units: bookend --system list";
    for words in ["bookend list", "bookend doctor", "bookend"] {
        let output = ada(words);
        assert!(output.out.contains(hint), "{words}: {output:?}");
    }
    for words in
        ["bookend --ledger /tmp/none.db list", "bookend list --json", "bookend list --status running"]
    {
        // The last one selects tasks: without a ledger there are none at all.
        assert_eq!(ada(words).out.contains(hint), words.ends_with("running"), "{words}");
    }
    assert_eq!(ada("bookend run -- true").code, Some(0));
    for words in ["bookend list", "bookend doctor", "bookend"] {
        assert!(!ada(words).out.contains(hint), "{words}: ada has tasks of her own");
    }

    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    let shown = ada("bookend --system show 'a task'");
    assert_eq!((shown.code, shown.out.as_str()), (Some(125), ""), "{shown:?}");
    assert!(shown.err.contains("hint: run `sudo bookend --system show 'a task'`"), "{shown:?}");
    m.sh("install -D /usr/bin/bookend /opt/b/bookend");
    let elsewhere = ada("/opt/b/bookend --system list").err;
    assert!(elsewhere.contains("hint: run `sudo /opt/b/bookend --system list`"), "{elsewhere}");
    for words in ["bookend --system run -- true", "bookend run --system -- true"] {
        let refused = m.exec(&["sh", "-c", words]);
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{refused:?}");
        assert!(refused.err.contains("--system cannot be used with run"), "{refused:?}");
    }

    // Killed without recovery of its own, the task is lost.
    m.write("/etc/systemd/system/bookend@.service.d/no.conf", "[Service]\nExecStopPost=\n");
    m.sh("systemctl daemon-reload; systemctl kill -s KILL bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    let fix = m.sh("bookend --system audit --json | grep '\"fix\"'");
    assert!(fix.contains("\"bookend --system recover\""), "{fix}");
    let recovered = m.sh("bookend --system --log journald recover");
    assert!(recovered.contains("to run it again: bookend --system redispatch "), "{recovered}");
    assert_eq!(m.row()["status"], "interrupted");
    let overview = m.sh("bookend --system; bookend --system list; bookend --system session list");
    assert!(overview.contains("systemd:one"), "{overview}");
    let doctor = m.sh("bookend --system doctor");
    assert!(
        doctor.contains("chosen by --system") && doctor.contains("bookend-recover.service is enabled"),
        "{doctor}"
    );
    assert_eq!(owners(), "", "root has written nothing");
    let explained =
        m.sh("journalctl --sync; journalctl -x --no-pager MESSAGE_ID=a3dc6471ea4c48e98f7cd5727872de78");
    assert!(explained.contains(&format!("bookend --ledger {LEDGER} show ")), "{explained}");
}

#[test]
fn doctor_names_what_the_units_of_a_user_lack_and_the_command_that_gives_it() {
    let test = "doctor_names_what_the_units_of_a_user_lack_and_the_command_that_gives_it";
    let Some(m) = Machine::new(test) else { return };
    m.sh("useradd --create-home --shell /bin/sh ada && loginctl enable-linger ada");
    m.until("systemctl is-active user@$(id -u ada)");
    let ada = |words: &str| {
        let home = "env HOME=/home/ada XDG_RUNTIME_DIR=/run/user/$(id -u ada)";
        m.sh(&format!("cd /; runuser -u ada -- {home} {words}"))
    };
    // The manager goes on until logind looks at the file again.
    m.sh("rm /var/lib/systemd/linger/ada");
    let point = |name: &str| {
        let page = ada("bookend doctor");
        let line = page.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).to_owned()
    };
    let recovery = point("recovery");
    assert!(recovery.starts_with("warn") && recovery.contains("is disabled"), "{recovery}");
    assert!(point("lingering").starts_with("-  "), "the units are not in use yet");
    let enable = recovery.split_once("to run it at boot: ").expect("a command").1.to_owned();
    ada(&format!("{enable} --now"));
    let recovery = point("recovery");
    assert!(recovery.starts_with("ok") && recovery.contains("(success)"), "{recovery}");
    let lingering = point("lingering");
    assert!(lingering.starts_with("warn") && lingering.contains("stop at logout"), "{lingering}");
    let command = lingering.split('`').nth(1).expect("a command");
    ada(command);
    let lingers = point("lingering");
    assert_eq!(
        lingers.split_whitespace().collect::<Vec<_>>().join(" "),
        "ok lingering on: your units start at boot"
    );
    // The recovery of the system units is not that of her ledger.
    assert!(m.sh("bookend --system doctor").contains("bookend-recover.service is enabled"));
}
