//! More runs wait for keys than the monitor can have descriptors for.

use rustix::process::Signal;

use crate::harness::{End, Proc, eventually};
use crate::keys::Holder;
use crate::node::{Node, fleet};

#[test]
fn a_monitor_with_as_many_runs_as_it_can_serve_settles_tasks_and_says_so_to_others() {
    let test = "a_monitor_with_as_many_runs_as_it_can_serve_settles_tasks_and_says_so_to_others";
    let Some(postgres) = fleet(test) else { return };
    let (a, mut b) = (Node::start(&postgres, "a"), Node::join(&postgres, "b"));
    b.start_monitor_by(&["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"], &[]);
    b.monitor().service.until("publishing to");
    let holder = Holder::start(&a, "t1");
    let supervised = b.world.run(["sleep", "1000"]).options(["--id", "lost"]).own_group().start();
    let status = |id: &str| {
        let rows = b.world.sql(&format!("SELECT status FROM task_history WHERE id = '{id}'"));
        rows.first().map(|row| row.text("status"))
    };
    eventually(b.world.deadline(), "a task", || status("lost").is_some());
    let mut waiting: Vec<Proc> = (0..40).map(|_| b.keyed("k", "true").options(["--wait"]).start()).collect();
    let no_place = "the monitor serves 32 runs, half of its limit of 64 open files";
    eventually(b.world.deadline(), "32 runs that wait, and 8 without a place", || {
        let said: Vec<String> = waiting.iter_mut().map(Proc::stderr_so_far).collect();
        let count = |words: &str| said.iter().filter(|said| said.contains(words)).count();
        count("waiting for task ") == 32 && count(no_place) == 8
    });
    let refused = b.keyed("other", "true").run().ended(End::Code(125));
    assert!(refused.stderr.contains(no_place), "{}", refused.stderr);

    supervised.signal(Signal::KILL);
    supervised.wait();
    eventually(b.world.deadline(), "the end of the lost task", || {
        status("lost").as_deref() == Some("interrupted")
    });
    let warned = b.monitor().errors();
    assert_eq!(warned.matches(no_place).count(), 1, "{warned}");
    assert!(!warned.contains("Too many open files"), "{warned}");

    let said: Vec<String> = waiting.iter_mut().map(Proc::stderr_so_far).collect();
    let mut said = said.iter();
    let (others, served): (Vec<Proc>, Vec<Proc>) =
        waiting.into_iter().partition(|_| said.next().is_some_and(|said| said.contains(no_place)));
    served.iter().for_each(|run| run.signal(Signal::TERM));
    for run in served {
        run.wait().ended(End::Signal(15));
    }
    holder.end();
    for run in others {
        run.wait().ended(End::Code(0));
    }
}

#[test]
fn a_monitor_opens_as_many_files_as_it_may_and_its_hooks_inherit_the_former_limit() {
    let test = "a_monitor_opens_as_many_files_as_it_may_and_its_hooks_inherit_the_former_limit";
    let Some(postgres) = fleet(test) else { return };
    let mut a = Node::join(&postgres, "a");
    a.start_monitor_by(&["sh", "-c", "ulimit -Sn 300; ulimit -Hn 600; exec \"$@\"", "sh"], &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", a.monitor().pid())).expect("its limits");
    let files: Vec<&str> = limits
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .map_or(Vec::new(), |l| l.split_whitespace().collect());
    assert_eq!(files[3..5], ["600", "600"], "{limits}");
    let mut told = a.world.fifo("told");
    let hook = format!("echo $(ulimit -Sn) $(ulimit -Hn) >'{}'", told.path());
    let mut up = a.world.fifo("up");
    let run = a.world.run_sh(&format!("echo up >'{}'; exec sleep 1000", up.path()));
    let run = run.options(["--on-finish", &hook]).own_group().start();
    assert_eq!(up.line(), "up");
    run.signal(Signal::KILL);
    run.wait();
    assert_eq!(told.line(), "300 600");
}
