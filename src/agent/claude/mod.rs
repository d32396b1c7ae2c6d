//! The adapter for Claude Code, checked against 2.1.330.

mod folders;
mod reader;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::adapter::{Adapter, AgentNames, Asked, AskedSession, Mode, Plan, Reader};
use super::argv::{OptionTable, Words, injected};
use super::home::skills_above;
use crate::task::{SessionId, Time, TokensScope};
use folders::{backgrounded_in, config_dir, most_recent_in, plugin_folders, transcript_in};
use reader::ClaudeReader;

/// The options of `claude`, hidden ones too, that take a value.
static OPTIONS: OptionTable = OptionTable {
    one: "
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
    maybe: "
        --cloud --debug --from-pr --prompt-suggestions --remote-control --resume --teleport
        --worktree",
    many: "
        --add-dir --allowed-tools --betas --channels --dangerously-load-development-channels
        --disallowed-tools --file --mcp-config --tools",
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

/// First words that are commands and hold no conversation, unless in print mode, where they are a prompt.
const COMMANDS: &str = "
    agents attach auth auto-mode config daemon design-login doctor gateway help import
    import-conversations install kill logs mcp migrate-installer plugin plugins project ps purge
    remote-control respawn rm sandbox self-hosted-runner setup-token stop ultrareview uninstall
    update upgrade workspace-trust worktree-hook xaa
";

/// OptionTable with which no conversation is held by this process.
const ELSEWHERE: [&str; 5] = ["--cloud", "--desktop", "--help", "--init-only", "--version"];

static NAMES: AgentNames = AgentNames {
    programs: "claude claude.exe",
    common: "claude-code cli.js cli-wrapper.cjs",
    packages: "@anthropic-ai/claude-code",
    by_version: true,
};

#[derive(Debug)]
pub struct Claude;

impl Adapter for Claude {
    fn names(&self) -> &'static AgentNames {
        &NAMES
    }

    fn agent_type(&self) -> &'static str {
        "claude"
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

    fn asked(&self, args: &[OsString], terminal: bool) -> Asked {
        let words = Words(OPTIONS.read(args));
        let session = session(&words);
        let print = prints(&words) || !terminal;
        let mode = match words.text("--output-format").as_deref() {
            _ if !print || holds_none(&session) => Mode::Interactive,
            Some("json") => Mode::Json,
            Some("stream-json") => Mode::StreamJson,
            _ => Mode::Text,
        };
        Asked {
            mode,
            session,
            model: words.text("--model"),
            extra_dirs: words.all("--add-dir").flatten().map(PathBuf::from).collect(),
            conversing: words.text("--input-format").as_deref() == Some("stream-json"),
        }
    }

    /// The flags go before all else: after an option that takes many values, or one that may take one,
    /// they would be safe too, but not behind `--`, and the front needs no knowledge of either.
    fn argv(&self, args: &[OsString], plan: &Plan) -> Vec<OsString> {
        if holds_none(&session(&Words(OPTIONS.read(args)))) {
            return args.to_vec();
        }
        match plan {
            Plan::AsGiven => args.to_vec(),
            Plan::Assign(id) => injected(args, 0, "--session-id", id.as_str()),
            Plan::Resume(id) => injected(args, 0, "--resume", id.as_str()),
        }
    }

    fn id_option(&self) -> Option<&'static str> {
        Some("--session-id")
    }

    fn reader(&self, mode: Mode) -> Box<dyn Reader> {
        Box::new(ClaudeReader::new(mode))
    }

    fn transcript(&self, cwd: &Path, id: &SessionId) -> Option<PathBuf> {
        transcript_in(&config_dir()?.join("projects"), cwd, id)
    }

    fn most_recent(&self, cwd: &Path) -> Option<SessionId> {
        most_recent_in(&config_dir()?.join("projects"), cwd)
    }

    fn backgrounded(&self, cwd: &Path, since: Time) -> Option<SessionId> {
        backgrounded_in(&config_dir()?.join("jobs"), cwd, since)
    }

    fn skill_folders(&self, cwd: &Path, asked: &Asked) -> Vec<PathBuf> {
        let mut folders = skills_above(cwd, &[".claude/skills"]);
        let beside = asked.extra_dirs.iter();
        if let Some(config) = config_dir() {
            folders.push(config.join("skills"));
            folders.extend(plugin_folders(&config));
        }
        folders.extend(beside.map(|d| cwd.join(d).join(".claude/skills")));
        folders
    }
}

/// Whether this process holds no conversation itself.
fn holds_none(session: &AskedSession) -> bool {
    matches!(session, AskedSession::NoConversation | AskedSession::Background(_))
}

fn prints(words: &Words) -> bool {
    ["--print", "--init-only", "--sdk-url"].iter().any(|o| words.has(o))
}

fn session(words: &Words) -> AskedSession {
    match words.has("--bg") && !words.has("--help") && !words.has("--version") {
        true => AskedSession::Background(Box::new(conversation(words))),
        false => conversation(words),
    }
}

fn conversation(words: &Words) -> AskedSession {
    let command = words.first_operand().and_then(OsStr::to_str);
    if command.is_some_and(is_command) && !prints(words) {
        return AskedSession::NoConversation;
    }
    let fork = words.has("--fork-session");
    let id = words.text("--session-id").map(SessionId::recorded);
    if words.has("--resume") {
        return match (words.text("--resume").map(SessionId::recorded), fork) {
            (from, true) => AskedSession::Fork(from, id),
            (Some(from), false) => AskedSession::Resume(from),
            (None, false) => AskedSession::ResumePicker,
        };
    }
    if words.has("--continue") {
        return if fork { AskedSession::Fork(None, id) } else { AskedSession::Continue };
    }
    if ELSEWHERE.iter().any(|o| words.has(o)) {
        return AskedSession::NoConversation;
    }
    if words.has("--from-pr") || words.has("--teleport") {
        return AskedSession::ResumePicker;
    }
    if words.has("--no-session-persistence") {
        return AskedSession::NotKept;
    }
    // An empty id names none, and would undo one that is put in.
    if words.has("--session-id") {
        AskedSession::Assign(id.unwrap_or_else(|| SessionId::recorded("")))
    } else {
        AskedSession::Unsaid
    }
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

    fn asked(line: &str) -> Asked {
        Claude.asked(&args(line), false)
    }

    fn resumed(line: &str) -> String {
        let argv = Claude.argv(&args(line), &Plan::Resume("ID".into()));
        argv.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_mode_is_the_one_claude_will_use() {
        for (line, mode) in [
            ("-p hi", Mode::Text),
            ("-p hi --output-format json", Mode::Json),
            ("-p hi --output-format=stream-json --verbose", Mode::StreamJson),
            ("--output-format json --output-format text -p hi", Mode::Text),
            ("-p -- hi --output-format json", Mode::Text),
            ("--append-system-prompt --output-format json -p", Mode::Text),
            ("hi --output-format json", Mode::Json),
            ("mcp list --output-format json", Mode::Interactive),
        ] {
            assert_eq!(asked(line).mode, mode, "{line}");
        }
    }

    #[test]
    fn on_a_terminal_only_print_mode_prints() {
        let on_terminal = |line: &str| Claude.asked(&args(line), true).mode;
        assert_eq!(on_terminal("hi --output-format json"), Mode::Interactive);
        assert_eq!(on_terminal("-p hi --output-format json"), Mode::Json);
        assert_eq!(on_terminal("-pc hi"), Mode::Text);
        assert_eq!(on_terminal("hi -- -p"), Mode::Interactive);
    }

    #[test]
    fn what_the_argv_says_of_sessions_is_seen() {
        use AskedSession::{Assign, Continue, Fork, NotKept, Resume, ResumePicker, Unsaid};
        let some = |s: &str| Some(s.into());
        for (line, session) in [
            ("-p hi", Unsaid),
            ("", Unsaid),
            ("-p --resume abc hi", Resume("abc".into())),
            ("-p --resume=abc hi", Resume("abc".into())),
            ("-rabc -p hi", Resume("abc".into())),
            ("-pr abc hi", Resume("abc".into())),
            ("-r", ResumePicker),
            ("--resume --model opus", ResumePicker),
            ("--from-pr 12", ResumePicker),
            ("-c -p hi", Continue),
            ("-pc hi", Continue),
            ("--session-id abc -p hi", Assign("abc".into())),
            ("--session-id= -p hi", Assign("".into())),
            ("--resume a --fork-session", Fork(some("a"), None)),
            ("--resume a --fork-session --session-id b", Fork(some("a"), some("b"))),
            ("-c --fork-session", Fork(None, None)),
            ("--resume a --session-id b", Resume("a".into())),
            ("--fork-session -p hi", Unsaid),
            ("-p hi --no-session-persistence --session-id b", NotKept),
            ("-p hi --no-session-persistence --resume a", Resume("a".into())),
            ("-p -- hi --resume abc", Unsaid),
            ("-p --append-system-prompt --resume hi", Unsaid),
            ("-p --allowedTools Bash mcp -- hi", Unsaid),
            ("-p --model -c", Unsaid),
            ("-p mcp", Unsaid),
        ] {
            assert_eq!(asked(line).session, session, "{line}");
        }
    }

    #[test]
    fn where_no_conversation_is_held_nothing_is_put_in() {
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
            assert_eq!(asked(line).session, AskedSession::NoConversation, "{line}");
            assert_eq!(resumed(line), line);
        }
        assert_eq!(asked("--version").mode, Mode::Interactive);
    }

    #[test]
    fn model_folders_and_streamed_input_are_read() {
        let a = asked("-p --add-dir a b --model=opus --add-dir=c --input-format stream-json x");
        assert_eq!(a.model.as_deref(), Some("opus"));
        assert_eq!(a.extra_dirs, [Path::new("a"), Path::new("b"), Path::new("c")]);
        assert!(a.conversing && !asked("-p hi").conversing);
    }

    #[test]
    fn flags_are_put_where_no_option_swallows_them() {
        assert_eq!(resumed("-p hi"), "--resume ID -p hi");
        assert_eq!(resumed("-p --add-dir a b -- hi"), "--resume ID -p --add-dir a b -- hi");
        assert_eq!(resumed("--debug"), "--resume ID --debug");
        assert_eq!(resumed(""), "--resume ID");
        let odd = Claude.argv(&args("-p"), &Plan::Resume("-x".into()));
        assert_eq!(odd, args("--resume=-x -p"));
        assert_eq!(Claude.argv(&args("-p x"), &Plan::AsGiven), args("-p x"));
    }

    proptest! {
        #[test]
        fn the_users_words_survive_in_order(
            line in prop::collection::vec("(--?[a-z]{0,12}(=x)?|[a-z ]{0,6}|mcp)", 0..8),
            plan in prop_oneof![
                Just(Plan::AsGiven), Just(Plan::Resume("a".into())), Just(Plan::Assign("b".into()))
            ],
        ) {
            let args: Vec<OsString> = line.iter().map(OsString::from).collect();
            let mut argv = Claude.argv(&args, &plan);
            if argv.len() > args.len() {
                argv.drain(..2);
            }
            prop_assert_eq!(argv, args);
        }
    }
}
