//! The adapter for Claude Code, checked against version 2.1.330.

mod folders;
mod reader;
mod transcript;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::adapter::{Adapter, AgentArgs, AgentNames, OutputMode, OutputReader, SessionPlan, SessionRequest};
use super::argv::{OptionTable, ParsedArg, ParsedArgs, injected};
use super::home::skills_above;
use super::transcript::TranscriptReader;
use crate::task::{SessionId, Time, TokensScope};
use folders::{backgrounded_in, config_dir, most_recent_in, plugin_folders, transcript_in};
use reader::ClaudeReader;

/// The options of `claude` that take a value, hidden ones included.
static OPTIONS: OptionTable = OptionTable {
    one: Cow::Borrowed(
        "
        --ablation --advisor --agent --agent-color --agent-id --agent-name --agent-type --agents
        --append-subagent-system-prompt --append-subagent-system-prompt-file --append-system-prompt
        --append-system-prompt-file --autocompact --client-data-url --correlation-id --debug-file
        --deep-link-cwd-b64 --deep-link-last-fetch --deep-link-repo --effort --environment
        --fallback-model --fast-mode --forward-home-settings --inherit-permission-mode
        --initialize-fields --input-format --json-schema --lead-verify-key --managed-settings
        --max-budget-usd --max-thinking-tokens --max-turns --messaging-socket-path --model --name
        --output-format --parent-session-id --permission-mode --permission-prompt-tool
        --permission-prompts --plan-mode-instructions --plugin-dir --plugin-dir-no-mcp --plugin-url
        --prefill --prefill-b64 --proactivity --profile --project-config-root
        --remote-control-session-name-prefix --resume-drops-turn --resume-session-at --rewind-files
        --runner-declares --sdk-url --session-began-as-copy --session-id --setting-sources
        --settings --system-prompt --system-prompt-file --system-prompt-snapshot --task-budget
        --team-name --teammate-mode --thinking --thinking-display --watch-artifact
        --watch-artifact-no-autoreact --workload",
    ),
    maybe: Cow::Borrowed(
        "
        --cloud --debug --from-pr --prompt-suggestions --remote-control --resume --teleport
        --worktree",
    ),
    many: Cow::Borrowed(
        "
        --add-dir --allowed-tools --betas --channels --dangerously-load-development-channels
        --disallowed-tools --file --mcp-config --tools",
    ),
    many_needs_one: true,
    alias: &[
        ("-c", "--continue"),
        ("-d", "--debug"),
        ("-h", "--help"),
        ("-n", "--name"),
        ("-p", "--print"),
        ("-r", "--resume"),
        ("-v", "--version"),
        ("-V", "--version"),
        ("-w", "--worktree"),
        ("--allowedTools", "--allowed-tools"),
        ("--background", "--bg"),
        ("--disallowedTools", "--disallowed-tools"),
        ("--rc", "--remote-control"),
        ("--remote", "--cloud"),
    ],
};

/// Subcommands that hold no conversation. In print mode they are a prompt.
const COMMANDS: &str = "
    agents attach auth auto-mode config daemon design-login doctor gateway help import
    import-conversations install kill logs mcp migrate-installer plugin plugins project ps purge
    remote-control respawn rm sandbox self-hosted-runner setup-token stop ultrareview uninstall
    update upgrade workspace-trust worktree-hook xaa
";

/// The options that a person keeps who resumes a conversation. The others are for print mode, name a session
/// or change where the agent works.
const KEPT_BY_HAND: &str = "
    --add-dir --agent --agents --allow-dangerously-skip-permissions --allowed-tools --append-system-prompt
    --append-system-prompt-file --betas --channels --dangerously-skip-permissions --disallowed-tools --effort
    --mcp-config --model --permission-mode --plugin-dir --plugin-url --setting-sources --settings
    --strict-mcp-config --system-prompt --system-prompt-file --tools
";

/// Options with which the process holds no conversation.
const ELSEWHERE: [&str; 5] = ["--cloud", "--desktop", "--help", "--init-only", "--version"];

#[derive(Debug)]
pub struct ClaudeAdapter;

impl ClaudeAdapter {
    pub const NAMES: AgentNames = AgentNames {
        programs: Cow::Borrowed("claude claude.exe"),
        common: Cow::Borrowed("claude-code cli.js cli-wrapper.cjs"),
        packages: Cow::Borrowed("@anthropic-ai/claude-code"),
        by_version: true,
    };
}

static NAMES: AgentNames = ClaudeAdapter::NAMES;

impl Adapter for ClaudeAdapter {
    fn names(&self) -> &AgentNames {
        &NAMES
    }

    fn agent_type(&self) -> &'static str {
        "claude"
    }

    fn checked(&self) -> Option<&'static str> {
        Some("2.1.330")
    }

    fn provider(&self) -> Option<&'static str> {
        Some("anthropic")
    }

    fn tracks_sessions(&self) -> bool {
        true
    }

    fn can_assign(&self) -> bool {
        true
    }

    fn notices_closed_stdout(&self) -> bool {
        false
    }

    fn tokens_scope(&self) -> Option<TokensScope> {
        Some(TokensScope::Main)
    }

    fn parse(&self, args: &[OsString], terminal: bool) -> AgentArgs {
        let words = OPTIONS.read(args);
        let session = session(&words);
        let print = prints(&words) || !terminal;
        let mode = match words.text("--output-format").as_deref() {
            _ if !print || holds_none(&session) => OutputMode::Interactive,
            Some("json") => OutputMode::Json,
            Some("stream-json") => OutputMode::StreamJson,
            _ => OutputMode::Text,
        };
        AgentArgs {
            mode,
            session,
            model: words.text("--model"),
            cwd: None,
            extra_dirs: words.all("--add-dir").flatten().map(PathBuf::from).collect(),
            conversing: words.text("--input-format").as_deref() == Some("stream-json"),
        }
    }

    /// The session option comes first: there it cannot follow `--`, and no option can take it as a value.
    fn argv(&self, args: &[OsString], plan: &SessionPlan) -> Vec<OsString> {
        if holds_none(&session(&OPTIONS.read(args))) {
            return args.to_vec();
        }
        match plan {
            SessionPlan::AsGiven => args.to_vec(),
            SessionPlan::Assign(id) => injected(args, 0, "--session-id", id.as_str()),
            SessionPlan::Resume(id) => injected(args, 0, "--resume", id.as_str()),
        }
    }

    fn id_options(&self) -> Vec<&str> {
        vec!["--session-id"]
    }

    fn kept_by_hand(&self, args: &[OsString]) -> Vec<OsString> {
        let options = OPTIONS.read(args).words.into_iter().filter_map(|word| match word {
            ParsedArg::Option { name, value, .. } => Some((name, value)),
            ParsedArg::Operand { .. } => None,
        });
        let kept = options.filter(|(name, _)| KEPT_BY_HAND.split_whitespace().any(|kept| kept == name));
        kept.flat_map(|(name, value)| match value {
            Some(value) if value.as_encoded_bytes().starts_with(b"-") => {
                vec![[OsStr::new(&name), OsStr::new("="), &value].join(OsStr::new(""))]
            }
            value => std::iter::once(OsString::from(name)).chain(value).collect(),
        })
        .collect()
    }

    fn json_option(&self) -> Option<String> {
        Some("--output-format json".to_owned())
    }

    fn stream_option(&self) -> Option<String> {
        Some("--output-format stream-json --verbose".to_owned())
    }

    fn reader(&self, mode: OutputMode) -> Box<dyn OutputReader> {
        Box::new(ClaudeReader::new(mode))
    }

    fn transcript(&self, cwd: &Path, id: &SessionId) -> Option<PathBuf> {
        transcript_in(&config_dir()?.join("projects"), cwd, id)
    }

    fn transcript_reader(&self) -> Option<TranscriptReader> {
        Some(transcript::read_line)
    }

    fn most_recent(&self, cwd: &Path) -> Option<SessionId> {
        most_recent_in(&config_dir()?.join("projects"), cwd)
    }

    fn backgrounded(&self, cwd: &Path, since: Time) -> Option<SessionId> {
        backgrounded_in(&config_dir()?.join("jobs"), cwd, since)
    }

    fn skill_folders(&self, cwd: &Path, args: &AgentArgs) -> Vec<PathBuf> {
        let mut folders = skills_above(cwd, &[".claude/skills"]);
        let extra = args.extra_dirs.iter();
        if let Some(config) = config_dir() {
            folders.push(config.join("skills"));
            folders.extend(plugin_folders(&config));
        }
        folders.extend(extra.map(|d| cwd.join(d).join(".claude/skills")));
        folders
    }
}

/// Whether the process itself holds no conversation.
fn holds_none(session: &SessionRequest) -> bool {
    matches!(session, SessionRequest::NoConversation | SessionRequest::Background(_))
}

fn prints(words: &ParsedArgs) -> bool {
    ["--print", "--init-only", "--sdk-url"].iter().any(|o| words.has(o))
}

fn session(words: &ParsedArgs) -> SessionRequest {
    match words.has("--bg") && !words.has("--help") && !words.has("--version") {
        true => SessionRequest::Background(Box::new(conversation(words))),
        false => conversation(words),
    }
}

fn conversation(words: &ParsedArgs) -> SessionRequest {
    let command = words.first_operand().and_then(OsStr::to_str);
    if command.is_some_and(is_command) && !prints(words) {
        return SessionRequest::NoConversation;
    }
    let fork = words.has("--fork-session");
    let id = words.text("--session-id").map(SessionId::recorded);
    if words.has("--resume") {
        return match (words.text("--resume").map(SessionId::recorded), fork) {
            (from, true) => SessionRequest::Fork(from, id),
            (Some(from), false) => SessionRequest::Resume(from),
            (None, false) => SessionRequest::ResumePicker,
        };
    }
    if words.has("--continue") {
        return if fork { SessionRequest::Fork(None, id) } else { SessionRequest::Continue };
    }
    if ELSEWHERE.iter().any(|o| words.has(o)) {
        return SessionRequest::NoConversation;
    }
    if words.has("--from-pr") || words.has("--teleport") {
        return SessionRequest::ResumePicker;
    }
    if words.has("--no-session-persistence") {
        return SessionRequest::NotKept;
    }
    if words.has("--session-id") { SessionRequest::Assign(id) } else { SessionRequest::Unspecified }
}

fn is_command(word: &str) -> bool {
    COMMANDS.split_whitespace().any(|c| c == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn parsed(line: &str) -> AgentArgs {
        ClaudeAdapter.parse(&args(line), false)
    }

    fn resumed(line: &str) -> String {
        let argv = ClaudeAdapter.argv(&args(line), &SessionPlan::Resume("ID".into()));
        argv.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_output_mode_is_the_one_that_claude_uses() {
        for (line, mode) in [
            ("-p hi", OutputMode::Text),
            ("-p hi --output-format json", OutputMode::Json),
            ("-p hi --output-format=stream-json --verbose", OutputMode::StreamJson),
            ("--output-format json --output-format text -p hi", OutputMode::Text),
            ("-p -- hi --output-format json", OutputMode::Text),
            ("--append-system-prompt --output-format json -p", OutputMode::Text),
            ("hi --output-format json", OutputMode::Json),
            ("mcp list --output-format json", OutputMode::Interactive),
        ] {
            assert_eq!(parsed(line).mode, mode, "{line}");
        }
    }

    #[test]
    fn on_a_terminal_output_is_json_only_in_print_mode() {
        let on_terminal = |line: &str| ClaudeAdapter.parse(&args(line), true).mode;
        assert_eq!(on_terminal("hi --output-format json"), OutputMode::Interactive);
        assert_eq!(on_terminal("-p hi --output-format json"), OutputMode::Json);
        assert_eq!(on_terminal("-pc hi"), OutputMode::Text);
        assert_eq!(on_terminal("hi -- -p"), OutputMode::Interactive);
    }

    #[test]
    fn the_session_that_the_arguments_select_is_recognised() {
        use SessionRequest::{Assign, Continue, Fork, NotKept, Resume, ResumePicker, Unspecified};
        let some = |s: &str| Some(s.into());
        for (line, session) in [
            ("-p hi", Unspecified),
            ("", Unspecified),
            ("-p --resume abc hi", Resume("abc".into())),
            ("-p --resume=abc hi", Resume("abc".into())),
            ("-rabc -p hi", Resume("abc".into())),
            ("-pr abc hi", Resume("abc".into())),
            ("-r", ResumePicker),
            ("--resume --model opus", ResumePicker),
            ("--from-pr 12", ResumePicker),
            ("-c -p hi", Continue),
            ("-pc hi", Continue),
            ("--session-id abc -p hi", Assign(some("abc"))),
            ("--session-id= -p hi", Assign(None)),
            ("--resume a --fork-session", Fork(some("a"), None)),
            ("--resume a --fork-session --session-id b", Fork(some("a"), some("b"))),
            ("-c --fork-session", Fork(None, None)),
            ("--resume a --session-id b", Resume("a".into())),
            ("--fork-session -p hi", Unspecified),
            ("-p hi --no-session-persistence --session-id b", NotKept),
            ("-p hi --no-session-persistence --resume a", Resume("a".into())),
            ("-p -- hi --resume abc", Unspecified),
            ("-p --append-system-prompt --resume hi", Unspecified),
            ("-p --allowedTools Bash mcp -- hi", Unspecified),
            ("-p --model -c", Unspecified),
            ("-p mcp", Unspecified),
        ] {
            assert_eq!(parsed(line).session, session, "{line}");
        }
    }

    #[test]
    fn nothing_is_added_where_no_conversation_is_held() {
        for line in [
            "--version",
            "-v",
            "-h",
            "mcp list",
            "update",
            "--verbose doctor",
            "--model opus plugin install x",
            "--cloud",
        ] {
            assert_eq!(parsed(line).session, SessionRequest::NoConversation, "{line}");
            assert_eq!(resumed(line), line);
        }
        assert_eq!(parsed("--version").mode, OutputMode::Interactive);
    }

    #[test]
    fn model_folders_and_streamed_input_are_read() {
        let a = parsed("-p --add-dir a b --model=opus --add-dir=c --input-format stream-json x");
        assert_eq!(a.model.as_deref(), Some("opus"));
        assert_eq!(a.extra_dirs, [Path::new("a"), Path::new("b"), Path::new("c")]);
        assert!(a.conversing && !parsed("-p hi").conversing);
    }

    #[test]
    fn a_person_keeps_what_the_agent_may_do() {
        let kept = |line: &str| {
            ClaudeAdapter.kept_by_hand(&args(line)).join(OsStr::new(" ")).into_string().expect("UTF-8")
        };
        for (line, by_hand) in [
            ("-p --output-format stream-json --verbose --max-turns 3 --model opus fix", "--model opus"),
            ("-p --add-dir a b --allowedTools Bash -- fix", "--add-dir a --add-dir b --allowed-tools Bash"),
            ("-p fix --dangerously-skip-permissions -c", "--dangerously-skip-permissions"),
            ("--resume a --fork-session --session-id b -w x", ""),
            ("--append-system-prompt=-x --model=opus", "--append-system-prompt=-x --model opus"),
        ] {
            assert_eq!(kept(line), by_hand, "{line}");
        }
    }

    #[test]
    fn session_options_come_before_all_others() {
        assert_eq!(resumed("-p hi"), "--resume ID -p hi");
        assert_eq!(resumed("-p --add-dir a b -- hi"), "--resume ID -p --add-dir a b -- hi");
        assert_eq!(resumed("--debug"), "--resume ID --debug");
        assert_eq!(resumed(""), "--resume ID");
        let odd = ClaudeAdapter.argv(&args("-p"), &SessionPlan::Resume("-x".into()));
        assert_eq!(odd, args("--resume=-x -p"));
        assert_eq!(ClaudeAdapter.argv(&args("-p x"), &SessionPlan::AsGiven), args("-p x"));
    }

    proptest! {
        #[test]
        fn the_users_words_stay_in_order(
            line in prop::collection::vec("(--?[a-z]{0,12}(=x)?|[a-z ]{0,6}|mcp)", 0..8),
            plan in prop_oneof![
                Just(SessionPlan::AsGiven),
                Just(SessionPlan::Resume("a".into())),
                Just(SessionPlan::Assign("b".into()))
            ],
        ) {
            let args: Vec<OsString> = line.iter().map(OsString::from).collect();
            let mut argv = ClaudeAdapter.argv(&args, &plan);
            if argv.len() > args.len() {
                argv.drain(..2);
            }
            prop_assert_eq!(argv, args);
        }
    }
}
