//! `resume`: a person takes over the conversation of a task, as a run under its key.

use std::fs;

use rustix::process::Signal;

use crate::harness::{End, Pty, World, bookend};

const CLAUDE: [&str; 10] = [
    "env",
    "A=b",
    "claude",
    "-p",
    "do it",
    "--model",
    "opus",
    "--add-dir",
    "/tmp",
    "--dangerously-skip-permissions",
];

#[test]
fn resume_opens_the_conversation_with_the_options_of_the_task() {
    let test = "resume_opens_the_conversation_with_the_options_of_the_task";
    let Some(world) = World::of_bookend(test) else { return };
    world.claude("pwd -P >>\"$HOME/places\"");
    fs::create_dir(world.path("home/work")).expect("a directory");
    let options = [
        "--id",
        "one",
        "--key",
        "k",
        "--cwd",
        "work",
        "--user",
        "charles",
        "--timeout",
        "1h",
        "--strict",
        "--on-finish",
        "echo >>../hooks",
    ];
    world.run(CLAUDE).options(options).run().ended(End::Code(0));
    let session = world.row().text("session_id");

    let mut pty = Pty::bash(&world);
    pty.line("cd /; bookend resume; cd");
    assert_eq!(pty.prompt(), 0);
    let line = format!("--resume {session} --model opus --add-dir /tmp --dangerously-skip-permissions");
    assert_eq!(world.argvs()[1], line);
    let rows = world.rows();
    assert_eq!(rows[1].ending(), "success/");
    for column in ["key", "user", "cwd", "session_id", "agent"] {
        assert_eq!(rows[1].text(column), rows[0].text(column), "{column}");
    }
    assert!(rows[0].text("cwd").ends_with("/home/work"), "{:?}", rows[0]);
    assert_eq!(rows[1].text("resumed_from"), session);
    assert!(rows[1].text("argv").starts_with("[\"env\",\"A=b\",\"claude\",\"--resume\""), "{:?}", rows[1]);
    assert_eq!(rows[1].text("on_finish"), "", "hooks are for runs without a person");
    let places = fs::read_to_string(world.path("home/places")).expect("the directories");
    let places: Vec<&str> = places.lines().collect();
    assert_eq!(places, [places[0], places[0]]);
    assert!(places[0].ends_with("/home/work"), "{places:?}");
    let next = world.run(CLAUDE).options(["--key", "k", "--cwd", "work"]).run().ended(End::Code(0));
    assert_eq!((next.stderr.as_str(), world.rows()[2].text("resumed_from")), ("", session));
}

#[test]
fn resume_refuses_an_unsafe_conversation_unless_it_is_allowed_or_a_person_is_there() {
    let test = "resume_refuses_an_unsafe_conversation_unless_it_is_allowed_or_a_person_is_there";
    let Some(world) = World::of_bookend(test) else { return };
    world.claude("case $1 in --resume) exit 0;; *) exit 3;; esac");
    world.run(["claude", "-p", "x"]).options(["--id", "bad", "--key", "k"]).run().ended(End::Code(3));
    let refused = bookend(&world, &["resume", "bad"]).ended(End::Code(78)).stderr;
    assert!(refused.contains("is not safe: its last task, bad,"), "{refused}");
    assert_eq!(world.rows().len(), 1, "nothing was executed");
    let mut pty = Pty::bash(&world);
    pty.line("bookend resume --key k");
    pty.expect("may be in a bad state");
    assert_eq!(pty.prompt(), 0);
    world.run(["claude", "-p", "x"]).options(["--id", "worse", "--key", "l"]).run().ended(End::Code(3));
    bookend(&world, &["resume", "worse", "--allow-unsafe-resume"]).ended(End::Code(0));
}

#[test]
fn resume_does_not_share_a_key_with_a_running_task() {
    let test = "resume_does_not_share_a_key_with_a_running_task";
    let Some(world) = World::of_bookend(test) else { return };
    let mut up = world.fifo("up");
    let wait = format!("echo up >{}; exec sleep 1000", up.path());
    world.claude(&format!("case $* in *long*) {wait};; esac"));
    for key in [&["--key", "k"][..], &[]] {
        let running = world.run(["claude", "-p", "long"]).options(key.iter().copied()).start();
        up.line();
        let busy = bookend(&world, &["resume"]).ended(End::Code(75)).stderr;
        assert!(busy.contains("--wait waits for it"), "{busy}");
        running.signal(Signal::TERM);
        running.wait();
    }
}

#[test]
fn resume_says_what_to_do_where_it_cannot_open_the_conversation() {
    let test = "resume_says_what_to_do_where_it_cannot_open_the_conversation";
    let Some(world) = World::of_bookend(test) else { return };
    let none = bookend(&world, &["resume"]).ended(End::Code(1)).stderr;
    assert!(none.contains("no task: there is no ledger yet at "), "{none}");
    world.claude("exit 0");
    world.program("ssh", "#!/bin/sh\nshift\nexec \"$@\"\n");
    fs::create_dir(world.path("home/gone")).expect("a directory");
    world.run(["true"]).options(["--id", "plain"]).run();
    let there = ["--id", "there", "--key", "k", "--agent-type", "claude"];
    world.run(["ssh", "host", "claude", "-p", "x"]).options(there).run();
    world.run(["claude", "-p", "x"]).options(["--id", "moved", "--cwd", "gone"]).run();
    fs::remove_dir_all(world.path("home/gone")).expect("removed");
    for (id, why, advice) in [
        ("plain", "its agent reported no session", "start the agent yourself"),
        ("there", "ssh started its agent as another user or elsewhere", "such as `--resume "),
        ("moved", "/home/gone does not exist", "create it"),
    ] {
        let stderr = bookend(&world, &["resume", id]).ended(End::Code(125)).stderr;
        assert!(stderr.contains(why) && stderr.contains(advice), "{id}: {stderr}");
        assert!(stderr.contains("nothing was executed"), "{stderr}");
    }
    assert_eq!(world.rows().len(), 3);
    bookend(&world, &["resume", "nosuch"]).ended(End::Code(1));
    bookend(&world, &["resume", "plain", "--key", "k"]).ended(End::Code(2));
}
