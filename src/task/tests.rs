//! How a run is judged, case by case.

use super::*;

const GRACE: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;
const LATE: Duration = Duration::from_secs(11);
const SOMEBODY: Sender = Sender { pid: 7, uid: 0 };

const OK: Exit = Exit::Code(0);
const BAD: Exit = Exit::Code(1);
/// Claude Code leaves so when it is stopped by SIGTERM.
const STOPPED: Exit = Exit::Code(143);
const KILLED: Exit = Exit::Signal(libc::SIGTERM);

const EXITS: [Exit; 4] = [OK, BAD, STOPPED, KILLED];
const OUTCOMES: [Outcome; 4] = [Outcome::NotDue, Outcome::Missing, Outcome::Ok, Outcome::Error];

const CANCELLED: Ending = Ending::Cancelled(Cancel::Operator);
const INTERRUPTED: Ending = Ending::Interrupted(Interrupt::Signal);

fn by(signal: i32) -> Stop {
    Stop::Signal { signal, sender: SOMEBODY }
}

fn stops() -> [(Stop, Ending); 7] {
    [
        (by(libc::SIGTERM), INTERRUPTED),
        (by(libc::SIGHUP), INTERRUPTED),
        (by(libc::SIGINT), CANCELLED),
        (by(libc::SIGQUIT), CANCELLED),
        (Stop::Cancel { sender: SOMEBODY }, CANCELLED),
        (Stop::Timeout, Ending::Cancelled(Cancel::Timeout)),
        (Stop::IdleTimeout, Ending::Cancelled(Cancel::IdleTimeout)),
    ]
}

fn run(exit: Exit, outcome: Outcome) -> Evidence {
    Evidence {
        exit: Some(exit),
        outcome,
        cause: None,
        lingered: false,
        output_lost: false,
        grace: GRACE,
        on_term: OnTerm::Interrupted,
    }
}

fn stopped(exit: Exit, outcome: Outcome, stop: Stop, after_result: bool, ran_on: Duration) -> Evidence {
    Evidence { cause: Some(Cause { stop, after_result, ran_on }), ..run(exit, outcome) }
}

#[test]
fn nobody_asked_it_to_stop() {
    use Failure::{AgentError, NoResult, Signal};
    let fails = Ending::Failure;
    for (exit, outcome, ending) in [
        (OK, Outcome::NotDue, Ending::Success),
        (OK, Outcome::Ok, Ending::Success),
        (OK, Outcome::Missing, fails(NoResult)),
        (OK, Outcome::Error, fails(AgentError)),
        (BAD, Outcome::NotDue, fails(Failure::Exit)),
        (BAD, Outcome::Ok, fails(Failure::Exit)),
        (BAD, Outcome::Missing, fails(Failure::Exit)),
        (BAD, Outcome::Error, fails(AgentError)),
        // An exit code that looks like a stop is none: the cause is what was asked for.
        (STOPPED, Outcome::NotDue, fails(Failure::Exit)),
        (STOPPED, Outcome::Missing, fails(Failure::Exit)),
        (KILLED, Outcome::NotDue, fails(Signal)),
        (KILLED, Outcome::Ok, fails(Signal)),
        (KILLED, Outcome::Missing, fails(Signal)),
        (KILLED, Outcome::Error, fails(AgentError)),
    ] {
        assert_eq!(judge(&run(exit, outcome)), ending, "{exit:?} {outcome:?}");
    }
}

#[test]
fn a_stop_before_the_result_is_the_cause_whatever_the_agent_made_of_it() {
    for (stop, ending) in stops() {
        for outcome in [Outcome::Missing, Outcome::Ok, Outcome::Error] {
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
fn a_stop_after_a_good_result_counts_only_if_the_agent_then_ended_badly() {
    for (stop, ending) in stops() {
        for exit in EXITS {
            let evidence = stopped(exit, Outcome::Ok, stop, true, NOW);
            let expected = if exit == OK { Ending::Success } else { ending.clone() };
            assert_eq!(judge(&evidence), expected, "{evidence:?}");
        }
    }
}

#[test]
fn a_stop_after_a_bad_result_does_not_excuse_it() {
    for (stop, _) in stops() {
        for exit in EXITS {
            let evidence = stopped(exit, Outcome::Error, stop, true, NOW);
            assert_eq!(judge(&evidence), Ending::Failure(Failure::AgentError), "{evidence:?}");
        }
    }
}

#[test]
fn without_results_a_term_a_hang_up_a_cancel_and_a_time_out_always_count() {
    for (stop, ending) in stops() {
        if matches!(stop, Stop::Signal { signal: libc::SIGINT | libc::SIGQUIT, .. }) {
            continue;
        }
        for exit in EXITS {
            for ran_on in [NOW, LATE] {
                let evidence = stopped(exit, Outcome::NotDue, stop, false, ran_on);
                assert_eq!(judge(&evidence), ending, "{evidence:?}");
            }
        }
    }
}

#[test]
fn without_results_a_ctrl_c_counts_if_the_agent_ended_badly_or_soon() {
    for stop in [by(libc::SIGINT), by(libc::SIGQUIT)] {
        for exit in EXITS {
            for ran_on in [NOW, GRACE, LATE] {
                let evidence = stopped(exit, Outcome::NotDue, stop, false, ran_on);
                let expected = if exit == OK && ran_on == LATE { Ending::Success } else { CANCELLED };
                assert_eq!(judge(&evidence), expected, "{evidence:?}");
            }
        }
    }
}

#[test]
fn on_term_cancelled_turns_term_and_hang_up_and_nothing_else() {
    for (stop, ending) in stops() {
        for outcome in [Outcome::NotDue, Outcome::Missing] {
            let evidence =
                Evidence { on_term: OnTerm::Cancelled, ..stopped(KILLED, outcome, stop, false, NOW) };
            let expected = if ending == INTERRUPTED { CANCELLED } else { ending.clone() };
            assert_eq!(judge(&evidence), expected, "{evidence:?}");
        }
    }
}

#[test]
fn the_result_of_an_agent_that_stayed_and_was_ended_stands() {
    for exit in EXITS {
        let lingered = |outcome| Evidence { lingered: true, ..run(exit, outcome) };
        assert_eq!(judge(&lingered(Outcome::Ok)), Ending::Success, "{exit:?}");
        assert_eq!(judge(&lingered(Outcome::Error)), Ending::Failure(Failure::AgentError), "{exit:?}");
        // Whoever asked while it stayed changed nothing either.
        for (stop, _) in stops() {
            let asked = Evidence { lingered: true, ..stopped(exit, Outcome::Ok, stop, true, NOW) };
            assert_eq!(judge(&asked), Ending::Success, "{asked:?}");
        }
    }
}

/// The rule in one sentence, over everything that can be.
#[test]
fn success_needs_a_good_end_a_good_result_where_one_was_due_and_no_stop_before_it() {
    for exit in EXITS {
        for outcome in OUTCOMES {
            for lingered in [false, true] {
                let plain = Evidence { lingered, ..run(exit, outcome) };
                let stops = stops().into_iter().map(|(s, _)| {
                    let cause = Cause { stop: s, after_result: false, ran_on: NOW };
                    Evidence { cause: Some(cause), ..plain }
                });
                for evidence in stops.chain([plain]) {
                    let ended_well = exit == OK || (lingered && outcome == Outcome::Ok);
                    let good = ended_well && matches!(outcome, Outcome::Ok | Outcome::NotDue);
                    let expected = good && evidence.cause.is_none();
                    assert_eq!(judge(&evidence) == Ending::Success, expected, "{evidence:?}");
                }
            }
        }
    }
}

#[test]
fn every_ending_has_words_and_is_known_by_them() {
    use Interrupt::{Oom, Rebooted, SupervisorLost, Ttl};
    let mut all: Vec<Ending> = [SupervisorLost, Oom, Rebooted, Ttl].map(Ending::Interrupted).into();
    all.extend(stops().map(|(_, ending)| ending));
    all.extend([Ending::Success, Ending::AbortedNoSkill("deploy".to_owned())]);
    all.extend(
        [
            Failure::AgentError,
            Failure::Exit,
            Failure::Signal,
            Failure::NoResult,
            Failure::Output,
            Failure::Prepare,
            Failure::Spawn,
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
fn only_running_moves_and_never_to_itself() {
    for from in Status::ALL {
        for to in Status::ALL {
            assert_eq!(from.may_become(to), from == Status::Running && to != Status::Running);
        }
        assert_eq!(from.is_terminal(), from != Status::Running);
        assert_eq!(Status::parse(from.as_str()), Some(from));
    }
}

#[test]
fn trust_is_read_back_as_the_ledgers_queries_write_it() {
    for (number, trust) in [(0, Trust::None), (1, Trust::Task), (2, Trust::Operator)] {
        assert_eq!((trust.as_number(), Trust::from_number(number)), (number, trust));
    }
    assert_eq!(Trust::from_number(7), Trust::None, "what a later version means by it is not known here");
}

#[test]
fn an_agent_that_could_not_be_ended_ended_by_what_asked_it_to() {
    let open = |e: Evidence| Evidence { exit: None, ..e };
    let asked = |outcome, stop| judge(&open(stopped(OK, outcome, stop, false, NOW)));
    for outcome in [Outcome::NotDue, Outcome::Missing, Outcome::Ok, Outcome::Error] {
        assert_eq!(asked(outcome, Stop::Timeout), Ending::Cancelled(Cancel::Timeout), "{outcome:?}");
    }
    let lingered = open(Evidence { lingered: true, ..run(OK, Outcome::Ok) });
    assert_eq!(judge(&lingered), Ending::Success, "its result stands");
    assert_ne!(judge(&open(run(OK, Outcome::NotDue))), Ending::Success, "and nothing else is a success");
}
