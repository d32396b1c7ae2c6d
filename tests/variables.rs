//! Options from environment variables: empty, misspelt and invalid ones, and which of them agents see.

use crate::harness::{End, Output, World};

/// `bookend run -- true` with these variables.
fn run(world: &World, variables: &[(&str, &str)]) -> Output {
    variables.iter().fold(world.run(["true"]), |run, (name, value)| run.env(*name, *value)).run()
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let Some(world) = World::of_bookend("an_empty_variable_counts_as_unset") else { return };
    for name in [
        "BOOKEND_ISSUE",
        "BOOKEND_TIMEOUT",
        "BOOKEND_IDLE_TIMEOUT",
        "BOOKEND_GRACE",
        "BOOKEND_RETENTION",
        "BOOKEND_ON_TERM",
        "BOOKEND_LEFTOVERS",
        "BOOKEND_LOG_TO",
        "BOOKEND_VERBOSE",
        "BOOKEND_QUIET",
        "BOOKEND_WAIT",
        "BOOKEND_FORGE",
        "BOOKEND_BUSY_TIMEOUT",
        "BOOKEND_LOG",
    ] {
        let output = run(&world, &[(name, "")]);
        assert_eq!((output.end, output.stderr.as_str()), (End::Code(0), ""), "{name}=");
    }
    world.run(["true"]).env("BOOKEND_FORGE", "").options(["--repo", "r", "--issue", "1"]).run();
    assert_eq!(world.rows().pop().expect("a row").text("key"), "forgejo:true:r:1");
    let recovered = world.bare(["bookend", "recover"]).env("BOOKEND_TTL", "").run();
    recovered.ended(End::Code(0)).silent();
}

#[test]
fn verbosity_is_a_number_or_a_word() {
    let Some(world) = World::of_bookend("verbosity_is_a_number_or_a_word") else { return };
    for (value, is_verbose) in [
        ("1", true),
        ("2", true),
        ("true", true),
        ("yes", true),
        ("0", false),
        ("false", false),
        ("no", false),
    ] {
        let output = run(&world, &[("BOOKEND_VERBOSE", value)]).ended(End::Code(0));
        assert_eq!(output.stderr.contains("running"), is_verbose, "{value}: {output:?}");
    }
}

#[test]
fn a_misspelt_variable_is_a_warning_that_names_the_right_one() {
    let Some(world) = World::of_bookend("a_misspelt_variable_is_a_warning_that_names_the_right_one") else {
        return;
    };
    let output = run(&world, &[("BOOKEND_TIMOUT", "1h")]).ended(End::Code(0));
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for part in ["warning: ", "BOOKEND_TIMOUT", "BOOKEND_TIMEOUT"] {
        assert!(output.stderr.contains(part), "{part} in {output:?}");
    }
    run(&world, &[("BOOKEND_TIMOUT", "1h"), ("BOOKEND_QUIET", "1")]).ended(End::Code(0)).silent();
    let nothing_wrong =
        [("BOOKEND_TASK_ID", "outer"), ("BOOKEND_PROJECT", "mine"), ("BOOKEND_TEST_ALL", "1")];
    run(&world, &nothing_wrong).ended(End::Code(0)).silent();
}

#[test]
fn an_error_names_the_variable_that_holds_the_wrong_value() {
    let Some(world) = World::of_bookend("an_error_names_the_variable_that_holds_the_wrong_value") else {
        return;
    };
    for (name, value) in [
        ("BOOKEND_ISSUE", "soon"),
        ("BOOKEND_TIMEOUT", "soon"),
        ("BOOKEND_ON_TERM", "soon"),
        ("BOOKEND_LOG_TO", "soon"),
        ("BOOKEND_VERBOSE", "soon"),
    ] {
        let output = run(&world, &[(name, value)]).ended(End::Code(2));
        assert!(output.stderr.contains(&format!("{name}={value}")), "{output:?}");
    }
    let output = world.run(["true"]).options(["--issue", "soon"]).env("BOOKEND_ISSUE", "1").run();
    let output = output.ended(End::Code(2));
    assert!(!output.stderr.contains("BOOKEND_ISSUE="), "the value comes from the option: {output:?}");
    let both = world.run(["true"]).options(["--replace"]).env("BOOKEND_WAIT", "1").run().ended(End::Code(2));
    assert!(both.stderr.contains("BOOKEND_WAIT=1"), "{both:?}");
}

#[test]
fn option_variables_are_hidden_from_the_agent_and_hooks() {
    let Some(world) = World::of_bookend("option_variables_are_hidden_from_the_agent_and_hooks") else {
        return;
    };
    let list = "env | grep -a ^BOOKEND_ | cut -d= -f1";
    let output = world
        .run_sh(list)
        .options(["--on-finish", &format!("{list} >../hook")])
        .env("BOOKEND_ON_INTERRUPTED", "true")
        .env("BOOKEND_LOG", "warn")
        .env("BOOKEND_BUSY_TIMEOUT", "20s")
        .env("BOOKEND_TTL", "1h")
        .run()
        .ended(End::Code(0));
    let sorted = |text: &str| {
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&output.stdout), ["BOOKEND_LEDGER", "BOOKEND_TASK_ID"]);
    let hook = std::fs::read_to_string(world.path("hook")).expect("the variables of the hook");
    let facts = ["AGENT", "DURATION_MS", "STATUS", "TASK"].map(|fact| format!("BOOKEND_FINISHED_{fact}"));
    let mut expected = vec!["BOOKEND_DELIVERY_ATTEMPT".to_owned(), "BOOKEND_LEDGER".to_owned()];
    expected.splice(1..1, facts);
    assert_eq!(sorted(&hook), expected);
}

#[test]
fn a_wrapper_script_that_calls_itself_is_refused_after_eight_levels() {
    let Some(world) = World::of_bookend("a_wrapper_script_that_calls_itself_is_refused_after_eight_levels")
    else {
        return;
    };
    // The script stops by itself if bookend does not refuse it.
    let script = "#!/bin/sh\necho level >>../levels\n[ $(wc -l <../levels) -lt 20 ] || exit 3\n\
                  exec bookend run -- claude \"$@\"\n";
    world.program("claude", script);
    let output = world.run(["claude", "-p", "hi"]).run().ended(End::Code(125));
    let levels = std::fs::read_to_string(world.path("levels")).expect("the levels");
    assert_eq!((levels.lines().count(), world.rows().len()), (9, 9));
    for part in ["claude: more than 8 runs", "path of the real program"] {
        assert!(output.stderr.contains(part), "{part} in {output:?}");
    }
}

#[test]
fn an_issue_without_a_repository_or_a_key_is_a_warning() {
    let Some(world) = World::of_bookend("an_issue_without_a_repository_or_a_key_is_a_warning") else {
        return;
    };
    let with = |options: &[&str]| world.run(["true"]).options(options.iter().copied()).run();
    let output = with(&["--issue", "7"]).ended(End::Code(0));
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for part in ["warning: --issue 7 without --repo makes no key", "add --repo or --key"] {
        assert!(output.stderr.contains(part), "{part} in {output:?}");
    }
    let output = run(&world, &[("BOOKEND_ISSUE", "7")]).ended(End::Code(0));
    assert!(output.stderr.contains("--issue 7"), "{output:?}");
    with(&["--issue", "7", "--key", "k"]).ended(End::Code(0)).silent();
    with(&["--issue", "7", "--repo", "a/b"]).ended(End::Code(0)).silent();
    // A repository alone is a label.
    with(&["--repo", "a/b"]).ended(End::Code(0)).silent();
}
