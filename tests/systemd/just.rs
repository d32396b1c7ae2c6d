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
        m.sh(&format!("export XDG_STATE_HOME=/srv/state; cd /srv/project/below; just agent {words}"))
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
    let listed = m.sh("cd /srv/project && just --list --list-submodules");
    for recipe in ["claude", "cursor", "restart", "tasks", "audit", "recover"] {
        assert!(listed.lines().any(|l| l.trim_start().starts_with(recipe) && l.contains('#')), "{listed}");
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
    let tasks = m.sh("cd /srv/project && \
        BOOKEND='runuser -u bookend -- bookend --ledger /var/lib/bookend/bookend.db' just tasks");
    assert!(tasks.contains("interrupted") && tasks.contains("running"), "{tasks}");
}
