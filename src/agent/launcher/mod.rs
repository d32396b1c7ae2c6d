//! Recognises the agent that a command line starts, directly or through launchers, and where its own
//! arguments begin.

mod table;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::adapter::{Adapter, AgentNames};
use super::declared::DeclarationError;
use super::registry::{self, AgentTypeError};
use table::{LAUNCHERS, LaunchReach, Launcher, has};

/// The most launchers that are followed on one command line.
const DEPTH: usize = 8;
/// The most symbolic links that are followed from a program.
const LINKS: usize = 8;

/// The agent that a command line starts.
pub struct RecognisedAgent {
    pub adapter: &'static dyn Adapter,
    /// The index in the argv (program first) of the agent's first own argument.
    pub args_start: usize,
    pub place: SessionPlace,
}

/// Where the agent stores its conversations, and whether bookend tracks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPlace {
    /// On this machine, for this user.
    Here,
    /// This launcher starts the agent as another user or on another machine.
    Elsewhere(String),
    /// bookend does not track them and adds no arguments.
    Untracked(UntrackedReason),
}

/// Why a conversation is not tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UntrackedReason {
    /// This program has no adapter.
    NoAdapter(String),
    /// This launcher may start several programs, or its arguments do not show which.
    Hidden(String),
    /// This launcher has an option that bookend does not know, so it cannot distinguish options from values.
    Unclear(String),
    /// This launcher starts the agent as another user or on another machine.
    Elsewhere(String),
    /// This program is not known, and one of its arguments names an agent.
    Ambiguous(String),
}

impl fmt::Display for UntrackedReason {
    /// The text of the column `session_untracked`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UntrackedReason::NoAdapter(by)
            | UntrackedReason::Hidden(by)
            | UntrackedReason::Unclear(by)
            | UntrackedReason::Elsewhere(by) => f.write_str(by),
            UntrackedReason::Ambiguous(by) => write!(f, "ambiguous: {by}"),
        }
    }
}

/// Where following the launchers of a command line ended; `at` is an index of the argv.
enum Walk {
    Agent {
        adapter: &'static dyn Adapter,
        at: usize,
    },
    /// An unknown program.
    Program {
        at: usize,
    },
    /// A launcher whose arguments do not show what it starts.
    Hidden {
        at: usize,
    },
    /// A launcher with arguments that bookend does not know.
    Unclear {
        at: usize,
    },
}

/// Recognises the agent of a command line (program first).
///
/// # Errors
/// No agent has this `agent_type`, or the user's own declaration of the agent is refused.
pub fn recognise(argv: &[OsString], agent_type: Option<&str>) -> Result<RecognisedAgent, AgentTypeError> {
    let named = match agent_type {
        None => None,
        Some(name) => Some(registry::by_type(name)?.ok_or_else(|| AgentTypeError::Unknown {
            program: argv.first().map(PathBuf::from).unwrap_or_default(),
            named: name.to_owned(),
        })?),
    };
    let mut away = None;
    let walk = walk(argv, named, &mut away)?;
    let untracked = |why, args_start| RecognisedAgent {
        adapter: named.unwrap_or_else(registry::no_adapter),
        args_start,
        place: SessionPlace::Untracked(why),
    };
    Ok(match (walk, away) {
        // Without `--agent-type`, an agent of another user or machine is not tracked.
        (Walk::Agent { at, .. }, Some((by, _))) if named.is_none() => {
            untracked(UntrackedReason::Elsewhere(by), at)
        }
        (Walk::Agent { at, .. }, Some((by, true))) if !argv[at..].iter().all(|w| is_plain(w)) => {
            untracked(UntrackedReason::Elsewhere(by), argv.len())
        }
        (Walk::Agent { adapter, at }, away) => RecognisedAgent {
            adapter,
            args_start: at + 1,
            place: away.map_or(SessionPlace::Here, |(by, _)| SessionPlace::Elsewhere(by)),
        },
        (Walk::Hidden { at }, _) => untracked(UntrackedReason::Hidden(base(&argv[at])), argv.len()),
        (_, Some((by, _))) => untracked(UntrackedReason::Elsewhere(by), argv.len()),
        (Walk::Unclear { at }, None) => untracked(
            UntrackedReason::Unclear(base(&argv[at])),
            after_agent(argv, at + 1, named).unwrap_or(argv.len()),
        ),
        (Walk::Program { at }, None) => match (named, after_agent(argv, at + 1, named)) {
            (None, _) => untracked(UntrackedReason::NoAdapter(base_at(argv, at)), argv.len()),
            (Some(adapter), _) if adapter.agent_type() == registry::no_adapter().agent_type() => {
                untracked(UntrackedReason::NoAdapter(base_at(argv, at)), argv.len())
            }
            (Some(_), Some(args_start)) => {
                untracked(UntrackedReason::Ambiguous(base_at(argv, at)), args_start)
            }
            (Some(adapter), None) => {
                RecognisedAgent { adapter, args_start: (at + 1).min(argv.len()), place: SessionPlace::Here }
            }
        },
    })
}

/// Follows the launchers of a command line. Sets `away` to the first launcher that changes the user or the
/// machine, and whether a shell there parses the words again.
fn walk(
    argv: &[OsString],
    named: Option<&'static dyn Adapter>,
    away: &mut Option<(String, bool)>,
) -> Result<Walk, DeclarationError> {
    let mut at = 0;
    for _ in 0..DEPTH {
        let Some(word) = argv.get(at) else { break };
        if let Some(adapter) = known(word, named)? {
            return Ok(Walk::Agent { adapter, at });
        }
        let args = &argv[at + 1..];
        let name = Path::new(word).file_name().unwrap_or(word);
        let rows: Vec<&Launcher> =
            LAUNCHERS.iter().filter(|l| has(l.names, &name.to_string_lossy())).collect();
        let Some(launcher) = rows.iter().find(|l| l.calls(name, args)).or(rows.first()) else {
            let own = if named.is_none() { declared(name, word)? } else { None };
            return Ok(match own.map_or_else(|| linked(argv, at, named), |own| Ok(Some(own)))? {
                Some(adapter) => Walk::Agent { adapter, at },
                None => Walk::Program { at },
            });
        };
        match launcher.reach {
            LaunchReach::Here => {}
            LaunchReach::Hidden => return Ok(Walk::Hidden { at }),
            reach => {
                let (_, by_shell) = away.get_or_insert_with(|| (base(word), false));
                *by_shell |= reach == LaunchReach::ElsewhereByShell;
            }
        }
        match launcher.program(args) {
            Some(place) => at += 1 + place,
            None => return Ok(Walk::Unclear { at }),
        }
    }
    Ok(Walk::Unclear { at: 0 })
}

/// The agent in the program, or the user's own in its place, that a word names. `named`: the agent of
/// `--agent-type`, besides which there is no other.
fn known(
    word: &OsStr,
    named: Option<&'static dyn Adapter>,
) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    match named {
        Some(named) => Ok(Some(named).filter(|named| named.names().is_name(word, true))),
        None => registry::built_in_name(word).map_or(Ok(None), |name| registry::named_by(name, word)),
    }
}

/// The agent of a declaration of the user's own that is named like the program `name`, which is `word`
/// without its folder. Of an npm package, the name is without its version.
fn declared(name: &OsStr, word: &OsStr) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    let Some(name) = name.to_str() else { return Ok(None) };
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    registry::named_by(name, word)
}

/// The agent to which the program at `at` leads by symbolic links.
fn linked(
    argv: &[OsString],
    at: usize,
    named: Option<&'static dyn Adapter>,
) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    let word = Path::new(&argv[at]);
    // A launcher may look up a relative name in another directory or PATH.
    if at > 0 && !word.is_absolute() {
        return Ok(None);
    }
    let is_path = word.components().count() > 1 || word.is_absolute();
    let mut next = if is_path { Some(word.to_path_buf()) } else { in_path(word) };
    for _ in 0..LINKS {
        let Some(link) = next else { break };
        let Ok(target) = std::fs::read_link(&link) else { break };
        let file = link.parent().unwrap_or(Path::new("")).join(target);
        if let Some(adapter) = known(file.as_os_str(), named)? {
            return Ok(Some(adapter));
        }
        next = Some(file);
    }
    Ok(None)
}

/// The symbolic link that PATH finds under this name; `None`: it finds a regular program or nothing.
fn in_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    for dir in std::env::split_paths(&path) {
        let file = dir.join(name);
        match std::fs::read_link(&file) {
            Ok(_) => return Some(file),
            Err(e) if e.kind() == ErrorKind::InvalidInput => return None,
            Err(_) => {}
        }
    }
    None
}

impl AgentNames {
    /// Whether a word of a command line names this agent. `typed`: `--agent-type` is given.
    pub(super) fn is_name(&self, word: &OsStr, typed: bool) -> bool {
        let path = Path::new(word);
        let Some(base) = path.file_name().and_then(OsStr::to_str) else { return false };
        let of_package = |package: &str| {
            let version = word.to_str().and_then(|w| w.strip_prefix(package));
            let is_program = || has(&self.programs, base) || has(&self.common, base);
            version.is_some_and(|v| v.is_empty() || v.starts_with('@'))
                || (is_program() && holds(path, package))
        };
        has(&self.programs, base)
            || (typed && has(&self.common, base))
            || self.packages.split_whitespace().any(of_package)
            || (self.by_version && is_version(base) && in_versions(path))
    }
}

/// Whether `path` is a file below the folder of `package`.
fn holds(path: &Path, package: &str) -> bool {
    path.ancestors().skip(1).any(|dir| dir.ends_with(package))
}

fn in_versions(path: &Path) -> bool {
    path.parent().and_then(Path::file_name) == Some(OsStr::new("versions"))
}

fn is_version(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    name.split('.').count() == 3 && name.split('.').all(is_number)
}

/// The agent in the program that a word names. A directory, a text with white space and a URL name none.
fn names_agent(word: &OsStr) -> Option<&'static str> {
    let name = registry::built_in_name(word)?;
    is_program(word).then_some(name)
}

/// Whether a word that names an agent is its program.
fn is_program(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    let is_folder = bytes.contains(&b'/') && Path::new(word).is_dir();
    let is_text = bytes.iter().any(u8::is_ascii_whitespace) || memmem::find(bytes, b"://").is_some();
    !is_folder && (!is_text || Path::new(word).is_file())
}

/// The index after the first word from `at` on that names an agent.
fn after_agent(argv: &[OsString], at: usize, named: Option<&'static dyn Adapter>) -> Option<usize> {
    let words = argv.get(at..)?;
    let is_named = |word: &OsStr| named.is_some_and(|n| n.names().is_name(word, false) && is_program(word));
    let is_agent = |word: &OsString| names_agent(word).is_some() || is_named(word);
    words.iter().position(is_agent).map(|place| at + place + 1)
}

/// The agent that an untracked command line may start: one of its arguments, or a word of a shell script in
/// its arguments, names it.
pub fn mentioned(argv: &[OsString], why: &UntrackedReason) -> Option<&'static str> {
    let args = argv.get(1..)?;
    let whole = args.iter().find_map(|word| names_agent(word));
    let in_text = || {
        let takes_text = |option: &OsString| {
            let option = option.as_bytes();
            option.starts_with(b"-")
                && (option.ends_with(b"c") || option == b"-S" || option.ends_with(b"string"))
        };
        let texts = args.windows(2).filter(|pair| takes_text(&pair[0])).map(|pair| &pair[1]);
        texts
            .flat_map(|text| text.as_bytes().split(|b| !is_plain_byte(*b)))
            .find_map(|word| names_agent(OsStr::from_bytes(word)))
    };
    match why {
        UntrackedReason::Hidden(_) | UntrackedReason::Unclear(_) => whole.or_else(in_text),
        _ => whole,
    }
}

/// Whether a shell takes this word literally.
fn is_plain(word: &OsStr) -> bool {
    !word.is_empty() && word.as_bytes().iter().all(|b| is_plain_byte(*b))
}

fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_./:=@,+%".contains(&byte)
}

fn base(word: &OsStr) -> String {
    Path::new(word).file_name().unwrap_or(word).to_string_lossy().into_owned()
}

fn base_at(argv: &[OsString], at: usize) -> String {
    argv.get(at).map(|word| base(word)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    /// Checks the adapter, the place and the start of the agent's own arguments, which follow `|` in `line`.
    fn assert_own(line: &str, agent_type: Option<&str>, place: &SessionPlace) {
        let (before, own) = line.split_once('|').unwrap_or((line, ""));
        let argv = words(&format!("{before} {own}"));
        let found = recognise(&argv, agent_type).expect("a type");
        assert_eq!((&found.place, found.args_start), (place, words(before).len()), "{line}");
        assert_eq!(found.adapter.agent_type(), agent_type.unwrap_or("claude"), "{line}");
    }

    fn untracked(line: &str, agent_type: Option<&str>) -> String {
        match recognise(&words(line), agent_type).expect("a type").place {
            SessionPlace::Untracked(why) => why.to_string(),
            place => format!("{place:?}"),
        }
    }

    #[test]
    fn an_agent_is_recognised_by_its_names_and_behind_local_launchers() {
        for line in [
            "claude | -p hi",
            "/opt/x/claude |",
            "claude.exe | -p",
            "./versions/2.1.330 | -p hi",
            "env A=b claude | -p hi",
            "env -i -u X --chdir=src/claude PATH=/bin claude | -p",
            "env -C src/claude claude | -p",
            "nice claude |",
            "nice -n 5 claude |",
            "nice -10 claude |",
            "ionice -c2 -n 7 claude |",
            "chrt -b 0 claude |",
            "taskset -c 0,1 claude |",
            "nohup claude | -p",
            "setsid -w claude | -p",
            "stdbuf -oL claude | -p",
            "timeout -k 5 60 claude | -p",
            "timeout --signal=INT 60 /work/versions/2.1.330 | -p",
            "flock -n src/claude claude | -p",
            "node --title claude --env-file .env /x/@anthropic-ai/claude-code/cli.js | -p",
            "node --no-warnings /x/node_modules/@anthropic-ai/claude-code/cli.js | -p hi",
            "npx @anthropic-ai/claude-code@2.1.330 | -p hi",
            "npx -y -p @anthropic-ai/claude-code claude | -p hi",
            "npx --package=@anthropic-ai/claude-code claude | -p",
            "bunx @anthropic-ai/claude-code | -p",
            "bun x @anthropic-ai/claude-code | -p",
            "pnpm dlx @anthropic-ai/claude-code | -p",
            "mise exec node@20 -- claude | -p",
            "mise x -- claude | -p",
            "direnv exec src/claude claude | -p",
            "env A=1 nice -n 1 timeout 5 claude | -p",
        ] {
            assert_own(line, None, &SessionPlace::Here);
            assert_own(line, Some("claude"), &SessionPlace::Here);
        }
    }

    #[test]
    fn with_an_agent_type_the_arguments_of_an_unknown_program_are_the_agents() {
        for line in
            ["wrapper | -p hi", "env A=b wrapper | -p", "node server.js | -p", "npx -y some-fork | -p"]
        {
            assert_own(line, Some("claude"), &SessionPlace::Here);
        }
        for option in ["--env-file", "--disable-warning", "--dns-result-order", "--title"] {
            assert_own(&format!("node {option} x server.js | -p"), Some("claude"), &SessionPlace::Here);
        }
        let argv = ["wrapper", "-p", "fix src/claude"].map(OsString::from);
        assert_eq!(recognise(&argv, Some("claude")).expect("a type").place, SessionPlace::Here);
        assert_own("agent | -p", Some("cursor"), &SessionPlace::Here);
        assert_own("cursor-agent | -p", Some("cursor"), &SessionPlace::Here);
        for (line, why) in [
            ("claude-wrapper -p -- claude", "ambiguous: claude-wrapper"),
            ("bwrap --ro-bind / / /usr/bin/claude -p", "ambiguous: bwrap"),
            ("env A=b wrapper cursor-agent", "ambiguous: wrapper"),
        ] {
            assert_eq!(untracked(line, Some("claude")), why, "{line}");
        }
    }

    #[test]
    fn an_agent_of_another_user_or_machine_is_tracked_only_with_an_agent_type() {
        for (line, by) in [
            ("sudo -u claude claude | -p hi", "sudo"),
            ("sudo -nE A=1 claude | -p", "sudo"),
            ("doas -u claude claude | -p", "doas"),
            ("docker run --name claude -it img claude | -p hi", "docker"),
            ("docker -H tcp://h run --rm -v /srv/claude:/w img claude | -p", "docker"),
            ("podman exec -w /w box claude | -p", "podman"),
            ("ssh -p 22 claude@build claude | -p hi", "ssh"),
            ("nice docker run img claude | -p", "docker"),
        ] {
            assert_own(line, Some("claude"), &SessionPlace::Elsewhere(by.to_owned()));
            assert_eq!(untracked(&line.replace('|', ""), None), by, "{line}");
        }
        for (line, by) in [
            ("docker run img -p hi", "docker"),
            ("docker run --new-option x img claude -p", "docker"),
            ("docker run -d img claude -p", "docker"),
            ("docker compose exec box claude -p", "docker"),
            ("sudo -i claude -p", "sudo"),
            ("sudo -u claude true", "sudo"),
            ("ssh build", "ssh"),
        ] {
            assert_eq!(untracked(line, Some("claude")), by, "{line}");
        }
        let read_again = ["sudo", "ssh", "build", "claude", "-p", "say --resume x; rm"].map(OsString::from);
        for (argv, by) in [(&read_again[..], "sudo"), (&read_again[1..], "ssh")] {
            let found = recognise(argv, Some("claude")).expect("a type");
            assert_eq!(found.place, SessionPlace::Untracked(UntrackedReason::Elsewhere(by.to_owned())));
        }
    }

    #[test]
    fn launchers_that_hide_their_program_or_have_unknown_options_are_not_tracked() {
        for (line, by) in [
            ("bash -c exit", "bash"),
            ("sh run.sh claude -p", "sh"),
            ("xargs -n1 claude -p", "xargs"),
            ("parallel claude -p", "parallel"),
            ("script -qc claude log", "script"),
            ("env A=1 bash -c claude", "bash"),
            ("sudo bash -c claude", "bash"),
            ("env -S claude", "env"),
            ("timeout --new 5 60 claude -p", "timeout"),
            ("flock file -c claude", "flock"),
            ("npx -c claude", "npx"),
            ("setsid -f claude -p", "setsid"),
            ("pnpm run claude", "pnpm"),
            ("mise exec claude -p", "mise"),
        ] {
            assert_eq!(untracked(line, Some("claude")), by, "{line}");
            assert_eq!(untracked(line, None), by, "{line}");
        }
        assert_eq!(untracked("make claude", None), "make");
        assert_eq!(untracked("true", None), "true");
        assert_eq!(untracked("node /x/@anthropic-ai/claude-code/install.cjs", None), "install.cjs");
        assert_eq!(untracked("claude -p", Some("command")), "claude");
        assert!(recognise(&words("x"), Some("unheard-of")).is_err());
    }

    #[test]
    fn an_agent_is_mentioned_by_an_argument_or_a_word_of_a_shell_script() {
        let mentioned = |argv: &[&str]| {
            let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
            let SessionPlace::Untracked(why) = recognise(&argv, None).expect("a type").place else {
                panic!("{argv:?} is tracked")
            };
            mentioned(&argv, &why)
        };
        assert_eq!(mentioned(&["sh", "-c", "cd x && claude -p hi"]), Some("claude"));
        assert_eq!(mentioned(&["bash", "-lc", "exec /opt/cursor-agent"]), Some("cursor"));
        assert_eq!(mentioned(&["docker", "run", "img", "claude"]), Some("claude"));
        assert_eq!(mentioned(&["xargs", "claude"]), Some("claude"));
        assert_eq!(mentioned(&["sh", "-c", "echo claudette"]), None);
        assert_eq!(mentioned(&["sh", "build.sh", "ask claude"]), None);
        assert_eq!(mentioned(&["make", "all"]), None);
        assert_eq!(mentioned(&["git", "clone", "https://example.org/claude"]), None);
        assert_eq!(mentioned(&["ask", "what is in /opt/claude"]), None);
        assert_eq!(mentioned(&["cat", "/x/@anthropic-ai/claude-code/package.json"]), None);
    }

    #[test]
    fn a_symbolic_link_to_an_agent_is_followed() {
        let tmp = tempfile::tempdir().expect("a directory");
        let (real, other) = (tmp.path().join("claude"), tmp.path().join("other"));
        std::fs::write(&real, "").expect("a program");
        std::fs::write(&other, "").expect("a program");
        for (name, to) in [("ai", "claude"), ("again", "ai"), ("plain", "other")] {
            std::os::unix::fs::symlink(to, tmp.path().join(name)).expect("a link");
        }
        let place = |name: &str| recognise(&[tmp.path().join(name).into()], None).expect("a type").place;
        assert_eq!(place("ai"), SessionPlace::Here);
        assert_eq!(place("again"), SessionPlace::Here);
        assert_eq!(place("plain"), SessionPlace::Untracked(UntrackedReason::NoAdapter("plain".to_owned())));
        assert_eq!(place("other"), SessionPlace::Untracked(UntrackedReason::NoAdapter("other".to_owned())));
    }
}
