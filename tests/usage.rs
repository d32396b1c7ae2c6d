//! The form of errors: `bookend: error: …`, then a hint.

use crate::harness::{End, World};

/// The stderr of bookend for an invalid command line.
fn refused(words: &[&str]) -> String {
    let world = World::new();
    let output = world.bare([&["bookend"], words].concat()).run().ended(End::Code(2));
    assert_eq!(output.stdout, "");
    output.stderr
}

#[test]
fn a_usage_error_has_the_prefix_and_ends_with_a_hint() {
    for (words, error, hint) in [
        (&["run", "--tmeout", "5", "--", "true"][..], "unexpected argument '--tmeout' found", "'--timeout'"),
        (&["run"], "the following required arguments were not provided:", "run `bookend run --help`"),
        (&["session", "show"], "the following required", "run `bookend session show --help`"),
        (&["nonsense"], "unrecognized subcommand 'nonsense'", "run `bookend --help`"),
        (&["help", "nonsense"], "unrecognized subcommand 'nonsense'", "run `bookend --help`"),
    ] {
        let stderr = refused(words);
        assert!(stderr.starts_with(&format!("bookend: error: {error}")), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("hint: ") && last.contains(hint), "{stderr}");
    }
}

#[test]
fn an_invalid_duration_is_refused_with_valid_examples() {
    let stderr = refused(&["run", "--timeout", "soon", "--", "true"]);
    let error = "bookend: error: invalid value 'soon' for '--timeout <DURATION>': \
        invalid duration; use a value such as 30s, 10m or 1h30m\n";
    assert!(stderr.starts_with(error), "{stderr}");
}

#[test]
fn an_agent_name_in_place_of_a_command_suggests_run() {
    let stderr = refused(&["claude", "-p", "fix it"]);
    assert_eq!(stderr.lines().last(), Some("hint: run `bookend run -- claude -p 'fix it'`"), "{stderr}");
    let stderr = refused(&["--ledger", "x.db", "cursor-agent"]);
    assert_eq!(
        stderr.lines().last(),
        Some("hint: run `bookend run --ledger x.db -- cursor-agent`"),
        "{stderr}"
    );
    assert!(!refused(&["sh", "-c", "x"]).contains("bookend run"));
}

#[test]
fn a_missing_program_is_named_without_an_errno() {
    let Some(world) = World::of_bookend("a_missing_program_is_named_without_an_errno") else { return };
    let output = world.run(["no-such-agent"]).run().ended(End::Code(127));
    assert_eq!(
        output.stderr,
        "bookend: error: no-such-agent: command not found in PATH\nhint: install it, or use its full path\n"
    );
    assert_eq!(world.row().text("error"), "no-such-agent: command not found in PATH");
}

/// The hint names the file that PATH leads to: the name alone would not work when pasted.
#[test]
fn a_script_in_path_without_its_interpreter_is_not_called_missing() {
    let Some(world) = World::of_bookend("a_script_in_path_without_its_interpreter") else { return };
    world.program("broken", "#!/no/such/interpreter\n");
    let stderr = world.run(["broken"]).run().ended(End::Code(127)).stderr;
    assert!(
        stderr.starts_with("bookend: error: broken: the interpreter named in its first line"),
        "{stderr}"
    );
    let hint = format!("hint: run `file {}` to see what it needs\n", world.name("bin/broken"));
    assert!(stderr.ends_with(&hint), "{stderr}");
}

#[test]
fn a_failing_prepare_command_is_named_by_its_option() {
    let Some(world) = World::of_bookend("a_failing_prepare_command_is_named_by_its_option") else { return };
    let output = world.bare(["bookend", "run", "--prepare", "exit 3", "--", "true"]).run();
    assert_eq!(
        output.ended(End::Code(125)).stderr,
        "bookend: error: --prepare failed with exit code 3; the agent was not started\n"
    );
}

#[test]
fn an_error_appends_its_causes_after_colons() {
    let world = World::new();
    let output = world.bare(["bookend", "--ledger", "/dev/null/x.db", "run", "--", "true"]).run();
    let stderr = output.ended(End::Code(125)).stderr;
    let (error, hint) = stderr.trim_end().split_once("\nhint: ").expect("a hint");
    assert!(error.starts_with("bookend: error: ") && error.contains(": Not a directory"), "{stderr}");
    assert!(!hint.contains('\n'), "{stderr}");
}
