//! Agents that are data, with stand-ins named like them: the words that bookend adds, and the user's own
//! declarations.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::{End, World};

/// The session that the agents name which choose its id.
const CHOSEN: &str = "0197a6a0-0000-4000-8000-00000000abcd";
const KEY: &str = "forgejo:dev:charles/claude-hooks:17";

/// Prints the events of the agent named by `$0`, with the session that the arguments name, or `$NAMES`.
const PROGRAM: &str = r#"
for word; do
    case $was in resume | --resume | --session | --session-id) id=$word ;; esac
    case $word in --resume=*) id=${word#--resume=} ;; esac
    was=$word
done
id=${NAMES:-${id:-CHOSEN}}
case ${0##*/} in
codex)
    echo '{"type":"thread.started","thread_id":"'$id'"}'
    echo '{"type":"turn.completed","usage":{"input_tokens":1}}' ;;
gemini)
    echo '{"type":"init","session_id":"'$id'","model":"m"}'
    echo '{"type":"result","status":"success"}' ;;
qwen)
    echo '{"type":"system","subtype":"init","session_id":"'$id'","model":"m"}'
    echo '{"type":"result","session_id":"'$id'","is_error":false}' ;;
copilot)
    echo '{"type":"result","sessionId":"'$id'","exitCode":0}' ;;
opencode)
    echo '{"type":"step_finish","sessionID":"'$id'","part":{"reason":"stop"}}' ;;
esac
"#;

/// Installs stand-ins of the agents and of the programs that run npm packages.
fn install(world: &World) {
    for agent in ["codex", "gemini", "qwen", "copilot", "opencode"] {
        world.stand_in(agent, &PROGRAM.replace("CHOSEN", CHOSEN));
    }
    for (runner, words) in [("npx", 2), ("bunx", 1), ("pnpm", 2)] {
        let script = r#"#!/bin/sh
shift $((WORDS - 1)); package=$1; shift
case $package in
*codex*) exec codex "$@" ;;
*gemini*) exec gemini "$@" ;;
*) exec copilot "$@" ;;
esac
"#;
        world.program(runner, &script.replace("WORDS", &words.to_string()));
    }
}

/// Writes the user's own declaration of `name`.
fn declare(world: &World, name: &str, text: &str) -> PathBuf {
    let folder = world.path("home/.config/bookend/agents");
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("a mode");
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text).expect("a declaration");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    file
}

/// The arguments that the last stand-in got, with `ID` for ids.
fn got(world: &World) -> String {
    let argv = world.argvs().pop().expect("an argv");
    let is_id = |word: &str| uuid::Uuid::parse_str(word).is_ok();
    let words = argv.split(' ').map(|word| match word.split_once('=') {
        Some((option, id)) if is_id(id) => format!("{option}=ID"),
        _ if is_id(word) => "ID".to_owned(),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn each_agent_gets_its_own_words_for_a_session() {
    for (line, first, resumed) in [
        ("codex exec --json hi", "exec --json hi", "exec --json resume ID hi"),
        (
            "codex exec --json hi -s read-only",
            "exec --json hi -s read-only",
            "exec --json -s read-only resume ID hi",
        ),
        ("codex exec --json -- --last", "exec --json -- --last", "exec --json resume ID -- --last"),
        ("codex exec --json -", "exec --json -", "exec --json resume ID -"),
        (
            "gemini -o stream-json -p --resume_x",
            "--session-id ID -o stream-json -p --resume_x",
            "--resume ID -o stream-json -p --resume_x",
        ),
        (
            "qwen -o stream-json -- --session-id",
            "--session-id ID -o stream-json -- --session-id",
            "--resume ID -o stream-json -- --session-id",
        ),
        (
            "copilot --output-format json --allow-all -p hi",
            "--session-id ID --output-format json --allow-all -p hi",
            "--resume=ID --output-format json --allow-all -p hi",
        ),
        (
            "opencode run --format json -- hi",
            "run --format json -- hi",
            "run --session ID --format json -- hi",
        ),
        ("npx -y @openai/codex@0.171.0 exec --json hi", "exec --json hi", "exec --json resume ID hi"),
        (
            "bunx @google/gemini-cli -o stream-json -p hi",
            "--session-id ID -o stream-json -p hi",
            "--resume ID -o stream-json -p hi",
        ),
        (
            "pnpm dlx @github/copilot --output-format json -p hi",
            "--session-id ID --output-format json -p hi",
            "--resume=ID --output-format json -p hi",
        ),
    ] {
        let Some(world) = World::of_bookend("each_agent_gets_its_own_words") else { return };
        install(&world);
        for expected in [first, resumed] {
            let output = world.run(line.split(' ')).options(["--key", KEY]).run();
            output.ended(End::Code(0)).silent();
            assert_eq!(got(&world), expected, "{line}");
        }
        let rows = world.rows();
        let agent = ["codex", "gemini", "qwen", "copilot", "opencode"].into_iter().find(|a| line.contains(a));
        for row in &rows {
            assert_eq!(
                (row.text("agent_type"), row.ending()),
                (agent.expect("one").into(), "success/".into())
            );
        }
        assert_eq!(rows[0].text("session_id"), rows[1].text("session_id"), "{line}");
        assert_eq!(rows[1].text("resumed_from"), rows[0].text("session_id"), "{line}");
    }
}

#[test]
fn session_words_of_the_user_are_not_changed() {
    let Some(world) = World::of_bookend("session_words_of_the_user") else { return };
    install(&world);
    for line in [
        "codex exec resume --json 0197a6a0-0000-4000-8000-0000000000e1 hi",
        "codex exec resume --last hi",
        "codex exec --ephemeral --json hi",
        "codex login",
        "gemini --resume latest -p hi",
        "gemini mcp list",
        "qwen --session-id 0197a6a0-0000-4000-8000-0000000000e2 hi",
        "copilot --continue -p hi",
        "opencode run -c hi",
        "opencode",
    ] {
        world.run(line.split(' ')).run().ended(End::Code(0)).silent();
        let own = line.split_once(' ').map_or("", |(_, own)| own);
        assert_eq!(world.argvs().pop().expect("an argv"), own, "{line}");
    }
}

#[test]
fn a_session_is_never_resumed_by_another_agent() {
    let Some(world) = World::of_bookend("a_session_of_another_agent") else { return };
    install(&world);
    // The provider may be the same: the agent counts.
    let options = ["--key", KEY, "--provider", "azure"];
    world.run(["codex", "exec", "--json", "hi"]).options(options).run().ended(End::Code(0)).silent();
    let other = world.run(["gemini", "-o", "stream-json", "-p", "hi"]).options(options).run();
    let other = other.ended(End::Code(0));
    assert_eq!(got(&world), "--session-id ID -o stream-json -p hi");
    let warning = format!("session {CHOSEN} is not resumed: it is a session of codex; starting fresh");
    assert!(other.stderr.contains(&warning), "{other:?}");
    let invalid = world.sql("SELECT * FROM session_invalidation");
    assert_eq!(
        (invalid[0].text("session_id"), invalid[0].text("reason")),
        (CHOSEN.into(), "other_agent".into())
    );
    world.run(["gemini", "-p", "hi"]).options(options).run().ended(End::Code(0)).silent();
    assert_eq!(got(&world), "--resume ID -p hi");
}

#[test]
fn an_agent_that_names_another_session_has_lost_its_context() {
    let Some(world) = World::of_bookend("another_session_than_asked_for") else { return };
    install(&world);
    let run = || world.run(["codex", "exec", "--json", "hi"]).options(["--key", KEY]);
    run().run().ended(End::Code(0)).silent();
    let other = "0197a6a0-0000-4000-8000-0000000000ff";
    let lost = run().env("NAMES", other).run().ended(End::Code(0));
    assert!(lost.stderr.contains("its context is lost"), "{lost:?}");
    let row = world.rows().pop().expect("a row");
    assert_eq!((row.number("context_lost"), row.text("session_id")), (Some(1), other.into()));
}

#[test]
fn the_agents_own_directory_is_recorded() {
    let Some(world) = World::of_bookend("the_agents_own_directory") else { return };
    install(&world);
    fs::create_dir_all(world.path("home/work")).expect("a folder");
    world
        .run(["codex", "exec", "--json", "-C", "home/work", "hi"])
        .cwd(world.path(""))
        .run()
        .ended(End::Code(0));
    let row = world.row();
    assert!(row.text("cwd").ends_with("/home/work"), "{}", row.text("cwd"));
    let shown = world.bare(["bookend", "show", &row.text("id")]).run().ended(End::Code(0));
    assert!(shown.stdout.contains("bookend resume "), "{}", shown.stdout);
}

#[test]
fn silence_cannot_be_limited_without_events_and_the_option_is_named() {
    let Some(world) = World::of_bookend("idle_timeout_of_each_agent") else { return };
    install(&world);
    for (line, says) in [
        ("codex exec hi", "add `--json` to its command line"),
        ("opencode run hi", "add `--format json` to its command line"),
        ("claude -p hi", "add `--output-format stream-json --verbose` to its command line"),
        ("true", "bookend reads no events from this program"),
    ] {
        let refused = world.run(line.split(' ')).options(["--idle-timeout", "5m"]).run().ended(End::Code(2));
        assert!(refused.stderr.contains(says), "{line}: {}", refused.stderr);
    }
}

/// An agent of the user's own that assigns and resumes, and whose exit codes have a meaning.
const AIDER: &str = r#"
schema = 1
name = "aider"
packages = ["@acme/aider"]

[options]
one = ["--chat"]

[session.resume]
word = "--chat"
place = "front"

[session.given]
resume = ["--chat"]

[print]
options = ["--go"]

[output]
stream_options = ["--events"]

[exits]
ok = [0, 3]
error = [4]

[[event]]
on = { kind = ["start"] }
session = "chat"

[[event]]
on = { kind = ["end"] }
result = "ok"
"#;

const AIDER_PROGRAM: &str = r#"
echo '{"kind":"start","chat":"c-1"}'
[ "$DO" != 4 ] || exit 4
echo '{"kind":"end"}'
exit ${DO:-0}
"#;

#[test]
fn a_declaration_of_the_users_own_makes_an_agent() {
    let Some(world) = World::of_bookend("a_declaration_of_the_users_own") else { return };
    world.stand_in("aider", AIDER_PROGRAM);
    for runner in ["npx", "bunx"] {
        world.program(runner, "#!/bin/sh\nshift\nexec aider \"$@\"\n");
    }
    declare(&world, "aider", AIDER);
    let go = |line: &str, code: &str| {
        let run = world.run(line.split(' ')).options(["--key", KEY]).env("DO", code);
        let output = run.run().ended(End::Code(code.parse().expect("a code")));
        (got(&world), world.rows().pop().expect("a row").ending(), output.stderr)
    };
    let silent = |argv: &str, ending: &str| (argv.to_owned(), ending.to_owned(), String::new());
    assert_eq!(go("aider --go --events", "0"), silent("--go --events", "success/"));
    assert_eq!(go("aider --go --events", "3"), silent("--chat c-1 --go --events", "success/"));
    assert_eq!(go("npx @acme/aider@2.0 --go --events", "0"), silent("--chat c-1 --go --events", "success/"));
    let (argv, ending, _) = go("bunx @acme/aider --go --events", "4");
    assert_eq!((argv.as_str(), ending.as_str()), ("--chat c-1 --go --events", "failure/agent_error"));
    let (argv, _, stderr) = go("aider --go --events", "0");
    assert!(stderr.is_empty() && argv == "--go --events", "{argv} {stderr}: its session was invalidated");
    assert_eq!(world.rows()[0].text("agent_type"), "aider");
    assert!(world.rows()[0].text("provider").is_empty());
}

#[test]
fn a_declaration_that_is_refused_stops_only_its_own_agent() {
    let Some(world) = World::of_bookend("a_declaration_that_is_refused") else { return };
    world.stand_in("aider", AIDER_PROGRAM);
    world.claude("exit 0");
    let file = declare(&world, "aider", &AIDER.replace("packages", "packs"));
    let shown = file.display();
    let run = |line: &str| world.run(line.split(' ')).run();
    let broken = run("aider --go").ended(End::Code(2));
    assert!(broken.stderr.contains(&format!("{shown}:4: unknown key `packs`; allowed are: ")), "{broken:?}");
    assert!(broken.stderr.contains("nothing was executed"), "{broken:?}");
    for other in ["true", "claude -p hi", "env A=b true"] {
        run(other).ended(End::Code(0)).silent();
    }
    run("aider --go").ended(End::Code(2));
    let untyped = world.run(["aider", "--go"]).options(["--agent-type", "command"]).run();
    untyped.ended(End::Code(0)).silent();
    declare(&world, "aider", AIDER);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("a mode");
    let shared = run("aider --go").ended(End::Code(2));
    assert!(shared.stderr.contains(&format!("other users may write to {shown} (mode 0666)")), "{shared:?}");
    assert!(
        shared.stderr.contains(&format!("hint: run `chmod go-w {shown}`; nothing was executed")),
        "{shared:?}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    run("aider --go").ended(End::Code(0)).silent();
}

#[test]
fn a_declaration_replaces_the_agent_of_its_name() {
    let Some(world) = World::of_bookend("a_declaration_replaces") else { return };
    world.claude("exit 0");
    world.stand_in("wrapper", "exit 0");
    let own = "schema = 1\nname = 'claude'\nprovider = 'mine'\n";
    let folder = declare(&world, "claude", own);
    world.run(["claude", "-p", "hi"]).run().ended(End::Code(0)).silent();
    let row = world.rows().pop().expect("a row");
    assert_eq!((got(&world).as_str(), row.text("provider").as_str()), ("-p hi", "mine"));
    // Nothing is read from the folder of a relative XDG_CONFIG_HOME, nor from the working directory.
    let config = folder.ancestors().nth(3).expect("a folder").to_owned();
    let elsewhere = world.path("config");
    fs::rename(&config, &elsewhere).expect("another place");
    for (home, words) in [("config", "--session-id ID -p hi"), (elsewhere.to_str().expect("UTF-8"), "-p hi")]
    {
        let run = world.run(["claude", "-p", "hi"]).env("XDG_CONFIG_HOME", home).cwd(world.path(""));
        run.run().ended(End::Code(0)).silent();
        assert_eq!(got(&world), words, "{home}");
    }
}

#[test]
fn an_unknown_agent_type_is_answered_with_the_known_ones() {
    let Some(world) = World::of_bookend("an_unknown_agent_type") else { return };
    declare(&world, "aider", AIDER);
    let refused = world.run(["x"]).options(["--agent-type", "nobody"]).run().ended(End::Code(2));
    let known = "hint: use aider, claude, codex, copilot, cursor, gemini, opencode, qwen or command; without \
                 --agent-type, the program's name decides";
    assert!(refused.stderr.contains(known), "{}", refused.stderr);
    world.stand_in("wrapper", AIDER_PROGRAM);
    world.run(["wrapper", "--go"]).options(["--agent-type", "aider"]).run().ended(End::Code(0)).silent();
    assert_eq!(world.row().text("agent_type"), "aider");
}
