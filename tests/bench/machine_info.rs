//! What the figures depend on: processor, kernel, file system, load.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::figure::Spread;

/// One line about the machine and the disk of `scratch`.
pub fn describe(scratch: &Path) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpuinfo
        .lines()
        .filter_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model))
        .collect();
    let cores = models.len();
    let model = models.first().copied().unwrap_or("unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let stat = Command::new("stat").args(["-f", "-c", "%T"]).arg(scratch).output();
    let file_system = stat.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let (kernel, sync) = (kernel.trim(), sync(scratch));
    format!("{model}, {cores} cores, Linux {kernel}, {file_system}, fdatasync {sync:.2} ms")
}

/// The load average of the last minute.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// The milliseconds of an fdatasync(2) after a write of 4 KiB.
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
