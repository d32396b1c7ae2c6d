//! The command lines of the agents in the program, as their declarations read them.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::agent::by_type;

fn adapter(name: &str) -> &'static dyn Adapter {
    by_type(name).expect("a sound declaration").expect("an agent in the program")
}

/// The words of a line; `_` within a word is a space.
fn args(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(|word| word.replace('_', " ").into()).collect()
}

fn joined(argv: &[OsString]) -> String {
    argv.join(OsStr::new(" ")).into_string().expect("UTF-8")
}

fn planned(name: &str, line: &str, plan: &SessionPlan) -> String {
    joined(&adapter(name).argv(&args(line), plan))
}

fn resumed(name: &str, line: &str) -> String {
    planned(name, line, &SessionPlan::Resume("ID".into()))
}

fn assigned(name: &str, line: &str) -> String {
    planned(name, line, &SessionPlan::Assign("ID".into()))
}

fn session(name: &str, line: &str) -> SessionRequest {
    adapter(name).parse(&args(line), false).session
}

fn mode(name: &str, line: &str) -> OutputMode {
    adapter(name).parse(&args(line), false).mode
}

#[test]
fn codex_resumes_before_its_operands_and_behind_its_options() {
    for (line, with) in [
        ("exec --json hi", "exec --json resume ID hi"),
        ("e hi", "e resume ID hi"),
        ("exec", "exec resume ID"),
        ("--search exec -s read-only -C /x hi", "--search exec -s read-only -C /x resume ID hi"),
        ("exec --json -- -s", "exec --json resume ID -- -s"),
        ("exec --", "exec resume ID --"),
        ("exec --json -", "exec --json resume ID -"),
        // `resume` refuses `-s` and `-C`, which `exec` takes.
        ("exec hi --json -s read-only", "exec --json -s read-only resume ID hi"),
        ("exec hi -jC /x -- more", "exec -jC /x resume ID hi -- more"),
        // An image takes all words up to the next option.
        ("exec -i a.png b.png -- hi", "exec resume ID -i a.png b.png -- hi"),
        ("exec -s x hi -i a.png", "exec -s x resume ID hi -i a.png"),
        ("exec --image=a.png hi", "exec --image=a.png resume ID hi"),
        ("exec -m resume hi", "exec -m resume resume ID hi"),
    ] {
        assert_eq!(resumed("codex", line), with, "{line}");
    }
}

#[test]
fn codex_sessions_of_the_user_are_recognised() {
    use SessionRequest::{
        Assign, Continue, Fork, NoConversation, NotKept, Resume, ResumePicker, Unspecified,
    };
    for (line, asked) in [
        ("exec --json hi", Unspecified),
        ("exec -- resume X", Unspecified),
        ("exec say_resume_X", Unspecified),
        ("exec resume X hi", Resume("X".into())),
        ("exec --json resume --json X hi", Resume("X".into())),
        ("exec resume --last hi", Continue),
        ("exec resume", ResumePicker),
        ("exec fork X hi", Fork(Some("X".into()), None)),
        ("exec fork --last", Fork(None, None)),
        ("exec review", ResumePicker),
        ("exec --ephemeral hi", NotKept),
        ("resume X", Resume("X".into())),
        ("fork", Fork(None, None)),
        // Nothing can be added to the interactive form.
        ("", Assign(None)),
        ("hi", Assign(None)),
        ("-- exec", Assign(None)),
        ("login", NoConversation),
        ("mcp list", NoConversation),
        ("--version", NoConversation),
        ("exec --help", NoConversation),
    ] {
        assert_eq!(session("codex", line), asked, "{line}");
    }
    for line in ["login", "hi", "", "-- exec", "resume", "exec --help"] {
        assert_eq!(resumed("codex", line), line);
    }
}

#[test]
fn codex_prints_events_with_an_option() {
    for (line, expected) in [
        ("exec --json hi", OutputMode::StreamJson),
        ("exec hi", OutputMode::Text),
        ("exec -- --json", OutputMode::Text),
        ("--json hi", OutputMode::Interactive),
        ("exec --json --help", OutputMode::Interactive),
        ("login --json", OutputMode::Interactive),
    ] {
        assert_eq!(mode("codex", line), expected, "{line}");
    }
    let parsed = adapter("codex").parse(&args("exec -m a --model=b -C /x hi"), false);
    assert_eq!((parsed.model.as_deref(), parsed.cwd.as_deref()), (Some("b"), Some(Path::new("/x"))));
}

#[test]
fn gemini_and_qwen_take_ids_in_front() {
    for name in ["gemini", "qwen"] {
        let line = "-o stream-json -p --resume_me";
        assert_eq!(assigned(name, line), "--session-id ID -o stream-json -p --resume me");
        assert_eq!(resumed(name, "-y -- hi"), "--resume ID -y -- hi");
        assert_eq!(resumed(name, "mcp list"), "mcp list");
        assert_eq!(session(name, line), SessionRequest::Unspecified);
        assert_eq!(session(name, "-p hi -r X"), SessionRequest::Resume("X".into()));
        assert_eq!(session(name, "-r=X hi"), SessionRequest::Resume("X".into()));
        assert_eq!(session(name, "--session-id U hi"), SessionRequest::Assign(Some("U".into())));
        assert_eq!(session(name, "mcp list"), SessionRequest::NoConversation);
        for (line, expected) in [
            ("-o json -p hi", OutputMode::Json),
            ("-o stream-json hi", OutputMode::StreamJson),
            ("-o stream-json -o text -p hi", OutputMode::Text),
            ("-o stream-json -i hi", OutputMode::Interactive),
            ("-o json mcp list", OutputMode::Interactive),
        ] {
            assert_eq!(mode(name, line), expected, "{name} {line}");
        }
    }
    assert_eq!(session("gemini", "--resume latest"), SessionRequest::Continue);
    assert_eq!(session("gemini", "--session-file f"), SessionRequest::ResumePicker);
    assert_eq!(session("qwen", "-c hi"), SessionRequest::Continue);
    assert_eq!(session("qwen", "-r"), SessionRequest::ResumePicker);
    assert_eq!(session("qwen", "--no-chat-recording -p hi"), SessionRequest::NotKept);
    assert_eq!(session("qwen", "-r X --fork-session hi"), SessionRequest::Fork(Some("X".into()), None));
    assert!(adapter("qwen").parse(&args("--input-format stream-json"), false).conversing);
    assert!(!adapter("qwen").parse(&args("-p hi"), false).conversing);
}

#[test]
fn opencode_resumes_behind_its_word() {
    assert_eq!(resumed("opencode", "run --format json hi"), "run --session ID --format json hi");
    assert_eq!(resumed("opencode", "--pure run -- --session x"), "--pure run --session ID -- --session x");
    for line in ["", "/srv/repo", "serve", "-- run hi"] {
        assert_eq!(resumed("opencode", line), line);
    }
    assert_eq!(session("opencode", "run -s X hi"), SessionRequest::Resume("X".into()));
    assert_eq!(session("opencode", "run -c hi"), SessionRequest::Continue);
    assert_eq!(session("opencode", "run -s X --fork hi"), SessionRequest::Fork(Some("X".into()), None));
    assert_eq!(session("opencode", "run hi"), SessionRequest::Unspecified);
    assert_eq!(session("opencode", "-- run hi"), SessionRequest::Assign(None));
    assert_eq!(session("opencode", "serve"), SessionRequest::NoConversation);
    assert_eq!(mode("opencode", "run --format json hi"), OutputMode::StreamJson);
    assert_eq!(mode("opencode", "run hi"), OutputMode::Text);
    assert!(!adapter("opencode").can_assign());
}

#[test]
fn copilot_joins_the_id_that_it_resumes() {
    let line = "--output-format json --allow-all -p hi";
    assert_eq!(resumed("copilot", line), format!("--resume=ID {line}"));
    assert_eq!(assigned("copilot", line), format!("--session-id ID {line}"));
    assert_eq!(session("copilot", "--resume=X -p hi"), SessionRequest::Resume("X".into()));
    assert_eq!(session("copilot", "-p hi --resume"), SessionRequest::ResumePicker);
    assert_eq!(session("copilot", "--connect -p hi"), SessionRequest::ResumePicker);
    assert_eq!(session("copilot", "--allow-tool write -p hi"), SessionRequest::Unspecified);
    assert_eq!(mode("copilot", "--allow-tool --output-format json -p hi"), OutputMode::StreamJson);
    assert_eq!(mode("copilot", "--output-format json"), OutputMode::Interactive);
}

#[test]
fn cursor_sessions_of_the_user_are_recognised() {
    use SessionRequest::{Continue, NoConversation, Resume, ResumePicker, Unspecified};
    for (line, asked) in [
        ("-p hi --output-format json", Unspecified),
        ("--resume abc -p hi", Resume("abc".into())),
        ("--resume=abc", Resume("abc".into())),
        ("--resume", ResumePicker),
        ("ls", ResumePicker),
        ("--continue", Continue),
        ("--resume=-1", Continue),
        ("resume -p hi", Continue),
        ("-p -- --resume x", Unspecified),
        ("--model --resume hi", Unspecified),
        ("agent --resume abc", Resume("abc".into())),
        ("login", NoConversation),
        ("status", NoConversation),
        ("-c hi", NoConversation),
        ("--version", NoConversation),
    ] {
        assert_eq!(session("cursor", line), asked, "{line}");
    }
    let parsed = adapter("cursor").parse(&args("-p --model gpt-5 --output-format=stream-json hi"), true);
    assert_eq!((parsed.mode, parsed.model.as_deref()), (OutputMode::StreamJson, Some("gpt-5")));
}

#[test]
fn cursor_resumes_a_chat_where_one_is_held() {
    assert_eq!(resumed("cursor", "-p hi"), "--resume ID -p hi");
    assert_eq!(resumed("cursor", "agent -p hi"), "agent --resume ID -p hi");
    assert_eq!(resumed("cursor", "login"), "login");
    assert_eq!(assigned("cursor", "-p"), "-p");
}

#[test]
fn an_id_that_looks_like_an_option_is_joined_or_left_out() {
    let odd = SessionPlan::Resume("-x".into());
    assert_eq!(planned("gemini", "-p hi", &odd), "--resume=-x -p hi");
    assert_eq!(planned("codex", "exec hi", &odd), "exec hi");
}

#[test]
fn a_person_resumes_with_the_interactive_form() {
    for (name, words) in [
        ("codex", "resume ID"),
        ("copilot", "--resume=ID"),
        ("cursor", "--resume ID"),
        ("gemini", "--resume ID"),
        ("opencode", "--session ID"),
        ("claude", "--resume ID"),
    ] {
        assert_eq!(joined(&adapter(name).resume_by_hand(&"ID".into())), words, "{name}");
    }
}

#[test]
fn exit_codes_mean_what_the_declaration_says() {
    assert_eq!(adapter("codex").exit_meaning(1), ExitMeaning::Error);
    assert_eq!(adapter("codex").exit_meaning(2), ExitMeaning::Unknown);
    assert_eq!(adapter("gemini").exit_meaning(144), ExitMeaning::Unknown);
    assert_eq!(adapter("claude").exit_meaning(1), ExitMeaning::Unknown);
    assert_eq!(adapter("claude").exit_meaning(0), ExitMeaning::Ok);
}

#[test]
fn the_option_that_prints_events_is_named() {
    for (name, option) in [
        ("codex", Some("--json")),
        ("copilot", Some("--output-format json")),
        ("cursor", Some("--output-format stream-json")),
        ("opencode", Some("--format json")),
        ("claude", Some("--output-format stream-json --verbose")),
        ("command", None),
    ] {
        assert_eq!(adapter(name).stream_option().as_deref(), option, "{name}");
    }
}

proptest! {
    /// bookend adds one session at most, and the user's words stay, in order but for options that `resume` of
    /// codex refuses behind it.
    #[test]
    fn the_words_of_the_user_stay(
        line in prop::collection::vec(
            "(--?[a-z]{0,12}(=x)?|[a-z ]{0,6}|exec|run|resume|agent|ls|-i|--)", 0..8
        ),
        name in prop::sample::select(vec!["codex", "copilot", "cursor", "gemini", "opencode", "qwen"]),
    ) {
        let own: Vec<OsString> = line.iter().map(OsString::from).collect();
        let argv = adapter(name).argv(&own, &SessionPlan::Resume("ID".into()));
        let added = |word: &&OsString| *word == "ID" || *word == "--resume=ID";
        prop_assert!(argv.iter().filter(added).count() <= 1);
        let mut left = argv.clone();
        if let Some(at) = argv.iter().position(|word| added(&word)) {
            left.remove(at);
            if argv[at] == "ID" {
                left.remove(at - 1);
            }
            let end = argv.iter().position(|word| word == "--").unwrap_or(argv.len());
            prop_assert!(at < end || own[..own.len().min(at)].iter().any(|w| w == "--"), "{argv:?}");
        }
        let (mut left, mut own) = (left, own);
        if name == "codex" {
            left.sort();
            own.sort();
        }
        prop_assert_eq!(left, own);
    }
}
