//! Completions, in the shells themselves: bookend's words, keys and ids from the ledger, the agent's own.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::harness::{End, Pty, World, on_path, possible};

/// What a shell is asked to complete, and what it makes of it.
const CASES: [(&str, &str); 11] = [
    ("bookend redi", "bookend redispatch"),
    ("bookend list --status su", "bookend list --status success"),
    ("bookend stats --by re", "bookend stats --by repo"),
    ("bookend run --key night", "bookend run --key nightly"),
    ("bookend run --key forgejo:d", "bookend run --key forgejo:dev:a/b:7"),
    ("bookend run --bud", "bookend run --budget"),
    ("bookend wai", "bookend wait"),
    ("bookend show fir", "bookend show first-task"),
    ("bookend wait sec", "bookend wait second-task"),
    ("bookend run -- bookend redi", "bookend run -- bookend redispatch"),
    ("bookend run --key k -- cat /etc/hostn", "bookend run --key k -- cat /etc/hostname"),
];

/// A world with tasks whose keys and ids can be completed, and the script of a shell in a file.
fn world(test: &str, shell: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    if !possible(test, on_path(shell), shell) {
        return None;
    }
    for options in
        [["--key", "nightly", "--id", "first-task"], ["--key", "forgejo:dev:a/b:7", "--id", "second-task"]]
    {
        world.run(["true"]).options(options).run().ended(End::Code(0));
    }
    let script = world.bare(["bookend", "completions", shell]).run().ended(End::Code(0)).stdout;
    std::fs::write(world.path("script"), script).expect("the script");
    Some(world)
}

/// Types each line and a tab at the prompt, then a key that shows the line.
fn completes(world: &World, mut pty: Pty) {
    for (typed, whole) in CASES {
        pty.send(&format!("{typed}\t\x07"));
        let shown = pty.expect("]");
        let line = shown.rsplit('[').next().unwrap_or_default().trim_end_matches(']').trim_end();
        assert_eq!(line, whole, "{typed}: {shown:?} in {}", world.name(""));
        pty.send("\x15");
    }
}

#[test]
fn bash_completes_words_keys_ids_and_the_agent() {
    let test = "bash_completes";
    let Some(world) = world(test, "bash") else { return };
    let library = "/usr/share/bash-completion/bash_completion";
    if !possible(test, std::path::Path::new(library).exists(), "bash-completion") {
        return;
    }
    let rc = format!(
        "PS1='ready> '\n. {library}\n. {}\nshow() {{ printf '\\n[%s]\\n' \"$READLINE_LINE\"; }}\n\
         bind -x '\"\\C-g\": show'\n\
         bind 'set enable-bracketed-paste off'\nbind 'set bell-style none'\n",
        world.name("script")
    );
    std::fs::write(world.path("rc"), rc).expect("the start-up file");
    let command =
        world.bare(["bash", "--noprofile", "--rcfile", &world.name("rc"), "-i"]).env("TERM", "dumb");
    let mut pty = Pty::of(&world, command);
    pty.resize(200, 50);
    pty.expect("ready> ");
    completes(&world, pty);
}

#[test]
fn zsh_completes_words_keys_ids_and_the_agent() {
    let Some(world) = world("zsh_completes", "zsh") else { return };
    let rc = format!(
        "PS1='ready> '\nautoload -U compinit\ncompinit -u -D\n. {}\n\
         show() {{ print -r -- \"[$BUFFER]\" }}\nzle -N show\n\
         bindkey '^G' show\nbindkey '^U' kill-whole-line\n",
        world.name("script")
    );
    std::fs::write(world.path("home/.zshrc"), rc).expect("the start-up file");
    let command = world.bare(["zsh", "-d", "-i"]).env("ZDOTDIR", world.name("home")).env("TERM", "dumb");
    let mut pty = Pty::of(&world, command);
    pty.resize(200, 50);
    pty.expect("ready> ");
    completes(&world, pty);
}

#[test]
fn fish_completes_words_keys_ids_and_the_agent() {
    let Some(world) = world("fish_completes", "fish") else { return };
    let script = format!(
        "source {}; for line in $argv; complete --do-complete $line; echo .; end",
        world.name("script")
    );
    let mut words = vec!["fish", "--no-config", "-c", &script];
    words.extend(CASES.iter().map(|(typed, _)| *typed));
    let output = world.bare(words).run().ended(End::Code(0));
    let answers: Vec<&str> = output.stdout.split_terminator(".\n").collect();
    assert_eq!(answers.len(), CASES.len(), "{output:?}");
    for ((typed, whole), answer) in CASES.iter().zip(answers) {
        let first = answer.split(['\t', '\n']).next().unwrap_or_default();
        assert_eq!(Some(first), whole.split(' ').next_back(), "{typed}: {answer:?}");
    }
}

#[test]
fn completions_do_not_create_a_ledger_or_wait_for_one() {
    let Some(world) = World::of_bookend("completions_do_not_create") else { return };
    let complete = || world.bare(["bookend", "__complete", "3", "bookend", "run", "--key", ""]).run();
    assert_eq!(complete().ended(End::Code(0)).stdout, "");
    assert!(!world.ledger().exists(), "a ledger was created");

    world.run(["true"]).options(["--key", "nightly"]).run().ended(End::Code(0));
    assert!(complete().ended(End::Code(0)).stdout.starts_with("nightly\t"));
    let holder = Connection::open(world.ledger()).expect("the ledger");
    holder.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").expect("a lock");
    let began = Instant::now();
    assert_eq!(complete().ended(End::Code(0)).stdout, "");
    // Another command waits 30 s for it.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Another program may have written any key and any id. A line that has no word is the index of the agent's
/// program, which a shell would evaluate.
#[test]
fn completions_leave_out_empty_words_and_control_characters() {
    let Some(world) = World::of_bookend("completions_leave_out") else { return };
    world.run(["true"]).options(["--key", "nightly", "--id", "first-task"]).run().ended(End::Code(0));
    let conn = Connection::open(world.ledger()).expect("the ledger");
    for (id, key) in [("", ",x[$(touch pwned)]"), ("\u{1b}[31mred", ""), ("two\nlines", "tab\tkey")] {
        conn.execute("UPDATE task_history SET id = ?1, key = ?2", (id, key)).expect("the row");
        for words in [["2", "bookend", "show", ""], ["2", "bookend", "run", "--key="]] {
            let output = world.bare(["bookend", "__complete"].into_iter().chain(words)).run();
            let output = output.ended(End::Code(0)).stdout;
            let own = |line: &str| line.starts_with("--") || line.starts_with(",x[");
            assert!(output.lines().all(own), "{id:?}, {key:?}: {output:?}");
            assert!(!output.contains("\u{1b}"), "{id:?}, {key:?}: {output:?}");
        }
    }
}

#[test]
fn completions_take_any_index() {
    let Some(world) = World::of_bookend("completions_take_any_index") else { return };
    for index in ["2", "99999999999999", &u64::MAX.to_string()] {
        let output = world.bare(["bookend", "__complete", index, "bookend", "redispatch"]).run();
        assert!(output.ended(End::Code(0)).stdout.contains("--"), "{index}");
    }
}
