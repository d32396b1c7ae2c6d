//! Runs under one key: the conversation is resumed, each run has its own figures, and a failed session is not
//! resumed.

use std::fs;

use super::outcomes::assert_figures;
use super::{AgentWorld, NpmAgent, for_each_agent};
use crate::harness::End;

for_each_agent! {
    a_second_run_under_a_key_resumes_and_counts_its_own_figures
    a_run_after_a_failed_one_starts_a_new_conversation
    a_session_that_the_agent_does_not_know_is_a_failure
    a_conversation_without_a_transcript_is_not_resumed
    a_fork_counts_its_own_figures
}

/// The words with the id of the session.
fn with_id(words: &[&str], session: &str) -> Vec<String> {
    words.iter().map(|word| word.replace("{id}", session)).collect()
}

fn a_second_run_under_a_key_resumes_and_counts_its_own_figures(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "text:first-answer;text:second;text:third") else {
        return;
    };
    against.run(0);
    let session = against.last().text("session_id");
    for _ in 0..2 {
        against.run(0);
        assert!(against.latest_request().contains("first-answer"), "the conversation goes on");
        let row = against.last();
        assert_eq!(row.ending(), "success/");
        assert_eq!(row.text("session_id"), session);
        assert_eq!(row.text("resumed_from"), session);
        let argv: Vec<String> = serde_json::from_value(row.json("argv")).expect("words");
        let words = with_id(agent.resume, &session);
        assert!(argv.windows(words.len()).any(|part| part == words), "{words:?} in {argv:?}");
        assert_figures(agent, &row, 1);
    }
}

fn a_run_after_a_failed_one_starts_a_new_conversation(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "text:first-answer;error:400;text:third") else { return };
    against.run(0);
    against.run(agent.codes[0]);
    against.run(0);
    assert!(!against.latest_request().contains("first-answer"), "a new conversation");
    let rows = against.world.rows();
    let session = rows[0].text("session_id");
    assert_eq!((rows[1].ending().as_str(), rows[1].text("resumed_from")), ("failure/agent_error", session));
    assert_eq!((rows[2].ending().as_str(), rows[2].text("resumed_from")), ("success/", String::new()));
    assert_ne!(rows[2].text("session_id"), rows[0].text("session_id"));
}

fn a_session_that_the_agent_does_not_know_is_a_failure(agent: &NpmAgent) {
    let Some(against) = AgentWorld::new(agent, "text:never") else { return };
    let output = against.with_words(&with_id(agent.resume, agent.unknown)).run();
    assert_eq!(output.end, End::Code(agent.codes[1]), "{output:?}");
    let row = against.last();
    assert_eq!(row.text("status"), "failure", "{row:?}");
    assert_eq!(row.number("exit_code"), Some(agent.codes[1].into()));
    assert!(against.world.sql("SELECT * FROM claude_sdk_sessions").is_empty());
}

fn a_conversation_without_a_transcript_is_not_resumed(agent: &NpmAgent) {
    let Some(folder) = agent.transcripts else { return };
    let Some(mut against) = AgentWorld::new(agent, "text:first-answer;text:second") else { return };
    against.run(0);
    fs::remove_dir_all(against.world.path("home").join(folder)).expect("the agent's sessions");
    against.run(0);
    let row = against.last();
    assert_eq!((row.ending().as_str(), row.text("resumed_from")), ("success/", String::new()));
    assert_ne!(row.text("session_id"), against.world.rows()[0].text("session_id"));
}

fn a_fork_counts_its_own_figures(agent: &NpmAgent) {
    let Some(words) = agent.fork else { return };
    let Some(mut against) = AgentWorld::new(agent, "text:first-answer;text:second") else { return };
    against.run(0);
    let session = against.last().text("session_id");
    against.world.renew_deadline();
    against.with_words(&with_id(words, &session)).run().ended(End::Code(0));
    assert!(against.latest_request().contains("first-answer"), "the copied conversation");
    let row = against.last();
    assert_eq!((row.ending().as_str(), row.text("resumed_from")), ("success/", session.clone()));
    assert_ne!(row.text("session_id"), session);
    assert_figures(agent, &row, 1);
}
