//! The git data of a task: it contains only what git reported, and no program of the repository is executed.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{End, World, eventually, on_path, possible};
use crate::standins::{self, Busy, bookend, recover};

/// Creates a world with an identity for git and runs `script` in it.
fn world(test: &str, script: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    if !possible(test, on_path("git"), "git") {
        return None;
    }
    let config = "[user]\n\tname = x\n\temail = x@y\n[init]\n\tdefaultBranch = main\n";
    fs::write(world.path("home/.gitconfig"), config).expect("git's settings");
    world.bare(["sh", "-euc", script]).env("EFFECT", world.name("effect")).run().ended(End::Code(0));
    Some(world)
}

const REPO: &str = "git init -q repo; cd repo; echo a >a.txt; git add .; git commit -qm one; ";

/// Runs `script` as a task in `cwd` and returns the artifact of its worktree.
fn run(world: &World, id: &str, cwd: &str, script: &str) -> Value {
    world.run_sh(script).options(["--id", id, "--cwd", cwd]).run().ended(End::Code(0));
    artifact(world, id)
}

fn artifact(world: &World, id: &str) -> Value {
    standins::json(world, &["show", id, "--json"])["task"]["artifacts"][0].clone()
}

fn lists_no_changes(world: &World) -> bool {
    bookend(world, &["list"]).ended(End::Code(0)).stdout.contains("no changes")
}

fn effect(world: &World) -> String {
    fs::read_to_string(world.path("effect")).unwrap_or_default()
}

/// Shell commands that create a program which appends to `$EFFECT`.
const EVIL: &str = r#"printf '#!/bin/sh\necho ran >>%s; cat' "$EFFECT" >$HOME/evil; chmod +x $HOME/evil; "#;

/// The operator runs `git lfs install`, but the repository configures the extension of git-lfs.
#[test]
fn extensions_of_git_lfs_are_not_executed() {
    let test = "extensions_of_git_lfs_are_not_executed";
    if !possible(test, on_path("git-lfs"), "git-lfs") {
        return;
    }
    let script = "git lfs install --skip-repo >/dev/null; git init -q repo; cd repo; git lfs track '*.bin' \
        >/dev/null; echo a >a.bin; git add .; git commit -qm one; \
        git config lfs.extension.e.clean $HOME/evil; git config lfs.extension.e.smudge cat; \
        git config lfs.extension.e.priority 0";
    let Some(world) = world(test, &format!("{EVIL}{script}")) else { return };
    let change = "echo b >a.bin; touch -d 2001-01-01 a.bin";
    let git = run(&world, "one", "repo", change);
    assert_eq!(effect(&world), "", "at the end of a run");
    assert_eq!((&git["uncommitted"], &git["unknown_files"]), (&Value::Null, &json!(["a.bin"])), "{git}");
    assert!(!lists_no_changes(&world));
    let script = format!("{change}; echo ready $$ >$SAY; exec sleep 1000");
    Busy::start(&world, "say", |_| world.run_sh(&script).options(["--cwd", "repo"])).kill_all();
    assert!(recover(&world, &[]).contains("unknown whether anything is uncommitted"));
    assert_eq!(effect(&world), "", "by a recovery");
    let control = "cd repo; git status >/dev/null";
    world.bare(["sh", "-c", control]).run();
    assert!(effect(&world).contains("ran"), "git itself executes the extension");
}

#[test]
fn a_required_filter_that_fails_hides_no_change() {
    let script = "git config --global filter.f.clean cat; git config --global filter.f.required true; \
        git init -q repo; cd repo; echo '*.txt filter=f' >.gitattributes; echo a >a.txt; git add .; \
        git commit -qm one; git config --global filter.f.clean false";
    let Some(world) = world("a_required_filter_that_fails_hides_no_change", script) else { return };
    let git = run(&world, "one", "repo", "echo b >a.txt");
    assert_eq!((&git["uncommitted"], &git["unknown"]), (&Value::Null, &json!(1)), "{git}");
    assert!(!lists_no_changes(&world));
    let git = run(&world, "two", "repo", "echo new >new.md");
    assert_eq!((&git["uncommitted_files"], &git["unknown_files"]), (&json!(["new.md"]), &json!(["a.txt"])));
}

#[test]
fn missing_objects_of_a_partial_clone_are_unknown_and_not_fetched() {
    let script = format!(
        "{EVIL}{REPO}git config core.repositoryFormatVersion 1; git config extensions.partialClone origin; \
         git config remote.origin.promisor true; git config remote.origin.url $PWD/../nowhere; \
         git config remote.origin.uploadpack $HOME/evil; tree=$(git rev-parse HEAD^{{tree}}); \
         rm -f .git/objects/$(echo $tree | cut -c1-2)/$(echo $tree | cut -c3-)"
    );
    let Some(world) = world("missing_objects_of_a_partial_clone_are_unknown_and_not_fetched", &script) else {
        return;
    };
    let git = run(&world, "one", "repo", "echo b >a.txt");
    assert_eq!((&git["branch"], &git["commits"]), (&json!("main"), &json!(0)), "{git}");
    assert_eq!((&git["uncommitted"], effect(&world)), (&Value::Null, String::new()), "{git}");
    assert!(!lists_no_changes(&world));
    let shown = bookend(&world, &["show", "one"]).stdout;
    assert!(shown.contains("uncommitted: unknown at the end"), "{shown}");
}

/// git sets variables such as `GIT_DIR` for its hooks. The hook of a commit in `dev` starts a run in `agent`.
#[test]
fn git_variables_do_not_select_another_worktree() {
    let script = format!("{REPO}git worktree add -q ../dev -b dev; git worktree add -q ../agent -b agent");
    let Some(world) = world("git_variables_do_not_select_another_worktree", &script) else { return };
    let hook = "#!/bin/sh\nexec bookend run --id one --cwd $HOME/agent -- true\n";
    world.program("hook", hook);
    let commit = "cd dev; cp $(command -v hook) ../repo/.git/hooks/post-commit; echo x >x; git add x; \
        echo y >draft; git commit -qm mine";
    world.bare(["sh", "-euc", commit]).run().ended(End::Code(0));
    let git = artifact(&world, "one");
    assert_eq!((&git["branch"], &git["commits"]), (&json!("agent"), &json!(0)), "{git}");
    assert_eq!(git["uncommitted"], 0, "{git}");
}

/// bookend reads HEAD without git and counts commits before git inspects the files.
#[test]
fn a_hanging_git_hides_no_commit_and_delays_the_exit_briefly() {
    let Some(world) = world("a_hanging_git_hides_no_commit_and_delays_the_exit_briefly", REPO) else {
        return;
    };
    let git = run(&world, "one", "repo", "mkfifo .gitignore; git commit -qm two --allow-empty");
    assert_eq!((&git["branch"], &git["commits"]), (&json!("main"), &json!(1)), "{git}");
    assert_ne!((&git["head"], &git["head"]), (&git["head_before"], &Value::Null), "{git}");
    assert_eq!((&git["uncommitted"], &git["uncommitted_files"]), (&Value::Null, &Value::Null), "{git}");
    assert!(!lists_no_changes(&world));
    // Other work on this machine may delay any single run.
    let mut runs = 0;
    eventually(world.deadline(), "a run that git delays by less than a second", || {
        runs += 1;
        let begun = std::time::Instant::now();
        run(&world, &format!("brief{runs}"), "repo", "true");
        begun.elapsed() < std::time::Duration::from_secs(1)
    });
}

#[test]
fn a_stopped_git_is_killed() {
    let Some(world) = world("a_stopped_git_is_killed", REPO) else { return };
    install_recording_git(&world, "kill -STOP $$");
    let git = run(&world, "one", "repo", "true");
    assert_eq!((&git["branch"], &git["commits"]), (&json!("main"), &json!(0)), "{git}");
    assert_eq!((calls(&world, ""), &git["uncommitted"]), (1, &Value::Null), "{git}");
}

#[test]
fn uncommitted_changes_from_before_the_run_are_reported() {
    let script = format!("{REPO}echo b >a.txt; echo new >new.txt");
    let Some(world) = world("uncommitted_changes_from_before_the_run_are_reported", &script) else { return };
    let git = run(&world, "one", "repo", "true");
    assert_eq!((&git["commits"], &git["uncommitted"]), (&json!(0), &json!(2)), "{git}");
    let shown = bookend(&world, &["show", "one"]).stdout;
    assert!(shown.contains("commits: 0, files changed: 0, uncommitted: 2 at the end"), "{shown}");
    assert!(!lists_no_changes(&world));
}

#[test]
fn no_changes_requires_an_unchanged_head() {
    let Some(world) = world("no_changes_requires_an_unchanged_head", REPO) else { return };
    run(&world, "idle", "repo", "true");
    assert!(lists_no_changes(&world), "an idle run has no changes");
    world.write("DELETE FROM task_history");
    let git = run(&world, "branch", "repo", "git checkout -qb other");
    assert_eq!((&git["branch_before"], &git["branch"]), (&json!("main"), &json!("other")), "{git}");
    run(&world, "commit", "repo", "git commit -qm two --allow-empty");
    let git = run(&world, "back", "repo", "git reset -q --hard HEAD~1");
    assert_eq!((&git["commits"], &git["uncommitted"]), (&json!(0), &json!(0)), "{git}");
    assert!(!lists_no_changes(&world), "a HEAD that moved is a change");
}

/// The agent replaces the worktree by another directory or removes the repository.
#[test]
fn only_the_worktree_of_the_run_is_described() {
    let script =
        format!("{REPO}git init -q inner; cd inner; git commit -qm i --allow-empty; mkdir ../../clean");
    let Some(world) = world("only_the_worktree_of_the_run_is_described", &script) else { return };
    let script = "git config core.worktree $HOME/clean; echo b >new";
    let git = run(&world, "elsewhere", "repo/inner", script);
    assert_eq!((&git["commits"], &git["uncommitted"]), (&json!(0), &Value::Null), "{git}");
    let git = run(&world, "broken", "repo/inner", "git config --unset core.worktree; rm .git/HEAD");
    assert_eq!((&git["branch_before"], &git["branch"]), (&json!("main"), &Value::Null), "{git}");
    assert_eq!(git["uncommitted"], Value::Null, "the outer repository is not inspected: {git}");
    assert!(!lists_no_changes(&world));
}

#[test]
fn submodules_and_worktrees_of_bare_repositories_are_described() {
    let script = format!(
        "{REPO}cd ..; git -c protocol.file.allow=always clone -q --bare repo bare.git; \
         git -C bare.git worktree add -q ../linked -b linked; mkdir outer; cd outer; git init -q; \
         git -c protocol.file.allow=always submodule --quiet add ../repo sub; git commit -qm s; \
         git clone -q --bare ../repo bare.git; ln -s outer/sub ../link"
    );
    let Some(world) = world("submodules_and_worktrees_of_bare_repositories_are_described", &script) else {
        return;
    };
    for (id, cwd, branch) in [("s", "outer/sub", "main"), ("l", "linked", "linked"), ("y", "link", "main")] {
        let git = run(&world, id, cwd, "git commit -qm two --allow-empty; echo new >$BOOKEND_TASK_ID");
        assert_eq!((&git["branch"], &git["commits"]), (&json!(branch), &json!(1)), "{cwd}: {git}");
        assert!(git["uncommitted"].as_u64() >= Some(1), "{cwd}: {git}");
    }
    assert_eq!(
        run(&world, "bare", "outer/bare.git", "true"),
        Value::Null,
        "a bare repository has no worktree"
    );
    assert_eq!(
        run(&world, "up", "outer/sub/../..", "true"),
        Value::Null,
        "a directory of git has no worktree"
    );
}

/// Installs a `git` that records its arguments and then runs `rest`.
fn install_recording_git(world: &World, rest: &str) {
    let text = format!("#!/bin/sh\necho \"$*\" >>{}\n{rest}\n", world.name("calls"));
    world.program("git", &text);
}

fn calls(world: &World, of: &str) -> usize {
    let calls = fs::read_to_string(world.path("calls")).unwrap_or_default();
    calls.lines().filter(|line| line.contains(of)).count()
}

/// A task that ended as interrupted, which the next recovery reports.
fn interrupted(world: &World, id: &str, cwd: &str) {
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let options = ["--id", id, "--cwd", cwd];
    let busy = Busy::start(world, &format!("say.{id}"), |_| world.run_sh(script).options(options));
    busy.supervisor.signal(Signal::TERM);
    assert_eq!(busy.supervisor.wait().end, End::Signal(15));
}

#[test]
fn recovery_inspects_each_worktree_once_and_nothing_else() {
    let test = "recovery_inspects_each_worktree_once_and_nothing_else";
    let Some(world) = world(test, &format!("{REPO}mkdir below; mkdir ../plain")) else { return };
    for (id, cwd) in [("a", "repo"), ("b", "repo/below"), ("c", "repo"), ("d", "plain")] {
        interrupted(&world, id, cwd);
    }
    let real = std::env::var_os("PATH").expect("PATH");
    let real = std::env::split_paths(&real).map(|d| d.join("git")).find(|p| p.exists()).expect("git");
    install_recording_git(&world, &format!("exec {} \"$@\"", real.display()));
    let report = recover(&world, &[]);
    assert_eq!((calls(&world, " status "), calls(&world, "")), (1, 2), "one status for three tasks");
    assert_eq!(report.matches("nothing uncommitted").count(), 3, "{report}");
}

/// Each hanging git takes at least 0.2 s, and the limit for all of them is 2 s.
#[test]
fn all_git_commands_of_a_recovery_share_one_time_limit() {
    let script = "for n in $(seq 20); do git init -q r$n; done";
    let Some(world) = world("all_git_commands_of_a_recovery_share_one_time_limit", script) else { return };
    for n in 1..=20 {
        interrupted(&world, &format!("t{n}"), &format!("r{n}"));
    }
    install_recording_git(&world, "exec sleep 1000");
    let report = recover(&world, &[]);
    assert_eq!(report.matches("unknown whether anything is uncommitted").count(), 20, "{report}");
    assert!((1..=11).contains(&calls(&world, "")), "{} starts of git", calls(&world, ""));
}
