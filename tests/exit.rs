//! bookend exits with the agent's exit code or dies by the same signal, and prints nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{End, World, Wrapper, is_root, possible};

const CODES: [i32; 24] =
    [0, 1, 2, 3, 7, 63, 64, 75, 77, 78, 99, 100, 124, 125, 126, 127, 128, 129, 130, 137, 143, 192, 254, 255];

/// The signals whose default action ends the process.
fn deadly() -> impl Iterator<Item = i32> {
    const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];
    (1..=64).filter(|s| !HARMLESS.contains(s))
}

#[test]
fn every_exit_code_is_passed_on_without_output() {
    let world = World::new();
    for code in CODES {
        let output = world.run(["probe", "exit", &code.to_string()]).run();
        let output = output.ended(End::Code(code)).silent();
        assert_eq!(output.stdout, "");
    }
}

#[test]
fn bookend_dies_by_the_same_signal_as_the_agent() {
    let world = World::new();
    for signal in deadly() {
        let output = world
            .run(["probe", "die", &signal.to_string()])
            // glibc's posix_spawn makes a caller ignore the two signals that glibc reserves.
            .with(["rlimit=4:0:0", "default=32,33"])
            .run();
        output.ended(End::Signal(signal)).silent();
    }
}

/// The agent resets a signal that the caller ignored to its default action.
#[test]
fn death_by_a_signal_that_the_caller_ignored_is_passed_on() {
    let world = World::new();
    for signal in [1, 2, 3, 13, 15, 34] {
        let agent = world.run(["probe", "die", &signal.to_string()]);
        agent.with(["ignore=1,2,3,13,15,34"]).run().ended(End::Signal(signal)).silent();
    }
}

#[test]
fn a_core_dump_leaves_one_core_file() {
    let world = World::new();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let test = "a_core_dump_leaves_one_core_file";
    let here = !pattern.contains(['|', '/']) && is_root();
    if !possible(test, here, "root, and core files written to the cwd") {
        return;
    }
    // Each process dumps into its cwd. In one directory the second file could replace the first.
    let megabyte = 1 << 20;
    let script = format!("cd {} && exec probe die 6", world.name("tmp"));
    let output = world.run_sh(&script).with([format!("rlimit=4:{megabyte}:{megabyte}")]).run();
    output.ended(End::Signal(6));
    let cores = |name: &str| {
        let entries = fs::read_dir(world.path(name)).expect("a directory").flatten();
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file())).count()
    };
    assert_eq!((cores("tmp"), cores("home")), (1, 0), "one core file, that of the agent");
}

#[test]
fn output_passes_through_byte_for_byte() {
    let world = World::new();
    let output = world.run_sh("printf 'a\\0b\\r\\n'; printf 'c\\033[1m' >&2; exit 5").run();
    assert_eq!(output.end, End::Code(5));
    assert_eq!(output.stdout, "a\0b\r\n");
    assert_eq!(output.stderr, "c\x1b[1m");
}

#[test]
fn a_missing_program_exits_with_127_and_is_recorded() {
    let Some(world) = World::of_bookend("a_missing_program_exits_with_127_and_is_recorded") else {
        return;
    };
    let output = world.run(["no-such-agent"]).run().ended(End::Code(127));
    assert!(output.stderr.contains("no-such-agent"), "the message names the program: {}", output.stderr);
    assert_eq!(output.stdout, "");
    let row = world.row();
    assert_eq!(row.ending(), "failure/spawn");
    assert!(row.text("error").contains("no-such-agent"), "{}", row.text("error"));
}

#[test]
fn a_program_that_cannot_be_executed_exits_with_126_and_is_recorded() {
    let Some(world) = World::of_bookend("a_program_that_cannot_be_executed_exits_with_126_and_is_recorded")
    else {
        return;
    };
    fs::write(world.path("plain"), "text").expect("a file");
    fs::create_dir(world.path("folder")).expect("a directory");
    world.program("garbage", "\u{7f}no format\n");
    for program in [world.name("plain"), world.name("folder"), "garbage".into()] {
        let output = world.run([program.as_str()]).run().ended(End::Code(126));
        assert!(output.stderr.contains(&program), "the message names the program: {}", output.stderr);
    }
    for row in world.rows() {
        assert_eq!(row.ending(), "failure/spawn", "{row:#?}");
    }
    assert_eq!(world.rows().len(), 3);
}

#[test]
fn a_missing_interpreter_is_a_failure() {
    let Some(world) = World::of_bookend("a_missing_interpreter_is_a_failure") else {
        return;
    };
    world.program("lost", "#!/no/such/interpreter\n");
    let output = world.run(["lost"]).run();
    assert!(matches!(output.end, End::Code(126 | 127)), "{output:?}");
    assert_eq!(world.row().ending(), "failure/spawn");
}

/// bookend itself can be executed, but the agent, which gets two more variables, cannot.
#[test]
fn an_argument_list_that_is_too_long_exits_with_126_and_is_recorded() {
    let Some(world) = World::of_bookend("an_argument_list_that_is_too_long_exits_with_126_and_is_recorded")
    else {
        return;
    };
    let stack: usize = 2 << 20;
    let limit = stack / 4;
    let attempt = |padding: usize| {
        let mut argv = vec!["true".to_owned()];
        argv.extend((0..padding / 100_000).map(|_| "x".repeat(99_991)));
        argv.push("x".repeat(padding % 100_000));
        world.run(argv).with([format!("rlimit=3:{stack}:{stack}")]).run()
    };
    // 99 is the probe's code for a failed exec: bookend itself could not be started.
    let (mut fits, mut too_long) = (limit - 20_000, limit);
    assert_eq!(attempt(fits).end, End::Code(0));
    while too_long - fits > 1 {
        let middle = fits.midpoint(too_long);
        if attempt(middle).end == End::Code(99) {
            too_long = middle;
        } else {
            fits = middle;
        }
    }
    let output = attempt(fits).ended(End::Code(126));
    assert!(output.stderr.contains("true"), "the message names the program: {}", output.stderr);
    let last = world.rows().pop().expect("a row");
    assert_eq!(last.ending(), "failure/spawn");
}

#[test]
fn a_closed_reader_ends_the_agent_by_sigpipe() {
    let world = World::new();
    let mut yes = world.run(["yes"]).start();
    assert_eq!(yes.line(), "y");
    yes.close_stdout();
    yes.wait().ended(End::Signal(13)).silent();
}

#[test]
fn an_ignored_sigpipe_stays_ignored() {
    let world = World::new();
    let mut agent =
        world.run_sh("read x; echo a; echo b || exit 9").with(["ignore=13"]).piped_input().start();
    agent.close_stdout();
    agent.stdin = None;
    let output = agent.wait();
    assert_eq!(output.end, End::Code(9), "{output:?}");
}

#[test]
fn the_row_records_how_the_agent_ended() {
    let Some(world) = World::of_bookend("the_row_records_how_the_agent_ended") else {
        return;
    };
    world.run(["probe", "exit", "0"]).run().ended(End::Code(0));
    world.run(["probe", "exit", "7"]).run().ended(End::Code(7));
    world.run(["probe", "die", "11"]).run().ended(End::Signal(11));
    world.run(["probe", "die", "40"]).run().ended(End::Signal(40));
    let recorded: Vec<_> =
        world.rows().iter().map(|r| (r.ending(), r.number("exit_code"), r.number("term_signal"))).collect();
    let expected = [
        ("success/".to_owned(), Some(0), None),
        ("failure/exit".to_owned(), Some(7), None),
        ("failure/signal".to_owned(), None, Some(11)),
        ("failure/signal".to_owned(), None, Some(40)),
    ];
    assert_eq!(recorded, expected);
}

#[test]
fn only_the_ledger_is_written_and_it_is_private() {
    let Some(world) = World::of_bookend("only_the_ledger_is_written_and_it_is_private") else {
        return;
    };
    assert_eq!(world.wrapper, Wrapper::Bookend);
    world.run(["true"]).with(["umask=000"]).run().ended(End::Code(0));
    for name in ["home", "tmp"] {
        let found: Vec<_> = fs::read_dir(world.path(name)).expect("a directory").flatten().collect();
        assert!(found.is_empty(), "in {name}: {found:?}");
    }
    let folder = world.path("state/bookend");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).expect("the state directory").flatten() {
        let expected = if entry.path().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&entry.path()), expected, "{entry:?}");
    }
}
