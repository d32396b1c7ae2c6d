//! The examples of every command, for `--help` and the man pages. A test parses each.

/// The examples of a command, by its full name.
pub(super) fn of(command: &str) -> &'static [&'static str] {
    EXAMPLES.iter().find(|(name, _)| *name == command).map_or(&[], |(_, lines)| *lines)
}

const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "bookend",
        &["bookend run -- claude -p 'fix the bug' --output-format json", "bookend list", "bookend recover"],
    ),
    (
        "bookend run",
        &[
            "bookend run -- claude -p 'fix the bug' --output-format json",
            "bookend run --repo charles/claude-hooks --issue 1104 --agent dev -- claude -p 'continue'",
            "bookend run --key nightly --timeout 1h -- cursor-agent -p 'update the docs'",
        ],
    ),
    (
        "bookend list",
        &[
            "bookend list --failed --since yesterday",
            "bookend list --repo charles/claude-hooks --watch",
            "bookend list --columns id,status,cost,command --limit 50",
            "bookend list --jsonl | jq .cost_usd",
        ],
    ),
    ("bookend ps", &["bookend ps", "bookend ps --watch"]),
    ("bookend show", &["bookend show 019ab3", "bookend show 019ab3 --json | jq .task.error"]),
    (
        "bookend logs",
        &["bookend logs", "bookend logs --key nightly --follow", "bookend logs 019ab3 --raw | jq .type"],
    ),
    (
        "bookend audit",
        &[
            "bookend audit",
            "bookend audit --fail-on error || bookend recover",
            "bookend audit --code orphan_process --json",
        ],
    ),
    ("bookend artifact", &["bookend artifact add report.html"]),
    ("bookend artifact add", &["bookend artifact add report.html https://example.org/pull/7"]),
    (
        "bookend cancel",
        &["bookend cancel 019ab3", "bookend cancel --key nightly", "bookend cancel --all --wait 30s"],
    ),
    (
        "bookend wait",
        &[
            "bookend wait 019ab3 --timeout 1h",
            "bookend wait --key nightly && bookend run --key nightly -- claude -p 'continue'",
            "bookend wait",
        ],
    ),
    (
        "bookend agents",
        &[
            "bookend agents",
            "bookend agents show codex",
            "bookend agents check ./sketch.toml --sample out.jsonl",
        ],
    ),
    ("bookend agents list", &["bookend agents list --json | jq .agents"]),
    ("bookend agents show", &["bookend agents show gemini > gemini.toml"]),
    (
        "bookend agents check",
        &["bookend agents check codex", "bookend agents check codex --sample out.jsonl --exit 1"],
    ),
    ("bookend prune", &["bookend prune --dry-run", "bookend prune --retention 90d --vacuum"]),
    (
        "bookend stats",
        &[
            "bookend stats --by repo --since 30d",
            "bookend stats --by agent,model --failed",
            "bookend stats --by day --json",
        ],
    ),
    ("bookend timeline", &["bookend timeline --since 2h", "bookend timeline --html page.html"]),
    ("bookend doctor", &["bookend doctor", "bookend doctor --json | jq .healthy"]),
    (
        "bookend completions",
        &[
            "bookend completions bash >/etc/bash_completion.d/bookend",
            "bookend completions zsh >~/.zfunc/_bookend",
            "bookend completions fish >~/.config/fish/completions/bookend.fish",
        ],
    ),
    ("bookend man", &["bookend man run | man -l -", "bookend man --dir ~/.local/share/man/man1"]),
    (
        "bookend units",
        &["bookend units --user --dir ~/.config/systemd/user", "bookend units --dir /etc/systemd/system"],
    ),
    (
        "bookend recover",
        &[
            "bookend recover",
            "bookend recover --dry-run --json",
            "bookend recover --on-interrupted 'mail -s interrupted ops'",
        ],
    ),
    (
        "bookend monitor",
        &[
            "bookend monitor",
            "bookend monitor --json",
            "bookend monitor --on-interrupted 'mail -s interrupted ops'",
        ],
    ),
    ("bookend deliver", &["bookend deliver --failed", "bookend deliver 019ab3 --hook-timeout 5m"]),
    ("bookend redispatch", &["bookend redispatch 019ab3", "bookend redispatch --stdin 019ab3 <prompt.txt"]),
    ("bookend resume", &["bookend resume", "bookend resume --key nightly --allow-unsafe-resume"]),
    ("bookend session", &["bookend session list"]),
    ("bookend session list", &["bookend session list", "bookend session list --json"]),
    ("bookend session show", &["bookend session show nightly"]),
    (
        "bookend session resume-id",
        &["claude --resume \"$(bookend session resume-id nightly)\" -p 'continue'"],
    ),
    ("bookend session invalidate", &["bookend session invalidate nightly --reason 'wrong branch'"]),
    ("bookend session restore", &["bookend session restore nightly"]),
    (
        "bookend fleet",
        &[
            "bookend fleet init postgres://admin@db.example.org/bookend --host db1 --host db2",
            "bookend fleet join postgres://bookend_db1@db.example.org/bookend",
            "bookend fleet status",
        ],
    ),
    (
        "bookend fleet init",
        &[
            "bookend fleet init postgres://admin@db.example.org/bookend --host db1 --host db2",
            "bookend fleet init 'postgres://postgres@/bookend?host=/run/postgresql' --publish-argv true",
        ],
    ),
    (
        "bookend fleet join",
        &[
            "bookend fleet join postgres://bookend_db1@db.example.org/bookend",
            "bookend fleet join 'postgres://bookend_db1@/?service=fleet' --new-node",
        ],
    ),
    ("bookend fleet leave", &["bookend fleet leave"]),
    ("bookend fleet status", &["bookend fleet status", "bookend fleet status --json | jq .nodes"]),
    (
        "bookend fleet prune",
        &[
            "bookend fleet prune --older-than 365d --dry-run",
            "bookend fleet prune --older-than 90d --ledger postgres://admin@db.example.org/bookend",
        ],
    ),
    (
        "bookend fleet declare-lost",
        &["bookend fleet declare-lost db2 --yes --ledger postgres://admin@db.example.org/bookend"],
    ),
    ("bookend adopt", &["bookend adopt /var/lib/dispatcher/tasks.db"]),
    ("bookend backup", &["bookend backup ledger-$(date +%F).db"]),
];
