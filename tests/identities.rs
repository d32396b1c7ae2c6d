//! Process identities: a process with a reused pid is not taken for the task, and across pid namespaces the
//! live lock decides.

use crate::harness::{End, Proc, World, eventually, is_root, on_path, possible, stat_field, state};
use crate::standins::{Busy, KEY, bookend, change, gone, json, recover};

/// A world in which a test can choose the pid of a process.
fn world_with_free_pids(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    possible(test, is_root(), "root, to choose pids").then_some(world)
}

/// A process with this pid. Waits until the pid is free.
fn reuse_pid(world: &World, pid: i32) -> Proc {
    // The pid is free only after the previous process was reaped.
    eventually(world.deadline(), &format!("pid {pid} to be free"), || state(pid).is_none());
    let mut probe = world.bare(["probe", "as-pid", &pid.to_string(), "--", "sleep", "1000"]).start();
    assert_eq!(probe.line(), format!("ready {pid}"));
    probe
}

#[test]
fn a_process_with_a_reused_pid_is_not_taken_for_the_task_and_not_signalled() {
    let Some(world) =
        world_with_free_pids("a_process_with_a_reused_pid_is_not_taken_for_the_task_and_not_signalled")
    else {
        return;
    };
    // With a live lock, and without one, as in a row that another program has written.
    for lock in ["live_slot", "NULL"] {
        let busy = Busy::sleep(&world, &format!("with {lock}").replace(' ', "-"));
        let (supervisor, agent) = (busy.supervisor.pid(), busy.agent);
        busy.kill_all();
        change(&world, &format!("UPDATE task_history SET live_slot = {lock} WHERE status = 'running'"));
        let _first = reuse_pid(&world, supervisor);
        let _second = reuse_pid(&world, agent);
        let report = json(&world, &["recover", "--json", "--grace", "0s"]);
        assert_eq!(report["interrupted"][0]["reason"], "supervisor_lost", "{report}");
        assert_eq!((state(supervisor), state(agent)), (Some('S'), Some('S')), "both run");
    }
}

#[test]
fn a_key_is_free_if_only_the_pid_of_its_lost_holder_is_in_use() {
    let Some(world) = world_with_free_pids("a_key_is_free_if_only_the_pid_of_its_lost_holder_is_in_use")
    else {
        return;
    };
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let busy = Busy::start(&world, "say", |_| world.run_sh(script).options(["--key", KEY]));
    let supervisor = busy.supervisor.pid();
    busy.kill_all();
    let _other = reuse_pid(&world, supervisor);
    world.run_sh("true").options(["--key", KEY]).run().ended(End::Code(0));
    assert_eq!(world.rows()[0].ending(), "interrupted/supervisor_lost");
    assert_eq!(state(supervisor), Some('S'));
}

#[test]
fn a_row_of_another_program_is_judged_by_its_recorded_identity() {
    let Some(world) = World::of_bookend("a_row_of_another_program_is_judged_by_its_recorded_identity") else {
        return;
    };
    Busy::sleep(&world, "one").kill_all();
    let me = std::process::id() as i32;
    let start = stat_field(me, 22).expect("our own start");
    change(
        &world,
        &format!(
            "UPDATE task_history SET live_slot = NULL, supervisor_pid = {me}, supervisor_start = {start},
             supervisor_pidfd = NULL"
        ),
    );
    assert_eq!(json(&world, &["recover", "--json"])["alive"], 1);
    change(&world, "UPDATE task_history SET supervisor_start = supervisor_start + 1");
    recover(&world, &[]);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}

const IN_A_NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

fn namespaces(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    possible(test, is_root() && on_path("unshare"), "root and unshare").then_some(world)
}

#[test]
fn a_task_in_another_pid_namespace_is_alive_while_its_lock_is_held() {
    let Some(world) = namespaces("a_task_in_another_pid_namespace_is_alive_while_its_lock_is_held") else {
        return;
    };
    let mut say = world.fifo("say");
    let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
    let argv = ["bookend", "run", "--id", "inside", "--key", KEY, "--", "sh", "-c", &script];
    let container = world.bare(IN_A_NAMESPACE.iter().chain(&argv).copied()).start();
    say.pid("ready");
    let row = world.row();
    assert!(row.pid("supervisor_pid") <= 2, "the pid is from its own namespace: {row:?}");
    let report = json(&world, &["recover", "--json", "--ttl", "0s"]);
    assert_eq!((report["alive"].as_i64(), report["settled"].as_bool()), (Some(1), Some(true)), "{report}");
    world.run_sh("true").options(["--key", KEY]).run().ended(End::Code(75));

    // The end of PID 1 ends every process of its namespace.
    drop(container);
    eventually(world.deadline(), "the end of the task", || {
        json(&world, &["recover", "--json"])["alive"].as_i64() == Some(0)
    });
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
}

#[test]
fn a_task_outside_of_the_pid_namespace_is_alive_while_its_lock_is_held() {
    let Some(world) = namespaces("a_task_outside_of_the_pid_namespace_is_alive_while_its_lock_is_held")
    else {
        return;
    };
    let busy = Busy::sleep(&world, "outside");
    let inside = || {
        let words = ["bookend", "recover", "--json", "--ttl", "0s"];
        let output = world.bare(IN_A_NAMESPACE.iter().chain(&words).copied()).run().ended(End::Code(0));
        serde_json::from_str::<serde_json::Value>(&output.stdout).expect("a report")
    };
    assert_eq!(inside()["alive"], 1);
    busy.kill_all();
    assert_eq!(inside()["interrupted"][0]["id"], "outside");
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert!(row.text("error").contains("whether it has ended is not known here"), "{row:?}");
}

#[test]
fn a_process_hidden_from_proc_is_not_judged_as_gone() {
    let Some(world) = namespaces("a_process_hidden_from_proc_is_not_judged_as_gone") else { return };
    let busy = Busy::sleep(&world, "hidden");
    let another_programs = |slot: &str, pidfd: &str| {
        change(&world, &format!("UPDATE task_history SET live_slot = {slot}, supervisor_pidfd = {pidfd}"));
    };
    let slot = world.row().number("live_slot").expect("a slot");
    another_programs("NULL", "NULL");
    let script =
        format!("mount -t tmpfs none /proc/{} && exec bookend recover --json", busy.supervisor.pid());
    let hidden = world.bare(["unshare", "--mount", "sh", "-c", &script]).run().ended(End::Code(1));
    let report: serde_json::Value = serde_json::from_str(&hidden.stdout).expect("a report");
    assert_eq!(report["unverifiable"][0]["id"], "hidden", "{report}");
    assert_eq!(json(&world, &["recover", "--json"])["alive"], 1, "here /proc shows it");
    another_programs(&slot.to_string(), "NULL");
    busy.kill_all();
}

#[test]
fn no_process_is_judged_as_gone_by_the_proc_of_another_pid_namespace() {
    let Some(world) = namespaces("no_process_is_judged_as_gone_by_the_proc_of_another_pid_namespace") else {
        return;
    };
    Busy::sleep(&world, "elsewhere").kill_all();
    // As another program writes it, without the pid namespace.
    change(&world, "UPDATE task_history SET live_slot = NULL, pid_ns = NULL");
    let words = ["unshare", "--pid", "--fork", "--kill-child", "bookend", "recover"];
    let report = world.bare(words).run();
    assert!(report.stderr.contains("under its own pid"), "{report:?}");
    assert_eq!(world.row().text("status"), "running", "{report:?}");
    recover(&world, &[]);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}

#[test]
fn a_leftover_of_a_lost_task_is_found_by_its_mark_alone() {
    let Some(world) = World::of_bookend("a_leftover_of_a_lost_task_is_found_by_its_mark_alone") else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!(
        "probe daemon -- probe with setsid -- probe stay {}; echo ready $$ >$SAY; exec sleep 1000",
        out.path()
    );
    let busy = Busy::start(&world, "say", |_| world.run_sh(&script).options(["--id", "one"]));
    let daemon = out.pid("stay");
    // A process with the mark of another task.
    let mut other_out = world.fifo("other");
    let other =
        world.bare(["probe", "stay", &other_out.path()]).env("BOOKEND_TASK_ID", "one-and-a-half").start();
    let other_pid = other_out.pid("stay");
    busy.kill_all();
    let report = recover(&world, &["--grace", "5s"]);
    gone(&world, daemon);
    assert!(report.contains("1 leftover process"), "{report}");
    assert!(state(other_pid).is_some_and(|s| s != 'Z'));
    drop(other);
    assert!(bookend(&world, &["show", "one"]).stdout.contains("leftovers"));
}

/// Kills the task `one` and mounts the overlay with its ledger again, on a device with another number, as a
/// container restart does. Then runs `$AFTER`.
const RESTARTED: &str = r#"
layers() { mount -t overlay none -o lowerdir=$T/low,upperdir=$T/up,workdir=$T/work "$M"; stat -c %d "$M"; }
set -e
T=$TMPDIR/layers M=$TMPDIR/merged
mkdir "$T" "$M"
mount -t tmpfs none "$T"
mkdir "$T/low" "$T/up" "$T/work" "$T/other"
first=$(layers)
export BOOKEND_LEDGER=$M/state/bookend.db
bookend run --id one --key k -- sh -c 'echo $$ >"$SAY"; exec sleep 1000' &
read agent <"$SAY"
kill -9 $! "$agent"
wait $! || :
# A child of the supervisor may use the mount for a moment longer.
until umount "$M" 2>/dev/null; do :; done
mount -t tmpfs none "$T/other"
second=$(layers)
[ "$first" != "$second" ] || exit 90
eval "$AFTER"
"#;

/// The output of `after`, which runs when the device of the ledger has another number.
fn after_a_restart(world: &World, after: &str) -> crate::harness::Output {
    let say = world.fifo("say");
    let script = world.bare(["unshare", "--mount", "sh", "-c", RESTARTED]);
    script.env("SAY", say.path()).env("AFTER", after).run()
}

#[test]
fn a_ledger_on_a_renumbered_device_is_judged_by_the_recorded_identity() {
    let Some(world) = namespaces("a_ledger_on_a_renumbered_device_is_judged_by_the_recorded_identity") else {
        return;
    };
    let output = after_a_restart(&world, "bookend recover; bookend run --key k -- true; bookend list --json");
    let output = output.ended(End::Code(0));
    assert!(output.stdout.contains("task one interrupted (supervisor_lost)"), "{output:?}");
}

#[test]
fn an_operator_settles_an_unverifiable_task_from_another_pid_namespace() {
    let Some(world) = namespaces("an_operator_settles_an_unverifiable_task_from_another_pid_namespace")
    else {
        return;
    };
    let inside = IN_A_NAMESPACE.join(" ");
    let after = format!(
        "code=0; output=$({inside} bookend recover) || code=$?; [ $code = 1 ] || exit 91; echo \"$output\";
         command=$(echo \"$output\" | sed -n 's/.*if it has ended: //p'); {inside} $command;
         {inside} bookend run --key k -- true"
    );
    let output = after_a_restart(&world, &after).ended(End::Code(0));
    let command = "bookend recover --ledger";
    assert!(output.stdout.contains(command) && output.stdout.contains("--ttl 0 one"), "{output:?}");
    assert!(output.stdout.contains("task one interrupted (ttl)"), "{output:?}");
}

#[test]
fn a_task_with_a_hidden_boot_id_is_not_reported_as_rebooted() {
    let Some(world) = world_with_free_pids("a_task_with_a_hidden_boot_id_is_not_reported_as_rebooted") else {
        return;
    };
    let hidden = ["proc=subset=pid"];
    for (at_start, at_recovery) in [(&hidden[..], &[][..]), (&[], &hidden), (&hidden, &hidden)] {
        let script = "trap '' TERM; echo ready $$ >$SAY; exec sleep 1000";
        let busy = Busy::start(&world, "say", |_| world.run_sh(script).with(at_start.iter().copied()));
        let agent = busy.agent;
        busy.kill_supervisor();
        let recover = world.bare(["bookend", "recover", "--grace", "0s"]).with(at_recovery.iter().copied());
        let output = recover.run().ended(End::Code(0)).silent();
        assert!(output.stdout.contains("(supervisor_lost)"), "{output:?}");
        gone(&world, agent);
        world.write("DELETE FROM task_history");
        std::fs::remove_file(world.path("say")).expect("the pipe");
    }
}

#[test]
fn recover_settles_only_the_tasks_that_are_named() {
    let Some(world) = World::of_bookend("recover_settles_only_the_tasks_that_are_named") else { return };
    for id in ["one", "two"] {
        Busy::sleep(&world, id).kill_all();
    }
    let output = recover(&world, &["one"]);
    assert!(output.contains("task one interrupted") && !output.contains("two"), "{output}");
    let endings: Vec<String> = world.rows().iter().map(|r| r.text("status")).collect();
    assert_eq!(endings, ["interrupted", "running"]);
    assert!(recover(&world, &[]).contains("task two interrupted"));
    let output = bookend(&world, &["recover", "three"]).ended(End::Code(1));
    assert!(output.stderr.contains("no task three"), "{output:?}");
}

#[test]
fn doctor_warns_where_proc_hides_the_boot_id() {
    let Some(world) = world_with_free_pids("doctor_warns_where_proc_hides_the_boot_id") else { return };
    let output = world.bare(["bookend", "doctor"]).with(["proc=subset=pid"]).run().ended(End::Code(0));
    assert!(output.stdout.contains("boot id") && output.stdout.contains("subset=pid"), "{output:?}");
    let output = world.bare(["bookend", "doctor"]).with(["proc=hidepid=0"]).run().ended(End::Code(0));
    assert!(!output.stdout.contains("boot id"), "{output:?}");
}

#[test]
fn a_pidfd_inode_of_an_unknown_boot_identifies_no_process() {
    let Some(world) = world_with_free_pids("a_pidfd_inode_of_an_unknown_boot_identifies_no_process") else {
        return;
    };
    let busy = Busy::sleep(&world, "before");
    let agent = busy.agent;
    busy.kill_all();
    let _other = reuse_pid(&world, agent);
    let pid = rustix::process::Pid::from_raw(agent).expect("a pid");
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
    let inode = rustix::fs::fstat(&pidfd).expect("its inode").st_ino;
    // After a reboot, pids and the inodes of pidfds are counted from the beginning.
    change(
        &world,
        &format!("UPDATE task_history SET boot_id = 'before', agent_start = 1, agent_pidfd = {inode}"),
    );
    let words = ["bookend", "recover", "--grace", "0s"];
    world.bare(words).with(["proc=subset=pid"]).run().ended(End::Code(0));
    assert_eq!(state(agent), Some('S'), "it still runs: {:?}", world.row());
}
