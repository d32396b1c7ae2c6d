//! Where the ledger lies: links, pipes and other people's files in its place are refused, and what they lead
//! to is as it was.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::{NOBODY, SOMEBODY, copy_program, give, open_world, set_mode};
use crate::harness::{Cmd, End, Fifo, World, eventually, is_root, on_path, possible, state};
use crate::standins::{bookend, recover};

/// All that lies in the ledger's place, the ledger first.
const PARTS: [&str; 6] = ["l.db", "l.db-wal", "l.db-shm", "l.db.d", "l.db.d/live", "l.db.d/spool"];

const TEXT: &str = "a file of mine, which nobody is to touch\n";

/// A world with a ledger in `real/`, and what it takes to lay it out anew as `case/`.
struct Laid {
    world: World,
}

impl Laid {
    fn new(world: World) -> Laid {
        fs::create_dir(world.path("real")).expect("a directory");
        let done = world.run(["true"]).options(["--id", "one", "--ledger", &world.name("real/l.db")]).run();
        done.ended(End::Code(0)).silent();
        Laid { world }
    }

    fn anew(&self) {
        let copy = "rm -rf case && cp -a real case";
        self.world.bare(["sh", "-euc", copy]).cwd(self.world.path("")).run().ended(End::Code(0));
    }

    /// Puts a link to `target` in the place of a part.
    fn link(&self, part: &str, target: &Path) {
        self.anew();
        let path = self.world.path("case").join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("the directory removed");
        } else {
            fs::remove_file(&path).expect("the file removed");
        }
        symlink(target, path).expect("a link");
    }

    fn ledger(&self) -> String {
        self.world.name("case/l.db")
    }

    fn run(&self) -> Cmd<'_> {
        let effect = self.world.name("tmp/effect");
        self.world.run(["touch", &effect]).options(["--ledger", &self.ledger()])
    }

    fn effect(&self) -> bool {
        self.world.path("tmp/effect").exists()
    }
}

/// What can be seen of a file or a directory.
fn looks(path: &Path) -> (u64, u32, u32, i64, i64, Vec<String>) {
    let m = fs::symlink_metadata(path).expect("it is there still");
    let names = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    (m.len(), m.mode(), m.uid(), m.mtime(), m.mtime_nsec(), names)
}

#[test]
fn a_symlink_in_place_of_a_ledger_file_is_refused_and_its_target_unchanged() {
    let test = "a_symlink_in_place_of_a_ledger_file_is_refused_and_its_target_unchanged";
    let Some(world) = World::of_bookend(test) else { return };
    let laid = Laid::new(world);
    let world = &laid.world;
    fs::write(world.path("mine"), TEXT).expect("a file");
    fs::write(world.path("theirs"), TEXT).expect("a file");
    fs::create_dir(world.path("folder")).expect("a directory");
    fs::write(world.path("folder/mine"), TEXT).expect("a file");
    set_mode(world, "mine", 0o644);
    set_mode(world, "folder", 0o755);
    if is_root() {
        give(world, "theirs", SOMEBODY);
    }
    for part in PARTS {
        for target in ["mine", "theirs", "folder", "nowhere"] {
            let path = world.path(target);
            let before = path.exists().then(|| looks(&path));
            laid.link(part, &path);
            let link = world.path("case").join(part);
            let refused = laid.run().run().ended(End::Code(125));
            let named = link.display().to_string();
            assert!(
                refused.stderr.contains(&named) && refused.stderr.contains("symbolic link"),
                "{part} to {target}: {refused:?}"
            );
            assert!(!laid.effect(), "{part} to {target}: the agent ran");
            let ledger = laid.ledger();
            for command in [
                &["list"][..],
                &["show", "one"],
                &["audit"],
                &["session", "list"],
                &["stats"],
                &["recover"],
                &["prune"],
                &["cancel", "--all"],
                &["artifact", "add", "--task", "one", "a://b"],
            ] {
                let said = bookend(world, &[command, &["--ledger", &ledger]].concat());
                assert_ne!(said.end, End::Code(2), "{command:?} is no usage error: {said:?}");
            }
            assert_eq!(path.exists().then(|| looks(&path)), before, "{part} to {target}");
            assert!(
                fs::symlink_metadata(&link).is_ok_and(|m| m.is_symlink()),
                "{part} to {target}: it stays"
            );
        }
    }
    assert_eq!(fs::read_to_string(world.path("mine")).expect("it"), TEXT);
    assert_eq!(fs::read_to_string(world.path("theirs")).expect("it"), TEXT);
}

/// A dispatcher's directory is its own again once the way there is closed.
#[test]
fn no_file_is_created_beside_a_path_that_is_not_a_ledger() {
    let Some(world) = World::of_bookend("no_file_is_created_beside_a_path_that_is_not_a_ledger") else {
        return;
    };
    fs::create_dir(world.path("there")).expect("a directory");
    symlink("nowhere", world.path("there/link.db")).expect("a link");
    fs::create_dir(world.path("there/folder.db")).expect("a directory");
    let pipe: Fifo = world.fifo("there/pipe.db");
    for name in ["there/link.db", "there/folder.db", "there/pipe.db"] {
        let output = world.run(["true"]).options(["--ledger", &world.name(name)]).run();
        output.ended(End::Code(125));
    }
    drop(pipe);
    assert_eq!(looks(&world.path("there")).5, ["folder.db", "link.db", "pipe.db"]);
}

#[test]
fn a_device_is_refused_as_a_ledger() {
    let Some(world) = World::of_bookend("a_device_is_refused_as_a_ledger") else { return };
    for device in ["/dev/null", "/dev/zero", "/dev/full"] {
        let beside = format!("{device}.d");
        let was_there = Path::new(&beside).exists();
        let effect = world.name("effect");
        for command in [&["run", "--", "touch", &effect][..], &["list"], &["recover"]] {
            let said = bookend(&world, &[&["--ledger", device], command].concat());
            let said = said.ended(End::Code(125));
            assert!(said.stderr.contains("is not a regular file"), "{said:?}");
        }
        assert_eq!(Path::new(&beside).exists(), was_there, "nothing is made beside it");
        assert!(!world.path("effect").exists(), "the agent ran");
    }
}

#[test]
fn a_world_writable_parent_directory_is_refused() {
    let Some(world) = World::of_bookend("a_world_writable_parent_directory_is_refused") else { return };
    fs::create_dir_all(world.path("open/mine")).expect("directories");
    set_mode(&world, "open", 0o777);
    symlink("open/mine", world.path("way")).expect("a link");
    for ledger in ["open/mine/l.db", "open/new/l.db", "way/l.db"] {
        let run = world.run(["touch", &world.name("effect")]).options(["--ledger", &world.name(ledger)]);
        let refused = run.run().ended(End::Code(125));
        assert!(refused.stderr.contains("writable by all users"), "{ledger}: {refused:?}");
        assert!(!world.path("effect").exists(), "the agent ran");
    }
    assert_eq!(looks(&world.path("open")).5, ["mine"], "nothing is made there");
    set_mode(&world, "open", 0o1777);
    world.run(["true"]).options(["--ledger", &world.name("way/l.db")]).run().ended(End::Code(0)).silent();
}

/// Another user's ledger is not written, even if its mode permits it.
#[test]
fn a_ledger_of_another_user_is_refused_and_unchanged() {
    let Some(world) = open_world("a_ledger_of_another_user_is_refused_and_unchanged") else { return };
    let laid = Laid::new(world);
    laid.anew();
    let world = &laid.world;
    for part in PARTS {
        give(world, &format!("case/{part}"), SOMEBODY);
    }
    let before = fs::read(world.path("case/l.db")).expect("the ledger");
    let refused = laid.run().run().ended(End::Code(125));
    assert!(refused.stderr.contains(&format!("belongs to uid {SOMEBODY}, not to you")), "{refused:?}");
    let refused = bookend(world, &["recover", "--ledger", &laid.ledger()]).ended(End::Code(125));
    assert!(refused.stderr.contains("belongs to uid"), "{refused:?}");
    assert!(!laid.effect() && fs::read(world.path("case/l.db")).expect("it") == before);
    // As that user, in a directory that belongs to another.
    give(world, "case", 0);
    let specs = [format!("uid={SOMEBODY}")];
    give(world, "tmp", SOMEBODY);
    laid.run().with(&specs).run().ended(End::Code(0));
    give(world, "case", NOBODY);
    let refused = laid.run().with(specs).run().ended(End::Code(125));
    assert!(refused.stderr.contains(&format!("belongs to uid {}", NOBODY)), "{refused:?}");
}

const SPOOL: &str = "state/bookend/bookend.db.d/spool";

#[test]
fn invalid_files_in_the_spool_are_put_aside_and_not_followed() {
    let Some(world) = World::of_bookend("invalid_files_in_the_spool_are_put_aside_and_not_followed") else {
        return;
    };
    world.run(["true"]).options(["--id", "one"]).run().ended(End::Code(0));
    let before = world.row();
    // A record that somebody would like to be merged, a pipe without an end, and a file without one.
    let forged = r#"{"version":1,"task":"one","by_pid":1,"by_command":"x","status":"failure","reason":"exit",
        "executed":true}"#;
    fs::write(world.path("forged"), forged).expect("a file");
    for (name, target) in [("a", world.path("forged")), ("b", "/dev/zero".into()), ("c", "nowhere".into())] {
        symlink(target, world.path(SPOOL).join(format!("{name}.json"))).expect("a link");
    }
    let _pipe = world.fifo(&format!("{SPOOL}/d.json"));
    let long = fs::File::create(world.path(SPOOL).join("e.json")).expect("a file");
    long.set_len(1 << 40).expect("a long file");
    fs::create_dir(world.path(SPOOL).join("f.json")).expect("a directory");

    let found = bookend(&world, &["audit"]).ended(End::Code(0)).silent();
    assert_eq!(found.stdout.matches("a terminal record that cannot be read waits").count(), 6, "{found:?}");
    let said = world.run(["true"]).options(["--id", "two"]).run().ended(End::Code(0));
    assert_eq!(said.stderr.matches("a spooled record cannot be read").count(), 6, "{said:?}");
    assert_eq!(said.stderr.matches("it is a symbolic link, which bookend does not follow").count(), 3);
    let aside = looks(&world.path(SPOOL)).5;
    assert_eq!(aside, ["a", "b", "c", "d", "e", "f"].map(|n| format!("{n}.kept.json")));
    let now = world.sql("SELECT * FROM task_history WHERE id = 'one'").remove(0);
    assert_eq!((now.ending(), now.text("end_source")), (before.ending(), before.text("end_source")));
    assert_eq!(fs::read_to_string(world.path("forged")).expect("it"), forged);
    assert!(recover(&world, &[]).contains("nothing to settle"), "told once");
}

#[test]
fn a_replaced_spool_slot_is_not_followed_and_the_ending_is_recorded() {
    let Some(world) = World::of_bookend("a_replaced_spool_slot_is_not_followed_and_the_ending_is_recorded")
    else {
        return;
    };
    fs::write(world.path("mine"), TEXT).expect("a file");
    // One that waits for the run, and one that comes while it runs.
    world.run(["true"]).run().ended(End::Code(0));
    let slot = world.path(SPOOL).join(".one.slot");
    symlink(world.path("mine"), &slot).expect("a link");
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script = format!("echo up $$ >{}; read x <{}; exit 3", up.path(), go.path());
    let run = world.run_sh(&script).options(["--id", "one"]).env("BOOKEND_BUSY_TIMEOUT", "10ms").start();
    let agent = up.pid("up");
    assert!(!fs::symlink_metadata(&slot).expect("the slot").is_symlink(), "it is bookend's own by now");
    fs::remove_file(&slot).expect("the slot removed");
    symlink(world.path("mine"), &slot).expect("a link");
    let lock = rusqlite::Connection::open(world.ledger()).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    go.write_line("now");
    let said = run.wait().ended(End::Code(3));
    assert!(said.stderr.contains("it waits in"), "{said:?}");
    drop(lock);
    eventually(world.deadline(), "the agent's end", || matches!(state(agent), None | Some('Z')));
    assert_eq!(fs::read_to_string(world.path("mine")).expect("it"), TEXT);
    assert!(!fs::symlink_metadata(world.path(SPOOL).join("one.json")).expect("a record").is_symlink());
    recover(&world, &[]);
    let row = world.sql("SELECT * FROM task_history WHERE id = 'one'").remove(0);
    assert_eq!((row.ending().as_str(), row.text("end_source").as_str()), ("failure/exit", "spool"));
}

/// Whoever may write to the ledger could write a command there, and the next recovery would run it as us.
#[test]
fn commands_in_a_ledger_that_others_may_write_to_are_not_run() {
    let Some(world) = World::of_bookend("commands_in_a_ledger_that_others_may_write_to_are_not_run") else {
        return;
    };
    // Where others may read it is left without a log.
    set_mode(&world, "", 0o700);
    let ledger = world.name("theirs.db");
    let theirs = rusqlite::Connection::open(&ledger).expect("a database");
    theirs.execute_batch(include_str!("../adopt/plain.sql")).expect("their tables");
    drop(theirs);
    set_mode(&world, "theirs.db", 0o664);
    let said = bookend(&world, &["adopt", &ledger]).ended(End::Code(0));
    assert!(said.stdout.contains(&format!("to change that: chmod g-w {ledger}\n")), "{said:?}");
    set_mode(&world, "theirs.db", 0o644);
    let said = bookend(&world, &["adopt", &ledger]).ended(End::Code(0));
    assert!(!said.stdout.contains("chmod"), "{said:?}");
    let hook = format!("touch {}", world.name("effect"));
    let options = ["--id", "one", "--ledger", &ledger, "--on-finish", &hook];
    world.run(["touch", &world.name("agent")]).options(options).run().ended(End::Code(0));
    // Or the log would go with the last one who has it open.
    let held = rusqlite::Connection::open(&ledger).expect("the ledger");
    held.execute_batch("SELECT * FROM task_history").expect("a read");
    let pend = || {
        let _ = fs::remove_file(world.path("effect"));
        let _ = fs::remove_file(world.path("agent"));
        let sql = "UPDATE task_history SET delivery_status = 'pending', delivery_attempts = 0";
        let ledger = rusqlite::Connection::open(&ledger).expect("the ledger");
        ledger.execute_batch(sql).expect("a pending delivery");
    };
    for (part, mode) in [("", 0o646), ("", 0o666), ("-wal", 0o606)] {
        pend();
        set_mode(&world, &format!("theirs.db{part}"), mode);
        let said = bookend(&world, &["recover", "--ledger", &ledger]).ended(End::Code(1));
        assert!(said.stdout.contains("other users may write to"), "{part} {mode:o}: {said:?}");
        let said = bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(125));
        assert!(said.stderr.contains("other users may write to"), "{part} {mode:o}: {said:?}");
        assert!(!world.path("effect").exists() && !world.path("agent").exists(), "{part} {mode:o}: it ran");
        set_mode(&world, &format!("theirs.db{part}"), 0o644);
        recover(&world, &["--ledger", &ledger]);
    }
    // A group is others, whoever is in it today; who may only read is not.
    pend();
    set_mode(&world, "theirs.db", 0o664);
    let said = bookend(&world, &["recover", "--ledger", &ledger]).ended(End::Code(1));
    assert!(said.stdout.contains(&format!("; chmod g-w {ledger}")), "{said:?}");
    let said = bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(125));
    assert!(said.stderr.contains(&format!("hint: chmod g-w {ledger}")), "{said:?}");
    assert!(!world.path("effect").exists() && !world.path("agent").exists(), "it ran");
    // As the hint says.
    world.bare(["chmod", "g-w", &ledger]).run().ended(End::Code(0));
    pend();
    recover(&world, &["--ledger", &ledger]);
    assert!(world.path("effect").exists());
    bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(0));
    assert!(world.path("agent").exists());
}

/// A list of users and groups that may write stands in no mode.
#[test]
fn commands_in_a_ledger_with_an_access_control_list_are_not_run() {
    let test = "commands_in_a_ledger_with_an_access_control_list_are_not_run";
    let Some(world) = World::of_bookend(test) else { return };
    let set = |words: &[&str]| world.bare([&["setfacl"], words].concat()).run().end == End::Code(0);
    fs::write(world.path("tried"), "").expect("a file");
    let user = format!("user:{SOMEBODY}:r");
    let works = on_path("setfacl") && set(&["-m", &user, &world.name("tried")]);
    if !possible(test, works, "setfacl, and a file system with access control lists") {
        return;
    }
    let (ledger, effect) = (world.name("l.db"), world.name("effect"));
    let options = ["--id", "one", "--ledger", &ledger, "--on-finish", &format!("touch {effect}")];
    world.run(["true"]).options(options).run().ended(End::Code(0));
    // Or the log would go with the last one who has it open.
    let held = rusqlite::Connection::open(&ledger).expect("the ledger");
    held.execute_batch("SELECT * FROM task_history").expect("a read");
    for part in ["", "-wal", "-shm"] {
        let file = world.name(&format!("l.db{part}"));
        fs::remove_file(&effect).expect("the effect");
        let pend = "UPDATE task_history SET delivery_status = 'pending', delivery_attempts = 0";
        rusqlite::Connection::open(&ledger).expect("the ledger").execute_batch(pend).expect("a pending one");
        assert!(set(&["-m", &user, &file]));
        for words in [&["recover"][..], &["redispatch", "one"]] {
            let said = bookend(&world, &[&["--ledger", &ledger], words].concat());
            let all = said.stdout.clone() + &said.stderr;
            assert!(all.contains("has an access control list (ACL)"), "{part} {words:?}: {said:?}");
            assert!(all.contains(&format!("setfacl --remove-all {file}")), "{part} {words:?}: {said:?}");
            assert!(!Path::new(&effect).exists(), "{part} {words:?}: it ran");
        }
        assert!(set(&["--remove-all", &file]));
        rusqlite::Connection::open(&ledger).expect("the ledger").execute_batch(pend).expect("a pending one");
        recover(&world, &["--ledger", &ledger]);
        assert!(Path::new(&effect).exists(), "{part}");
    }
}

/// A ledger of bookend's own that others may write to stays distrusted until its owner changes the mode.
#[test]
fn commands_in_a_ledger_created_by_bookend_that_others_may_write_to_are_not_run() {
    let Some(world) =
        World::of_bookend("commands_in_a_ledger_created_by_bookend_that_others_may_write_to_are_not_run")
    else {
        return;
    };
    let (ledger, effect) = (world.name("l.db"), world.name("effect"));
    let options = ["--id", "one", "--ledger", &ledger, "--on-finish", &format!("touch {effect}")];
    world.run(["true"]).options(options).run().ended(End::Code(0));
    // Or the log would go with the last one who has it open.
    let held = rusqlite::Connection::open(&ledger).expect("the ledger");
    held.execute_batch("SELECT * FROM task_history").expect("a read");
    for part in ["", "-wal", "-shm"] {
        fs::remove_file(&effect).expect("the effect");
        let pend = || {
            let sql = "UPDATE task_history SET delivery_status = 'pending', delivery_attempts = 0";
            rusqlite::Connection::open(&ledger)
                .expect("the ledger")
                .execute_batch(sql)
                .expect("a pending one");
        };
        pend();
        let file = world.name(&format!("l.db{part}"));
        set_mode(&world, &format!("l.db{part}"), 0o620);
        for words in [&["recover"][..], &["redispatch", "one"], &["recover"], &["redispatch", "one"]] {
            let said = bookend(&world, &[&["--ledger", &ledger], words].concat());
            let all = said.stdout.clone() + &said.stderr;
            let done = words == ["recover"] && all.contains("nothing to settle");
            assert!(done || all.contains(&format!("chmod g-w {file}")), "{part} {words:?}: {said:?}");
            assert!(!Path::new(&effect).exists(), "{part} {words:?}: it ran");
        }
        set_mode(&world, &format!("l.db{part}"), 0o600);
        pend();
        recover(&world, &["--ledger", &ledger]);
        assert!(Path::new(&effect).exists(), "{part}");
    }
}

#[test]
fn a_set_user_id_bookend_refuses_to_run() {
    let test = "a_set_user_id_bookend_refuses_to_run";
    let Some(world) = open_world(test) else { return };
    if !possible(test, super::setuid::works(&world), "programs that set the user") {
        return;
    }
    let effect = world.name("tmp/effect");
    set_mode(&world, "tmp", 0o777);
    for mode in [0o4755, 0o2755] {
        copy_program(&world, "bookend", "raised");
        set_mode(&world, "bin/raised", mode);
        for words in [&["raised", "run", "--", "touch", &effect][..], &["raised", "list"]] {
            let hook = format!("touch {effect}");
            let command = world.bare(words.iter().copied()).env("BOOKEND_PREPARE", &hook);
            let refused = command.with([format!("uid={SOMEBODY}")]).run().ended(End::Code(125));
            assert!(refused.stderr.contains("more rights than its caller"), "{refused:?}");
        }
        assert!(!world.path("tmp/effect").exists(), "something ran");
    }
}

/// Kubernetes makes an emptyDir volume root's, with mode 0777, or 2777 where the pod has an fsGroup.
#[test]
fn allow_shared_dir_relaxes_only_the_parents_of_the_ledgers_directory() {
    let Some(world) = open_world("allow_shared_dir_relaxes_only_the_parents_of_the_ledgers_directory") else {
        return;
    };
    fs::create_dir_all(world.path("tmp/volume/mine")).expect("directories");
    set_mode(&world, "tmp/volume/mine", 0o700);
    give(&world, "tmp/volume/mine", NOBODY);
    let run = |ledger: &str, value: &str| {
        let options = ["--ledger".to_owned(), world.name(ledger)];
        let run = world.run(["true"]).options(options).with([format!("uid={NOBODY}")]);
        run.env("BOOKEND_ALLOW_SHARED_DIR", value).run()
    };
    for mode in [0o777, 0o2777] {
        set_mode(&world, "tmp/volume", mode);
        let made = format!("tmp/volume/made{mode:o}");
        for ledger in ["tmp/volume/mine/l.db", &format!("{made}/deep/l.db")] {
            for value in ["", "0", "no"] {
                let refused = run(ledger, value).ended(End::Code(125));
                assert!(refused.stderr.contains("BOOKEND_ALLOW_SHARED_DIR=1"), "{refused:?}");
            }
            run(ledger, "1").ended(End::Code(0)).silent();
        }
        for dir in [format!("{made}/deep"), format!("{made}/deep/l.db.d"), "tmp/volume/mine".to_owned()] {
            let meta = fs::metadata(world.path(&dir)).expect("a directory");
            assert_eq!(meta.mode() & 0o7777, 0o700, "{dir}");
        }
        let refused = run("tmp/volume/l.db", "1").ended(End::Code(125));
        assert!(refused.stderr.contains("is writable by all users"), "{refused:?}");
        assert!(!world.path("tmp/volume/l.db").exists());
    }
    set_mode(&world, "tmp/volume/mine", 0o770);
    let refused = run("tmp/volume/mine/l.db", "1").ended(End::Code(125));
    assert!(refused.stderr.contains("is writable by its group"), "{refused:?}");
    set_mode(&world, "tmp/volume/mine", 0o700);
    give(&world, "tmp/volume/mine", SOMEBODY);
    run("tmp/volume/mine/l.db", "1").ended(End::Code(125));
}

/// `bookend timeline --html FILE`, under a umask that takes nothing.
fn page(world: &World, name: &str) -> crate::harness::Output {
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
    assert_eq!(read("other"), TEXT, "a page is a new file");

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
    assert_eq!(fs::read_dir(world.path("pages")).expect("the pages").count(), 5, "no draft is left");
}
