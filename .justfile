# What there is to do here.
default:
    @just --list

# Every test that this machine can run.
test *args:
    cargo test {{args}}

# Format, lint, test: before a commit.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test

# The whole check of a fresh clone, real Claude Code included; needs root.
ci:
    .ci/run

# Real Claude Code through bookend, against a loopback API.
real claude:
    cargo build --examples
    BOOKEND_TEST_ALL=1 BOOKEND_REAL_CLAUDE={{claude}} cargo test --test real

# The same with the Claude Code that npm serves now, which no check depends on.
real-newest:
    #!/usr/bin/env bash
    set -euo pipefail
    prefix=$(mktemp -d)
    trap 'rm -r "$prefix"' EXIT
    npm install --prefix "$prefix" --no-audit --no-fund --loglevel error @anthropic-ai/claude-code@latest
    "$prefix/node_modules/.bin/claude" --version
    just real "$prefix/node_modules/.bin/claude"

# The tests on a really booted systemd, each on a machine of its own; needs root.
systemd *args:
    cargo test --test systemd {{args}}

# A hundred supervisors for a while, and all that befalls them: nothing grows, is lost or is left.
soak time='10m':
    cargo build --release
    cargo build --examples
    BOOKEND_SOAK={{time}} BOOKEND_SOAK_OF=$PWD/target/release/bookend cargo test --test main soak::

# The tests under AddressSanitizer: bookend, its gated child and its witness, but not SQLite's own code.
sanitize:
    #!/usr/bin/env bash
    set -euo pipefail
    # A stable toolchain has the sanitizer too. No frames on the heap: the child would share them with us.
    export RUSTC_BOOTSTRAP=1 CFLAGS=-fno-sanitize=address
    export RUSTFLAGS='-Zsanitizer=address -Cllvm-args=-asan-use-after-return=never'
    # bookend leaves by _exit(2), with ledger and stacks given up on purpose: nothing is to be learnt of leaks.
    export ASAN_OPTIONS=detect_leaks=0:disable_coredump=0
    sanitized=(--target "$(rustc --print host-tuple)" --target-dir target/sanitize)
    cargo build "${sanitized[@]}" --examples
    cargo test "${sanitized[@]}" --bin bookend
    # Left out: what measures memory or lasts for long; and two that cannot bear the sanitizer's remark that
    # the child stands on a stack of no thread, since writing it stops a job of a terminal, or kills where the
    # reader of stderr is gone. Elsewhere the tests take no notice of it.
    cargo test "${sanitized[@]}" --test main -- --skip soak:: --skip passed_on_in_little_memory \
        --skip a_background_job_that_writes_is_stopped --skip the_parent_death_signal_follows

# Break each decision once and see a test fail: needs cargo-mutants 27, root, and an hour or more.
[positional-arguments]
mutants *args:
    #!/usr/bin/env bash
    set -euo pipefail
    export CARGO_TARGET_DIR=$PWD/target/mutants CARGO_PROFILE_DEV_DEBUG=none
    cargo build --examples
    mutants() { cargo mutants --config .config/mutants.toml --output target/mutants "$@"; }
    # First the unit tests alone, which are quick; 2 and 3 say that some lived, or hung.
    mutants "$@" --exclude src/commands/recover.rs -C=--bin=bookend -- -- task:: run::session:: recovery:: \
        process::procfs::identity process::procfs::mark ledger::aftermath ledger::tests::endings || [ $? -le 3 ]
    # Then, for those that lived, the tests of the real binary. One that hangs is found out too.
    mutants "$@" --iterate -C=--bin=bookend -C=--test=main -- -- \
        aftermath:: recover:: sessions:: identities:: spool:: cancel:: security::marks || [ $? -eq 3 ]

# How fast bookend is, each figure beside its peer's: a table, and target/bench.json. See `just bench --help`.
bench *args:
    cargo build --release --bin bookend --example least
    cargo test --quiet --bench bench -- measure {{args}}

# Whether bookend does its work in no more instructions than before; --renew keeps what is counted now.
instructions *args:
    cargo build --release
    cargo test --quiet --bench bench -- instructions {{args}}

# Write contrib/man and contrib/completions anew, after the command line has changed.
papers:
    cargo build
    rm -rf contrib/man contrib/completions
    mkdir -p contrib/man contrib/completions
    target/debug/bookend man --dir contrib/man
    target/debug/bookend completions bash >contrib/completions/bookend.bash
    target/debug/bookend completions zsh >contrib/completions/_bookend
    target/debug/bookend completions fish >contrib/completions/bookend.fish

# Fuzz one target for so many seconds, guided by coverage; see tests/fuzz/README.md.
fuzz target seconds="300" sanitizer="none":
    mkdir -p target/fuzz/corpus/{{target}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer {{sanitizer}} {{target}} \
        target/fuzz/corpus/{{target}} tests/fuzz/corpus/{{target}} -- -max_total_time={{seconds}} -timeout=10

# Make an input that breaks a property small.
fuzz-minimise target input:
    RUSTC_BOOTSTRAP=1 cargo fuzz tmin --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer none {{target}} \
        tests/fuzz/{{input}}

# Licences, doubled versions, sources and advisories of what we depend on; needs cargo-deny.
deny:
    cargo deny --locked --config .config/deny.toml check
