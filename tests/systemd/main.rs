//! bookend under a really booted systemd: units, journal, cgroups, packages. Each test boots a machine of
//! its own (`systemd-box`), which takes less than a second.
//!
//! It runs where there are root, cgroup v2 and systemd's packages; `.ci/run` installs them. Otherwise each
//! test says so and passes, or fails under `BOOKEND_TEST_ALL=1`.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other binary of tests, which uses more of it")]
mod harness;

mod cgroups;
mod documents;
mod journal;
mod just;
mod machine;
mod units;
