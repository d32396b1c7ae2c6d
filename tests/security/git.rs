//! A repository whose settings name programs. bookend runs git in it without executing any of them.

use std::fs;

use crate::harness::{End, World, eventually, on_path, possible};
use crate::standins::{Busy, json, recover};

/// Creates `repo`. Each program that its settings name appends to `$EFFECT` when git executes it. Some
/// filters have unusual names or are defined in included files.
const REPO: &str = r#"
git init -q -b main repo; cd repo
git config user.name x; git config user.email x@y
for n in plain odd last; do echo $n >$n.txt; done
git init -q sub; git -C sub -c user.name=x -c user.email=x@y commit -qm s --allow-empty
git add . 2>/dev/null; git commit -qm one
EVIL=$HOME/evil
printf '#!/bin/sh\necho "$0 $*" >>%s; cat' "$EFFECT" >$EVIL; chmod +x $EVIL
mkdir -p hooks; for h in post-index-change reference-transaction pre-commit post-checkout; do
  cp $EVIL hooks/$h; cp $EVIL .git/hooks/$h
done
git config core.hooksPath "$PWD/hooks"
git config core.fsmonitor $EVIL; git -C sub config core.fsmonitor $EVIL
git config core.sshCommand $EVIL; git config core.pager $EVIL; git config diff.external $EVIL
git config pager.status true; git config core.alternateRefsCommand $EVIL
git config filter.plain.clean $EVIL; git config filter.plain.process $EVIL
git config filter.plain.smudge $EVIL; git config filter.plain.required true
git config "filter.o=d d'\".clean" $EVIL; git config "filter.o=d d'\".required" true
printf '[filter "last"]\n\tclean = %s\n\trequired = true\n' $EVIL >.git/more
git config include.path more
git config diff.plain.textconv $EVIL; git config diff.plain.command $EVIL
printf 'plain.txt filter=plain diff=plain\nodd.txt filter=o=d\nlast.txt filter=last\n' >.gitattributes
git config extensions.partialClone origin; git config remote.origin.promisor true
git config remote.origin.url "$PWD/../nowhere"; git config remote.origin.uploadpack $EVIL
git config protocol.ext.allow always
rm -f "$EFFECT"
"#;

/// Changes that make git compare the content of files.
const CHANGES: &str = "for f in plain odd last; do touch -d '2001-01-01' $f.txt; done; echo new >plain.txt; \
    echo z >sub/new; mkdir -p $HOME/lost";

fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    if !possible(test, on_path("git"), "git") {
        return None;
    }
    let made = world.bare(["sh", "-euc", REPO]).env("EFFECT", world.name("effect")).run();
    made.ended(End::Code(0));
    Some(world)
}

/// The programs that git executed.
fn effect(world: &World) -> String {
    fs::read_to_string(world.path("effect")).unwrap_or_default()
}

#[test]
fn git_itself_executes_the_programs_of_the_settings() {
    let Some(world) = world("git_itself_executes_the_programs_of_the_settings") else { return };
    let script = format!("cd repo; {CHANGES}; git status --porcelain; true");
    world.bare(["sh", "-c", &script]).run();
    let done = effect(&world);
    for part in ["evil ", "plain.txt"] {
        assert!(done.contains(part) || done.lines().count() > 2, "{part} in {done}");
    }
    assert!(done.lines().count() >= 3, "fsmonitor, and filters: {done}");
}

#[test]
fn nothing_is_executed_at_the_end_of_a_run() {
    let Some(world) = world("nothing_is_executed_at_the_end_of_a_run") else { return };
    let options = ["--id", "one", "--cwd", &world.name("home/repo")];
    world.run_sh(CHANGES).options(options).run().ended(End::Code(0));
    assert_eq!(effect(&world), "");
    let git = json(&world, &["show", "one", "--json"])["task"]["artifacts"][0].clone();
    assert_eq!((&git["kind"], &git["branch"]), (&"git".into(), &"main".into()), "{git}");
    let unknown = git["unknown_files"].as_array().expect("files");
    assert!(unknown.contains(&"plain.txt".into()) && !unknown.contains(&"last.txt".into()), "{git}");
    assert_eq!(git["uncommitted_files"], serde_json::json!([".gitattributes", "hooks/"]), "{git}");
}

/// git would fetch a missing tree with the program that the settings name.
#[test]
fn no_object_is_fetched() {
    let Some(world) = world("no_object_is_fetched") else { return };
    let script = "git -c core.hooksPath=/dev/null -c core.fsmonitor=false commit -qm two --allow-empty; \
        tree=$(git -c core.fsmonitor=false rev-parse HEAD^{tree}); rm -f $EFFECT; \
        rm -f .git/objects/$(echo $tree | cut -c1-2)/$(echo $tree | cut -c3-)";
    let options = ["--id", "one", "--cwd", &world.name("home/repo")];
    let run = world.run_sh(script).options(options).env("EFFECT", world.name("effect"));
    run.run().ended(End::Code(0));
    assert_eq!(effect(&world), "");
}

#[test]
fn recovery_executes_nothing_of_the_repository() {
    let Some(world) = world("recovery_executes_nothing_of_the_repository") else { return };
    let script = format!("{CHANGES}; echo ready $$ >$SAY; exec sleep 1000");
    let busy = Busy::start(&world, "say", |_| world.run_sh(&script).options(["--cwd", "repo"]));
    busy.kill_all();
    let report = recover(&world, &[]);
    assert!(report.contains("uncommitted change"), "{report}");
    assert_eq!(effect(&world), "");
}

/// A relative entry of `PATH` is a directory below that of the agent.
#[test]
fn git_is_not_looked_up_in_the_agents_directory() {
    let test = "git_is_not_looked_up_in_the_agents_directory";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, on_path("git"), "git") {
        return;
    }
    let made = "git init -q -b main repo; cd repo; git -c user.name=x -c user.email=x@y commit -qm a \
        --allow-empty; mkdir -p tools/bin";
    world.bare(["sh", "-euc", made]).run().ended(End::Code(0));
    for tool in ["git", "awk"] {
        let text = format!("#!/bin/sh\ntouch {}\n", world.name("effect"));
        let own = world.program("tool", &text);
        fs::copy(own, world.path("home/repo/tools/bin").join(tool)).expect("a program");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    for relative in ["tools/bin", ".:./tools/bin", ""] {
        let path = format!("{relative}:{}:{path}", world.name("bin"));
        let agent = world.run(["true"]).cwd(world.path("home/repo")).env("PATH", path);
        agent.run().ended(End::Code(0));
        assert!(!world.path("effect").exists(), "{relative}");
    }
    let artifacts = world.rows().iter().filter(|r| r.text("artifacts").contains("git")).count();
    assert_eq!(artifacts, 3);
}

/// bookend reads HEAD before the agent starts. A pipe or an endless file there must neither block nor fill
/// memory.
#[test]
fn a_head_that_is_not_a_file_does_not_block_the_run() {
    let Some(world) = World::of_bookend("a_head_that_is_not_a_file_does_not_block_the_run") else { return };
    for (n, part) in ["repo/.git/HEAD", "repo/.git/refs/heads/main", "repo/.git/packed-refs", "repo/.git"]
        .into_iter()
        .enumerate()
    {
        let _ = fs::remove_dir_all(world.path("home/repo"));
        fs::create_dir_all(world.path("home/repo/.git/refs/heads")).expect("directories");
        fs::write(world.path("home/repo/.git/HEAD"), "ref: refs/heads/main\n").expect("HEAD");
        if part == "repo/.git" {
            fs::remove_dir_all(world.path("home/repo/.git")).expect("removed");
        } else {
            let _ = fs::remove_file(world.path("home").join(part));
        }
        let _pipe = world.fifo(&format!("home/{part}"));
        let id = format!("t{n}");
        let options = ["--id", id.as_str(), "--cwd", "repo"];
        world.run(["true"]).options(options).run().ended(End::Code(0));
        fs::remove_file(world.path("home").join(part)).expect("removed");
        let long = fs::File::create(world.path("home").join(part)).expect("a file");
        long.set_len(1 << 40).expect("a long file");
        let id = format!("long{n}");
        let options = ["--id", id.as_str(), "--cwd", "repo"];
        world.run(["true"]).options(options).run().ended(End::Code(0));
    }
    assert!(world.rows().iter().all(|r| r.ending() == "success/"));
}

/// git blocks when it opens a pipe as a file.
#[test]
fn a_git_that_blocks_is_killed_after_the_limit() {
    let test = "a_git_that_blocks_is_killed_after_the_limit";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, on_path("git"), "git") {
        return;
    }
    let made =
        "git init -q -b main repo; git -C repo -c user.name=x -c user.email=x@y commit -qm a --allow-empty";
    world.bare(["sh", "-euc", made]).run().ended(End::Code(0));
    let waits = "mkfifo .gitignore; echo ready $$ >$SAY; exec sleep 1000";
    let busy = Busy::start(&world, "say", |_| world.run_sh(waits).options(["--cwd", "repo"]));
    busy.kill_all();
    let report = recover(&world, &[]);
    assert!(report.contains("interrupted (supervisor_lost)"), "{report}");
    assert!(report.contains("unknown whether anything is uncommitted"), "{report}");
    eventually(world.deadline(), "the end of git of the recovery", || gits(&world).is_empty());
    world.run(["true"]).options(["--id", "one", "--cwd", "repo"]).run().ended(End::Code(0));
    let git = json(&world, &["show", "one", "--json"])["task"]["artifacts"][0].clone();
    assert_eq!((&git["branch"], &git["uncommitted"]), (&"main".into(), &serde_json::Value::Null), "{git}");
    eventually(world.deadline(), "the end of git of the run", || gits(&world).is_empty());
}

/// The git processes of a world.
fn gits(world: &World) -> Vec<String> {
    let home = [b"HOME=", world.path("home").as_os_str().as_encoded_bytes()].concat();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let is_git = |path: &std::path::Path| {
        let names = fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "git");
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        names && environ.split(|b| *b == 0).any(|entry| entry == home)
    };
    processes.map(|e| e.path()).filter(|p| is_git(p)).map(|p| p.display().to_string()).collect()
}
