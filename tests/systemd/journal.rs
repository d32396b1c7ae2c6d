//! The messages in the journal: their fields and message ids, the catalog entry of each id, and never a
//! prompt.

use serde_json::Value;

use crate::machine::Machine;

const SECRET: &str = "open-the-pod-bay-doors";

fn text<'a>(message: &'a Value, field: &str) -> &'a str {
    message[field].as_str().unwrap_or_else(|| panic!("no {field} in {message:#}"))
}

#[test]
fn each_message_of_a_task_can_be_found_by_its_fields() {
    let Some(m) = Machine::new("each_message_of_a_task_can_be_found_by_its_fields") else { return };
    m.task("one", "claude -p done --output-format stream-json --verbose", "BOOKEND_KEY=the-key");
    m.sh("systemctl start bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q inactive");
    let row = m.row();
    assert_eq!(row["status"], "success", "{row:#}");
    let id = row["id"].as_str().expect("an id");

    let started = m.journal(&[&format!("TASK_ID={id}"), "MESSAGE_ID=1f1c8c6eb3504a31843ddd27f093cdf8"]);
    assert_eq!(started.len(), 1, "{:#?}", m.journal(&["SYSLOG_IDENTIFIER=bookend"]));
    assert_eq!((text(&started[0], "KEY"), text(&started[0], "STATUS")), ("the-key", "running"));
    assert_eq!(started[0]["SESSION_ID"], row["session_id"]);
    assert!(text(&started[0], "MESSAGE").contains("resume=<none>"));
    assert_eq!(text(&started[0], "PRIORITY"), "6");

    let ended = m.journal(&["KEY=the-key", "MESSAGE_ID=20f2b8ad4b8a4c6b8e5921fde2777540"]);
    assert_eq!(ended.len(), 1);
    assert_eq!((text(&ended[0], "TASK_ID"), text(&ended[0], "STATUS")), (id, "success"));
    assert_eq!(text(&ended[0], "COST_USD"), "0.01");
    let explained = m.sh("journalctl -x --no-pager -q MESSAGE_ID=20f2b8ad4b8a4c6b8e5921fde2777540");
    assert!(explained.contains(&format!("Subject: Agent task {id} has ended as success")), "{explained}");
}

#[test]
fn every_message_id_of_the_program_is_in_the_catalog() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).expect(path);
    let (source, catalog) = (read("src/log/journal.rs"), read("contrib/systemd/catalog/bookend.catalog"));
    let ids: Vec<&str> =
        source.split('"').filter(|w| w.len() == 32 && w.chars().all(|c| c.is_ascii_hexdigit())).collect();
    assert!(ids.len() >= 5);
    for id in &ids {
        assert!(catalog.contains(&format!("-- {id}\nSubject: ")), "{id} is not explained");
    }
    assert_eq!(catalog.matches("\n-- ").count(), ids.len(), "the catalog explains only messages that exist");
}

#[test]
fn no_prompt_and_no_argv_reaches_the_journal() {
    let Some(m) = Machine::new("no_prompt_and_no_argv_reaches_the_journal") else { return };
    // It prints nothing: journald records a line on stderr together with the argv of the agent.
    m.program("quiet", "#!/bin/sh\nsleep 0.6\nexit 3\n");
    m.task("one", &format!("quiet -p '{SECRET} please'"), "BOOKEND_VERBOSE=2");
    m.sh("systemctl start bookend@one");
    m.until("systemctl show -P ActiveState bookend@one | grep -q failed");
    assert_eq!(m.row()["status"], "failure");
    let ended = m.journal(&["MESSAGE_ID=20f2b8ad4b8a4c6b8e5921fde2777540"]);
    assert!(text(&ended[0], "_CMDLINE").contains("bookend run -- quiet"), "{ended:#?}");
    let whole = m.whole_journal();
    let leak = whole.split("\n\n").find(|message| message.contains(SECRET));
    assert_eq!(leak, None);
}

#[test]
fn stderr_that_is_not_the_journal_stays_stderr() {
    let Some(m) = Machine::new("stderr_that_is_not_the_journal_stays_stderr") else { return };
    let env = "export XDG_STATE_HOME=/srv/state JOURNAL_STREAM=1:2 BOOKEND_LOG=info";
    let output = m.sh(&format!("{env}; bookend run -- true 2>&1"));
    assert!(output.contains("resume=<none>") && output.contains("ended as success"), "{output}");
    let output = m.sh(&format!("{env}; bookend --log journald run -- true 2>&1"));
    assert_eq!(output, "");
    assert_eq!(m.journal(&["MESSAGE_ID=20f2b8ad4b8a4c6b8e5921fde2777540"]).len(), 1);
    let output = m.sh(&format!("{env}; BOOKEND_LOG=bookend::run::supervisor=info bookend run -- true 2>&1"));
    assert!(output.contains("ended as") && !output.contains("resume=<none>"), "{output}");
    let output = m.sh("export XDG_STATE_HOME=/srv/state; BOOKEND_LOG=a=b=c bookend run -- true 2>&1");
    assert!(output.contains("BOOKEND_LOG is not used"), "{output}");
}

#[test]
fn an_absent_or_hanging_journal_does_not_affect_runs() {
    let Some(m) = Machine::new("an_absent_or_hanging_journal_does_not_affect_runs") else { return };
    let run = "export XDG_STATE_HOME=/srv/state BOOKEND_LOG=debug; \
               timeout 10 bookend --log journald run -- sh -c 'exit 7' || echo $?";
    m.sh("systemctl kill -s STOP systemd-journald");
    // Its queue holds net.unix.max_dgram_qlen messages.
    let queue: usize = m.sh("cat /proc/sys/net/unix/max_dgram_qlen").trim().parse().expect("a number");
    let runs = queue / 2 + 3;
    let output = m.exec(&["sh", "-c", &format!("for n in $(seq {runs}); do {run}; done")]);
    assert_eq!((output.out, output.err.as_str()), ("7\n".repeat(runs), ""));
    m.sh("systemctl kill -s KILL systemd-journald; rm /run/systemd/journal/socket");
    let output = m.exec(&["sh", "-c", run]);
    assert_eq!(output.out, "7\n", "{output:?}");
}
