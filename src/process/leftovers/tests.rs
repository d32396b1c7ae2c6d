//! Sweeps of real processes. Each test runs in its own process, so that processes of other tests are not
//! below it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::classify::ProcessClass;
use super::error::SweepError;
use super::leftover::{Leftover, SETTLE, SignalSent};
use super::sweep::SweepPhase;
use super::swept_task::SupervisorLookup;
use super::*;
use crate::process::procfs::identity::{self, ProcessStat};
use crate::task::{ProcessIdentity, TaskId};

const NO_SUPERVISOR: &dyn SupervisorLookup = &|_: &ProcessStat| false;
const ALONE: &str = "TEST_ALONE";
const LEDGER: &str = "/no/such/ledger";

fn end_blocking(
    sweep: &mut LeftoverSweep,
    supervisors: &dyn SupervisorLookup,
) -> Result<LeftoverSummary, SweepError> {
    while let SweepStep::Wait(until) = sweep.step(Instant::now(), supervisors)? {
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

/// Tests run in parallel and see all marks, so each uses its own.
fn id() -> String {
    format!("test-{}", std::process::id())
}

fn become_subreaper() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

/// What a test's processes print. Its end-of-file shows that all of them have ended.
struct ProcessOutput(BufReader<ChildStdout>);

impl ProcessOutput {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The pids that `n` processes print.
    fn pids(&mut self, n: usize) -> Vec<i32> {
        (0..n).map(|_| self.line().parse().unwrap()).collect()
    }

    fn all_ended(mut self) {
        self.0.read_to_end(&mut Vec::new()).unwrap();
    }
}

fn agent(script: &str, id: &str) -> (Child, ProcessOutput, ProcessIdentity) {
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
    let output = ProcessOutput(BufReader::new(child.stdout.take().unwrap()));
    (child, output, identity)
}

fn sweep(agent: ProcessIdentity, owner: SweepOwner, ends: bool, grace_ms: u64) -> LeftoverSweep {
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

/// Asserts that all of them are alive, and kills them. One may wait for another and end with it.
fn kill_living(pids: &[i32]) {
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn kill_one(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn reap_all() {
    while waitid(Id::All, WaitPidFlag::WEXITED).is_ok() {}
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
fn waits_longer_after_sigkill_than_after_sigterm() {
    // This test is the process that does not end. It is not sent a signal again.
    let stat = identity::stat(std::process::id().cast_signed()).unwrap().unwrap();
    let since = Instant::now();
    for (class, sent, limit) in
        [(ProcessClass::Ours, SignalSent::Kill, DYING), (ProcessClass::Supervisor, SignalSent::Term, SETTLE)]
    {
        let mut sweep = sweep(stat.identity(), SweepOwner::Recovery, true, 0);
        let handle = identity::open(&stat.identity()).unwrap();
        sweep.found.push(Leftover { stat, class, handle, sent, has_ended: false });
        sweep.phase = SweepPhase::Killing { since };
        let nearly = since + limit - Duration::from_millis(1);
        assert!(matches!(sweep.advance(nearly, false), SweepStep::Wait(_)), "{limit:?}");
        assert_eq!(sweep.advance(since + limit, false), SweepStep::Done, "{limit:?}");
        assert_eq!(sweep.summary().ended, 0);
    }
}

#[test]
fn kills_a_process_that_is_found_after_the_grace_period() {
    alone("kills_a_process_that_is_found_after_the_grace_period", || {
        let (mut child, mut output, agent) = agent("echo $$; exec sleep 1000", &id());
        output.pids(1);
        let mut sweep = sweep(agent, supervisor(), true, 0);
        let stat = identity::stat(agent.pid).unwrap().unwrap();
        let handle = identity::open(&agent).unwrap();
        sweep.found.push(Leftover {
            stat,
            class: ProcessClass::Ours,
            handle,
            sent: SignalSent::Nothing,
            has_ended: false,
        });
        let now = Instant::now();
        sweep.phase = SweepPhase::Killing { since: now - SETTLE };
        assert!(matches!(sweep.advance(now, true), SweepStep::Wait(_)));
        assert_eq!(ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGKILL));
    });
}

#[test]
fn ends_all_that_the_agent_forked() {
    alone("ends_all_that_the_agent_forked", || {
        become_subreaper();
        let script = r#"
            setsid sh -c 'echo $$; exec sleep 1000' &
            (setsid sh -c '(echo $(exec sh -c "echo \$PPID"); exec sleep 1000) &' &)
            env -i sh -c 'echo $$; exec sleep 1000' &
            sh -c 'env -i sh -c "echo \$\$; exec sleep 1000" & echo $$; wait' &
            sh -c 'trap "" TERM; echo $$; exec sleep 1000' &
            exit 1"#;
        let (mut child, mut output, agent) = agent(script, &id());
        let pids = output.pids(6);
        child.wait().unwrap();
        let mut sweep = sweep(agent, supervisor(), true, 300);
        let summary = end_blocking(&mut sweep, NO_SUPERVISOR).unwrap();
        assert!(summary.survivors.is_empty());
        assert!(summary.found >= 6, "{summary:?}");
        assert_eq!((summary.ended, summary.left), (summary.found, 0));
        for pid in pids {
            assert!(!is_alive(pid) && summary.pids.contains(&pid), "{pid} {summary:?}");
        }
        output.all_ended();
        reap_all();
    });
}

#[test]
fn does_not_wait_out_the_grace_period_after_the_last_exit() {
    alone("does_not_wait_out_the_grace_period_after_the_last_exit", || {
        become_subreaper();
        let (mut child, mut output, agent) = agent("setsid sh -c 'echo $$; exec sleep 1000' & exit 1", &id());
        output.pids(1);
        child.wait().unwrap();
        let started = Instant::now();
        let summary = end_blocking(&mut sweep(agent, supervisor(), true, 600_000), NO_SUPERVISOR).unwrap();
        assert_eq!((summary.found, summary.ended), (1, 1));
        assert!(started.elapsed() < Duration::from_secs(60));
        reap_all();
    });
}

/// On SIGTERM it executes other programs and has the mark again only after the grace period.
#[test]
fn retries_a_process_that_it_could_not_signal() {
    let script = "export LATER=\"sleep 0.6; exec env BOOKEND_TASK_ID=$BOOKEND_TASK_ID sleep 1000\"
        setsid sh -c 'trap \"exec env -u BOOKEND_TASK_ID sh -c \\\"\\$LATER\\\"\" TERM
            echo $$; sleep 1000 & wait' &";
    let (mut child, mut output, agent) = agent(script, &id());
    let pid = output.pids(1)[0];
    child.wait().unwrap();
    let mut sweep = sweep(agent, SweepOwner::Recovery, true, 100);
    let summary = end_blocking(&mut sweep, NO_SUPERVISOR).unwrap();
    assert!(summary.survivors.is_empty() && summary.pids.contains(&pid), "{pid}: {summary:?}");
    output.all_ended();
}

/// An agent in a ledger that this user owns, so that its identity proves it.
struct ProvenAgent {
    child: Child,
    output: ProcessOutput,
    identity: ProcessIdentity,
    id: String,
    ledger: tempfile::NamedTempFile,
}

impl ProvenAgent {
    /// Its script first prints a line.
    fn start(script: &str, id: &str) -> ProvenAgent {
        let ledger = tempfile::NamedTempFile::new().unwrap();
        let id = format!("{}-{id}", self::id());
        let path = ledger.path().display();
        let script = format!("exec env BOOKEND_LEDGER={path} sh -c 'echo $$; {script}'");
        let (child, mut output, identity) = agent(&script, &id);
        output.pids(1);
        ProvenAgent { child, output, identity, id, ledger }
    }

    fn sweep(&self, agent: ProcessIdentity, grace_ms: u64) -> LeftoverSweep {
        let mut task = sweep(agent, SweepOwner::Recovery, true, grace_ms).task;
        (task.id, task.ledger) = (TaskId::recorded(&*self.id), LedgerFile::at(self.ledger.path()));
        LeftoverSweep::new(task, true, Duration::from_millis(grace_ms))
    }
}

/// It says `term` on SIGTERM and goes on.
const STUBBORN: &str = "trap \"echo term\" TERM; echo ready; while :; do :; done";

#[test]
fn the_agent_is_signalled_once_and_before_anything_is_scanned() {
    let mut agent = ProvenAgent::start(STUBBORN, "once");
    assert_eq!(agent.output.line(), "ready");
    let mut sweep = agent.sweep(agent.identity, 300);
    sweep.signal_agent(Instant::now());
    assert!(sweep.is_new() && sweep.fds().count() == 1, "only its end is awaited");
    let step = sweep.step(Instant::now(), NO_SUPERVISOR).unwrap();
    assert!(matches!(step, SweepStep::Wait(_)), "{step:?}");
    let summary = end_blocking(&mut sweep, NO_SUPERVISOR).unwrap();
    assert_eq!((&summary.pids, summary.ended), (&vec![agent.identity.pid], 1), "{summary:?}");
    assert_eq!(agent.child.wait().unwrap().signal(), Some(9), "after the grace period");
    assert_eq!((agent.output.line(), agent.output.line()), ("term".to_owned(), String::new()));
}

#[test]
fn an_agent_that_exits_before_the_scan_counts_as_ended_by_the_signal() {
    let mut agent = ProvenAgent::start("exec sleep 1000", "exits");
    let mut sweep = agent.sweep(agent.identity, 60_000);
    sweep.signal_agent(Instant::now());
    assert_eq!(agent.child.wait().unwrap().signal(), Some(15));
    let summary = end_blocking(&mut sweep, NO_SUPERVISOR).unwrap();
    assert_eq!((&summary.pids, summary.ended), (&vec![agent.identity.pid], 1), "{summary:?}");
}

#[test]
fn an_agent_that_was_killed_before_is_awaited_and_not_counted() {
    for n in 0..20 {
        let mut agent = ProvenAgent::start("exec sleep 1000", &format!("killed-{n}"));
        kill_one(agent.identity.pid);
        let mut sweep = agent.sweep(agent.identity, 60_000);
        sweep.signal_agent(Instant::now());
        assert!(sweep.found.iter().all(|l| l.class == ProcessClass::Exiting), "nothing was sent");
        agent.child.wait().unwrap();
        assert_eq!(end_blocking(&mut sweep, NO_SUPERVISOR).unwrap().found, 0);
    }
}

#[test]
fn the_agent_is_not_signalled_first_without_a_proof_or_without_a_grace_period() {
    let mut agent = ProvenAgent::start(STUBBORN, "unproven");
    assert_eq!(agent.output.line(), "ready");
    let recycled = ProcessIdentity { start: agent.identity.start + 1, ..agent.identity };
    let unknown = ProcessIdentity { start: 0, ..agent.identity };
    let of_another = sweep(agent.identity, SweepOwner::Recovery, true, 60_000);
    let no_grace = agent.sweep(agent.identity, 0);
    for mut sweep in [agent.sweep(recycled, 60_000), agent.sweep(unknown, 60_000), of_another, no_grace] {
        sweep.signal_agent(Instant::now());
        assert!(sweep.phase == SweepPhase::New && sweep.found.is_empty());
    }
    end_blocking(&mut agent.sweep(agent.identity, 0), NO_SUPERVISOR).unwrap();
    assert_eq!(agent.child.wait().unwrap().signal(), Some(9));
    assert!(agent.output.line().is_empty(), "it was sent no SIGTERM");
}

#[test]
fn a_stopped_process_acts_on_sigterm() {
    alone("a_stopped_process_acts_on_sigterm", || {
        become_subreaper();
        let script = r#"setsid sh -c 'trap "echo term; exit" TERM; echo $$; kill -STOP $$; wait' & exit 1"#;
        let (mut child, mut output, agent) = agent(script, &id());
        let pid = output.pids(1)[0];
        child.wait().unwrap();
        waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WSTOPPED).unwrap();
        end_blocking(&mut sweep(agent, supervisor(), true, 600_000), NO_SUPERVISOR).unwrap();
        assert_eq!(output.line(), "term");
        reap_all();
    });
}

#[test]
fn leftovers_of_a_success_are_only_counted() {
    alone("leftovers_of_a_success_are_only_counted", || {
        become_subreaper();
        let (mut child, mut output, agent) = agent("setsid sh -c 'echo $$; exec sleep 1000' & exit 0", &id());
        let pid = output.pids(1)[0];
        child.wait().unwrap();
        let mut sweep = sweep(agent, supervisor(), false, 0);
        sweep.scan(NO_SUPERVISOR).unwrap();
        assert_eq!(sweep.step(Instant::now(), NO_SUPERVISOR).unwrap(), SweepStep::Done);
        let summary = sweep.summary();
        assert_eq!((summary.found, summary.ended, summary.left, &summary.pids), (1, 0, 1, &vec![pid]));
        assert!(is_alive(pid));
        kill_one(pid);
        reap_all();
        sweep = self::sweep(agent, supervisor(), false, 0);
        sweep.scan(NO_SUPERVISOR).unwrap();
        assert_eq!(sweep.summary().found, 0);
    });
}

#[test]
fn the_mark_finds_what_outlived_the_supervisor_and_nothing_else() {
    alone("the_mark_finds_what_outlived_the_supervisor_and_nothing_else", || {
        let orphan = "(setsid sh -c 'echo $$; exec sleep 1000' &) ; exit 1";
        let (mut child, mut output, agent_of_ours) = agent(orphan, &id());
        let (mut other, mut other_output, _) = agent(orphan, &(id() + "1"));
        let (ours, theirs) = (output.pids(1)[0], other_output.pids(1)[0]);
        // While a process executes another program, its environment cannot be read.
        let of = |file: &str| std::fs::read(format!("/proc/{ours}/{file}")).unwrap();
        while of("comm") != b"sleep\n" || of("environ").is_empty() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        other.wait().unwrap();
        let summary =
            end_blocking(&mut sweep(agent_of_ours, SweepOwner::Recovery, true, 60_000), NO_SUPERVISOR)
                .unwrap();
        assert_eq!((summary.found, summary.ended, &summary.pids), (1, 1, &vec![ours]));
        output.all_ended();
        assert!(is_alive(theirs));
        kill_one(theirs);
    });
}

#[test]
fn spares_the_server_of_a_terminal_that_is_not_the_agents() {
    alone("spares_the_server_of_a_terminal_that_is_not_the_agents", || {
        let (_pty, take_it) = terminal();
        let pane = format!("{take_it}; echo $$; exec sleep 1000");
        let script = format!(
            "(setsid sh -c 'setsid sh -c \"{}\" & echo $$; wait' &) ; exit 1",
            pane.replace('$', "\\$")
        );
        for (owner, subreaper) in [(SweepOwner::Recovery, false), (supervisor(), true)] {
            if subreaper {
                become_subreaper();
            }
            let (mut child, mut output, agent) = agent(&script, &id());
            let pids = output.pids(2);
            child.wait().unwrap();
            let summary = end_blocking(&mut sweep(agent, owner, true, 60_000), NO_SUPERVISOR).unwrap();
            assert_eq!((summary.found, summary.ended, summary.left), (2, 0, 2), "{summary:?}");
            assert!(summary.spared.iter().all(|s| s.why == SparedReason::Terminal));
            kill_living(&pids);
            output.all_ended();
        }
        reap_all();
    });
}

#[test]
fn sends_sigterm_but_not_sigkill_to_a_nested_supervisor_and_spares_its_processes() {
    alone("sends_sigterm_but_not_sigkill_to_a_nested_supervisor_and_spares_its_processes", || {
        become_subreaper();
        let script = r#"setsid sh -c '
            trap "echo term" TERM
            sh -c "trap \"\" TERM; echo \$\$; exec sleep 1000" & echo $$
            wait; wait' & exit 1"#;
        let (mut child, mut output, agent) = agent(script, &id());
        let pids = output.pids(2);
        child.wait().unwrap();
        let is_leader = |s: &ProcessStat| pids.contains(&s.pid) && s.session == s.pid;
        let summary = end_blocking(&mut sweep(agent, supervisor(), true, 0), &is_leader).unwrap();
        assert_eq!(output.line(), "term");
        assert_eq!((summary.found, summary.left, summary.survivors.len()), (1, 1, 0));
        assert_eq!(summary.spared[0].why, SparedReason::Supervisor);
        kill_living(&pids);
        output.all_ended();
        reap_all();
    });
}

#[test]
fn spares_an_inherited_child_and_its_descendants() {
    alone("spares_an_inherited_child_and_its_descendants", || {
        become_subreaper();
        let inherited_script = "read go; sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
        let mut before = Command::new("sh")
            .args(["-c", inherited_script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let inherited = children().unwrap();
        assert_eq!(inherited.iter().map(|i| i.pid).collect::<Vec<_>>(), [before.id() as i32]);
        let (mut child, mut output, agent) = agent("setsid sh -c 'echo $$; exec sleep 1000' & exit 1", &id());
        let ours = output.pids(1);
        child.wait().unwrap();
        drop(before.stdin.take());
        let others = ProcessOutput(BufReader::new(before.stdout.take().unwrap())).pids(2);
        let summary = end_blocking(
            &mut sweep(agent, SweepOwner::Supervisor { inherited, helpers: Vec::new() }, true, 60_000),
            NO_SUPERVISOR,
        )
        .unwrap();
        assert_eq!((&summary.pids, summary.ended), (&ours, 1));
        kill_living(&others);
        before.wait().unwrap();
        reap_all();
    });
}

#[test]
fn the_policy_decides_what_is_ended() {
    assert!(!LeftoversPolicy::Auto.ends(true) && LeftoversPolicy::Auto.ends(false));
    assert!(LeftoversPolicy::End.ends(true) && !LeftoversPolicy::Leave.ends(false));
}

/// The scan reads the state of a process before its environment, and shows no mark if it ends in between.
#[test]
fn an_agent_that_ended_while_it_was_read_is_no_survivor() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let stat = identity::stat(child.id().cast_signed()).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut sweep = sweep(stat.identity(), SweepOwner::Recovery, true, 0);
    let class = ProcessClass::Spared(SparedReason::Unmarked);
    sweep.found.push(Leftover { stat, class, handle: None, sent: SignalSent::Nothing, has_ended: false });
    sweep.phase = SweepPhase::Scanned;
    assert!(matches!(sweep.advance(Instant::now(), true), SweepStep::Done));
    let summary = sweep.summary();
    assert_eq!((summary.ended, summary.left, summary.survivors.len()), (1, 0, 0), "{summary:?}");
}
