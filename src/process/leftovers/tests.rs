//! Hunting real processes. Each test does it in a process of its own, so that what other tests start is not
//! below it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Pid;

use super::summary::LeftoverSummary;
use super::*;

const NOBODY: IsSupervisor<'static> = &|_| false;
const ALONE: &str = "TEST_ALONE";
const LEDGER: &str = "/no/such/ledger";

fn end_blocking(
    sweep: &mut LeftoverSweep,
    is_supervisor: IsSupervisor<'_>,
) -> Result<LeftoverSummary, SweepError> {
    while let SweepStep::Wait(until) = sweep.step(Instant::now(), is_supervisor)? {
        wait(sweep.fds(), until)?;
    }
    Ok(sweep.summary())
}

/// Runs the test `name` as the only one of a process.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|n| n == name) {
        return body();
    }
    let module = module_path!().split_once("::").unwrap().1;
    let out = Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::{name}"), "--exact", "--nocapture"])
        .env(ALONE, name)
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

/// Tests run side by side, and a mark is seen by all of them: each has its own.
fn id() -> String {
    format!("test-{}", std::process::id())
}

fn become_subreaper() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// What a test's processes say, line by line; its end is the end of all of them.
struct Said(BufReader<ChildStdout>);

impl Said {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The pids of `n` processes that each said theirs.
    fn pids(&mut self, n: usize) -> Vec<i32> {
        (0..n).map(|_| self.line().parse().unwrap()).collect()
    }

    fn all_ended(mut self) {
        self.0.read_to_end(&mut Vec::new()).unwrap();
    }
}

fn agent(script: &str, id: &str) -> (Child, Said, Identity) {
    let mut child = Command::new("sh")
        .args(["-c", script])
        .env("BOOKEND_TASK_ID", id)
        .env("BOOKEND_LEDGER", LEDGER)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let identity = identity::stat(child.id() as i32).unwrap().unwrap().identity();
    let said = Said(BufReader::new(child.stdout.take().unwrap()));
    (child, said, identity)
}

fn sweep(agent: Identity, owner: SweepOwner, ends: bool, grace_ms: u64) -> LeftoverSweep {
    let task = SweptTask {
        id: TaskId::recorded(id()),
        ledger: LedgerFile::at(LEDGER.as_ref()),
        agent,
        agent_tty: 0,
        owner,
        spares_detached: true,
        cgroup: None,
    };
    LeftoverSweep::new(task, ends, Duration::from_millis(grace_ms))
}

fn supervisor() -> SweepOwner {
    SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() }
}

fn is_alive(pid: i32) -> bool {
    identity::of(pid).unwrap().is_some()
}

/// All of them live, and are killed. One may wait for another, and be gone with it.
fn kill_the_living(pids: &[i32]) {
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    for &pid in pids {
        let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
    }
}

fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

fn reap_all() {
    let any = WaitIdOptions::EXITED;
    while rustix::process::waitid(WaitId::All, any).is_ok() {}
}

/// A terminal, and the shell words that make it the controlling one of a session leader without one.
fn terminal() -> (nix::pty::OpenptyResult, String) {
    use std::os::fd::AsRawFd;
    let pty = nix::pty::openpty(None, None).unwrap();
    let path = std::fs::read_link(format!("/proc/self/fd/{}", pty.slave.as_raw_fd())).unwrap();
    let words = format!("exec 3<>{}", path.display());
    (pty, words)
}

#[test]
fn who_was_sent_sigkill_is_given_longer_to_die_than_who_was_only_told() {
    // One that does not end: this test. Nothing is sent to it, since it has had its signal.
    let stat = identity::stat(std::process::id().cast_signed()).unwrap().unwrap();
    let since = Instant::now();
    for (kind, told, patience) in
        [(ProcessClass::Ours, SignalSent::Kill, DYING), (ProcessClass::Supervisor, SignalSent::Term, SETTLE)]
    {
        let mut sweep = sweep(stat.identity(), SweepOwner::Stranger, true, 0);
        let handle = identity::open(&stat.identity()).unwrap();
        sweep.found.push(Leftover { stat, kind, handle, sent: told, gone: false });
        sweep.phase = SweepPhase::Killing { since };
        let nearly = since + patience - Duration::from_millis(1);
        assert!(matches!(sweep.go_on(nearly, false), SweepStep::Wait(_)), "{patience:?}");
        assert_eq!(sweep.go_on(since + patience, false), SweepStep::Done, "{patience:?}");
        assert_eq!(sweep.summary().ended, 0);
    }
}

#[test]
fn who_is_found_when_the_time_of_others_is_over_is_sent_sigkill_all_the_same() {
    alone("who_is_found_when_the_time_of_others_is_over_is_sent_sigkill_all_the_same", || {
        let (mut child, mut said, agent) = agent("echo $$; exec sleep 1000", &id());
        said.pids(1);
        let mut sweep = sweep(agent, supervisor(), true, 0);
        let stat = identity::stat(agent.pid).unwrap().unwrap();
        let handle = identity::open(&agent).unwrap();
        sweep.found.push(Leftover {
            stat,
            kind: ProcessClass::Ours,
            handle,
            sent: SignalSent::Nothing,
            gone: false,
        });
        let now = Instant::now();
        sweep.phase = SweepPhase::Killing { since: now - SETTLE };
        assert!(matches!(sweep.go_on(now, true), SweepStep::Wait(_)));
        assert_eq!(ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGKILL));
    });
}

#[test]
fn all_that_the_agent_forked_is_ended() {
    alone("all_that_the_agent_forked_is_ended", || {
        become_subreaper();
        let script = r#"
            setsid sh -c 'echo $$; exec sleep 1000' &
            (setsid sh -c '(echo $(exec sh -c "echo \$PPID"); exec sleep 1000) &' &)
            env -i sh -c 'echo $$; exec sleep 1000' &
            sh -c 'env -i sh -c "echo \$\$; exec sleep 1000" & echo $$; wait' &
            sh -c 'trap "" TERM; echo $$; exec sleep 1000' &
            exit 1"#;
        let (mut child, mut said, agent) = agent(script, &id());
        let pids = said.pids(6);
        child.wait().unwrap();
        let mut sweep = sweep(agent, supervisor(), true, 300);
        let summary = end_blocking(&mut sweep, NOBODY).unwrap();
        assert!(summary.survivors.is_empty());
        assert!(summary.found >= 6, "{summary:?}");
        assert_eq!((summary.ended, summary.left), (summary.found, 0));
        for pid in pids {
            assert!(!is_alive(pid) && summary.pids.contains(&pid), "{pid} {summary:?}");
        }
        said.all_ended();
        reap_all();
    });
}

#[test]
fn what_ends_at_sigterm_is_not_waited_for_until_the_grace_is_over() {
    alone("what_ends_at_sigterm_is_not_waited_for_until_the_grace_is_over", || {
        become_subreaper();
        let (mut child, mut said, agent) = agent("setsid sh -c 'echo $$; exec sleep 1000' & exit 1", &id());
        said.pids(1);
        child.wait().unwrap();
        let begun = Instant::now();
        let summary = end_blocking(&mut sweep(agent, supervisor(), true, 600_000), NOBODY).unwrap();
        assert_eq!((summary.found, summary.ended), (1, 1));
        assert!(begun.elapsed() < Duration::from_secs(60));
        reap_all();
    });
}

/// Told to end it executes other programs, and carries the mark again only when the grace is over.
#[test]
fn who_cannot_be_told_at_one_moment_is_told_at_another() {
    let script = "export LATER=\"sleep 0.6; exec env BOOKEND_TASK_ID=$BOOKEND_TASK_ID sleep 1000\"
        setsid sh -c 'trap \"exec env -u BOOKEND_TASK_ID sh -c \\\"\\$LATER\\\"\" TERM
            echo $$; sleep 1000 & wait' &";
    let (mut child, mut said, agent) = agent(script, &id());
    let pid = said.pids(1)[0];
    child.wait().unwrap();
    let mut sweep = sweep(agent, SweepOwner::Stranger, true, 100);
    let summary = end_blocking(&mut sweep, NOBODY).unwrap();
    assert!(summary.survivors.is_empty() && summary.pids.contains(&pid), "{pid}: {summary:?}");
    said.all_ended();
}

#[test]
fn a_stopped_process_hears_sigterm() {
    alone("a_stopped_process_hears_sigterm", || {
        become_subreaper();
        let script = r#"setsid sh -c 'trap "echo term; exit" TERM; echo $$; kill -STOP $$; wait' & exit 1"#;
        let (mut child, mut said, agent) = agent(script, &id());
        let pid = said.pids(1)[0];
        child.wait().unwrap();
        let stopped = WaitId::Pid(Pid::from_raw(pid).unwrap());
        rustix::process::waitid(stopped, WaitIdOptions::STOPPED).unwrap();
        end_blocking(&mut sweep(agent, supervisor(), true, 600_000), NOBODY).unwrap();
        assert_eq!(said.line(), "term");
        reap_all();
    });
}

#[test]
fn after_a_success_they_are_only_counted() {
    alone("after_a_success_they_are_only_counted", || {
        become_subreaper();
        let (mut child, mut said, agent) = agent("setsid sh -c 'echo $$; exec sleep 1000' & exit 0", &id());
        let pid = said.pids(1)[0];
        child.wait().unwrap();
        let mut sweep = sweep(agent, supervisor(), false, 0);
        sweep.scan(NOBODY).unwrap();
        assert_eq!(sweep.step(Instant::now(), NOBODY).unwrap(), SweepStep::Done);
        let summary = sweep.summary();
        assert_eq!((summary.found, summary.ended, summary.left, &summary.pids), (1, 0, 1, &vec![pid]));
        assert!(is_alive(pid));
        kill(pid);
        reap_all();
        sweep = self::sweep(agent, supervisor(), false, 0);
        sweep.scan(NOBODY).unwrap();
        assert_eq!(sweep.summary().found, 0);
    });
}

#[test]
fn the_mark_finds_what_outlived_the_supervisor_and_nobody_elses() {
    alone("the_mark_finds_what_outlived_the_supervisor_and_nobody_elses", || {
        let orphan = "(setsid sh -c 'echo $$; exec sleep 1000' &) ; exit 1";
        let (mut child, mut said, agent_of_ours) = agent(orphan, &id());
        let (mut other, mut other_said, _) = agent(orphan, &(id() + "1"));
        let (ours, theirs) = (said.pids(1)[0], other_said.pids(1)[0]);
        child.wait().unwrap();
        other.wait().unwrap();
        let summary =
            end_blocking(&mut sweep(agent_of_ours, SweepOwner::Stranger, true, 60_000), NOBODY).unwrap();
        assert_eq!((summary.found, summary.ended, &summary.pids), (1, 1, &vec![ours]));
        said.all_ended();
        assert!(is_alive(theirs));
        kill(theirs);
    });
}

#[test]
fn a_terminal_that_is_not_the_agents_spares_the_server_behind_it() {
    alone("a_terminal_that_is_not_the_agents_spares_the_server_behind_it", || {
        let (_pty, take_it) = terminal();
        let pane = format!("{take_it}; echo $$; exec sleep 1000");
        let script = format!(
            "(setsid sh -c 'setsid sh -c \"{}\" & echo $$; wait' &) ; exit 1",
            pane.replace('$', "\\$")
        );
        for (owner, subreaper) in [(SweepOwner::Stranger, false), (supervisor(), true)] {
            if subreaper {
                become_subreaper();
            }
            let (mut child, mut said, agent) = agent(&script, &id());
            let pids = said.pids(2);
            child.wait().unwrap();
            let summary = end_blocking(&mut sweep(agent, owner, true, 60_000), NOBODY).unwrap();
            assert_eq!((summary.found, summary.ended, summary.left), (2, 0, 2), "{summary:?}");
            assert!(summary.spared.iter().all(|s| s.why == SparedReason::Terminal));
            kill_the_living(&pids);
            said.all_ended();
        }
        reap_all();
    });
}

#[test]
fn a_live_supervisor_is_told_but_not_killed_and_what_is_below_it_is_its_own() {
    alone("a_live_supervisor_is_told_but_not_killed_and_what_is_below_it_is_its_own", || {
        become_subreaper();
        let script = r#"setsid sh -c '
            trap "echo term" TERM
            sh -c "trap \"\" TERM; echo \$\$; exec sleep 1000" & echo $$
            wait; wait' & exit 1"#;
        let (mut child, mut said, agent) = agent(script, &id());
        let pids = said.pids(2);
        child.wait().unwrap();
        let is_leader = |s: &ProcessStat| pids.contains(&s.pid) && s.session == s.pid;
        let summary = end_blocking(&mut sweep(agent, supervisor(), true, 0), &is_leader).unwrap();
        assert_eq!(said.line(), "term");
        assert_eq!((summary.found, summary.left, summary.survivors.len()), (1, 1, 0));
        assert_eq!(summary.spared[0].why, SparedReason::Supervisor);
        kill_the_living(&pids);
        said.all_ended();
        reap_all();
    });
}

#[test]
fn a_child_that_was_there_before_is_spared_with_its_own() {
    alone("a_child_that_was_there_before_is_spared_with_its_own", || {
        become_subreaper();
        let stranger = "read go; sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
        let mut before = Command::new("sh")
            .args(["-c", stranger])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let inherited = children().unwrap();
        assert_eq!(inherited.iter().map(|i| i.pid).collect::<Vec<_>>(), [before.id() as i32]);
        let (mut child, mut said, agent) = agent("setsid sh -c 'echo $$; exec sleep 1000' & exit 1", &id());
        let ours = said.pids(1);
        child.wait().unwrap();
        drop(before.stdin.take());
        let strangers = Said(BufReader::new(before.stdout.take().unwrap())).pids(2);
        let summary = end_blocking(
            &mut sweep(agent, SweepOwner::Supervisor { inherited, helpers: Vec::new() }, true, 60_000),
            NOBODY,
        )
        .unwrap();
        assert_eq!((&summary.pids, summary.ended), (&ours, 1));
        kill_the_living(&strangers);
        before.wait().unwrap();
        reap_all();
    });
}

#[test]
fn a_policy_says_what_is_ended() {
    assert!(!LeftoversPolicy::Auto.ends(true) && LeftoversPolicy::Auto.ends(false));
    assert!(LeftoversPolicy::End.ends(true) && !LeftoversPolicy::Leave.ends(false));
}
