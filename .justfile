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

# The tests on a really booted systemd, each on a machine of its own; needs root.
systemd *args:
    cargo test --test systemd {{args}}

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
