//! Which agent a command line starts, and where its own arguments begin.

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

/// Checks the adapter, the place and the start of the agent's own arguments, which follow `|` in `line`.
fn assert_own(line: &str, agent_type: Option<&str>, place: &SessionPlace) {
    let (before, own) = line.split_once('|').unwrap_or((line, ""));
    let argv = words(&format!("{before} {own}"));
    let found = recognise(&argv, agent_type).expect("a type");
    assert_eq!((&found.place, found.args_start), (place, words(before).len()), "{line}");
    assert_eq!(found.adapter.agent_type(), agent_type.unwrap_or("claude"), "{line}");
}

fn untracked(line: &str, agent_type: Option<&str>) -> String {
    match recognise(&words(line), agent_type).expect("a type").place {
        SessionPlace::Untracked(why) => why.to_string(),
        place => format!("{place:?}"),
    }
}

#[test]
fn an_agent_is_recognised_by_its_names_and_behind_local_launchers() {
    for line in [
        "claude | -p hi",
        "/opt/x/claude |",
        "claude.exe | -p",
        "./versions/2.1.330 | -p hi",
        "env A=b claude | -p hi",
        "env -i -u X --chdir=src/claude PATH=/bin claude | -p",
        "env -C src/claude claude | -p",
        "nice claude |",
        "nice -n 5 claude |",
        "nice -10 claude |",
        "ionice -c2 -n 7 claude |",
        "chrt -b 0 claude |",
        "taskset -c 0,1 claude |",
        "nohup claude | -p",
        "setsid -w claude | -p",
        "stdbuf -oL claude | -p",
        "timeout -k 5 60 claude | -p",
        "timeout --signal=INT 60 /work/versions/2.1.330 | -p",
        "flock -n src/claude claude | -p",
        "node --title claude --env-file .env /x/@anthropic-ai/claude-code/cli.js | -p",
        "node --no-warnings /x/node_modules/@anthropic-ai/claude-code/cli.js | -p hi",
        "npx @anthropic-ai/claude-code@2.1.330 | -p hi",
        "npx -y -p @anthropic-ai/claude-code claude | -p hi",
        "npx --package=@anthropic-ai/claude-code claude | -p",
        "bunx @anthropic-ai/claude-code | -p",
        "bun x @anthropic-ai/claude-code | -p",
        "pnpm dlx @anthropic-ai/claude-code | -p",
        "mise exec node@20 -- claude | -p",
        "mise x -- claude | -p",
        "direnv exec src/claude claude | -p",
        "env A=1 nice -n 1 timeout 5 claude | -p",
    ] {
        assert_own(line, None, &SessionPlace::Here);
        assert_own(line, Some("claude"), &SessionPlace::Here);
    }
}

#[test]
fn the_script_of_a_declared_agents_package_is_the_agent() {
    for (script, name) in [
        ("@openai/codex/bin/codex.js", "codex"),
        ("@github/copilot/npm-loader.js", "copilot"),
        ("@google/gemini-cli/bundle/gemini.js", "gemini"),
        ("@qwen-code/qwen-code/cli-entry.js", "qwen"),
    ] {
        let argv = |script: &str| ["node", script, "-p"].map(OsString::from);
        let found = recognise(&argv(&format!("/x/node_modules/{script}")), None).expect(name);
        assert_eq!((found.adapter.agent_type(), found.args_start), (name, 2));
        let base = Path::new(script).file_name().expect("a name").to_str().expect("UTF-8");
        let elsewhere = recognise(&argv(&format!("/x/{base}")), None).expect(name);
        assert_eq!(elsewhere.adapter.agent_type(), "command", "{base} outside of the package");
    }
}

#[test]
fn with_an_agent_type_the_arguments_of_an_unknown_program_are_the_agents() {
    for line in ["wrapper | -p hi", "env A=b wrapper | -p", "node server.js | -p", "npx -y some-fork | -p"] {
        assert_own(line, Some("claude"), &SessionPlace::Here);
    }
    for option in ["--env-file", "--disable-warning", "--dns-result-order", "--title"] {
        assert_own(&format!("node {option} x server.js | -p"), Some("claude"), &SessionPlace::Here);
    }
    let argv = ["wrapper", "-p", "fix src/claude"].map(OsString::from);
    assert_eq!(recognise(&argv, Some("claude")).expect("a type").place, SessionPlace::Here);
    assert_own("agent | -p", Some("cursor"), &SessionPlace::Here);
    assert_own("cursor-agent | -p", Some("cursor"), &SessionPlace::Here);
    for (line, why) in [
        ("claude-wrapper -p -- claude", "ambiguous: claude-wrapper"),
        ("bwrap --ro-bind / / /usr/bin/claude -p", "ambiguous: bwrap"),
        ("env A=b wrapper cursor-agent", "ambiguous: wrapper"),
    ] {
        assert_eq!(untracked(line, Some("claude")), why, "{line}");
    }
}

#[test]
fn an_agent_of_another_user_or_machine_is_tracked_only_with_an_agent_type() {
    for (line, by) in [
        ("sudo -u claude claude | -p hi", "sudo"),
        ("sudo -nE A=1 claude | -p", "sudo"),
        ("doas -u claude claude | -p", "doas"),
        ("docker run --name claude -it img claude | -p hi", "docker"),
        ("docker -H tcp://h run --rm -v /srv/claude:/w img claude | -p", "docker"),
        ("podman exec -w /w box claude | -p", "podman"),
        ("ssh -p 22 claude@build claude | -p hi", "ssh"),
        ("nice docker run img claude | -p", "docker"),
    ] {
        assert_own(line, Some("claude"), &SessionPlace::Elsewhere(by.to_owned()));
        assert_eq!(untracked(&line.replace('|', ""), None), by, "{line}");
    }
    for (line, by) in [
        ("docker run img -p hi", "docker"),
        ("docker run --new-option x img claude -p", "docker"),
        ("docker run -d img claude -p", "docker"),
        ("docker compose exec box claude -p", "docker"),
        ("sudo -i claude -p", "sudo"),
        ("sudo -u claude true", "sudo"),
        ("ssh build", "ssh"),
    ] {
        assert_eq!(untracked(line, Some("claude")), by, "{line}");
    }
    let read_again = ["sudo", "ssh", "build", "claude", "-p", "say --resume x; rm"].map(OsString::from);
    for (argv, by) in [(&read_again[..], "sudo"), (&read_again[1..], "ssh")] {
        let found = recognise(argv, Some("claude")).expect("a type");
        assert_eq!(found.place, SessionPlace::Untracked(UntrackedReason::Elsewhere(by.to_owned())));
    }
}

#[test]
fn launchers_that_hide_their_program_or_have_unknown_options_are_not_tracked() {
    for (line, by) in [
        ("bash -c exit", "bash"),
        ("sh run.sh claude -p", "sh"),
        ("xargs -n1 claude -p", "xargs"),
        ("parallel claude -p", "parallel"),
        ("script -qc claude log", "script"),
        ("env A=1 bash -c claude", "bash"),
        ("sudo bash -c claude", "bash"),
        ("env -S claude", "env"),
        ("timeout --new 5 60 claude -p", "timeout"),
        ("flock file -c claude", "flock"),
        ("npx -c claude", "npx"),
        ("setsid -f claude -p", "setsid"),
        ("pnpm run claude", "pnpm"),
        ("mise exec claude -p", "mise"),
    ] {
        assert_eq!(untracked(line, Some("claude")), by, "{line}");
        assert_eq!(untracked(line, None), by, "{line}");
    }
    assert_eq!(untracked("make claude", None), "make");
    assert_eq!(untracked("true", None), "true");
    assert_eq!(untracked("node /x/@anthropic-ai/claude-code/install.cjs", None), "install.cjs");
    assert_eq!(untracked("claude -p", Some("command")), "claude");
    assert!(recognise(&words("x"), Some("unheard-of")).is_err());
}

#[test]
fn an_agent_is_mentioned_by_an_argument_or_a_word_of_a_shell_script() {
    let mentioned = |argv: &[&str]| {
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let SessionPlace::Untracked(why) = recognise(&argv, None).expect("a type").place else {
            panic!("{argv:?} is tracked")
        };
        mentioned(&argv, &why)
    };
    assert_eq!(mentioned(&["sh", "-c", "cd x && claude -p hi"]), Some("claude"));
    assert_eq!(mentioned(&["bash", "-lc", "exec /opt/cursor-agent"]), Some("cursor"));
    assert_eq!(mentioned(&["docker", "run", "img", "claude"]), Some("claude"));
    assert_eq!(mentioned(&["xargs", "claude"]), Some("claude"));
    assert_eq!(mentioned(&["sh", "-c", "echo claudette"]), None);
    assert_eq!(mentioned(&["sh", "build.sh", "ask claude"]), None);
    assert_eq!(mentioned(&["make", "all"]), None);
    assert_eq!(mentioned(&["git", "clone", "https://example.org/claude"]), None);
    assert_eq!(mentioned(&["ask", "what is in /opt/claude"]), None);
    assert_eq!(mentioned(&["cat", "/x/@anthropic-ai/claude-code/package.json"]), None);
}

#[test]
fn a_symbolic_link_to_an_agent_is_followed() {
    let tmp = tempfile::tempdir().expect("a directory");
    let (real, other) = (tmp.path().join("claude"), tmp.path().join("other"));
    std::fs::write(&real, "").expect("a program");
    std::fs::write(&other, "").expect("a program");
    for (name, to) in [("ai", "claude"), ("again", "ai"), ("plain", "other")] {
        std::os::unix::fs::symlink(to, tmp.path().join(name)).expect("a link");
    }
    let place = |name: &str| recognise(&[tmp.path().join(name).into()], None).expect("a type").place;
    assert_eq!(place("ai"), SessionPlace::Here);
    assert_eq!(place("again"), SessionPlace::Here);
    assert_eq!(place("plain"), SessionPlace::Untracked(UntrackedReason::NoAdapter("plain".to_owned())));
    assert_eq!(place("other"), SessionPlace::Untracked(UntrackedReason::NoAdapter("other".to_owned())));
}
