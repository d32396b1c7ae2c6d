//! What `show` says about one task: lines of text, unknown figures, hooks, replacements and commands.

use rustix::process::Signal;

use crate::harness::{End, Pty, World};
use crate::standins::json;

fn page(world: &World, id: &str) -> String {
    world.bare(["bookend", "show", id]).run().ended(End::Code(0)).silent().stdout
}

/// The value of a line of the page, with the lines that continue it.
fn fact(page: &str, name: &str) -> Option<String> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("{name} ")));
    let indent = |line: &str| line.len() - line.trim_start().len();
    let first = lines.next()?.strip_prefix(name)?;
    let room = name.len() + indent(first);
    let rest = lines.take_while(|line| indent(line) >= room && !line.trim().is_empty());
    let lines: Vec<&str> =
        std::iter::once(first.trim_start()).chain(rest.map(|line| &line[room..])).collect();
    Some(lines.join("\n"))
}

#[test]
fn texts_of_several_lines_keep_their_lines_and_indentation() {
    let Some(world) = World::of_bookend("texts_of_several_lines_keep_their_lines_and_indentation") else {
        return;
    };
    let script = "exit 3\nstatus success\x1b[2J\n  indented";
    world.run(["sh", "-c", script]).options(["--id", "one", "--on-finish", "true\n# two"]).run();
    let shown = page(&world, "one");
    let command = fact(&shown, "command").expect("the command");
    assert_eq!(command, "sh -c 'exit 3\nstatus success\\u{1b}[2J\n  indented'");
    assert_eq!(shown.lines().filter(|line| line.starts_with("status")).count(), 1, "{shown}");
    assert_eq!(fact(&shown, "on finish").as_deref(), Some("true\n# two"));

    let mut pty = Pty::bash(&world);
    for columns in [80, 200] {
        pty.resize(columns, 24);
        pty.line("NO_COLOR=1 bookend show one");
        let (screen, _) = pty.output();
        let lines = |text: &str| -> Vec<String> {
            let stable = |line: &&str| !line.contains(" ago)");
            text.lines().map(|line| line.trim_end_matches('\r')).filter(stable).map(str::to_owned).collect()
        };
        let (screen, plain) = (lines(&screen), lines(&shown));
        assert!(screen.ends_with(&plain), "{columns}: {screen:#?}\n{plain:#?}");
    }
}

#[test]
fn hooks_signals_and_replacements_are_named() {
    let Some(world) = World::of_bookend("hooks_signals_and_replacements_are_named") else { return };
    for (id, hook, delivery) in [
        ("fine", "true", "delivered, exit code 0 (attempts: 1)"),
        ("bad", "exit 7", "the command failed with exit code 7 (attempts: 1)"),
        ("killed", "kill -9 $$", "the command was killed by SIGKILL (attempts: 1)"),
    ] {
        world.run(["true"]).options(["--id", id, "--on-finish", hook]).run().ended(End::Code(0));
        let shown = page(&world, id);
        assert_eq!(fact(&shown, "on finish").as_deref(), Some(hook));
        assert_eq!(fact(&shown, "delivery").as_deref(), Some(delivery));
    }
    world.run_sh("exit 143").options(["--id", "stopped"]).run();
    assert_eq!(fact(&page(&world, "stopped"), "exit code").as_deref(), Some("143 (128 + SIGTERM)"));

    let mut up = world.fifo("up");
    let script = format!("echo up >{}; exec sleep 1000", up.path());
    let holder = world.run_sh(&script).options(["--id", "old", "--key", "k"]).own_group().start();
    up.line();
    world.run(["true"]).options(["--id", "new", "--key", "k", "--replace"]).run().ended(End::Code(0));
    holder.wait().ended(End::Signal(Signal::TERM.as_raw()));
    assert_eq!(fact(&page(&world, "new"), "replaces").as_deref(), Some("old"));
    let old = page(&world, "old");
    assert_eq!(fact(&old, "replaced by").as_deref(), Some("new"));
    assert_eq!(fact(&old, "killed by").as_deref(), Some("SIGTERM"));
    assert_eq!(json(&world, &["show", "old", "--json"])["replaced_by"], "new");
}

#[test]
fn an_unknown_figure_says_why() {
    let Some(world) = World::of_bookend("an_unknown_figure_says_why") else { return };
    world.claude("init $id; exit 3");
    world.stand_in("cursor-agent", "init C1; result C1 0");
    world.stand_in("codex", "exit 0");
    let text = "unknown: text output has none; use --output-format json";
    let json = "unknown: the run ended before the agent reported it";
    for (id, line, cost, tokens) in [
        ("text", "claude -p x", text, Some(text)),
        ("json", "claude -p x --output-format json", json, Some(json)),
        ("version", "claude --version", "unknown: an interactive session reports none", None),
        (
            "cursor",
            "cursor-agent -p x --output-format stream-json",
            "unknown: cursor does not report it",
            None,
        ),
        (
            "codex",
            "codex exec x",
            "unknown: codex does not report it",
            Some("unknown: text output has none; use --json"),
        ),
        ("plain", "true", "unknown: bookend reads no figures from true", None),
    ] {
        world.run(line.split(' ')).options(["--id", id]).run();
        let shown = page(&world, id);
        assert_eq!(fact(&shown, "cost").as_deref(), Some(cost), "{id}: {shown}");
        if tokens.is_some() {
            assert_eq!(fact(&shown, "tokens").as_deref(), tokens, "{id}: {shown}");
        }
    }
    assert_eq!(fact(&page(&world, "plain"), "tokens"), None);
}

#[test]
fn the_commands_of_show_work_when_pasted() {
    let Some(world) = World::of_bookend("the_commands_of_show_work_when_pasted") else { return };
    let entry = r#"{"type":"user","message":{"content":"said"}}"#;
    world.claude(&format!("echo '{entry}' >$HOME/.claude/projects/all/$id.jsonl"));
    world.run(["claude", "-p", "x"]).options(["--id", "one", "--key", "k"]).run().ended(End::Code(0));
    let shown = world.bare(["bookend", "show"]).run().ended(End::Code(0)).silent().stdout;
    let pasted = |name: &str| {
        let command = fact(&shown, name).unwrap_or_else(|| panic!("{name}: {shown}"));
        world.bare(["sh", "-c", &command]).run().ended(End::Code(0)).stdout
    };
    assert_eq!(pasted("read with"), "prompt\n  said\n");
    pasted("resume with");
    pasted("run again");
    let sessions: Vec<String> = world.rows().iter().map(|row| row.text("resumed_from")).collect();
    assert_eq!(sessions[1..], [world.rows()[0].text("session_id"), world.rows()[0].text("session_id")]);
    assert!(fact(&shown, "transcript").is_some_and(|path| path.ends_with(".jsonl")), "{shown}");
}
