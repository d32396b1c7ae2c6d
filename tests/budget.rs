//! `run --budget`: once the runs of a key have cost as much as they may, further runs are refused.

use rustix::process::Signal;

use crate::harness::{End, Output, STREAM, World};

/// A world with a `claude` whose every run costs $0.25.
fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    world.claude("init \"$id\"; result \"$id\" 0.25");
    Some(world)
}

fn run(world: &World, options: &[&str]) -> Output {
    world.run(STREAM).options(["--key", "k", "--fresh"]).options(options.iter().copied()).run()
}

#[test]
fn a_run_is_refused_once_its_key_has_spent_the_budget() {
    let Some(world) = world("a_run_is_refused_once_its_key_has_spent_the_budget") else { return };
    run(&world, &["--budget", "0.5/24h"]).ended(End::Code(0)).silent();
    run(&world, &["--budget", "0.5/24h"]).ended(End::Code(0)).silent();
    let refused = run(&world, &["--budget", "0.5/24h"]).ended(End::Code(77));
    let text = "error: the runs under key k have cost $0.50, and its budget is $0.50 in 24h";
    assert!(refused.stderr.contains(text) && refused.stderr.contains("nothing was executed"), "{refused:?}");
    assert_eq!((world.rows().len(), world.argvs().len()), (2, 2));
    let command = refused.stderr.split('`').nth(1).expect("a command");
    let listed = world.bare(["sh", "-c", command]).run().ended(End::Code(0)).stdout;
    assert_eq!(listed.matches("success").count(), 2, "{listed}");
    // The variable does the same; a larger budget, another key and no budget do not refuse.
    let variable = world.run(STREAM).options(["--key", "k"]).env("BOOKEND_BUDGET", "0.5/24h").run();
    variable.ended(End::Code(77));
    world.run(STREAM).options(["--key", "other", "--budget", "0.1/1h"]).run().ended(End::Code(0));
    run(&world, &["--budget", "0.6/24h"]).ended(End::Code(0)).silent();
    run(&world, &[]).ended(End::Code(0)).silent();
}

#[test]
fn costs_from_before_the_period_do_not_count() {
    let Some(world) = world("costs_from_before_the_period_do_not_count") else { return };
    run(&world, &[]).ended(End::Code(0));
    run(&world, &["--budget", "0.2/2h"]).ended(End::Code(77));
    world.write("UPDATE task_history SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-3 hours')");
    run(&world, &["--budget", "0.2/2h"]).ended(End::Code(0)).silent();
    run(&world, &["--budget", "0.2/4h"]).ended(End::Code(77));
}

#[test]
fn runs_whose_cost_is_unknown_are_named() {
    let Some(world) = world("runs_whose_cost_is_unknown_are_named") else { return };
    let plain = |id: &str, program: &str| {
        world.run([program]).options(["--key", "k", "--id", id, "--budget", "0.2/24h"]).run()
    };
    plain("first", "true").ended(End::Code(0)).silent();
    // A run that executed nothing has cost nothing.
    plain("absent", "/no/such/program").ended(End::Code(127));
    let second = plain("second", "true").ended(End::Code(0));
    let warning = "warning: the budget of key k does not count 1 run whose cost is unknown (first)";
    assert!(second.stderr.contains(warning), "{second:?}");
    run(&world, &["--budget", "0.2/24h"]).ended(End::Code(0));
    let refused = run(&world, &["--budget", "0.2/24h"]).ended(End::Code(77));
    assert!(
        refused.stderr.contains("not counted: 2 runs whose cost is unknown (second, first)"),
        "{refused:?}"
    );
    for n in 3..8 {
        world.run(["true"]).options(["--key", "k", "--id", &format!("n{n}")]).run();
    }
    let refused = run(&world, &["--budget", "0.2/24h"]).ended(End::Code(77));
    assert!(
        refused.stderr.contains("7 runs whose cost is unknown (n7, n6, n5, n4, n3 and 2 more)"),
        "{refused:?}"
    );
}

#[test]
fn the_progress_of_a_running_task_counts_and_the_task_is_not_cancelled() {
    let test = "the_progress_of_a_running_task_counts_and_the_task_is_not_cancelled";
    let Some(world) = World::of_bookend(test) else { return };
    let mut up = world.fifo("up");
    let script = format!("echo ready $$ >{}; exec sleep 1000", up.path());
    let running = world.run_sh(&script).options(["--key", "k"]).start();
    up.pid("ready");
    world.write("UPDATE task_history SET cost_usd = 3.0");
    for when_busy in ["--replace", "--wait", "--fresh"] {
        let options = ["--key", "k", "--budget", "2/1h", when_busy];
        let refused = world.run(["true"]).options(options).run().ended(End::Code(77));
        assert!(refused.stderr.contains("have cost $3.00"), "{refused:?}");
    }
    assert_eq!(world.row().text("status"), "running");
    let busy = world.run(["true"]).options(["--key", "k", "--budget", "4/1h"]).run();
    busy.ended(End::Code(75));
    running.signal(Signal::TERM);
    running.wait();
}

#[test]
fn a_budget_needs_a_key_and_two_numbers() {
    let Some(world) = World::of_bookend("a_budget_needs_a_key_and_two_numbers") else { return };
    let refused = world.run(["true"]).options(["--budget", "20/24h"]).run().ended(End::Code(2));
    for part in ["--budget needs a key", "hint: add --key, or --repo and --issue"] {
        assert!(refused.stderr.contains(part), "{part} in {refused:?}");
    }
    let options = ["--repo", "a/b", "--issue", "7", "--budget", "20/24h"];
    world.run(["true"]).options(options).run().ended(End::Code(0)).silent();
    for wrong in ["20", "0/24h", "20/0", "x/24h"] {
        let refused =
            world.run(["true"]).options(["--key", "k", "--budget", wrong]).run().ended(End::Code(2));
        assert!(refused.stderr.contains("such as 20/24h"), "{refused:?}");
    }
}

#[test]
fn redispatch_keeps_the_budget() {
    let Some(world) = world("redispatch_keeps_the_budget") else { return };
    run(&world, &["--id", "first", "--budget", "0.2/24h"]).ended(End::Code(0));
    let again = world.bare(["bookend", "redispatch", "first", "--stdin"]).run().ended(End::Code(77));
    assert!(again.stderr.contains("have cost $0.25"), "{again:?}");
}

#[test]
fn an_adopted_ledger_counts_by_its_own_times() {
    let Some(world) = world("an_adopted_ledger_counts_by_its_own_times") else { return };
    let shapes = [include_str!("adopt/plain.sql"), include_str!("adopt/epoch.sql")];
    for (n, tables) in shapes.into_iter().enumerate() {
        let ledger = world.name(&format!("dispatcher{n}.db"));
        rusqlite::Connection::open(&ledger).expect("a file").execute_batch(tables).expect("the tables");
        world.bare(["bookend", "adopt", &ledger]).run().ended(End::Code(0));
        let run = |budget: &str| {
            let options = ["--ledger", &ledger, "--key", "k", "--fresh", "--budget", budget];
            world.run(STREAM).options(options).run()
        };
        run("0.2/24h").ended(End::Code(0));
        run("0.2/24h").ended(End::Code(77));
        let hours_ago = "UPDATE task_history SET started_at =
                CASE typeof(started_at) WHEN 'text' THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-3 hours')
                    ELSE unixepoch('now', '-3 hours') END
            WHERE key = 'k'";
        rusqlite::Connection::open(&ledger).expect("a file").execute_batch(hours_ago).expect("the times");
        run("0.2/2h").ended(End::Code(0));
    }
}
