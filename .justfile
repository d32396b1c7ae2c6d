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

# How fast bookend is, each figure beside its peer's: a table, and target/bench.json. See `just bench --help`.
bench *args:
    cargo build --release
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
