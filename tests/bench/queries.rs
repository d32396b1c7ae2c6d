//! Commands that read a ledger of a million tasks, beside the same command in a ledger of a thousand.

use crate::Bench;
use crate::figure::{Figure, Measured};
use crate::harness::World;
use crate::measure::{command, runs_in_turns};

/// `KEY` is a key of the ledger; the dates are in the middle of the long history.
const QUERIES: [&[&str]; 15] = [
    &["list"],
    &["show", "01900000-00000500"],
    &["session", "resume-id", "KEY"],
    &["list", "--status", "failure"],
    &["list", "--status", "interrupted"],
    &["list", "--status", "interrupted", "--agent", "dev"],
    &["list", "--repo", "repo-7", "--agent", "dev"],
    &["list", "--agent", "nobody"],
    &["list", "--key", "KEY"],
    &["list", "--since", "1h"],
    &["timeline", "--since", "2023-11-15", "--key", "KEY"],
    &["timeline", "--since", "2023-11-15", "--agent", "nobody"],
    &["timeline", "--since", "2023-11-15", "--repo", "repo-7", "--limit", "20"],
    &["audit"],
    &["prune", "--dry-run"],
];

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let (small, large) = bench.histories();
    let query = |words: &&[&str]| {
        let with_key = |world: &World| {
            let key = world.sql("SELECT key FROM claude_sdk_sessions")[0].text("key");
            let words = words.iter().map(|w| if *w == "KEY" { &key[..] } else { *w });
            command(world, &["bookend"].into_iter().chain(words).collect::<Vec<_>>())
        };
        let pairs = runs_in_turns(bench.pairs(30, 10), &mut with_key(large), &mut with_key(small));
        let what = format!("`{}`, {} tasks", words.join(" "), bench.long_history());
        Figure::new(&what, "1,000 tasks", Some(3.0), Measured::beside("ms", &pairs, 5))
    };
    QUERIES.iter().map(query).collect()
}
