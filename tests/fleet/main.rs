//! Tests of the fleet with real PostgreSQL servers, one per test, alone and behind pgbouncer.
//!
//! They need Debian's packages postgresql, pgbouncer and openssl, which `.ci/run` installs. Without them each
//! test prints that it is skipped and passes, or fails with `BOOKEND_TEST_ALL=1`.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other test binaries, which use more of it")]
mod harness;

mod arena;
mod batches;
mod commands;
mod connected;
mod descriptors;
mod errors;
mod faults;
mod functions;
mod gone;
mod hostile;
mod hosts;
mod keys;
mod lost;
mod membership;
mod moves;
mod naming;
mod node;
mod oracle;
mod orders;
mod passwords;
mod pgbouncer;
mod postgres;
mod publishing;
mod reading;
mod restoring;
mod server;
mod sql_session;
mod two_hosts;
