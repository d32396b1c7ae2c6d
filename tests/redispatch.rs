//! `bookend redispatch` runs a lost task again with its recorded command, options and directory.

use std::fs;
use std::path::Path;

use crate::harness::{End, World};
use crate::standins::{Busy, bookend, dispatch, install, json, recover};

#[test]
fn the_redispatch_command_of_the_report_repeats_the_task() {
    let Some(world) = World::of_bookend("the_redispatch_command_of_the_report_repeats_the_task") else {
        return;
    };
    install(&world);
    let busy = Busy::start(&world, "say", |_| {
        dispatch(&world, "claude").options(["--user", "charles", "--retention", "1h"]).cwd(world.path("tmp"))
    });
    busy.kill_all();
    let report = json(&world, &["recover", "--json"]);
    let command = report["hints"][0]["redispatch"].as_str().expect("a command").to_owned();
    let again = world.bare(command.split(' ')).run().ended(End::Code(0)).silent();
    assert!(again.stdout.contains("\"result\":\"done\""), "{again:?}");
    let rows = world.rows();
    assert_eq!([rows[0].ending(), rows[1].ending()], ["interrupted/supervisor_lost", "success/"]);
    for column in ["key", "user", "user_argv", "run_options", "cwd", "retention_secs"] {
        assert_eq!(rows[0].text(column), rows[1].text(column), "{column}");
    }
    assert_eq!(rows[1].text("resumed_from"), "");
    assert_ne!(rows[1].text("session_id"), rows[0].text("session_id"));
}

#[test]
fn redispatch_needs_the_prompt_again_if_it_came_from_stdin() {
    let Some(world) = World::of_bookend("redispatch_needs_the_prompt_again_if_it_came_from_stdin") else {
        return;
    };
    let script = "cat >$OUT; echo ready $$ >$SAY; exec sleep 1000";
    let out = world.name("prompt");
    let mut say = world.fifo("say");
    let mut run = world
        .run_sh(script)
        .options(["--id", "one"])
        .env("OUT", &out)
        .env("SAY", say.path())
        .piped_input()
        .start();
    run.stdin = None;
    let agent = say.pid("ready");
    Busy { world: &world, supervisor: run, agent }.kill_all();
    let report = recover(&world, &[]);
    assert!(report.contains("its stdin was not recorded"), "{report}");
    let refused = bookend(&world, &["redispatch", "one"]).ended(End::Code(125));
    assert!(refused.stderr.contains("--stdin one <PROMPT"), "{refused:?}");
    assert_eq!(world.rows().len(), 1);
    fs::write(world.path("new"), "the prompt").expect("a prompt");
    let prompt = fs::File::open(world.path("new")).expect("a prompt");
    let again = world
        .bare(["bookend", "redispatch", "one", "--stdin"])
        .env("OUT", &out)
        .env("SAY", say.path())
        .input(prompt);
    let again = again.start();
    let agent = say.pid("ready");
    assert_eq!(fs::read_to_string(Path::new(&out)).expect("the prompt"), "the prompt");
    Busy { world: &world, supervisor: again, agent }.kill_all();
}

#[test]
fn redispatch_refuses_a_running_task() {
    let Some(world) = World::of_bookend("redispatch_refuses_a_running_task") else { return };
    let busy = Busy::sleep(&world, "one");
    bookend(&world, &["redispatch", "one"]).ended(End::Code(75));
    assert_eq!(world.rows().len(), 1);
    busy.kill_all();
}
