//! The man pages and completions in `contrib/` are the ones that the program generates.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::harness::{End, World};

const FIX: &str = "`just generated` writes them again";

/// The files of a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}; {FIX}", directory.display()));
    let text = |e: fs::DirEntry| {
        let name = e.file_name().to_str().expect("UTF-8").to_owned();
        (name, fs::read_to_string(e.path()).expect("a text"))
    };
    entries.flatten().map(text).collect()
}

#[test]
fn the_man_pages_in_contrib_are_current() {
    let world = World::new();
    world.bare(["bookend", "man", "--dir", &world.name("man")]).run().ended(End::Code(0));
    let (kept, now) = (files(&contrib("man")), files(&world.path("man")));
    assert!(now.keys().eq(kept.keys()), "{:?}; {FIX}", now.keys());
    for (name, page) in &now {
        assert!(kept[name] == *page, "contrib/man/{name} is out of date: {FIX}");
    }
}

#[test]
fn the_completions_in_contrib_are_current() {
    let world = World::new();
    for (shell, name) in [("bash", "bookend.bash"), ("zsh", "_bookend"), ("fish", "bookend.fish")] {
        let now = world.bare(["bookend", "completions", shell]).run().ended(End::Code(0)).stdout;
        let kept = fs::read_to_string(contrib("completions").join(name)).unwrap_or_default();
        assert!(kept == now, "contrib/completions/{name} is out of date: {FIX}");
    }
}

fn contrib(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}
