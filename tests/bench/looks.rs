//! Looking at a ledger of a million rows beside one of a thousand.

use crate::Bench;
use crate::figure::{Figure, Measured, Target};
use crate::harness::World;
use crate::history;
use crate::measure::{command, runs_in_turns};

const LOOKS: [&[&str]; 11] = [
    &["list"],
    &["show", "01900000-00000500"],
    &["session", "resume-id", "KEY"],
    &["list", "--status", "failure"],
    &["list", "--status", "interrupted"],
    &["list", "--repo", "repo-7", "--agent", "dev"],
    &["list", "--agent", "nobody"],
    &["list", "--key", "KEY"],
    &["list", "--since", "1h"],
    &["audit"],
    &["prune", "--dry-run"],
];

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let (large_rows, name) = if bench.quick { (100_000, "100,000") } else { (1_000_000, "a million") };
    let (small, large) = (bench.world(), bench.world());
    history::fill(&small, 1_000);
    history::fill(&large, large_rows);
    let look = |words: &&[&str]| {
        let with_key = |world: &World| {
            let key = world.sql("SELECT key FROM claude_sdk_sessions")[0].text("key");
            let words = words.iter().map(|w| if *w == "KEY" { &key[..] } else { *w });
            command(world, &["bookend"].into_iter().chain(words).collect::<Vec<_>>())
        };
        let pairs = runs_in_turns(bench.pairs(50, 20), &mut with_key(&large), &mut with_key(&small));
        let what = format!("`{}` of {name} rows", words.join(" "));
        Figure::new(&what, "of 1,000", Some(Target::AtMost(3.0)), Measured::beside("ms", &pairs, 5))
    };
    LOOKS.iter().map(look).collect()
}
