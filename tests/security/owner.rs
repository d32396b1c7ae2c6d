//! The owner of a ledger: no other user can act on it, root becomes the owner first, and a file that replaces
//! it during a command is not used.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{NOBODY, OTHER_USER, open_fifo, set_mode, set_owner};

use crate::harness::{Cmd, End, Output, Pty, World, is_root, on_path, possible, stat_field};

/// A group other than those of root and nobody.
const STAFF: u32 = 50;

/// A world with two ledgers of one task each: `tmp/d/l.db` belongs to the user nobody, `roots/l.db` to root.
struct Users {
    world: World,
    specs: Vec<String>,
}

impl Users {
    fn new(test: &str, agent: &[&str]) -> Option<Users> {
        let (world, specs) = World::unprivileged(test)?;
        if !possible(test, is_root(), "root, to become another user") {
            return None;
        }
        let users = Users { world, specs };
        for name in ["tmp/d", "roots"] {
            fs::create_dir(users.world.path(name)).expect("a directory");
        }
        set_owner(&users.world, "tmp/d", NOBODY);
        let cmd =
            users.world.run(agent.iter().copied()).options(["--id", "one", "--ledger", &users.ledger()]);
        cmd.with(&users.specs).run().ended(End::Code(0));
        let own = users.world.name("roots/l.db");
        users.world.run(["true"]).options(["--id", "roots", "--ledger", &own]).run().ended(End::Code(0));
        Some(users)
    }

    fn ledger(&self) -> String {
        self.world.name("tmp/d/l.db")
    }

    fn sql(&self, sql: &str) {
        let ledger = rusqlite::Connection::open(self.ledger()).expect("the ledger");
        ledger.execute_batch(sql).expect(sql);
    }

    /// A command on the user's ledger.
    fn command(&self, words: &[&str]) -> Cmd<'_> {
        let ledger = self.ledger();
        self.world.bare([&["bookend", "--ledger", &ledger], words].concat())
    }

    fn by_root(&self, words: &[&str]) -> Output {
        self.command(words).run()
    }

    /// As [`Users::by_root`], at idle priority, so that a thread that waits for its actions runs first.
    fn by_root_idly(&self, words: &[&str]) -> Output {
        let ledger = self.ledger();
        let idly = if on_path("chrt") { &["chrt", "-i", "0"][..] } else { &[] };
        self.world.bare([idly, &["bookend", "--ledger", &ledger], words].concat()).run()
    }

    /// Makes `hook` the `--on-finish` command of the user's task, to be run in `cwd`.
    fn set_hook(&self, hook: &str, cwd: &str) {
        let kept = serde_json::json!({ "command": hook, "cwd": cwd }).to_string();
        self.sql(&format!("UPDATE task_history SET delivery_status = 'pending', on_finish = '{kept}'"));
    }

    fn swap_back(&self) {
        fs::remove_file(self.world.path("tmp/d")).expect("the link removed");
        fs::rename(self.world.path("tmp/away"), self.world.path("tmp/d")).expect("the directory back");
    }

    /// The files beside the ledger with their owners.
    fn owners(&self) -> Vec<(PathBuf, u32)> {
        let mut found = Vec::new();
        let mut ahead = vec![self.world.path("tmp/d")];
        while let Some(path) = ahead.pop() {
            let meta = fs::symlink_metadata(&path).expect("metadata");
            ahead.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
            found.push((path, meta.uid()));
        }
        found
    }
}

/// Replaces the user's directory by a link to root's when the ledger in it is first opened, which inotify
/// reports.
fn swap(users: &Users) -> JoinHandle<()> {
    let path = |name: &str| users.world.path(name);
    let (dir, away, roots) = (path("tmp/d"), path("tmp/away"), path("roots"));
    for ledger in [&dir, &roots] {
        // Opened and closed first: the last connection to close resets the WAL, which it finds by path.
        let ledger = rusqlite::Connection::open(ledger.join("l.db")).expect("a ledger");
        ledger.execute_batch("SELECT * FROM task_history").expect("a read");
    }
    let watch = inotify::init(CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&watch, dir.join("l.db"), WatchFlags::OPEN).expect("a watch");
    std::thread::spawn(move || {
        let mut event = [0; 4096];
        let got = fs::File::from(watch).read(&mut event).expect("an event");
        assert!(got > 0);
        fs::rename(&dir, away).expect("the directory moved away");
        symlink(roots, dir).expect("a link in its place");
    })
}

#[test]
fn root_redispatches_a_users_task_as_that_user_although_the_directory_is_swapped() {
    let test = "root_redispatches_a_users_task_as_that_user_although_the_directory_is_swapped";
    let Some(users) = Users::new(test, &["sh", "-c", "id -u >../tmp/uid"]) else { return };
    let uid_file = users.world.path("tmp/uid");
    fs::remove_file(&uid_file).expect("the file of the first run");
    for _ in 0..8 {
        let swapped = swap(&users);
        let printed = users.by_root_idly(&["redispatch", "one"]);
        swapped.join().expect("the swap");
        // The command may be refused because another file is there.
        let ran_as = fs::read_to_string(&uid_file).unwrap_or_default();
        assert!(["", &NOBODY.to_string()].contains(&ran_as.trim()), "ran as {ran_as}: {printed:?}");
        users.swap_back();
    }
    users.by_root(&["redispatch", "one"]).ended(End::Code(0));
    assert_eq!(fs::read_to_string(&uid_file).expect("the uid").trim(), NOBODY.to_string());
    let own = users.world.sql_of("roots/l.db", "SELECT id FROM task_history");
    assert_eq!(own.len(), 1, "root's own ledger has no row of the user's task");
}

#[test]
fn root_does_not_signal_its_own_process_named_in_a_users_row() {
    let Some(mut users) = Users::new("root_does_not_signal_its_own_process_named_in_a_users_row", &["true"])
    else {
        return;
    };
    for round in 0..3 {
        users.world.renew_deadline();
        let mut out = open_fifo(&users.world, &format!("bystander{round}"));
        let bystander = users.world.bare(["probe", "count", &out.path()]).start();
        let pid = out.pid("ready");
        let start = stat_field(pid, 22).expect("a start");
        users.sql(&format!(
            "DROP TRIGGER IF EXISTS task_history_ends_once;
             UPDATE task_history SET status = 'running', reason = NULL, finished_at = NULL, live_slot = NULL,
                supervisor_pid = {pid}, supervisor_start = {start}"
        ));
        let swapped = swap(&users);
        users.by_root_idly(&["cancel", "one", "--wait", "0"]);
        swapped.join().expect("the swap");
        users.world.send(pid, ["64:1000"]);
        assert!(out.rest().is_empty(), "the bystander received only the final signal");
        bystander.wait().ended(End::Code(0));
        users.swap_back();
    }
}

#[test]
fn commands_that_root_runs_for_a_user_have_the_users_identity_and_environment() {
    let Some(users) =
        Users::new("commands_that_root_runs_for_a_user_have_the_users_identity_and_environment", &["true"])
    else {
        return;
    };
    // The user is not a member of the file's group.
    chown(users.world.path("tmp/d/l.db"), None, Some(STAFF)).expect("another group");
    let hook = format!(
        "env >{0}/env; id -u >{0}/ids; id -G >>{0}/ids; ls -l /proc/self/fd >{0}/fds",
        users.world.name("tmp")
    );
    users.set_hook(&hook, "/");
    let open_file = fs::File::open(users.world.path("roots/l.db")).expect("a file of root's");
    rustix::io::fcntl_setfd(&open_file, rustix::io::FdFlags::empty()).expect("it is inherited");
    let environment = [("SECRET", "s"), ("XDG_STATE_HOME", "/roots"), ("BOOKEND_GRACE", "1s"), ("LANG", "C")];
    let recover = users.command(&["recover"]).env("TERM", "dumb");
    let recover = environment.into_iter().fold(recover, |c, (name, value)| c.env(name, value));
    let printed = recover.run().ended(End::Code(0));
    let note = format!("{} belongs to user nobody (uid {NOBODY})", users.ledger());
    assert!(printed.stderr.contains(&note), "{printed:?}");
    let read = |name: &str| fs::read_to_string(users.world.path(name)).expect(name);
    let groups = std::process::Command::new("id").args(["-G", "nobody"]).output().expect("id").stdout;
    assert_eq!(read("tmp/ids"), format!("{NOBODY}\n{}", String::from_utf8_lossy(&groups)));
    let env = read("tmp/env");
    let names: Vec<&str> = env.lines().filter_map(|l| l.split_once('=').map(|(name, _)| name)).collect();
    for name in names {
        let expected = ["PATH", "TERM", "LANG", "HOME", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR"];
        let hooks = ["BOOKEND_LEDGER", "BOOKEND_DELIVERY_ATTEMPT"];
        // Set by the shell.
        let shells = ["PWD", "_", "OLDPWD", "SHLVL"];
        let is_known = expected.iter().chain(&hooks).chain(&shells).any(|n| *n == name);
        assert!(is_known || name.starts_with("BOOKEND_FINISHED_"), "{name} in {env}");
    }
    let passwd = std::process::Command::new("getent").args(["passwd", "nobody"]).output().expect("getent");
    let passwd = String::from_utf8(passwd.stdout).expect("text");
    let field = |n: usize| passwd.trim().split(':').nth(n).expect("a field").to_owned();
    for (name, value) in [("HOME", field(5)), ("USER", field(0)), ("LOGNAME", field(0)), ("SHELL", field(6))]
    {
        assert!(env.lines().any(|l| l == format!("{name}={value}")), "{name} in {env}");
    }
    assert!(!read("tmp/fds").contains("roots/l.db"), "a descriptor of root's: {}", read("tmp/fds"));
}

/// A process whose controlling terminal is that of root can insert input into it (TIOCSTI).
#[test]
fn commands_that_root_runs_for_a_user_have_no_controlling_terminal() {
    let Some(users) = Users::new("what_root_executes_for_a_user_has_no_terminal", &["true"]) else { return };
    let seen = users.world.name("tmp/seen");
    users.set_hook(&format!("(: </dev/tty) 2>/dev/null && echo one >{seen} || echo none >{seen}"), "/");
    let mut pty = Pty::bash(&users.world);
    pty.line(&format!("bookend --ledger {} recover", users.ledger()));
    let (printed, status) = pty.output();
    assert_eq!(status, 0, "{printed}");
    assert_eq!(fs::read_to_string(seen).expect("the hook ran").trim(), "none");
}

#[test]
fn commands_that_root_runs_for_a_user_do_not_start_in_an_unreachable_directory() {
    let test = "commands_that_root_runs_for_a_user_do_not_start_in_an_unreachable_directory";
    let Some(users) = Users::new(test, &["true"]) else { return };
    fs::create_dir(users.world.path("roots/open")).expect("a directory");
    fs::write(users.world.path("roots/open/secret"), "secret").expect("a file");
    set_mode(&users.world, "roots/open", 0o755);
    let seen = users.world.name("tmp/seen");
    let recover = |mode: u32| {
        set_mode(&users.world, "roots", mode);
        users.set_hook(&format!("{{ pwd -P; cat secret; }} >{seen} 2>/dev/null"), ".");
        let command = users.command(&["recover"]).cwd(users.world.path("roots/open"));
        command.run().ended(End::Code(0));
        fs::read_to_string(&seen).expect("the hook ran")
    };
    assert_eq!(recover(0o700), "/\n");
    let open = users.world.path("roots/open").canonicalize().expect("its path");
    assert_eq!(recover(0o755), format!("{}\nsecret", open.display()));
}

/// As the state directory of a stopped unit with `DynamicUser=yes`: below `/var/lib/private` and owned by a
/// user that no longer exists.
#[test]
fn root_reads_a_ledger_that_its_owner_cannot_reach_without_changing_it() {
    let Some(users) =
        Users::new("root_reads_a_ledger_that_its_owner_cannot_reach_without_changing_it", &["true"])
    else {
        return;
    };
    let world = &users.world;
    for (path, _) in users.owners() {
        chown(path, Some(OTHER_USER), Some(OTHER_USER)).expect("an owner without a name");
    }
    set_owner(world, "tmp", 0);
    set_mode(world, "tmp", 0o700);
    for words in [&["list", "--json"][..], &["show", "one", "--json"], &["audit"], &["doctor"], &["stats"]] {
        let _ = fs::remove_file(world.path("tmp/d/l.db-shm"));
        let printed = users.by_root(words);
        assert!(!printed.stdout.is_empty(), "{words:?}: {printed:?}");
        let others: Vec<_> = users.owners().into_iter().filter(|(_, uid)| *uid != OTHER_USER).collect();
        assert!(others.is_empty(), "{words:?} created {others:?}");
    }
    let listed = users.by_root(&["list", "--json"]).ended(End::Code(0));
    let json: serde_json::Value = serde_json::from_str(&listed.stdout).expect("stdout is only JSON");
    assert_eq!(json["tasks"][0]["id"], "one");
    let relative = world.bare(["bookend", "--ledger", "l.db", "show", "one"]).cwd(world.path("tmp/d"));
    relative.run().ended(End::Code(0));
    let copy = world.name("roots/copy.db");
    let refused = users.by_root(&["backup", &copy]).ended(End::Code(125));
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    assert!(!Path::new(&copy).exists());
}

#[test]
fn root_reads_a_users_ledger_without_creating_files_owned_by_root() {
    let Some(users) = Users::new("root_reads_a_users_ledger_without_creating_files_owned_by_root", &["true"])
    else {
        return;
    };
    let commands: [&[&str]; 10] = [
        &["list"],
        &["list", "--json"],
        &["show", "one"],
        &["audit"],
        &["stats"],
        &["timeline"],
        &["session", "list"],
        &["doctor"],
        &["recover", "--dry-run"],
        &[],
    ];
    for words in commands {
        // SQLite creates the file again for a reader that may write to the directory.
        let _ = fs::remove_file(users.world.path("tmp/d/l.db-shm"));
        let printed = users.by_root(words);
        let note = format!(
            "{} belongs to user nobody (uid {NOBODY}); this command continues as that user",
            users.ledger()
        );
        assert!(printed.stderr.contains(&note), "{words:?}: {printed:?}");
        let others: Vec<_> = users.owners().into_iter().filter(|(_, uid)| *uid != NOBODY).collect();
        assert!(others.is_empty(), "{words:?} created {others:?}");
    }
    let listed = users.by_root(&["list", "--json"]).ended(End::Code(0));
    let json: serde_json::Value = serde_json::from_str(&listed.stdout).expect("stdout is only JSON");
    assert_eq!(json["tasks"][0]["id"], "one");
}

#[test]
fn root_refuses_an_owner_without_a_passwd_entry_and_runs_no_agent_for_a_user() {
    let Some(users) =
        Users::new("root_refuses_an_owner_without_a_passwd_entry_and_runs_no_agent_for_a_user", &["true"])
    else {
        return;
    };
    let effect = users.world.name("effect");
    let run = users.world.run(["touch", &effect]).options(["--ledger", &users.ledger()]);
    let refused = run.run().ended(End::Code(125));
    assert!(refused.stderr.contains(&format!("belongs to uid {NOBODY}, not to you")), "{refused:?}");
    for (path, _) in users.owners() {
        chown(path, Some(OTHER_USER), Some(STAFF)).expect("an owner without a name");
    }
    for words in [&["recover"][..], &["redispatch", "one"], &["cancel", "--all"], &["prune"]] {
        let refused = users.by_root(words).ended(End::Code(125));
        let printed = format!("belongs to uid {OTHER_USER}, which has no passwd entry");
        assert!(refused.stderr.contains(&printed), "{words:?}: {refused:?}");
        assert_eq!(refused.stdout, "", "no row was read");
    }
    assert!(!Path::new(&effect).exists(), "an agent ran");
}

#[test]
fn another_user_can_read_a_shared_ledger_but_not_act_on_it() {
    let Some(users) =
        Users::new("another_user_can_read_a_shared_ledger_but_not_act_on_it", &["touch", "../tmp/effect"])
    else {
        return;
    };
    fs::remove_file(users.world.path("tmp/effect")).expect("the effect of the first run");
    set_mode(&users.world, "tmp", 0o777);
    for name in ["tmp/d", "tmp/d/l.db.d", "tmp/d/l.db.d/spool"] {
        set_mode(&users.world, name, 0o755);
    }
    for suffix in ["", "-wal", "-shm", ".d/live"] {
        set_mode(&users.world, &format!("tmp/d/l.db{suffix}"), 0o644);
    }
    let specs = [format!("uid={OTHER_USER}")];
    for words in [&["list"][..], &["show", "one"], &["audit"], &["stats"], &["list", "--json"]] {
        let printed = users.command(words).with(&specs).run().ended(End::Code(0));
        let note = format!("bookend: {} belongs to user nobody (uid {NOBODY})\n", users.ledger());
        assert_eq!(printed.stderr, note, "{words:?}");
        assert!(!printed.stdout.is_empty());
    }
    for words in [
        &["recover"][..],
        &["redispatch", "one"],
        &["deliver", "one"],
        &["cancel", "--all"],
        &["prune"],
        &["session", "invalidate", "k", "--reason", "x"],
        &["session", "restore", "k"],
        &["artifact", "add", "--task", "one", "a://b"],
    ] {
        let refused = users.command(words).with(&specs).run().ended(End::Code(125));
        assert!(
            refused.stderr.contains(&format!("belongs to uid {NOBODY}, not to you")),
            "{words:?}: {refused:?}"
        );
    }
    assert!(!users.world.path("tmp/effect").exists(), "an agent ran");
}

/// A user who may write to a parent directory can replace the directories below it.
#[test]
fn parent_directories_must_belong_to_the_user_or_root_and_be_writable_by_no_other() {
    let Some(users) = Users::new(
        "parent_directories_must_belong_to_the_user_or_root_and_be_writable_by_no_other",
        &["true"],
    ) else {
        return;
    };
    let world = &users.world;
    fs::create_dir_all(world.path("tmp/top/mid/mine")).expect("directories");
    for name in ["tmp/top", "tmp/top/mid", "tmp/top/mid/mine"] {
        set_owner(world, name, NOBODY);
    }
    symlink("top/mid", world.path("tmp/link")).expect("a link");
    std::os::unix::fs::lchown(world.path("tmp/link"), Some(NOBODY), Some(NOBODY)).expect("its owner");
    let run = |ledger: &str| {
        let options = ["--ledger".to_owned(), world.name(ledger)];
        world.run(["true"]).options(options).with(&users.specs).run()
    };
    let ledgers = ["tmp/top/mid/mine/l.db", "tmp/link/mine/l.db"];
    let refused = |why: &str| {
        for ledger in ledgers {
            let printed = run(ledger).ended(End::Code(125));
            assert!(printed.stderr.contains(why), "{why}: {printed:?}");
            let ledger = world.name(ledger);
            for words in [&["redispatch", "one"][..], &["recover"], &["cancel", "--all"]] {
                let command = [&["bookend", "--ledger", &ledger], words].concat();
                let printed = world.bare(command).with(&users.specs).run().ended(End::Code(125));
                assert!(printed.stderr.contains(why), "{words:?}: {printed:?}");
            }
        }
    };
    let accepted = || ledgers.iter().for_each(|l| drop(run(l).ended(End::Code(0)).silent()));
    accepted();
    set_owner(world, "tmp/top", OTHER_USER);
    refused(&format!("belongs to uid {OTHER_USER}, not to you"));
    chown(world.path("tmp/top"), Some(0), Some(0)).expect("root's");
    accepted();
    set_owner(world, "tmp/top", NOBODY);
    set_mode(world, "tmp/top", 0o757);
    refused("is writable by all users");
    set_mode(world, "tmp/top", 0o1777);
    accepted();
    chown(world.path("tmp/top"), Some(NOBODY), Some(STAFF)).expect("a group");
    set_mode(world, "tmp/top", 0o775);
    refused("is writable by its group");
    set_mode(world, "tmp/top", 0o755);
    accepted();
    // Only the owner of a link may replace it.
    std::os::unix::fs::lchown(world.path("tmp/link"), Some(OTHER_USER), Some(OTHER_USER)).expect("its owner");
    let printed = run("tmp/link/mine/l.db").ended(End::Code(125));
    assert!(printed.stderr.contains(&format!("belongs to uid {OTHER_USER}")), "{printed:?}");
    assert_eq!(
        fs::metadata(world.path("tmp/top/mid/mine/l.db")).expect("it").permissions().mode() & 0o777,
        0o600
    );
}
