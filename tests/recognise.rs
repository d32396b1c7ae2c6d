//! Recognition of agents behind launchers: the session options that bookend adds, and its warnings where it
//! adds none.

use std::os::unix::fs::symlink;

use crate::harness::{End, World, state};

/// A world in which `claude` and the launchers for other users and machines record their arguments.
fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    world.claude("exit 0");
    for launcher in ["docker", "sudo", "ssh", "direnv", "npx", "claude-wrapper"] {
        world.stand_in(launcher, "exit 0");
    }
    std::fs::create_dir_all(world.path("home/src/claude")).expect("a folder that is named as the agent");
    Some(world)
}

/// The arguments that the program got, with `ID` for the id that bookend added.
fn got(world: &World) -> String {
    let argv = world.argvs().pop().expect("an argv");
    let words = argv.split(' ').map(|w| if uuid::Uuid::parse_str(w).is_ok() { "ID" } else { w });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_session_id_follows_the_agents_name() {
    let Some(world) = world("the_session_id_follows_the_agents_name") else { return };
    for (line, arguments) in [
        ("env -C src/claude claude -p hi", "--session-id ID -p hi"),
        ("env A=b nice -n 1 claude -p hi", "--session-id ID -p hi"),
        ("timeout 60 claude -p hi", "--session-id ID -p hi"),
        ("flock src/claude claude -p hi", "--session-id ID -p hi"),
        ("direnv exec src/claude claude -p hi", "exec src/claude claude --session-id ID -p hi"),
        (
            "npx -y -p @anthropic-ai/claude-code claude -p hi",
            "-y -p @anthropic-ai/claude-code claude --session-id ID -p hi",
        ),
        ("npx -y @anthropic-ai/claude-code -p hi", "-y @anthropic-ai/claude-code --session-id ID -p hi"),
    ] {
        for options in [&[][..], &["--agent-type", "claude"]] {
            world.run(line.split(' ')).options(options.iter().copied()).run().ended(End::Code(0)).silent();
            assert_eq!(got(&world), arguments, "{line} {options:?}");
            let row = world.rows().pop().expect("a row");
            assert_eq!((row.text("agent_type"), row.ending()), ("claude".into(), "success/".into()));
        }
    }
}

#[test]
fn an_agent_of_another_user_or_machine_needs_an_agent_type() {
    let Some(world) = world("an_agent_of_another_user_or_machine") else { return };
    for (line, arguments) in [
        ("sudo -u claude claude -p hi", "-u claude claude --session-id ID -p hi"),
        ("docker run --name claude img claude -p hi", "run --name claude img claude --session-id ID -p hi"),
        (
            "docker run -v /srv/claude:/w -w /srv/claude img claude -p hi",
            "run -v /srv/claude:/w -w /srv/claude img claude --session-id ID -p hi",
        ),
        ("ssh claude@build claude -p hi", "claude@build claude --session-id ID -p hi"),
    ] {
        let (program, given) = line.split_once(' ').expect("arguments");
        world.run(line.split(' ')).run().ended(End::Code(0)).silent();
        assert_eq!(got(&world), given, "without the type nothing is added");
        assert_eq!(world.rows().pop().expect("a row").text("agent_type"), "command");

        world.run(line.split(' ')).options(["--agent-type", "claude"]).run().ended(End::Code(0)).silent();
        assert_eq!(got(&world), arguments);

        let warned = world.run(line.split(' ')).options(["--key", "k"]).run().ended(End::Code(0));
        for part in ["warning: the session of key k is not tracked", program, "--agent-type claude"] {
            assert!(warned.stderr.contains(part), "{part} in {warned:?}");
        }
        let row = world.rows().pop().expect("a row");
        assert_eq!(row.text("session_untracked"), program);
        let shown = world.bare(["bookend", "show", &row.text("id")]).run().ended(End::Code(0));
        assert!(shown.stdout.contains(&format!("not tracked ({program})")), "{shown:?}");
    }
}

#[test]
fn a_session_of_another_user_is_resumed_only_if_its_transcript_was_found() {
    let Some(world) = world("a_session_of_another_user_is_resumed") else { return };
    let dispatch = |program: &str| {
        let argv = [program, "-u", "x", "claude", "-p", "hi"];
        let options = ["--agent-type", "claude", "--key", program];
        world.run(argv).options(options).run().ended(End::Code(0))
    };
    dispatch("sudo");
    let second = dispatch("sudo");
    assert!(second.stderr.contains("does not see its transcript"), "{second:?}");
    assert_eq!(got(&world), "-u x claude --session-id ID -p hi");
    // This launcher runs it where bookend looks.
    world.program("doas", "#!/bin/sh\nshift 2\nexec \"$@\"\n");
    dispatch("doas").silent();
    dispatch("doas").silent();
    assert_eq!(got(&world), "--resume ID -p hi");
    let seen: Vec<_> = world.rows().iter().map(|r| r.number("transcript_seen")).collect();
    assert_eq!(seen, [Some(0), Some(0), Some(1), Some(1)]);
}

#[test]
fn options_of_a_shell_are_not_taken_for_the_agents() {
    let Some(world) = world("options_of_a_shell_are_not_taken_for_the_agents") else { return };
    let run = |key: &str, argv: &[&str], code| {
        let options = ["--key", key, "--agent-type", "claude"];
        world.run(argv.iter().copied()).options(options).run().ended(End::Code(code))
    };
    run("a", &["claude", "-p", "hi"], 0);
    let session = world.row().text("session_id");
    run("b", &["bash", "-c", "exit 1"], 1).silent();
    let row = world.rows().pop().expect("a row");
    assert_eq!((row.text("session_id"), row.text("session_untracked")), (String::new(), "bash".into()));
    let kept = world.sql("SELECT key, session_id FROM claude_sdk_sessions");
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].text("key"), kept[0].text("session_id")), ("a".into(), session));
    assert_eq!(run("b", &["bash", "-c", "echo ran"], 0).silent().stdout, "ran\n");
}

#[test]
fn an_unknown_program_followed_by_an_agents_name_is_ambiguous() {
    let Some(world) = world("an_unknown_program_is_ambiguous") else { return };
    let argv = ["claude-wrapper", "-p", "--", "claude"];
    let output = world.run(argv).options(["--agent-type", "claude"]).run().ended(End::Code(0));
    assert_eq!(got(&world), "-p -- claude");
    assert_eq!(output.stderr.matches("warning: ").count(), 1, "{output:?}");
    assert!(output.stderr.contains("does not know how claude-wrapper starts claude"), "{output:?}");
    let argv = ["claude-wrapper", "-p", "hi"];
    world.run(argv).options(["--agent-type", "claude"]).run().ended(End::Code(0)).silent();
    assert_eq!(got(&world), "--session-id ID -p hi");
}

#[test]
fn an_unknown_option_of_a_launcher_leaves_the_command_line_unchanged() {
    let Some(world) = world("an_unknown_option_of_a_launcher") else { return };
    for line in ["npx --new-option 5 claude -p hi", "docker run --new-option 5 img claude -p hi"] {
        world.run(line.split(' ')).options(["--agent-type", "claude"]).run().ended(End::Code(0));
        assert_eq!(Some(got(&world).as_str()), line.split_once(' ').map(|l| l.1));
    }
}

#[test]
fn an_untracked_key_gives_a_warning_only_if_an_agent_is_named() {
    let Some(world) = world("an_untracked_key_gives_a_warning") else { return };
    let run =
        |argv: &[&str]| world.run(argv.iter().copied()).options(["--key", "k"]).run().ended(End::Code(0));
    let warned = run(&["sh", "-c", "cd . && claude -p hi"]);
    for part in ["warning: the session of key k is not tracked", "sh may start claude", "claude itself"] {
        assert!(warned.stderr.contains(part), "{part} in {warned:?}");
    }
    assert_eq!(world.rows().pop().expect("a row").text("session_untracked"), "sh");
    for argv in [&["sh", "-c", "true"][..], &["true"], &["ls", "src/claude"], &["claude", "-p", "hi"]] {
        run(argv).silent();
    }
    let quiet = world.run(["sh", "-c", "claude -p"]).run().ended(End::Code(0));
    assert_eq!(quiet.stderr, "", "without a key nothing is lost");
}

#[test]
fn a_symbolic_link_and_a_versioned_program_are_the_agent() {
    let Some(world) = world("a_symbolic_link_and_a_versioned_program_are_the_agent") else { return };
    symlink(world.path("bin/claude"), world.path("bin/my-ai")).expect("a link");
    std::fs::create_dir(world.path("home/versions")).expect("a folder");
    symlink(world.path("bin/claude"), world.path("home/versions/2.1.330")).expect("a link");
    symlink(world.path("bin/claude"), world.path("bin/claude.exe")).expect("a link");
    for program in ["my-ai", "./versions/2.1.330", "claude.exe"] {
        world.run([program, "-p", "hi"]).run().ended(End::Code(0)).silent();
        assert_eq!(got(&world), "--session-id ID -p hi", "{program}");
        assert_eq!(world.rows().pop().expect("a row").text("agent_type"), "claude");
    }
}

#[test]
fn a_wrapper_with_its_own_home_resumes_its_conversation() {
    let Some(world) = World::of_bookend("a_wrapper_with_a_home_of_its_own") else { return };
    let keep = "d=$HOME/account-b/projects/all; mkdir -p $d; echo '{}' >>$d/$id.jsonl";
    world.stand_in("claude", keep);
    for first in ["--session-id ID", "--resume ID", "--resume ID"] {
        world.run(["claude", "-p", "hi"]).options(["--key", "k"]).run().ended(End::Code(0)).silent();
        assert_eq!(got(&world), format!("{first} -p hi"));
    }
    assert!(world.rows().iter().all(|r| r.number("transcript_seen") == Some(0)));
}

#[test]
fn a_missing_transcript_starts_a_new_conversation() {
    let Some(world) = world("a_missing_transcript") else { return };
    let run = || world.run(["claude", "-p", "hi"]).options(["--key", "k"]).run().ended(End::Code(0));
    run();
    std::fs::remove_dir_all(world.path("home/.claude/projects")).expect("the transcripts");
    let second = run();
    assert!(second.stderr.contains("has no transcript"), "{second:?}");
    assert_eq!(got(&world), "--session-id ID -p hi");
}

#[test]
fn redispatch_replaces_the_session_id_that_the_user_gave() {
    let Some(world) = World::of_bookend("a_run_whose_session_id_was_given") else { return };
    // As Claude Code does, it accepts an id once.
    world.stand_in("claude", "mkdir ../used.$id || { echo in use >&2; exit 1; }");
    let id = "0197a6a0-0000-4000-8000-00000000eeee";
    world.run(["claude", "--session-id", id, "-p", "hi"]).options(["--key", "k"]).run().ended(End::Code(0));
    let first = world.row().text("id");
    world.bare(["bookend", "redispatch", &first]).run().ended(End::Code(0)).silent();
    assert_eq!(got(&world), "--session-id ID -p hi");
    let rows = world.rows();
    assert_eq!((rows[0].text("session_id"), rows[1].ending()), (id.into(), "success/".into()));
    assert_ne!(rows[1].text("session_id"), id);
    assert!(world.argvs()[1].contains(&rows[1].text("session_id")), "the row has the new id");
}

/// A `claude` whose `--bg` starts a daemon and records the job, as 2.1.330 does.
const BACKGROUND: &str = r#"
job=$HOME/.claude/jobs/aaaaaaaa; mkdir -p "$job"
now=$(date -u +%Y-%m-%dT%H:%M:%S.999Z)
printf '{"sessionId":"aaaaaaaa-0000-4000-8000-00000000eeee","cwd":"%s","createdAt":"%s"}' "$(pwd -P)" "$now" \
    >"$job/state.json"
setsid sh -c 'echo ready $$ >"$SAY"; exec sleep 1000' </dev/null >/dev/null 2>&1 &
read line <"$GO"
"#;

#[test]
fn a_backgrounded_conversation_keeps_running_and_the_key_has_no_session() {
    let Some(world) = World::of_bookend("what_goes_on_in_the_background") else { return };
    world.stand_in("claude", BACKGROUND);
    let (mut say, mut go) = (world.fifo("say"), world.fifo("go"));
    let run = world
        .run(["claude", "--bg", "hi"])
        .options(["--key", "k", "--leftovers", "end"])
        .env("SAY", say.path())
        .env("GO", go.path())
        .start();
    let daemon = say.pid("ready");
    go.write_line("on");
    run.wait().ended(End::Code(0)).silent();
    assert_eq!(got(&world), "--bg hi");
    let row = world.row();
    assert_eq!(row.ending(), "success/backgrounded");
    assert_eq!(row.text("session_id"), "aaaaaaaa-0000-4000-8000-00000000eeee");
    assert_eq!(row.text("session_untracked"), "backgrounded");
    assert!(world.sql("SELECT * FROM claude_sdk_sessions").is_empty());

    let alive = || matches!(state(daemon), Some(s) if s != 'Z');
    assert!(alive(), "bookend does not stop the daemon");
    let environment = std::fs::read(format!("/proc/{daemon}/environ")).expect("its environment");
    assert!(!environment.windows(15).any(|w| w == b"BOOKEND_TASK_ID"), "it has no mark of the task");
    world.bare(["bookend", "recover"]).run().ended(End::Code(0));
    let audit = world.bare(["bookend", "audit"]).run().ended(End::Code(0));
    assert!(alive() && !audit.stdout.contains("orphan"), "{audit:?}");
    world.bare(["probe", "send", &daemon.to_string(), "9"]).run();
}

#[test]
fn a_session_that_is_sent_to_the_background_is_removed_from_its_key() {
    let Some(world) = World::of_bookend("a_session_that_is_sent_to_the_background") else { return };
    world.claude("exit 0");
    let run = |argv: &[&str]| {
        world.run(argv.iter().copied()).options(["--key", "k"]).run().ended(End::Code(0));
        world.rows().pop().expect("a row")
    };
    let session = run(&["claude", "-p", "hi"]).text("session_id");
    let row = run(&["claude", "--bg", "--resume", &session]);
    assert_eq!((row.ending().as_str(), row.text("resumed_from")), ("success/backgrounded", session));
    assert!(world.sql("SELECT * FROM claude_sdk_sessions").is_empty());
    run(&["claude", "-p", "hi"]);
    assert_eq!(got(&world), "--session-id ID -p hi");
}

#[test]
fn subcommands_get_no_session() {
    let Some(world) = World::of_bookend("subcommands_get_no_session") else { return };
    world.claude("exit 0");
    for word in ["config", "help", "ps", "mcp"] {
        world.run(["claude", word]).options(["--key", "k"]).run().ended(End::Code(0)).silent();
        assert_eq!(got(&world), word);
        assert_eq!(world.rows().pop().expect("a row").text("session_untracked"), "no conversation");
    }
}
