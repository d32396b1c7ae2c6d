//! Tests of bookend under a booted systemd: units, journal, cgroups and the package. Each test boots its own
//! machine with `systemd-box`, which takes less than a second.
//!
//! They need root, cgroup v2 and the packages of systemd, which `.ci/run` installs. Without them each test
//! reports that it is skipped and passes, or fails under `BOOKEND_TEST_ALL=1`.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other test binary, which uses more of it")]
mod harness;

mod cgroups;
mod claude;
mod documents;
mod fleet_document;
mod journal;
mod just;
mod machine;
mod monitor;
mod setup;
#[path = "../docs/transcript.rs"]
#[allow(dead_code, reason = "shared with the other test binary, which uses more of it")]
mod transcript;
mod units;
