//! Runs the `console` blocks of a document in one session and compares what they print with the document.

use crate::harness::{DocumentBlock, World};

/// A command of a `console` block and the output that the document shows for it.
pub struct TranscriptStep {
    pub place: String,
    pub command: String,
    pub expected: Vec<String>,
}

/// The commands of `console` blocks: `$ ` begins one, `> ` continues it, all else is output.
pub fn steps(blocks: &[DocumentBlock]) -> Vec<TranscriptStep> {
    let mut steps: Vec<TranscriptStep> = Vec::new();
    for block in blocks {
        let first = steps.len();
        for line in block.text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                let (place, command) = (block.place(), command.to_owned());
                steps.push(TranscriptStep { place, command, expected: Vec::new() });
                continue;
            }
            assert!(steps.len() > first, "{}: output before the first command", block.place());
            let step = steps.last_mut().expect("a command");
            match line.strip_prefix("> ") {
                Some(more) => step.command += &format!("\n{more}"),
                None => step.expected.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Stands before the output of each command. No program prints it.
const SEPARATOR: char = '\u{1e}';

/// What each command prints, in one shell whose home is called `/home/ada`. A stand-in claude that is
/// started in the background works until it is stopped, and the session waits until it does.
pub fn outputs(world: &World, steps: &[TranscriptStep]) -> Vec<Vec<String>> {
    let mut script = "exec 2>&1\n".to_owned();
    for step in steps {
        let (before, after) = match &step.command {
            c if c.ends_with('&') => {
                ("mkfifo \"$TMPDIR/hold\"", "exec 9<\"$TMPDIR/hold\"; read -r _ <&9; rm \"$TMPDIR/hold\"")
            }
            c if c.starts_with("kill -9 ") => ("", "wait; cat <&9"),
            _ => ("", ""),
        };
        script += &format!("{before}\nprintf '\\036'\n{}\n{after}\n", step.command);
    }
    let output = world.bare(["sh", "-u", "-c", &script]).env("XDG_STATE_HOME", "").run();
    let text = output.stdout.replace(&world.name("home"), "/home/ada");
    let parts = text.split(SEPARATOR).skip(1);
    parts.map(|part| part.lines().map(str::to_owned).collect()).collect()
}

/// Whether the output is the expected one. `…` on a line of its own stands for any number of lines.
pub fn agree(expected: &[String], actual: &[String]) -> bool {
    match expected.split_first() {
        None => actual.is_empty(),
        Some((line, rest)) if line == "…" => (0..=actual.len()).any(|n| agree(rest, &actual[n..])),
        Some((line, rest)) => {
            let first = actual.split_first();
            first.is_some_and(|(other, others)| normal(line) == normal(other) && agree(rest, others))
        }
    }
}

/// The words of a line, with what differs from run to run replaced: ids, times, durations, pids, memory.
fn normal(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut normal: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |b| words[b]).trim_start_matches('(');
        let is_measured =
            ["pid", "supervisor", "agent"].contains(&before) || words.get(at + 1) == Some(&"MiB");
        let word = match is_measured && word.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("<number>{}", word.trim_start_matches(|c: char| c.is_ascii_digit())),
            false => normal_word(word),
        };
        // A duration is one word or two, `9.99s` or `3m 05s`.
        if word.starts_with("<duration>") && normal.last().is_some_and(|last| last == "<duration>") {
            normal.pop();
        }
        normal.push(word);
    }
    normal
}

fn normal_word(word: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-:.".contains(c);
    let mut normal = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let end = match is_part(first) {
            true => rest.find(|c: char| !is_part(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        normal += &normal_part(&rest[..end]);
        rest = &rest[end..];
    }
    normal
}

fn normal_part(part: &str) -> String {
    const UUID: &str = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    let like = |pattern: &str| {
        let fits = |(c, p): (char, char)| if p == 'x' { c.is_ascii_hexdigit() } else { c == p };
        part.is_char_boundary(pattern.len())
            && part.len() >= pattern.len()
            && part.chars().zip(pattern.chars()).all(fits)
    };
    let shape: String = part.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    match () {
        () if like(UUID) => format!("<id>{}", &part[UUID.len()..]),
        () if part.len() == 13 && like("xxxxxxxx-xxxx") => "<id>".to_owned(),
        () if shape.starts_with("0000-00-00T00:00:00") => "<time>".to_owned(),
        () if shape == "00:00:00" => "<clock>".to_owned(),
        () if is_duration(part) => "<duration>".to_owned(),
        () => part.to_owned(),
    }
}

/// `0.12s`, `5s`, `3m`, `250ms`.
fn is_duration(part: &str) -> bool {
    let number = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &part[number.len()..];
    ["ms", "s", "m", "h", "d"].contains(&unit) && number.parse::<f64>().is_ok()
}

#[test]
fn a_transcript_differs_only_in_what_differs_from_run_to_run() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let agrees = |a: &str, b: &str| agree(&lines(a), &lines(b));
    assert!(agrees(
        "01a22a65-8944  running  pid 1   1s ago  $0.10",
        "99a22a65-0000 running pid 22 3h ago $0.10"
    ));
    assert!(agrees("took 3m 05s, by (pid 7).", "took 0.04s, by (pid 812)."));
    assert!(agrees("first\n…\nlast", "first\nsecond\nthird\nlast"));
    assert!(!agrees("first\n…\nlast", "first\nsecond"));
    for (documented, printed) in
        [("$0.10", "$0.11"), ("success", "failure"), ("2 of 3", "2 of 4"), ("a", "a b")]
    {
        assert!(!agrees(documented, printed), "{documented} is not {printed}");
    }
}
