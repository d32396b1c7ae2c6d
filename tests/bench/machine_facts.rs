//! What the figures depend on: the machine, its disk, and what else it does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::figure::Spread;

/// In one line.
pub fn all(scratch: &Path) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpuinfo
        .lines()
        .filter_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model))
        .collect();
    let cores = models.len();
    let model = models.first().copied().unwrap_or("another processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let stat = Command::new("stat").args(["-f", "-c", "%T"]).arg(scratch).output();
    let disk = stat.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let (kernel, sync) = (kernel.trim(), sync(scratch));
    format!("{model}, {cores} cores, Linux {kernel}, {disk}, fdatasync {sync:.2} ms")
}

/// How many processes want a core, the last minute's mean.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// The milliseconds of making a few bytes durable: the price of a commit.
fn sync(scratch: &Path) -> f64 {
    let mut file = tempfile::tempfile_in(scratch).expect("a file");
    let mut once = || {
        file.write_all(&[1; 4096]).expect("a write");
        let began = Instant::now();
        file.sync_data().expect("a sync");
        began.elapsed().as_secs_f64() * 1e3
    };
    Spread::of(&std::array::from_fn::<f64, 50, _>(|_| once())).median
}
