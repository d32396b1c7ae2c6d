# List the recipes.
default:
    @just --list

# Run every test that this machine can run.
test *args:
    cargo test {{args}}

# Check formatting, lint and test, as before a commit.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test

# Run the whole check of a fresh clone, real Claude Code included; needs root.
ci:
    .ci/run

# Test with real Claude Code, against a loopback API.
real claude:
    cargo build --examples
    BOOKEND_TEST_ALL=1 BOOKEND_REAL_CLAUDE={{claude}} cargo test --test real -- --skip agents::

# Test with codex, copilot, gemini, opencode and qwen, against a loopback API; .ci/run installs them there.
real-agents programs="~/.cache/bookend-ci/agents/node_modules/.bin":
    cargo build --examples
    BOOKEND_TEST_ALL=1 BOOKEND_REAL_AGENTS={{programs}} cargo test --test real agents::

# Test with the newest Claude Code of npm; no other check depends on it.
real-newest:
    #!/usr/bin/env bash
    set -euo pipefail
    prefix=$(mktemp -d)
    trap 'rm -r "$prefix"' EXIT
    npm install --prefix "$prefix" --no-audit --no-fund --loglevel error @anthropic-ai/claude-code@latest
    "$prefix/node_modules/.bin/claude" --version
    just real "$prefix/node_modules/.bin/claude"

# Test on a booted systemd, each test on its own machine; needs root.
systemd *args:
    cargo test --test systemd {{args}}

# Run a hundred supervisors for a while: nothing may grow, be lost or be left behind.
soak time='10m':
    cargo build --release
    cargo build --examples
    BOOKEND_SOAK={{time}} BOOKEND_SOAK_OF=$PWD/target/release/bookend cargo test --test main soak::

# Kill many supervisors beside a monitor: none may be missed, and each is settled in time. Needs an idle machine.
monitor supervisors='1000':
    cargo build --release
    cargo build --examples
    BOOKEND_MONITOR={{supervisors}} BOOKEND_MONITOR_OF=$PWD/target/release/bookend \
        cargo test --test main monitor:: -- --test-threads 1

# Let each part of a fleet fail in each way while two hosts run tasks; needs root and PostgreSQL.
fleet-faults which='all':
    cargo build --features failpoints --examples
    BOOKEND_TEST_ALL=1 BOOKEND_FLEET_FAULTS={{quote(which)}} \
        cargo test --features failpoints --test fleet faults::

# Test under AddressSanitizer: bookend and its children, but not SQLite's own code.
sanitize:
    #!/usr/bin/env bash
    set -euo pipefail
    # A stable toolchain has the sanitizer too. No frames on the heap: the gated child would share them.
    export RUSTC_BOOTSTRAP=1 CFLAGS=-fno-sanitize=address
    export RUSTFLAGS='-Zsanitizer=address -Cllvm-args=-asan-use-after-return=never'
    # bookend exits by _exit(2) and leaks its ledger and stacks on purpose: leak reports are noise.
    export ASAN_OPTIONS=detect_leaks=0:disable_coredump=0
    sanitized=(--target "$(rustc --print host-tuple)" --target-dir target/sanitize)
    cargo build "${sanitized[@]}" --examples
    cargo test "${sanitized[@]}" --bin bookend
    # Left out: tests that measure memory or take long, and two that the sanitizer's warning about the gated
    # child's stack breaks: writing it stops a background job, or kills a process whose stderr has no reader.
    # The other tests ignore that warning.
    cargo test "${sanitized[@]}" --test main -- --skip soak:: --skip passed_on_in_little_memory \
        --skip a_background_job_that_writes_is_stopped --skip the_parent_death_signal_follows

# Change each decision once and expect a test to fail; needs cargo-mutants 27, root, and an hour.
[positional-arguments]
mutants *args:
    #!/usr/bin/env bash
    set -euo pipefail
    export CARGO_TARGET_DIR=$PWD/target/mutants CARGO_PROFILE_DEV_DEBUG=none
    cargo build --examples
    mutants() { cargo mutants --config .config/mutants.toml --output target/mutants "$@"; }
    # First the unit tests alone, which are fast. Exit codes 2 and 3: some mutants survived, or hung.
    mutants "$@" --exclude "src/commands/recover/*.rs" -C=--bin=bookend -- -- task:: run::session:: recovery:: \
        process::procfs::identity process::procfs::mark ledger::aftermath ledger::tests::endings || [ $? -le 3 ]
    # Then, for the survivors, the tests of the real binary. A mutant that hangs counts as caught.
    mutants "$@" --iterate -C=--bin=bookend -C=--test=main -- -- \
        aftermath:: recover:: redispatch:: sessions:: identities:: spool:: cancel:: security::marks || [ $? -eq 3 ]

# Build both programs of the package, of which a run executes only bookend.
release:
    cargo build --release
    cp target/release/bookend target/release/bookend-fleet
    cargo build --release --no-default-features

# Measure bookend beside its peers: a table, and target/bench.json. With --doc, renew performance.md too.
bench *args: release
    cargo test --quiet --bench bench -- measure {{args}}

# Compare the instructions of a run with the recorded ones; --renew records the new ones.
instructions *args: release
    cargo test --quiet --bench bench -- instructions {{args}}

# Regenerate contrib/man and contrib/completions, after the command line has changed.
generated:
    cargo build
    rm -rf contrib/man contrib/completions
    mkdir -p contrib/man contrib/completions
    target/debug/bookend man --dir contrib/man
    target/debug/bookend completions bash >contrib/completions/bookend.bash
    target/debug/bookend completions zsh >contrib/completions/_bookend
    target/debug/bookend completions fish >contrib/completions/bookend.fish

# Draw the README's picture, a page of `bookend timeline --html`; needs chromium and sqlite3.
picture file="contrib/doc/timeline.png":
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --bin bookend
    work=$(mktemp -d)
    trap 'kill $!; wait; rm -r "$work"' EXIT
    export BOOKEND_LEDGER=$work/bookend/bookend.db
    mkfifo "$work/up"
    target/debug/bookend run --id running --key forgejo:dev:1111 --agent dev -- \
        sh -c 'echo >"$0"; exec sleep 600' "$work/up" &
    read -r <"$work/up"
    sqlite3 "$BOOKEND_LEDGER" <tests/docs/timeline.sql
    target/debug/bookend timeline --since 4h --html "$work/page.html"
    sed -i "s|$work/bookend|~/.local/state/bookend|" "$work/page.html"
    HOME=$work chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
        --blink-settings=preferredColorScheme=1 --window-size=960,420 --screenshot="$work/picture.png" \
        "file://$work/page.html" 2>/dev/null
    cp "$work/picture.png" {{quote(file)}}

# Fuzz one target for some seconds, guided by coverage; see tests/fuzz/README.md.
fuzz target seconds="300" sanitizer="none":
    mkdir -p target/fuzz/corpus/{{target}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer {{sanitizer}} {{target}} \
        target/fuzz/corpus/{{target}} tests/fuzz/corpus/{{target}} -- -max_total_time={{seconds}} -timeout=10

# Minimise an input that breaks a property.
fuzz-minimise target input:
    RUSTC_BOOTSTRAP=1 cargo fuzz tmin --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer none {{target}} \
        tests/fuzz/{{input}}

# Check licences, duplicate versions, sources and advisories of dependencies; needs cargo-deny.
deny:
    cargo deny --locked --config .config/deny.toml check
