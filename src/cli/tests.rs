//! Tests of the command line: its definition in clap, and how it is parsed.

use std::process::Command as Process;

use clap::CommandFactory;

use super::values::duration;
use super::*;
use crate::process::spawn::environment::OPTION_VARIABLES;

#[test]
fn clap_accepts_the_definition_of_the_command_line() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_of_run_except_id_has_a_variable_hidden_from_the_agent() {
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").expect("run is a command");
    let variables: Vec<_> = run
        .get_opts()
        .chain(run.get_arguments().filter(|a| !a.is_positional() && !a.get_action().takes_values()))
        .filter(|a| !["id", "ledger", "log", "help", "version"].contains(&a.get_id().as_str()))
        .filter(|a| !a.is_hide_set())
        .map(|a| a.get_env().unwrap_or_else(|| panic!("{} has no variable", a.get_id())))
        .collect();
    assert!(variables.len() > 20);
    for variable in variables {
        assert!(OPTION_VARIABLES.iter().any(|v| *v == variable), "{variable:?} is inherited");
    }
}

#[test]
fn arguments_after_the_program_belong_to_the_agent() {
    for line in [
        &["bookend", "run", "-v", "claude", "-p", "x", "--key", "k"][..],
        &["bookend", "run", "-v", "--", "claude", "-p", "x", "--key", "k"],
    ] {
        let parsed = parse(line.iter().map(OsString::from).collect()).expect("parses");
        let CommandRequest::Run(run) = parsed.request else { panic!("not a run") };
        assert_eq!(run.argv, ["claude", "-p", "x", "--key", "k"]);
    }
}

#[test]
fn errors_of_run_are_the_same_as_those_of_the_full_parser() {
    for line in [&["bookend", "run", "--tmeout", "5"][..], &["bookend", "run"]] {
        let words: Vec<_> = line.iter().map(OsString::from).collect();
        let message = parse(words.clone()).err().expect("is not a run").render().to_string();
        assert_eq!(message, Cli::try_parse_from(words).expect_err("is not a run").render().to_string());
    }
}

#[test]
fn an_unknown_option_is_not_taken_for_the_program() {
    assert!(parse(["bookend", "run", "--tmeout", "5", "--", "x"].map(OsString::from).to_vec()).is_err());
}

#[test]
fn a_bare_number_is_seconds() {
    assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
    assert!(duration("soon").is_err());
}

/// Every command, by its full name, bookend itself first.
fn all(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
    found.push((name.to_owned(), command.clone()));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        all(below, &format!("{name} {}", below.get_name()), found);
    }
}

fn commands() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    all(&help::command(false), "bookend", &mut found);
    found
}

#[test]
fn every_command_is_in_one_group_of_the_help() {
    let mut grouped: Vec<&str> = help::GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let top = help::command(false);
    let mut named: Vec<&str> =
        top.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
    grouped.sort_unstable();
    named.sort_unstable();
    assert_eq!(grouped, named);
}

#[test]
fn help_lines_are_short_and_have_no_full_stop() {
    let check = |what: &str, help: Option<&clap::builder::StyledStr>| {
        let help = help.map(ToString::to_string).unwrap_or_default();
        assert!(!help.is_empty() && help.chars().count() < 60 && !help.ends_with('.'), "{what}: {help:?}");
    };
    for (name, command) in commands() {
        check(&name, command.get_about());
        for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
            check(&format!("{name} {}", arg.get_id()), arg.get_help());
        }
    }
}

#[test]
fn every_command_has_an_example_and_every_example_parses() {
    let folder = tempfile::tempdir().expect("a directory");
    let called = folder.path().join("called");
    // bookend records its arguments, one per line. The other programs do nothing.
    let stubs = format!(
        "bookend() {{ printf '%s\\n' bookend \"$@\" . >>'{}'; }}\n\
         jq() {{ :; }}; man() {{ :; }}; claude() {{ :; }}\n\
         HOME={}; touch prompt.txt; mkdir -p ~/.zfunc ~/.config/fish/completions\n",
        called.display(),
        folder.path().display()
    );
    for (name, _) in commands() {
        let lines = examples::of(&name);
        assert!(!lines.is_empty(), "{name} has no example");
        for line in lines {
            let own = line.replace(">/etc/", ">~/");
            let own = own.replace("~/bash_completion.d/", "~/");
            let script = format!("{stubs}{own}");
            let output = Process::new("sh").args(["-eu", "-c", &script]).current_dir(&folder).output();
            let output = output.expect("sh");
            assert!(output.status.success(), "{line}: {output:?}");
            let words = std::fs::read_to_string(&called).unwrap_or_else(|e| panic!("{line}: {e}"));
            for call in words.split_terminator("\n.\n") {
                let args = call.lines().map(OsString::from).collect();
                let parsed = parse(args).map(|_| ()).map_err(|e| e.to_string());
                assert_eq!(parsed, Ok(()), "{line}");
            }
            assert!(words.starts_with(&name.replace(' ', "\n")), "{line} is no example of {name}");
            std::fs::remove_file(&called).expect("removed");
        }
    }
}

#[test]
fn the_short_help_of_run_fits_a_screen() {
    let words = ["bookend", "run", "-h"].map(OsString::from).to_vec();
    let help = parse(words).err().expect("help").render().to_string();
    assert!(help.lines().count() <= 50, "{} lines:\n{help}", help.lines().count());
}

#[test]
fn help_groups_commands_and_options() {
    let shown = |words: &[&str]| {
        let words = words.iter().map(OsString::from).collect();
        parse(words).err().expect("help").render().to_string()
    };
    let whole = shown(&["bookend", "--help"]);
    for group in ["\nRun:\n  run ", "\nInspect:\n  list ", "\nMaintain:\n  recover ", "\nSet up:\n  doctor "]
    {
        assert!(whole.contains(group), "{group:?} in {whole}");
    }
    let run = shown(&["bookend", "run", "--help"]);
    for heading in ["Identity", "Session", "Limits and stopping", "Hooks", "Output", "Examples"] {
        assert!(run.contains(&format!("\n{heading}:\n")), "{heading} in {run}");
    }
}
