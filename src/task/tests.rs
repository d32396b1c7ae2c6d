//! Tests of how the ending of a run is decided.

use std::time::Duration;

use super::*;

const GRACE: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;
const LATE: Duration = Duration::from_secs(11);
const SENDER: SignalSender = SignalSender { pid: 7, uid: 0 };

const OK: Exit = Exit::Code(0);
const BAD: Exit = Exit::Code(1);
/// The exit code of Claude Code after SIGTERM.
const STOPPED: Exit = Exit::Code(143);
const KILLED: Exit = Exit::Signal(Signal::TERM);

const EXITS: [Exit; 4] = [OK, BAD, STOPPED, KILLED];
const OUTCOMES: [AgentOutcome; 4] =
    [AgentOutcome::NotDue, AgentOutcome::Missing, AgentOutcome::Ok, AgentOutcome::Error];

const CANCELLED: Ending = Ending::Cancelled(CancelReason::Operator);
const INTERRUPTED: Ending = Ending::Interrupted(InterruptReason::Signal);

fn by(signal: Signal) -> StopRequest {
    StopRequest::Signal { signal, sender: SENDER }
}

fn stops() -> [(StopRequest, Ending); 7] {
    [
        (by(Signal::TERM), INTERRUPTED),
        (by(Signal::HUP), INTERRUPTED),
        (by(Signal::INT), CANCELLED),
        (by(Signal::QUIT), CANCELLED),
        (StopRequest::Cancel { sender: SENDER }, CANCELLED),
        (StopRequest::Timeout, Ending::Cancelled(CancelReason::Timeout)),
        (StopRequest::IdleTimeout, Ending::Cancelled(CancelReason::IdleTimeout)),
    ]
}

fn run(exit: Exit, outcome: AgentOutcome) -> RunEvidence {
    RunEvidence {
        exit: Some(exit),
        exit_meaning: if exit == OK { ExitMeaning::Ok } else { ExitMeaning::Unknown },
        outcome,
        cause: None,
        lingered: false,
        output_lost: false,
        grace: GRACE,
        on_term: OnTerm::Interrupted,
    }
}

fn stopped(
    exit: Exit,
    outcome: AgentOutcome,
    stop: StopRequest,
    after_result: bool,
    ran_on: Duration,
) -> RunEvidence {
    RunEvidence { cause: Some(StopCause { stop, after_result, ran_on }), ..run(exit, outcome) }
}

#[test]
fn an_exit_code_means_what_the_agent_means_by_it() {
    use FailureReason::{AgentError, Exit as Failed, NoResult};
    let fails = Ending::Failure;
    let three = Exit::Code(3);
    for (exit_meaning, outcome, ending) in [
        (ExitMeaning::Ok, AgentOutcome::NotDue, Ending::Success),
        (ExitMeaning::Ok, AgentOutcome::Ok, Ending::Success),
        (ExitMeaning::Ok, AgentOutcome::Missing, fails(NoResult)),
        (ExitMeaning::Error, AgentOutcome::NotDue, fails(AgentError)),
        (ExitMeaning::Error, AgentOutcome::Missing, fails(AgentError)),
        (ExitMeaning::Error, AgentOutcome::Ok, fails(Failed)),
        (ExitMeaning::Unknown, AgentOutcome::NotDue, fails(Failed)),
    ] {
        assert_eq!(judge(&RunEvidence { exit_meaning, ..run(three, outcome) }), ending, "{exit_meaning:?}");
    }
    // After a stop request that came behind the result, only a good end is a success.
    let stop = stopped(three, AgentOutcome::Ok, by(Signal::TERM), true, GRACE);
    assert_eq!(judge(&RunEvidence { exit_meaning: ExitMeaning::Ok, ..stop }), Ending::Success);
    assert_eq!(judge(&stop), INTERRUPTED);
}

#[test]
fn without_a_stop_request_result_and_exit_decide() {
    use FailureReason::{AgentError, NoResult, Signal};
    let fails = Ending::Failure;
    for (exit, outcome, ending) in [
        (OK, AgentOutcome::NotDue, Ending::Success),
        (OK, AgentOutcome::Ok, Ending::Success),
        (OK, AgentOutcome::Missing, fails(NoResult)),
        (OK, AgentOutcome::Error, fails(AgentError)),
        (BAD, AgentOutcome::NotDue, fails(FailureReason::Exit)),
        (BAD, AgentOutcome::Ok, fails(FailureReason::Exit)),
        (BAD, AgentOutcome::Missing, fails(FailureReason::Exit)),
        (BAD, AgentOutcome::Error, fails(AgentError)),
        // An exit code above 128 is not a stop: only a stop request is.
        (STOPPED, AgentOutcome::NotDue, fails(FailureReason::Exit)),
        (STOPPED, AgentOutcome::Missing, fails(FailureReason::Exit)),
        (KILLED, AgentOutcome::NotDue, fails(Signal)),
        (KILLED, AgentOutcome::Ok, fails(Signal)),
        (KILLED, AgentOutcome::Missing, fails(Signal)),
        (KILLED, AgentOutcome::Error, fails(AgentError)),
    ] {
        assert_eq!(judge(&run(exit, outcome)), ending, "{exit:?} {outcome:?}");
    }
}

#[test]
fn a_stop_before_the_result_decides_whatever_the_agent_did_next() {
    for (stop, ending) in stops() {
        for outcome in [AgentOutcome::Missing, AgentOutcome::Ok, AgentOutcome::Error] {
            for exit in EXITS {
                for ran_on in [NOW, LATE] {
                    let evidence = stopped(exit, outcome, stop, false, ran_on);
                    assert_eq!(judge(&evidence), ending, "{evidence:?}");
                }
            }
        }
    }
}

#[test]
fn a_stop_after_a_good_result_counts_only_if_the_agent_then_failed() {
    for (stop, ending) in stops() {
        for exit in EXITS {
            let evidence = stopped(exit, AgentOutcome::Ok, stop, true, NOW);
            let expected = if exit == OK { Ending::Success } else { ending.clone() };
            assert_eq!(judge(&evidence), expected, "{evidence:?}");
        }
    }
}

#[test]
fn a_stop_after_an_error_result_leaves_a_failure() {
    for (stop, _) in stops() {
        for exit in EXITS {
            let evidence = stopped(exit, AgentOutcome::Error, stop, true, NOW);
            assert_eq!(judge(&evidence), Ending::Failure(FailureReason::AgentError), "{evidence:?}");
        }
    }
}

#[test]
fn without_results_sigterm_sighup_cancel_and_timeouts_always_count() {
    for (stop, ending) in stops() {
        if matches!(stop, StopRequest::Signal { signal: Signal::INT | Signal::QUIT, .. }) {
            continue;
        }
        for exit in EXITS {
            for ran_on in [NOW, LATE] {
                let evidence = stopped(exit, AgentOutcome::NotDue, stop, false, ran_on);
                assert_eq!(judge(&evidence), ending, "{evidence:?}");
            }
        }
    }
}

#[test]
fn without_results_ctrl_c_counts_if_the_agent_failed_or_exited_within_the_grace_period() {
    for stop in [by(Signal::INT), by(Signal::QUIT)] {
        for exit in EXITS {
            for ran_on in [NOW, GRACE, LATE] {
                let evidence = stopped(exit, AgentOutcome::NotDue, stop, false, ran_on);
                let expected = if exit == OK && ran_on == LATE { Ending::Success } else { CANCELLED };
                assert_eq!(judge(&evidence), expected, "{evidence:?}");
            }
        }
    }
}

#[test]
fn on_term_cancelled_changes_only_sigterm_and_sighup() {
    for (stop, ending) in stops() {
        for outcome in [AgentOutcome::NotDue, AgentOutcome::Missing] {
            let evidence =
                RunEvidence { on_term: OnTerm::Cancelled, ..stopped(KILLED, outcome, stop, false, NOW) };
            let expected = if ending == INTERRUPTED { CANCELLED } else { ending.clone() };
            assert_eq!(judge(&evidence), expected, "{evidence:?}");
        }
    }
}

#[test]
fn the_result_of_a_lingering_agent_decides() {
    for exit in EXITS {
        let lingered = |outcome| RunEvidence { lingered: true, ..run(exit, outcome) };
        assert_eq!(judge(&lingered(AgentOutcome::Ok)), Ending::Success, "{exit:?}");
        assert_eq!(
            judge(&lingered(AgentOutcome::Error)),
            Ending::Failure(FailureReason::AgentError),
            "{exit:?}"
        );
        // A stop request while it lingered changes nothing.
        for (stop, _) in stops() {
            let asked = RunEvidence { lingered: true, ..stopped(exit, AgentOutcome::Ok, stop, true, NOW) };
            assert_eq!(judge(&asked), Ending::Success, "{asked:?}");
        }
    }
}

/// The rule of success over all combinations.
#[test]
fn success_needs_exit_0_a_result_where_one_is_due_and_no_stop_before_it() {
    for exit in EXITS {
        for outcome in OUTCOMES {
            for lingered in [false, true] {
                let plain = RunEvidence { lingered, ..run(exit, outcome) };
                let stops = stops().into_iter().map(|(s, _)| {
                    let cause = StopCause { stop: s, after_result: false, ran_on: NOW };
                    RunEvidence { cause: Some(cause), ..plain }
                });
                for evidence in stops.chain([plain]) {
                    let ended_well = exit == OK || (lingered && outcome == AgentOutcome::Ok);
                    let good = ended_well && matches!(outcome, AgentOutcome::Ok | AgentOutcome::NotDue);
                    let expected = good && evidence.cause.is_none();
                    assert_eq!(judge(&evidence) == Ending::Success, expected, "{evidence:?}");
                }
            }
        }
    }
}

#[test]
fn every_ending_is_parsed_from_its_own_words() {
    use InterruptReason::{Oom, Rebooted, SupervisorLost, Ttl};
    let mut all: Vec<Ending> = [SupervisorLost, Oom, Rebooted, Ttl].map(Ending::Interrupted).into();
    all.extend(stops().map(|(_, ending)| ending));
    all.extend([Ending::Success, Ending::AbortedNoSkill("deploy".to_owned())]);
    all.extend(
        [
            FailureReason::AgentError,
            FailureReason::Exit,
            FailureReason::Signal,
            FailureReason::NoResult,
            FailureReason::Output,
            FailureReason::Prepare,
            FailureReason::Spawn,
        ]
        .map(Ending::Failure),
    );
    for ending in all {
        assert_eq!(Ending::from_words(ending.status(), ending.reason()), Some(ending.clone()));
        assert!(Status::Running.may_become(ending.status()), "{ending:?}");
    }
    assert_eq!(Ending::from_words(Status::Running, None), None);
}

#[test]
fn only_a_running_task_changes_its_status() {
    for from in Status::ALL {
        for to in Status::ALL {
            assert_eq!(from.may_become(to), from == Status::Running && to != Status::Running);
        }
        assert_eq!(from.is_terminal(), from != Status::Running);
        assert_eq!(Status::parse(from.as_str()), Some(from));
    }
}

#[test]
fn trust_has_the_numbers_of_the_ledgers_statements() {
    for (number, trust) in [(0, SessionTrust::None), (1, SessionTrust::Task), (2, SessionTrust::Operator)] {
        assert_eq!((trust.as_number(), SessionTrust::from_number(number)), (number, trust));
    }
    assert_eq!(SessionTrust::from_number(7), SessionTrust::None, "a number of a later version");
}

#[test]
fn a_stop_request_decides_if_the_agent_could_not_be_stopped() {
    let open = |e: RunEvidence| RunEvidence { exit: None, ..e };
    let asked = |outcome, stop| judge(&open(stopped(OK, outcome, stop, false, NOW)));
    for outcome in [AgentOutcome::NotDue, AgentOutcome::Missing, AgentOutcome::Ok, AgentOutcome::Error] {
        assert_eq!(
            asked(outcome, StopRequest::Timeout),
            Ending::Cancelled(CancelReason::Timeout),
            "{outcome:?}"
        );
    }
    let lingered = open(RunEvidence { lingered: true, ..run(OK, AgentOutcome::Ok) });
    assert_eq!(judge(&lingered), Ending::Success, "its result decides");
    assert_ne!(
        judge(&open(run(OK, AgentOutcome::NotDue))),
        Ending::Success,
        "without a result it is not a success"
    );
}
