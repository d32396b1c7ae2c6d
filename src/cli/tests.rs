//! The command line as clap has it, and as it is understood.

use super::*;
use crate::process::spawn::environment::OPTION_VARIABLES;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_of_run_but_id_has_a_variable_that_the_agent_does_not_inherit() {
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").expect("run is a command");
    let variables: Vec<_> = run
        .get_opts()
        .chain(run.get_arguments().filter(|a| !a.is_positional() && !a.get_action().takes_values()))
        .filter(|a| !["id", "ledger", "log", "help", "version"].contains(&a.get_id().as_str()))
        .map(|a| a.get_env().unwrap_or_else(|| panic!("{} has no variable", a.get_id())))
        .collect();
    assert!(variables.len() > 20);
    for variable in variables {
        assert!(OPTION_VARIABLES.iter().any(|v| *v == variable), "{variable:?} is inherited");
    }
}

#[test]
fn what_follows_the_program_is_the_agents() {
    for line in [
        &["bookend", "run", "-v", "claude", "-p", "x", "--key", "k"][..],
        &["bookend", "run", "-v", "--", "claude", "-p", "x", "--key", "k"],
    ] {
        let parsed = parse(line.iter().map(OsString::from).collect()).expect("parses");
        let Request::Run(run) = parsed.request else { panic!("not a run") };
        assert_eq!(run.argv, ["claude", "-p", "x", "--key", "k"]);
    }
}

#[test]
fn what_is_wrong_with_a_run_is_said_in_the_words_of_the_whole() {
    for line in [&["bookend", "run", "--tmeout", "5"][..], &["bookend", "run", "--help"], &["bookend", "run"]]
    {
        let words: Vec<_> = line.iter().map(OsString::from).collect();
        let said = parse(words.clone()).err().expect("is not a run").render().to_string();
        assert_eq!(said, Cli::try_parse_from(words).expect_err("is not a run").render().to_string());
    }
}

#[test]
fn an_option_that_does_not_exist_is_not_taken_for_the_program() {
    assert!(parse(["bookend", "run", "--tmeout", "5", "--", "x"].map(OsString::from).to_vec()).is_err());
}

#[test]
fn a_bare_number_is_seconds() {
    assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
    assert!(duration("soon").is_err());
}
