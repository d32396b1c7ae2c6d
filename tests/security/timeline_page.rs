//! The timeline page: a private file that replaces only regular files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::set_mode;
use crate::harness::{End, Output, World};

const TEXT: &str = "a file that must not change\n";

/// Runs `bookend timeline --html FILE` with umask 0.
fn page(world: &World, name: &str) -> Output {
    let line = "umask 0; exec bookend timeline --html \"$0\"";
    world.bare(["sh", "-c", line, &world.name(name)]).run()
}

#[test]
fn the_timeline_page_is_private_and_replaces_only_regular_files() {
    let Some(world) = World::of_bookend("the_timeline_page_is_private_and_replaces_only_regular_files")
    else {
        return;
    };
    world.run(["true"]).run().ended(End::Code(0));
    let mode = |name: &str| fs::metadata(world.path(name)).expect("a page").mode() & 0o777;
    fs::create_dir(world.path("pages")).expect("a directory");
    page(&world, "pages/new.html").ended(End::Code(0)).silent();
    assert_eq!(mode("pages/new.html"), 0o600);

    fs::write(world.path("pages/kept.html"), TEXT).expect("a file");
    fs::hard_link(world.path("pages/kept.html"), world.path("other")).expect("another name");
    set_mode(&world, "pages/kept.html", 0o644);
    page(&world, "pages/kept.html").ended(End::Code(0)).silent();
    assert_eq!(mode("pages/kept.html"), 0o644);
    let read = |name: &str| fs::read_to_string(world.path(name)).expect("a file");
    let text = read("pages/kept.html");
    let policy = "\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';";
    assert!(text.starts_with("<!doctype html>") && text.contains(policy), "{text}");
    assert_eq!(read("other"), TEXT, "the page replaces the name, not the content");

    fs::write(world.path("mine"), TEXT).expect("a file");
    symlink(world.path("mine"), world.path("pages/link.html")).expect("a link");
    symlink(world.path("nowhere"), world.path("pages/dangling.html")).expect("a link");
    let _fifo = world.fifo("pages/fifo.html");
    for (name, what) in [
        ("pages/link.html", "a symbolic link"),
        ("pages/dangling.html", "a symbolic link"),
        ("pages/fifo.html", "not a regular file"),
        ("pages", "not a regular file"),
    ] {
        let refused = page(&world, name).ended(End::Code(125));
        assert!(refused.stderr.contains(&format!("it is {what}")), "{name}: {refused:?}");
    }
    assert_eq!(read("mine"), TEXT);
    assert!(!world.path("nowhere").exists());
    assert_eq!(fs::read_dir(world.path("pages")).expect("the pages").count(), 5, "no temporary file is left");
}
