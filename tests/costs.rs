//! The cost of a run for each version of Claude Code, and the scope of the token counts.

use std::path::Path;

use crate::harness::{End, Row, STREAM, World};
use crate::standins::bookend;

const JSON: [&str; 5] = ["claude", "-p", "--output-format", "json", "do it"];

/// Runs a stand-in that prints `script`, under a key, and returns its row.
fn run(world: &World, argv: &[&str], script: &str) -> Row {
    world.claude(script);
    world.run(argv.iter().copied()).options(["--key", "k"]).run().ended(End::Code(0));
    world.rows().pop().expect("a row")
}

/// A stream whose first event has this version, or none if it is empty.
fn stream(version: &str, cost: &str) -> String {
    let version =
        if version.is_empty() { String::new() } else { format!(r#","claude_code_version":"{version}""#) };
    let init = format!(r#"{{"type":"system","subtype":"init","session_id":"%s","model":"m"{version}}}\n"#);
    format!("printf '{init}' $id; result $id {cost}")
}

fn assert_one_conversation(world: &World) {
    let rows = world.rows();
    let session = rows[0].text("session_id");
    assert!(rows.iter().all(|r| r.text("session_id") == session), "{rows:?}");
    assert!(rows.iter().skip(1).all(|r| r.text("resumed_from") == session), "{rows:?}");
}

#[test]
fn versions_up_to_2_1_260_report_the_cost_of_the_run() {
    for version in ["", "2.0.77", "2.1.197", "2.1.260"] {
        let Some(world) = World::of_bookend("versions_up_to_2_1_260") else { return };
        for (reported, own) in [("0.5", 0.5), ("0.8", 0.8), ("0.8", 0.8), ("0.1", 0.1)] {
            let row = run(&world, &STREAM, &stream(version, reported));
            assert_eq!(row.real("cost_usd"), Some(own), "{version}");
            assert_eq!(row.real("session_cost_usd"), None, "{version}: no total is reported");
        }
        assert_one_conversation(&world);
    }
}

#[test]
fn versions_from_2_1_300_report_the_total_of_the_session() {
    for version in ["2.1.300", "2.1.330", "2.1.332", "2.2.0", "3.0.0-beta.1"] {
        let Some(world) = World::of_bookend("versions_from_2_1_300") else { return };
        for (reported, own) in [("0.5", 0.5), ("0.8", 0.3), ("0.8", 0.0)] {
            let row = run(&world, &STREAM, &stream(version, reported));
            assert_eq!(row.real("cost_usd"), Some(own), "{version}");
            assert_eq!(row.real("session_cost_usd"), reported.parse().ok(), "{version}");
        }
        assert_one_conversation(&world);
    }
}

/// 2.1.330 does not include what 2.1.197 spent on the same session (observed).
#[test]
fn a_version_that_reports_per_run_leaves_the_sessions_total_unchanged() {
    let Some(world) = World::of_bookend("a_version_that_reports_per_run") else { return };
    let runs =
        [("2.1.197", "0.6", 0.6), ("2.1.330", "0.5", 0.5), ("2.1.197", "0.4", 0.4), ("2.1.330", "0.8", 0.3)];
    for (version, reported, own) in runs {
        let row = run(&world, &STREAM, &stream(version, reported));
        assert_eq!(row.real("cost_usd"), Some(own), "{version}");
    }
    assert_one_conversation(&world);
}

/// For a version between the observed ones, and for a result without an init event, the version does not
/// decide.
#[test]
fn a_result_with_an_index_reports_the_total_of_the_session() {
    for (index, costs) in [("", [0.5, 0.8]), (r#","result_index":0"#, [0.5, 0.3])] {
        for start in ["", r#"{"type":"system","subtype":"init","claude_code_version":"2.1.280"}\n"#] {
            let Some(world) = World::of_bookend("a_result_with_an_index") else { return };
            for (reported, own) in ["0.5", "0.8"].into_iter().zip(costs) {
                let result = format!(
                    "{{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"session_id\":\"%s\",\
                     \"num_turns\":1,\"total_cost_usd\":{reported}{index}}}\\n"
                );
                let argv = if start.is_empty() { &JSON[..] } else { &STREAM[..] };
                let row = run(&world, argv, &format!("printf '{start}{result}' $id"));
                assert_eq!(row.real("cost_usd"), Some(own), "{start}{result}");
            }
            assert_one_conversation(&world);
        }
    }
}

#[test]
fn samples_of_each_version_have_their_own_cost_in_a_resumed_run_too() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for (file, costs) in [
        ("335-cc1128-ok", [0.0006, 0.0006]),
        ("340-cc2077-ok", [0.0006, 0.0006]),
        ("347-cc2332-ok", [0.0008, 0.0]),
    ] {
        let Some(world) = World::of_bookend("the_samples_of_each_version") else { return };
        let script = format!("cat '{}'", samples.join(format!("{file}.stdout.jsonl")).display());
        for own in costs {
            let cost = run(&world, &STREAM, &script).real("cost_usd").expect("a cost");
            assert!((cost - own).abs() < 1e-12, "{file}: {cost} is not {own}");
        }
        assert_ne!(world.rows()[1].text("resumed_from"), "", "{file}");
    }
}

#[test]
fn the_row_has_the_scope_of_the_token_counts() {
    let Some(world) = World::of_bookend("the_row_has_the_scope_of_the_token_counts") else {
        return;
    };
    let of_subagent = r#"{"type":"assistant","parent_tool_use_id":"t1",
        "message":{"id":"s1","usage":{"input_tokens":900,"output_tokens":90},"content":[]}}"#
        .replace('\n', "");
    let script = format!("init $id; turn $id m1 30 4; echo '{of_subagent}'; result $id 0.5");
    let row = run(&world, &STREAM, &script);
    assert_eq!((row.number("input_tokens"), row.text("tokens_scope")), (Some(30), "main".into()));
    let shown = bookend(&world, &["show", &row.text("id")]);
    assert!(shown.stdout.contains("30 in, 4 out (without subagents)"), "{shown:?}");

    let row = run(&world, &["claude", "-p", "do it"], "echo done");
    assert_eq!(row.text("tokens_scope"), "", "text output has no tokens");
}
