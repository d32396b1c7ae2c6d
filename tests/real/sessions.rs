//! Runs under one key: the conversation is resumed, each run has its own cost, and a failed session is not
//! resumed.

use crate::harness::End;
use crate::{JSON, Real, STREAM_JSON, result};

const KEY: [&str; 2] = ["--key", "forgejo:dev:charles/claude-hooks:1104"];

#[test]
fn a_second_run_under_a_key_resumes_and_counts_its_own_cost() {
    let test = "a_second_run_under_a_key_resumes_and_counts_its_own_cost";
    let Some(real) = Real::new(test, "text:first;text:second;text:third") else { return };
    let run = || result(&real.claude(STREAM_JSON).options(KEY).run().ended(End::Code(0)).silent().stdout);
    let events = [run(), run(), run()];

    let rows = real.world.rows();
    let session = rows[0].text("session_id");
    let reported = events.each_ref().map(|e| e["total_cost_usd"].as_f64().expect("a cost"));
    assert!(reported[1] > reported[0], "the agent's figure is cumulative: {reported:?}");
    let mut before = 0.0;
    for (nth, row) in rows.iter().enumerate() {
        assert_eq!(row.ending(), "success/");
        assert_eq!(row.text("session_id"), session);
        assert_eq!(row.text("resumed_from"), if nth == 0 { String::new() } else { session.clone() });
        let own = row.real("cost_usd").expect("a cost");
        assert!((own - (reported[nth] - before)).abs() < 1e-9, "{own} of {reported:?}, run {nth}");
        before = reported[nth];
        assert_eq!(events[nth]["session_id"], session.as_str());
        assert_eq!(events[nth]["result"], ["first", "second", "third"][nth]);
    }
    let links = real.world.sql("SELECT key, session_id, task_id FROM claude_sdk_sessions");
    assert_eq!(links.len(), 1);
    assert_eq!(links[0].text("session_id"), session);
    assert_eq!(links[0].text("task_id"), rows[2].text("id"));
}

#[test]
fn a_run_after_a_failed_one_starts_a_new_conversation() {
    let test = "a_run_after_a_failed_one_starts_a_new_conversation";
    let Some(real) = Real::new(test, "text:first;tool:true;text:third") else { return };
    let run = |more: &[&'static str], code| {
        let mode = STREAM_JSON.into_iter().chain(more.iter().copied());
        real.claude(mode).options(KEY).run().ended(End::Code(code))
    };
    run(&[], 0);
    run(&["--max-turns", "1"], 1);
    run(&[], 0);
    let rows = real.world.rows();
    assert_eq!(rows[1].text("resumed_from"), rows[0].text("session_id"));
    assert_eq!(rows[2].text("resumed_from"), "");
    assert_ne!(rows[2].text("session_id"), rows[0].text("session_id"));
    assert_eq!(rows[2].ending(), "success/");
}

#[test]
fn keep_session_keeps_the_session_after_an_api_error() {
    let test = "keep_session_keeps_the_session_after_an_api_error";
    // Limits the retries of Claude Code, which take hours by default.
    for (error, option, keeps) in [
        ("error:400", "api-error", true),
        ("error:429:36000", "limit", true),
        ("error:400", "limit", false),
        ("tool:true;error:400", "api-error", true),
    ] {
        let Some(real) = Real::new(test, &format!("text:first;{error}")) else { return };
        let run = |code| {
            let options = KEY.into_iter().chain(["--keep-session", option]);
            real.claude(STREAM_JSON).options(options).run().ended(End::Code(code));
        };
        run(0);
        run(1);
        let row = real.world.rows().pop().expect("a row");
        assert_eq!(row.ending(), "failure/agent_error");
        assert_eq!(row.text("session_kept"), if keeps { option } else { "" }, "{error}: {row:?}");
        run(1);
        let rows = real.world.rows();
        assert_eq!(rows[2].text("resumed_from") == rows[0].text("session_id"), keeps, "{error}: {rows:?}");
    }
}

#[test]
fn a_rejected_option_leaves_the_session_unchanged() {
    let test = "a_rejected_option_leaves_the_session_unchanged";
    for mode in [&[][..], &JSON, &STREAM_JSON] {
        let Some(real) = Real::new(test, "text:first;text:second") else { return };
        let run = |more: &[&'static str], code| {
            let mode = mode.iter().chain(more).copied();
            real.claude(mode).options(KEY).run().ended(End::Code(code))
        };
        run(&[], 0);
        let refused = run(&["--no-such-option"], 1);
        assert!(refused.stderr.contains("unknown option"), "{refused:?}");
        run(&[], 0);
        let rows = real.world.rows();
        assert_eq!((rows[1].ending().as_str(), rows[1].text("session_id")), ("failure/exit", String::new()));
        assert_eq!(rows[2].text("resumed_from"), rows[0].text("session_id"), "{mode:?}");
    }
}
