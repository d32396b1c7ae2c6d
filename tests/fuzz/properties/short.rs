//! The short fuzz run: each property with its corpus and with mutations of it, most of them the same in
//! every run and some random. `BOOKEND_FUZZ_CASES=N` sets the number of mutations of each corpus (default
//! 200).

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::{argv, readers, stat};
use crate::{agent, ledger};

fn fuzz(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

#[test]
fn lines_are_split_without_loss() {
    holds("lines", agent::fuzz::lines);
}

#[test]
fn objects_are_found_in_chunks_of_any_size() {
    holds("objects", agent::fuzz::objects);
}

#[test]
fn json_is_read_as_serde_json_reads_it() {
    holds("json", agent::fuzz::json);
}

#[test]
fn output_of_claude_is_read_in_chunks_of_any_size() {
    holds("claude", readers::claude);
}

#[test]
fn output_of_cursor_is_read_in_chunks_of_any_size() {
    holds("cursor", readers::cursor);
}

#[test]
fn output_of_declared_agents_is_read_in_chunks_of_any_size() {
    holds("declared", readers::declared);
}

#[test]
fn output_of_other_commands_is_not_read() {
    holds("command", readers::command);
}

#[test]
fn at_most_one_session_option_is_added_to_the_users_words() {
    holds("argv", argv::argv);
}

#[test]
fn a_spool_record_is_read_back_unless_it_is_damaged() {
    holds("spool", ledger::fuzz::spool);
}

#[test]
fn proc_stat_is_parsed_with_any_process_name() {
    holds("stat", stat::stat);
}

#[test]
fn every_target_is_in_the_long_fuzz_run() {
    let manifest = fs::read_to_string(fuzz("Cargo.toml")).expect("the manifest");
    let listed = manifest.lines().filter(|l| l.starts_with("name = \"") && !l.contains("bookend-fuzz"));
    let mut listed: Vec<&str> = listed.filter_map(|l| l.split('"').nth(1)).collect();
    listed.sort_unstable();
    assert_eq!(listed, names_in(&fuzz("corpus")), "each [[bin]] has a corpus, and each corpus a [[bin]]");
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn holds(target: &str, property: fn(&[u8])) {
    let dir = fuzz("corpus").join(target);
    let mut corpus = Vec::new();
    for name in names_in(&dir) {
        let seed = fs::read(dir.join(&name)).expect("a seed");
        let held = std::panic::catch_unwind(|| property(&seed));
        assert!(held.is_ok(), "{target} does not hold of {}", dir.join(name).display());
        corpus.push(seed);
    }
    assert!(!corpus.is_empty(), "{} is empty", dir.display());

    let cases = match std::env::var("BOOKEND_FUZZ_CASES") {
        Ok(number) => number.parse().expect("BOOKEND_FUZZ_CASES is a number"),
        Err(_) => 200,
    };
    let config =
        |cases| Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let same = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for mut runner in
        [TestRunner::new_with_rng(config(cases), same), TestRunner::new(config(cases.div_ceil(8)))]
    {
        let done = runner.run(&mutation(), |mutation| {
            property(&mutation.of(&corpus));
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(TestError::Fail(why, mutation)) => panic!(
                "{target} does not hold: {why}\nkeep these bytes as a seed in {}:\n{}",
                dir.display(),
                mutation.of(&corpus).escape_ascii()
            ),
            Err(TestError::Abort(why)) => panic!("{target}: {why}"),
        }
    }
}

/// A change to a seed of the corpus.
#[derive(Debug, Clone)]
struct Mutation {
    seed: Index,
    edits: Vec<Edit>,
}

#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    End(Index),
    /// A piece of another seed.
    Graft {
        seed: Index,
        from: Index,
        bytes: usize,
        at: Index,
    },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<Index>;
    // Tokens of the formats, besides any byte.
    let mark = prop::sample::select(&b"\n\0{}[]\":,\\-()= 0123456789eE.+\r\t"[..]);
    let byte = prop_oneof![3 => mark, 1 => any::<u8>()].boxed();
    let edit = prop_oneof![
        (place(), byte.clone()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (place(), prop::collection::vec(byte, 1..8)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (place(), place()).prop_map(|(from, to)| Edit::Remove(from, to)),
        place().prop_map(Edit::End),
        (place(), place(), 1..200usize, place()).prop_map(|(seed, from, bytes, at)| Edit::Graft {
            seed,
            from,
            bytes,
            at
        }),
    ];
    (place(), prop::collection::vec(edit, 1..8)).prop_map(|(seed, edits)| Mutation { seed, edits })
}

impl Mutation {
    fn of(&self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.seed.get(corpus).clone();
        for edit in &self.edits {
            let within = |at: &Index| at.index(bytes.len() + 1);
            match edit {
                Edit::Set(at, byte) => {
                    let at = within(at);
                    bytes.splice(at..(at + 1).min(bytes.len()), [*byte]);
                }
                Edit::Insert(at, new) => drop(bytes.splice(within(at)..within(at), new.iter().copied())),
                Edit::Remove(from, to) => {
                    let (from, to) = (within(from), within(to));
                    bytes.drain(from.min(to)..from.max(to));
                }
                Edit::End(at) => bytes.truncate(within(at)),
                Edit::Graft { seed, from, bytes: most, at } => {
                    let other = seed.get(corpus);
                    let from = from.index(other.len() + 1);
                    let piece = &other[from..(from + most).min(other.len())];
                    bytes.splice(within(at)..within(at), piece.iter().copied());
                }
            }
        }
        bytes
    }
}
