//! The units: what stop, restart, kill and power cut make of a task.

use crate::machine::Machine;

const WORK: &str = "claude -p work --output-format stream-json --verbose";

#[test]
fn stop_gives_the_agent_its_grace_and_names_systemd() {
    let Some(m) = Machine::new("stop_gives_the_agent_its_grace_and_names_systemd") else { return };
    m.task("one", WORK, "");
    m.sh("systemctl start bookend@one");
    m.working();
    assert_eq!(m.row()["status"], "running");
    m.sh("systemctl stop bookend@one");
    let row = m.row();
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"signal".into()), "{row:#}");
    assert_eq!((row["stop_sender_pid"].as_i64(), row["stop_sender_uid"].as_i64()), (Some(1), Some(0)));
    assert_eq!(row["exit_code"], 143, "the agent left by itself");
    assert_eq!(row["key"], "systemd:one");
    assert_eq!(row["end_source"], "wait");
    assert!(m.holds("test \"$(systemctl show -P Result bookend@one)\" = success"), "a stop is no failure");
    assert!(!m.holds("pgrep -u bookend"), "nobody is left");
    assert_eq!(
        m.sh("stat -c %a:%U /var/lib/bookend /var/lib/bookend/bookend.db"),
        "700:bookend\n600:bookend\n"
    );
}
