//! Runs the module in contrib/just with the real `just`.

use std::path::Path;

use crate::harness::{on_path, possible};
use crate::machine::Machine;

/// A machine with `just`. `None` where the test cannot run, which stderr reports.
pub fn machine_with_just(test: &str, make: impl Fn(&str) -> Option<Machine>) -> Option<Machine> {
    let given = std::env::var_os("BOOKEND_JUST");
    if !possible(test, given.is_some() || on_path("just"), "`just`, in the PATH or as BOOKEND_JUST") {
        return None;
    }
    let m = make(test)?;
    if let Some(just) = given {
        std::fs::copy(Path::new(&just), m.file("/usr/local/bin/just")).expect("just in the machine");
    }
    Some(m)
}

const PROJECT: &str = "mod agent '/usr/share/bookend/bookend.just'\n\n# Another recipe\nother:\n";

#[test]
fn just_runs_agents_in_the_directory_of_the_caller() {
    let name = "just_runs_agents_in_the_directory_of_the_caller";
    let Some(m) = machine_with_just(name, Machine::new) else { return };
    m.write("/srv/project/justfile", PROJECT);
    m.write("/srv/project/below/file", "");
    m.program("cursor-agent", "#!/bin/sh\nfor word; do echo \"<$word>\"; done\n");
    m.program("claude", "#!/bin/sh\nfor word; do echo \"<$word>\"; done; pwd\n");
    let just = |words: &str| {
        // As root, `tasks` would list the tasks of the system units.
        let own = "export XDG_STATE_HOME=/srv/state BOOKEND=bookend";
        m.sh(&format!("{own}; cd /srv/project/below; just agent {words}"))
    };
    let output = just("claude \"it's the \\\"build\\\" \\$HOME\" --model opus 'two words'");
    let words: Vec<&str> = output.lines().filter(|l| !l.contains("session-id") && l.len() != 38).collect();
    let expected = ["<-p>", "<it's the \"build\" $HOME>", "<--model>", "<opus>", "<two words>"];
    assert_eq!(words, [&expected[..], &["/srv/project/below"]].concat(), "{output}");
    assert_eq!(just("cursor 'look at it'"), "<-p>\n<look at it>\n");

    let output = just("tasks");
    assert!(
        output.contains("claude") && output.contains("cursor-agent") && output.contains("success"),
        "{output}"
    );
    assert_eq!(just("tasks --jsonl").lines().count(), 2);
    assert!(just("recover").contains("nothing to settle"));
    assert!(just("audit").contains("Task audit: 0 findings"));
    for listing in ["just --list --list-submodules", "just agent"] {
        let listed = m.sh(&format!("cd /srv/project && {listing}"));
        for recipe in ["claude", "cursor", "restart", "tasks", "audit", "recover", "monitor"] {
            let is_listed = |l: &str| l.trim_start().starts_with(recipe) && l.contains('#');
            assert!(listed.lines().any(is_listed), "{listing}: {listed}");
        }
        assert!(!listed.contains("_recipes"), "{listed}");
    }
}

#[test]
fn just_restart_ends_running_tasks_as_interrupted() {
    let name = "just_restart_ends_running_tasks_as_interrupted";
    let Some(m) = machine_with_just(name, Machine::new) else { return };
    m.write("/srv/project/justfile", "import '/usr/share/bookend/bookend.just'\n");
    m.task("one", "claude -p work --output-format stream-json --verbose", "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.sh("cd /srv/project && just restart");
    m.working();
    let rows = m.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&"running".into(), &"interrupted".into()));
    assert_eq!(rows[1]["stop_sender_pid"], 1);
    for tasks in [
        "just tasks",
        "BOOKEND='runuser -u bookend -- bookend --ledger /var/lib/bookend/bookend.db' just tasks",
    ] {
        let tasks = m.sh(&format!("cd /srv/project && {tasks}"));
        assert!(tasks.contains("interrupted") && tasks.contains("running"), "{tasks}");
    }
    let own = m.sh("cd /srv/project && BOOKEND_LEDGER=/srv/own/l.db just tasks");
    assert_eq!(
        own,
        "no tasks: there is no ledger yet at /srv/own/l.db\nsystem units: bookend --system list\n"
    );
}

#[test]
fn just_restart_continues_past_a_broken_unit_and_starts_no_ended_task() {
    let name = "just_restart_continues_past_a_broken_unit_and_starts_no_ended_task";
    let Some(m) = machine_with_just(name, Machine::new) else { return };
    m.write("/srv/project/justfile", "import '/usr/share/bookend/bookend.just'\n");
    m.task("failed", "sh -c 'exit 3'", "");
    m.sh("systemctl start bookend@failed");
    m.until("systemctl show -P ActiveState bookend@failed | grep -q failed");
    for unit in ["a", "broken", "c"] {
        m.task(unit, "claude -p work --output-format stream-json --verbose", "");
    }
    m.sh("systemctl start bookend@a bookend@broken bookend@c");
    let running = || {
        let rows = m.rows().into_iter().filter(|row| row["status"] == "running");
        rows.map(|row| row["id"].to_string()).collect::<Vec<_>>()
    };
    m.until("test $(bookend --system list --status running --jsonl | wc -l) = 3");
    let before = running();
    m.write("/etc/systemd/system/bookend@broken.service.d/no.conf", "[Service]\nExecStart=\n");
    m.sh("systemctl daemon-reload");
    let output = m.exec(&["sh", "-c", "cd /srv/project && just restart"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.err.contains("bookend@broken.service"), "{output:?}");
    m.until("test $(bookend --system list --status interrupted --jsonl | wc -l) = 2");
    m.until("test $(bookend --system list --status running --jsonl | wc -l) = 3");
    let after = running();
    assert_eq!(after.iter().filter(|id| before.contains(id)).count(), 1, "{before:?} {after:?}");
    assert_eq!(m.rows().iter().filter(|row| row["key"] == "systemd:failed").count(), 1);
}
