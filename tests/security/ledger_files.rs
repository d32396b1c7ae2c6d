//! The files of a ledger: links, pipes and files of other users in place of them are refused, and the targets
//! are unchanged.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::{NOBODY, OTHER_USER, copy_program, set_mode, set_owner, world_for_all_users};
use crate::harness::{Cmd, End, Fifo, World, eventually, is_root, on_path, possible, state};
use crate::standins::{bookend, recover};

/// The files and directories of a ledger, the database first.
const PARTS: [&str; 6] = ["l.db", "l.db-wal", "l.db-shm", "l.db.d", "l.db.d/live", "l.db.d/spool"];

const TEXT: &str = "a file that must not change\n";

/// A world with a ledger in `real/`, which each case copies to `case/`.
struct CopiedLedger {
    world: World,
}

impl CopiedLedger {
    fn new(world: World) -> CopiedLedger {
        fs::create_dir(world.path("real")).expect("a directory");
        let done = world.run(["true"]).options(["--id", "one", "--ledger", &world.name("real/l.db")]).run();
        done.ended(End::Code(0)).silent();
        CopiedLedger { world }
    }

    fn reset(&self) {
        let script = "rm -rf case && cp -a real case";
        self.world.bare(["sh", "-euc", script]).cwd(self.world.path("")).run().ended(End::Code(0));
    }

    /// Replaces a part by a link to `target`.
    fn link(&self, part: &str, target: &Path) {
        self.reset();
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

/// The metadata of a file or directory, and the names in a directory.
fn fingerprint(path: &Path) -> (u64, u32, u32, i64, i64, Vec<String>) {
    let m = fs::symlink_metadata(path).expect("metadata");
    let names = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    (m.len(), m.mode(), m.uid(), m.mtime(), m.mtime_nsec(), names)
}

#[test]
fn a_symlink_in_place_of_a_ledger_file_is_refused_and_its_target_unchanged() {
    let test = "a_symlink_in_place_of_a_ledger_file_is_refused_and_its_target_unchanged";
    let Some(world) = World::of_bookend(test) else { return };
    let copy = CopiedLedger::new(world);
    let world = &copy.world;
    fs::write(world.path("mine"), TEXT).expect("a file");
    fs::write(world.path("theirs"), TEXT).expect("a file");
    fs::create_dir(world.path("folder")).expect("a directory");
    fs::write(world.path("folder/mine"), TEXT).expect("a file");
    set_mode(world, "mine", 0o644);
    set_mode(world, "folder", 0o755);
    if is_root() {
        set_owner(world, "theirs", OTHER_USER);
    }
    for part in PARTS {
        for target in ["mine", "theirs", "folder", "nowhere"] {
            let path = world.path(target);
            let before = path.exists().then(|| fingerprint(&path));
            copy.link(part, &path);
            let link = world.path("case").join(part);
            let refused = copy.run().run().ended(End::Code(125));
            let named = link.display().to_string();
            assert!(
                refused.stderr.contains(&named) && refused.stderr.contains("symbolic link"),
                "{part} to {target}: {refused:?}"
            );
            assert!(!copy.effect(), "{part} to {target}: the agent ran");
            let ledger = copy.ledger();
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
                let printed = bookend(world, &[command, &["--ledger", &ledger]].concat());
                assert_ne!(printed.end, End::Code(2), "{command:?} is a usage error: {printed:?}");
            }
            assert_eq!(path.exists().then(|| fingerprint(&path)), before, "{part} to {target}");
            assert!(
                fs::symlink_metadata(&link).is_ok_and(|m| m.is_symlink()),
                "{part} to {target}: the link was replaced"
            );
        }
    }
    assert_eq!(fs::read_to_string(world.path("mine")).expect("it"), TEXT);
    assert_eq!(fs::read_to_string(world.path("theirs")).expect("it"), TEXT);
}

/// A dispatcher's directory stays as it was.
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
    assert_eq!(fingerprint(&world.path("there")).5, ["folder.db", "link.db", "pipe.db"]);
}

#[test]
fn a_device_is_refused_as_a_ledger() {
    let Some(world) = World::of_bookend("a_device_is_refused_as_a_ledger") else { return };
    for device in ["/dev/null", "/dev/zero", "/dev/full"] {
        let beside = format!("{device}.d");
        let was_there = Path::new(&beside).exists();
        let effect = world.name("effect");
        for command in [&["run", "--", "touch", &effect][..], &["list"], &["recover"]] {
            let printed = bookend(&world, &[&["--ledger", device], command].concat());
            let printed = printed.ended(End::Code(125));
            assert!(printed.stderr.contains("is not a regular file"), "{printed:?}");
        }
        assert_eq!(Path::new(&beside).exists(), was_there, "a file was created beside it");
        assert!(!world.path("effect").exists(), "the agent ran");
    }
}

#[test]
fn a_world_writable_parent_directory_is_refused() {
    let Some(world) = World::of_bookend("a_world_writable_parent_directory_is_refused") else { return };
    fs::create_dir_all(world.path("open/mine")).expect("directories");
    set_mode(&world, "open", 0o777);
    symlink("open/mine", world.path("link")).expect("a link");
    for ledger in ["open/mine/l.db", "open/new/l.db", "link/l.db"] {
        let run = world.run(["touch", &world.name("effect")]).options(["--ledger", &world.name(ledger)]);
        let refused = run.run().ended(End::Code(125));
        assert!(refused.stderr.contains("writable by all users"), "{ledger}: {refused:?}");
        assert!(!world.path("effect").exists(), "the agent ran");
    }
    assert_eq!(fingerprint(&world.path("open")).5, ["mine"], "a file was created there");
    set_mode(&world, "open", 0o1777);
    world.run(["true"]).options(["--ledger", &world.name("link/l.db")]).run().ended(End::Code(0)).silent();
}

/// Another user's ledger is not written, even if its mode permits it.
#[test]
fn a_ledger_of_another_user_is_refused_and_unchanged() {
    let Some(world) = world_for_all_users("a_ledger_of_another_user_is_refused_and_unchanged") else {
        return;
    };
    let copy = CopiedLedger::new(world);
    copy.reset();
    let world = &copy.world;
    for part in PARTS {
        set_owner(world, &format!("case/{part}"), OTHER_USER);
    }
    let before = fs::read(world.path("case/l.db")).expect("the ledger");
    let refused = copy.run().run().ended(End::Code(125));
    assert!(refused.stderr.contains(&format!("belongs to uid {OTHER_USER}, not to you")), "{refused:?}");
    let refused = bookend(world, &["recover", "--ledger", &copy.ledger()]).ended(End::Code(125));
    assert!(refused.stderr.contains("belongs to uid"), "{refused:?}");
    assert!(!copy.effect() && fs::read(world.path("case/l.db")).expect("it") == before);
    // As that user, in a directory of another user.
    set_owner(world, "case", 0);
    let specs = [format!("uid={OTHER_USER}")];
    set_owner(world, "tmp", OTHER_USER);
    copy.run().with(&specs).run().ended(End::Code(0));
    set_owner(world, "case", NOBODY);
    let refused = copy.run().with(specs).run().ended(End::Code(125));
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
    // A forged record, links, a pipe, an endless file and a directory.
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
    let printed = world.run(["true"]).options(["--id", "two"]).run().ended(End::Code(0));
    assert_eq!(printed.stderr.matches("a spooled record cannot be read").count(), 6, "{printed:?}");
    assert_eq!(printed.stderr.matches("it is a symbolic link, which bookend does not follow").count(), 3);
    let aside = fingerprint(&world.path(SPOOL)).5;
    assert_eq!(aside, ["a", "b", "c", "d", "e", "f"].map(|n| format!("{n}.kept.json")));
    let now = world.sql("SELECT * FROM task_history WHERE id = 'one'").remove(0);
    assert_eq!((now.ending(), now.text("end_source")), (before.ending(), before.text("end_source")));
    assert_eq!(fs::read_to_string(world.path("forged")).expect("it"), forged);
    assert!(recover(&world, &[]).contains("nothing to settle"), "reported once");
}

#[test]
fn a_replaced_spool_slot_is_not_followed_and_the_ending_is_recorded() {
    let Some(world) = World::of_bookend("a_replaced_spool_slot_is_not_followed_and_the_ending_is_recorded")
    else {
        return;
    };
    fs::write(world.path("mine"), TEXT).expect("a file");
    // One link exists before the run, another replaces the slot during the run.
    world.run(["true"]).run().ended(End::Code(0));
    let slot = world.path(SPOOL).join(".one.slot");
    symlink(world.path("mine"), &slot).expect("a link");
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script = format!("echo up $$ >{}; read x <{}; exit 3", up.path(), go.path());
    let run = world.run_sh(&script).options(["--id", "one"]).env("BOOKEND_BUSY_TIMEOUT", "10ms").start();
    let agent = up.pid("up");
    assert!(!fs::symlink_metadata(&slot).expect("the slot").is_symlink(), "bookend replaced the link");
    fs::remove_file(&slot).expect("the slot removed");
    symlink(world.path("mine"), &slot).expect("a link");
    let lock = rusqlite::Connection::open(world.ledger()).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    go.write_line("now");
    let printed = run.wait().ended(End::Code(3));
    assert!(printed.stderr.contains("it waits in"), "{printed:?}");
    drop(lock);
    eventually(world.deadline(), "the agent's end", || matches!(state(agent), None | Some('Z')));
    assert_eq!(fs::read_to_string(world.path("mine")).expect("it"), TEXT);
    assert!(!fs::symlink_metadata(world.path(SPOOL).join("one.json")).expect("a record").is_symlink());
    recover(&world, &[]);
    let row = world.sql("SELECT * FROM task_history WHERE id = 'one'").remove(0);
    assert_eq!((row.ending().as_str(), row.text("end_source").as_str()), ("failure/exit", "spool"));
}

/// A user who may write to the ledger could store a command in it, which the next recovery would run.
#[test]
fn commands_in_a_ledger_that_others_may_write_to_are_not_run() {
    let Some(world) = World::of_bookend("commands_in_a_ledger_that_others_may_write_to_are_not_run") else {
        return;
    };
    // bookend uses no WAL in a directory that others may read.
    set_mode(&world, "", 0o700);
    let ledger = world.name("theirs.db");
    let theirs = rusqlite::Connection::open(&ledger).expect("a database");
    theirs.execute_batch(include_str!("../adopt/plain.sql")).expect("their tables");
    drop(theirs);
    set_mode(&world, "theirs.db", 0o664);
    let printed = bookend(&world, &["adopt", &ledger]).ended(End::Code(0));
    assert!(printed.stdout.contains(&format!("to change that: chmod g-w {ledger}\n")), "{printed:?}");
    set_mode(&world, "theirs.db", 0o644);
    let printed = bookend(&world, &["adopt", &ledger]).ended(End::Code(0));
    assert!(!printed.stdout.contains("chmod"), "{printed:?}");
    let hook = format!("touch {}", world.name("effect"));
    let options = ["--id", "one", "--ledger", &ledger, "--on-finish", &hook];
    world.run(["touch", &world.name("agent")]).options(options).run().ended(End::Code(0));
    // Keeps the WAL: the last connection to close removes it.
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
        let printed = bookend(&world, &["recover", "--ledger", &ledger]).ended(End::Code(1));
        assert!(printed.stdout.contains("other users may write to"), "{part} {mode:o}: {printed:?}");
        let printed = bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(125));
        assert!(printed.stderr.contains("other users may write to"), "{part} {mode:o}: {printed:?}");
        assert!(
            !world.path("effect").exists() && !world.path("agent").exists(),
            "{part} {mode:o}: a command ran"
        );
        set_mode(&world, &format!("theirs.db{part}"), 0o644);
        recover(&world, &["--ledger", &ledger]);
    }
    // Members of the group count as others, even if the group is empty. Read access does not matter.
    pend();
    set_mode(&world, "theirs.db", 0o664);
    let printed = bookend(&world, &["recover", "--ledger", &ledger]).ended(End::Code(1));
    assert!(printed.stdout.contains(&format!("; chmod g-w {ledger}")), "{printed:?}");
    let printed = bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(125));
    assert!(printed.stderr.contains(&format!("hint: chmod g-w {ledger}")), "{printed:?}");
    assert!(!world.path("effect").exists() && !world.path("agent").exists(), "a command ran");
    // The command from the hint.
    world.bare(["chmod", "g-w", &ledger]).run().ended(End::Code(0));
    pend();
    recover(&world, &["--ledger", &ledger]);
    assert!(world.path("effect").exists());
    bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(0));
    assert!(world.path("agent").exists());
}

/// The mode does not show the entries of an access control list.
#[test]
fn commands_in_a_ledger_with_an_access_control_list_are_not_run() {
    let test = "commands_in_a_ledger_with_an_access_control_list_are_not_run";
    let Some(world) = World::of_bookend(test) else { return };
    let set = |words: &[&str]| world.bare([&["setfacl"], words].concat()).run().end == End::Code(0);
    fs::write(world.path("tried"), "").expect("a file");
    let user = format!("user:{OTHER_USER}:r");
    let works = on_path("setfacl") && set(&["-m", &user, &world.name("tried")]);
    if !possible(test, works, "setfacl, and a file system with access control lists") {
        return;
    }
    let (ledger, effect) = (world.name("l.db"), world.name("effect"));
    let options = ["--id", "one", "--ledger", &ledger, "--on-finish", &format!("touch {effect}")];
    world.run(["true"]).options(options).run().ended(End::Code(0));
    // Keeps the WAL: the last connection to close removes it.
    let held = rusqlite::Connection::open(&ledger).expect("the ledger");
    held.execute_batch("SELECT * FROM task_history").expect("a read");
    for part in ["", "-wal", "-shm"] {
        let file = world.name(&format!("l.db{part}"));
        fs::remove_file(&effect).expect("the effect");
        let pend = "UPDATE task_history SET delivery_status = 'pending', delivery_attempts = 0";
        rusqlite::Connection::open(&ledger).expect("the ledger").execute_batch(pend).expect("a pending one");
        assert!(set(&["-m", &user, &file]));
        for words in [&["recover"][..], &["redispatch", "one"]] {
            let printed = bookend(&world, &[&["--ledger", &ledger], words].concat());
            let all = printed.stdout.clone() + &printed.stderr;
            assert!(all.contains("has an access control list (ACL)"), "{part} {words:?}: {printed:?}");
            assert!(all.contains(&format!("setfacl --remove-all {file}")), "{part} {words:?}: {printed:?}");
            assert!(!Path::new(&effect).exists(), "{part} {words:?}: a command ran");
        }
        assert!(set(&["--remove-all", &file]));
        rusqlite::Connection::open(&ledger).expect("the ledger").execute_batch(pend).expect("a pending one");
        recover(&world, &["--ledger", &ledger]);
        assert!(Path::new(&effect).exists(), "{part}");
    }
}

/// A ledger created by bookend that others may write to is not trusted until its owner changes the mode.
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
    // Keeps the WAL: the last connection to close removes it.
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
            let printed = bookend(&world, &[&["--ledger", &ledger], words].concat());
            let all = printed.stdout.clone() + &printed.stderr;
            let done = words == ["recover"] && all.contains("nothing to settle");
            assert!(done || all.contains(&format!("chmod g-w {file}")), "{part} {words:?}: {printed:?}");
            assert!(!Path::new(&effect).exists(), "{part} {words:?}: a command ran");
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
    let Some(world) = world_for_all_users(test) else { return };
    if !possible(test, super::setuid::works(&world), "set-user-ID programs") {
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
            let refused = command.with([format!("uid={OTHER_USER}")]).run().ended(End::Code(125));
            assert!(refused.stderr.contains("more rights than its caller"), "{refused:?}");
        }
        assert!(!world.path("tmp/effect").exists(), "a command ran");
    }
}

/// Kubernetes creates an emptyDir volume owned by root with mode 0777, or 2777 if the pod has an fsGroup.
#[test]
fn allow_shared_dir_relaxes_only_the_parents_of_the_ledgers_directory() {
    let Some(world) =
        world_for_all_users("allow_shared_dir_relaxes_only_the_parents_of_the_ledgers_directory")
    else {
        return;
    };
    fs::create_dir_all(world.path("tmp/volume/mine")).expect("directories");
    set_mode(&world, "tmp/volume/mine", 0o700);
    set_owner(&world, "tmp/volume/mine", NOBODY);
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
    set_owner(&world, "tmp/volume/mine", OTHER_USER);
    run("tmp/volume/mine/l.db", "1").ended(End::Code(125));
}
