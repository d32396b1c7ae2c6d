//! The commands of documents that need another machine, root or much time, and the place that runs each.

/// A `bash` block, or all of a section, and what runs it instead of `tests/docs.rs`.
pub struct Elsewhere {
    pub document: &'static str,
    /// How the block begins; empty for every `bash` block of the section.
    pub command: &'static str,
    pub section: &'static str,
    pub reason: &'static str,
    /// The file that runs it, and a text of that file which shows that it does.
    pub file: &'static str,
    pub evidence: &'static str,
}

const fn block(
    (document, command): (&'static str, &'static str),
    reason: &'static str,
    (file, evidence): (&'static str, &'static str),
) -> Elsewhere {
    Elsewhere { document, command, section: "", reason, file, evidence }
}

const fn section(
    (document, section): (&'static str, &'static str),
    reason: &'static str,
    (file, evidence): (&'static str, &'static str),
) -> Elsewhere {
    Elsewhere { document, command: "", section, reason, file, evidence }
}

const README: &str = "README.md";
const SYSTEMD: &str = "contrib/doc/systemd.md";
const DISPATCHERS: &str = "contrib/doc/dispatchers.md";
const DISPATCHER: &str = "tests/dispatcher.rs";
const DATABASE: &str = "needs a dispatcher's database";
const CONTRIBUTING: &str = "contrib/doc/contributing.md";
const MACHINE: &str = "needs a booted systemd and root";
const FOLLOWED: (&str, &str) = ("tests/systemd/documents.rs", "bash_blocks(SYSTEMD)");
const BUILDS: &str = "builds bookend again";

pub const ELSEWHERE: &[Elsewhere] = &[
    block((README, "cargo install --path ."), BUILDS, (".ci/run", "cargo install --quiet --locked --path .")),
    block(
        (README, "cargo build --release && cp"),
        BUILDS,
        (".ci/run", "grep -x 'cargo build .* && cargo deb' README.md"),
    ),
    block(
        (README, "RUSTFLAGS='-C target-feature=+crt-static'"),
        BUILDS,
        (".ci/run", "grep -x 'RUSTFLAGS=.*' README.md"),
    ),
    section((SYSTEMD, "Build and install the package"), MACHINE, FOLLOWED),
    block(
        (SYSTEMD, "npm install -g @anthropic-ai/claude-code"),
        "needs the network",
        (".ci/run", "npm install --prefix"),
    ),
    section((SYSTEMD, "Run an agent task as a unit"), MACHINE, FOLLOWED),
    section((SYSTEMD, "Run a task on a schedule"), MACHINE, FOLLOWED),
    section((SYSTEMD, "Read the system's ledger"), MACHINE, FOLLOWED),
    section((SYSTEMD, "Read the journal"), MACHINE, FOLLOWED),
    section((SYSTEMD, "Delete old tasks with a timer"), MACHINE, FOLLOWED),
    section((SYSTEMD, "Settle tasks as they are lost"), MACHINE, FOLLOWED),
    section((SYSTEMD, "Use the same units as a user"), MACHINE, FOLLOWED),
    section(
        (SYSTEMD, "Set up the units without the package"),
        MACHINE,
        ("tests/systemd/documents.rs", "\"Set up the units without the package\""),
    ),
    section(
        ("contrib/doc/guide.md", "Use bookend from just"),
        "needs the installed package",
        ("tests/systemd/documents.rs", "\"Use bookend from just\""),
    ),
    block(
        ("contrib/doc/guide.md", "echo 'url = "),
        "needs the installed package and a receiver",
        ("tests/hook_scripts.rs", "script(\"forge-comment\")"),
    ),
    block((DISPATCHERS, "bookend adopt dispatcher.db"), DATABASE, (DISPATCHER, "\"bookend\", \"adopt\"")),
    block(
        (
            DISPATCHERS,
            r#"bookend --ledger dispatcher.db run --id "$TASK" --repo charles/claude-hooks --issue 1104 \"#,
        ),
        DATABASE,
        ("tests/agents/dispatcher.py", "\"run\", *about, \"--\", *agent"),
    ),
    block(
        (DISPATCHERS, "bookend --ledger dispatcher.db recover"),
        DATABASE,
        ("tests/agents/dispatcher.py", "self.bookend(\"recover\")"),
    ),
    block(
        (DISPATCHERS, "bookend --ledger dispatcher.db monitor --on-interrupted"),
        DATABASE,
        (DISPATCHER, "\"monitor\", \"--on-interrupted\""),
    ),
    block(
        (DISPATCHERS, "bookend --ledger dispatcher.db show \"$TASK\" --json"),
        DATABASE,
        (DISPATCHER, "\"show\", \"own\", \"--json\""),
    ),
    block((CONTRIBUTING, "cargo build"), BUILDS, (".ci/run", "readme_start")),
    block((CONTRIBUTING, "just check"), "runs these tests", (".ci/run", "cargo fmt --check")),
    block(
        (CONTRIBUTING, "BOOKEND_TEST_INSTEAD=bare cargo test --test main inherit::"),
        "runs these tests",
        (".ci/run", "BOOKEND_TEST_INSTEAD=bare cargo test --test main inherit::"),
    ),
    block((CONTRIBUTING, ".ci/run"), "runs these tests", (".ci/run", "The whole check")),
    block(
        (CONTRIBUTING, "cargo test --features failpoints --test main -- crash::"),
        "takes minutes",
        (".ci/run", "cargo test --features failpoints --test main -- crash::"),
    ),
    block(
        (CONTRIBUTING, "just monitor"),
        "needs an idle machine",
        (".ci/run", "in bench sanitize mutants soak monitor fleet-faults generated; do"),
    ),
    block((CONTRIBUTING, "just fleet-faults"), "takes long", (".ci/run", "\"$BOOKEND_JUST\" fleet-faults")),
    block((CONTRIBUTING, "just soak"), "takes ten minutes", (".ci/run", "BOOKEND_SOAK=1m cargo test")),
    block(
        (CONTRIBUTING, "just sanitize"),
        "builds everything again",
        (".ci/run", "in bench sanitize mutants soak monitor fleet-faults generated; do"),
    ),
    block((CONTRIBUTING, "just fuzz argv 600"), "needs cargo-fuzz", (".ci/run", "fuzz_targets")),
    block(
        (CONTRIBUTING, "just mutants"),
        "takes an hour",
        (".ci/run", "in bench sanitize mutants soak monitor fleet-faults generated; do"),
    ),
    block(
        (CONTRIBUTING, ".ci/run just instructions --renew"),
        "counts a release",
        (".ci/run", "instructions"),
    ),
    block(
        (CONTRIBUTING, "just generated"),
        "writes into the checkout",
        ("tests/generated.rs", "\"man\", \"--dir\""),
    ),
    block((CONTRIBUTING, "just picture"), "needs just and chromium", (".ci/run", "picture")),
    block((CONTRIBUTING, "just deny"), "needs cargo-deny", (".ci/run", "deny --locked --config")),
    section(
        ("contrib/doc/performance.md", ""),
        "takes minutes on an idle machine",
        (".ci/run", "in bench sanitize mutants soak monitor fleet-faults generated; do"),
    ),
];
