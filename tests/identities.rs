//! Who is who, for real: a pid that is given out anew is neither taken for the task nor signalled, and across
//! pid namespaces the live lock decides.

use crate::harness::{End, Proc, World, eventually, is_root, on_path, possible, stat_field, state};
use crate::standins::{Busy, KEY, bookend, change, gone, json, recover};

/// A world in which a process can be given any free pid.
fn forger(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    possible(test, is_root(), "root, to choose pids").then_some(world)
}

/// A process with just this pid, once that is free.
fn impostor(world: &World, pid: i32) -> Proc {
    // Somebody has to have reaped the one before.
    eventually(world.deadline(), &format!("pid {pid} to be free"), || state(pid).is_none());
    let mut probe = world.bare(["probe", "as-pid", &pid.to_string(), "--", "sleep", "1000"]).start();
    assert_eq!(probe.line(), format!("ready {pid}"));
    probe
}

#[test]
fn a_process_that_was_given_the_pid_of_a_dead_one_is_not_taken_for_it_and_not_signalled() {
    let Some(world) = forger("a_process_that_was_given_the_pid_of_a_dead_one") else { return };
    // With its live lock, and as a row without one, as another program would write it.
    for lock in ["live_slot", "NULL"] {
        let busy = Busy::sleep(&world, &format!("with {lock}").replace(' ', "-"));
        let (supervisor, agent) = (busy.supervisor.pid(), busy.agent);
        busy.kill_all();
        change(&world, &format!("UPDATE task_history SET live_slot = {lock} WHERE status = 'running'"));
        let _first = impostor(&world, supervisor);
        let _second = impostor(&world, agent);
        let report = json(&world, &["recover", "--json", "--grace", "0s"]);
        assert_eq!(report["interrupted"][0]["reason"], "supervisor_lost", "{report}");
        assert_eq!((state(supervisor), state(agent)), (Some('S'), Some('S')), "they live");
    }
}

#[test]
fn a_key_whose_holder_died_is_free_although_its_pid_is_in_use_again() {
    let Some(world) = forger("a_key_whose_holder_died_is_free") else { return };
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let busy = Busy::start(&world, "say", |_| world.run_sh(script).options(["--key", KEY]));
    let supervisor = busy.supervisor.pid();
    busy.kill_all();
    let _impostor = impostor(&world, supervisor);
    world.run_sh("true").options(["--key", KEY]).run().ended(End::Code(0));
    assert_eq!(world.rows()[0].ending(), "interrupted/supervisor_lost");
    assert_eq!(state(supervisor), Some('S'));
}

#[test]
fn another_programs_row_is_judged_by_the_identity_it_names() {
    let Some(world) = World::of_bookend("another_programs_row_is_judged_by_the_identity") else { return };
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
fn a_task_in_another_pid_namespace_lives_as_long_as_its_lock_is_held() {
    let Some(world) = namespaces("a_task_in_another_pid_namespace") else { return };
    let mut say = world.fifo("say");
    let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
    let argv = ["bookend", "run", "--id", "inside", "--key", KEY, "--", "sh", "-c", &script];
    let container = world.bare(IN_A_NAMESPACE.iter().chain(&argv).copied()).start();
    say.pid("ready");
    let row = world.row();
    assert!(row.pid("supervisor_pid") <= 2, "numbered by its own namespace: {row:?}");
    let report = json(&world, &["recover", "--json", "--ttl", "0s"]);
    assert_eq!((report["alive"].as_i64(), report["settled"].as_bool()), (Some(1), Some(true)), "{report}");
    world.run_sh("true").options(["--key", KEY]).run().ended(End::Code(75));

    // The first process of a namespace takes all of it along.
    drop(container);
    eventually(world.deadline(), "its end", || {
        json(&world, &["recover", "--json"])["alive"].as_i64() == Some(0)
    });
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
}

#[test]
fn from_inside_a_pid_namespace_a_task_outside_lives_as_long_as_its_lock_is_held() {
    let Some(world) = namespaces("from_inside_a_pid_namespace") else { return };
    let busy = Busy::sleep(&world, "outside");
    let inside = || {
        let words = ["bookend", "recover", "--json", "--ttl", "0s"];
        let said = world.bare(IN_A_NAMESPACE.iter().chain(&words).copied()).run().ended(End::Code(0));
        serde_json::from_str::<serde_json::Value>(&said.stdout).expect("a report")
    };
    assert_eq!(inside()["alive"], 1);
    busy.kill_all();
    assert_eq!(inside()["interrupted"][0]["id"], "outside");
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}

#[test]
fn a_process_that_proc_does_not_show_is_not_taken_for_dead() {
    let Some(world) = namespaces("a_process_that_proc_does_not_show") else { return };
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
    assert_eq!(json(&world, &["recover", "--json"])["alive"], 1, "it is shown here, and lives");
    another_programs(&slot.to_string(), "NULL");
    busy.kill_all();
}

#[test]
fn nobody_is_taken_for_dead_where_proc_counts_pids_otherwise() {
    let Some(world) = namespaces("nobody_is_taken_for_dead_where_proc_counts_pids_otherwise") else { return };
    Busy::sleep(&world, "elsewhere").kill_all();
    // As another program would write it, which says nothing of its namespace.
    change(&world, "UPDATE task_history SET live_slot = NULL, pid_ns = NULL");
    let words = ["unshare", "--pid", "--fork", "--kill-child", "bookend", "recover"];
    let told = world.bare(words).run();
    assert!(told.stderr.contains("under its own pid"), "{told:?}");
    assert_eq!(world.row().text("status"), "running", "{told:?}");
    recover(&world, &[]);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}

#[test]
fn what_a_dead_task_left_is_found_by_its_mark_alone() {
    let Some(world) = World::of_bookend("what_a_dead_task_left_is_found_by_its_mark") else { return };
    let mut out = world.fifo("out");
    let script = format!(
        "probe daemon -- probe with setsid -- probe stay {}; echo ready $$ >$SAY; exec sleep 1000",
        out.path()
    );
    let busy = Busy::start(&world, "say", |_| world.run_sh(&script).options(["--id", "one"]));
    let daemon = out.pid("stay");
    // Another task's daemon, and one of nobody's.
    let mut other_out = world.fifo("other");
    let other =
        world.bare(["probe", "stay", &other_out.path()]).env("BOOKEND_TASK_ID", "one-and-a-half").start();
    let stranger = other_out.pid("stay");
    busy.kill_all();
    let told = recover(&world, &["--grace", "5s"]);
    gone(&world, daemon);
    assert!(told.contains("1 leftover process"), "{told}");
    assert!(state(stranger).is_some_and(|s| s != 'Z'));
    drop(other);
    assert!(bookend(&world, &["show", "one"]).stdout.contains("leftovers"));
}

/// Loses the task `one`, then mounts the overlay with its ledger anew, on a device of another number, as the
/// restart of a container does; then does `$AFTER`.
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
# The sentinel still has the memory of its supervisor for a moment.
until umount "$M" 2>/dev/null; do :; done
mount -t tmpfs none "$T/other"
second=$(layers)
[ "$first" != "$second" ] || exit 90
eval "$AFTER"
"#;

/// What `after` says of the task whose ledger's device was numbered anew.
fn after_a_restart(world: &World, after: &str) -> crate::harness::Output {
    let say = world.fifo("say");
    let script = world.bare(["unshare", "--mount", "sh", "-c", RESTARTED]);
    script.env("SAY", say.path()).env("AFTER", after).run()
}

#[test]
fn a_ledger_on_a_device_numbered_anew_is_judged_by_the_recorded_identity() {
    let Some(world) = namespaces("a_ledger_on_a_device_numbered_anew") else { return };
    let said = after_a_restart(&world, "bookend recover; bookend run --key k -- true; bookend list --json");
    let said = said.ended(End::Code(0));
    assert!(said.stdout.contains("task one interrupted (supervisor_lost)"), "{said:?}");
}

#[test]
fn from_another_pid_namespace_the_operator_ends_the_doubt_about_such_a_ledger() {
    let Some(world) = namespaces("from_another_pid_namespace_the_operator_ends_the_doubt") else { return };
    let inside = IN_A_NAMESPACE.join(" ");
    let after = format!(
        "code=0; said=$({inside} bookend recover) || code=$?; [ $code = 1 ] || exit 91; echo \"$said\";
         command=$(echo \"$said\" | sed -n 's/.*if it has ended: //p'); {inside} $command;
         {inside} bookend run --key k -- true"
    );
    let said = after_a_restart(&world, &after).ended(End::Code(0));
    let command = "bookend recover --ledger";
    assert!(said.stdout.contains(command) && said.stdout.contains("--ttl 0 one"), "{said:?}");
    assert!(said.stdout.contains("task one interrupted (ttl)"), "{said:?}");
}

#[test]
fn a_task_whose_boot_id_was_hidden_is_never_said_to_have_been_rebooted() {
    let Some(world) = forger("a_task_whose_boot_id_was_hidden") else { return };
    let hidden = ["proc=subset=pid"];
    for (at_start, at_recovery) in [(&hidden[..], &[][..]), (&[], &hidden), (&hidden, &hidden)] {
        let script = "trap '' TERM; echo ready $$ >$SAY; exec sleep 1000";
        let busy = Busy::start(&world, "say", |_| world.run_sh(script).with(at_start.iter().copied()));
        let agent = busy.agent;
        busy.kill_supervisor();
        let recover = world.bare(["bookend", "recover", "--grace", "0s"]).with(at_recovery.iter().copied());
        let said = recover.run().ended(End::Code(0)).silent();
        assert!(said.stdout.contains("(supervisor_lost)"), "{said:?}");
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
    let said = recover(&world, &["one"]);
    assert!(said.contains("task one interrupted") && !said.contains("two"), "{said}");
    let endings: Vec<String> = world.rows().iter().map(|r| r.text("status")).collect();
    assert_eq!(endings, ["interrupted", "running"]);
    assert!(recover(&world, &[]).contains("task two interrupted"));
    let said = bookend(&world, &["recover", "three"]).ended(End::Code(1));
    assert!(said.stderr.contains("no task three"), "{said:?}");
}

#[test]
fn doctor_warns_where_proc_hides_the_boot_id() {
    let Some(world) = forger("doctor_warns_where_proc_hides_the_boot_id") else { return };
    let said = world.bare(["bookend", "doctor"]).with(["proc=subset=pid"]).run().ended(End::Code(0));
    assert!(said.stdout.contains("boot id") && said.stdout.contains("subset=pid"), "{said:?}");
    let said = world.bare(["bookend", "doctor"]).with(["proc=hidepid=0"]).run().ended(End::Code(0));
    assert!(!said.stdout.contains("boot id"), "{said:?}");
}

#[test]
fn a_pidfd_of_an_unknown_boot_identifies_nobody() {
    let Some(world) = forger("a_pidfd_of_an_unknown_boot") else { return };
    let busy = Busy::sleep(&world, "before");
    let agent = busy.agent;
    busy.kill_all();
    let _impostor = impostor(&world, agent);
    let pid = rustix::process::Pid::from_raw(agent).expect("a pid");
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
    let inode = rustix::fs::fstat(&pidfd).expect("its inode").st_ino;
    // After a reboot pids and inodes of pidfds are counted from the beginning, in step.
    change(
        &world,
        &format!("UPDATE task_history SET boot_id = 'before', agent_start = 1, agent_pidfd = {inode}"),
    );
    let words = ["bookend", "recover", "--grace", "0s"];
    world.bare(words).with(["proc=subset=pid"]).run().ended(End::Code(0));
    assert_eq!(state(agent), Some('S'), "it lives: {:?}", world.row());
}
