//! Reports everything that a process inherits or can observe about its environment as one JSON object.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::raw;

pub fn report(args: &[OsString], file: &str) -> io::Result<i32> {
    let all = json!({
        "argv": args.iter().map(|a| hex(a)).collect::<Vec<_>>(),
        "environ": raw::environment().iter().map(|e| hex(e)).collect::<Vec<_>>(),
        "cwd": std::env::current_dir()?,
        "descriptors": descriptors()?,
        "status": status()?,
        "limits": limits(),
        "scheduling": scheduling(),
        "process": process(),
        "files": files(),
    });
    let text = serde_json::to_vec_pretty(&all).map_err(io::Error::other)?;
    fs::write(file, text)?;
    Ok(0)
}

fn hex(s: &OsStr) -> String {
    s.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

/// Every open descriptor: number, target, position and flags.
fn descriptors() -> io::Result<Vec<Value>> {
    let mut numbers: Vec<i32> =
        fs::read_dir("/proc/self/fd")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    // The descriptor that listed the others is closed by now.
    // SAFETY: no memory is involved.
    numbers.retain(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0);
    numbers
        .into_iter()
        .map(|fd| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
            let line =
                |name: &str| info.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
            Ok(json!({
                "fd": fd,
                "target": fs::read_link(format!("/proc/self/fd/{fd}"))?,
                "flags": line("flags:"),
                "position": line("pos:"),
            }))
        })
        .collect()
}

/// The lines of /proc/self/status that are inherited.
fn status() -> io::Result<Value> {
    const KEPT: [&str; 22] = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Threads",
        "CoreDumping",
        "THP_enabled",
        "Cpus_allowed",
        "Mems_allowed",
        "TracerPid",
    ];
    let text = fs::read_to_string("/proc/self/status")?;
    Ok(text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .filter(|(name, _)| KEPT.contains(name))
        .map(|(name, value)| (name.to_owned(), json!(value.trim())))
        .collect::<serde_json::Map<_, _>>()
        .into())
}

fn limits() -> Vec<[u64; 2]> {
    (0..16)
        .map(|which| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: one rlimit is written.
            unsafe { libc::getrlimit(which, &mut limit) };
            [limit.rlim_cur, limit.rlim_max]
        })
        .collect()
}

fn scheduling() -> Value {
    // SAFETY: no memory is involved.
    unsafe {
        json!({
            "nice": libc::getpriority(libc::PRIO_PROCESS, 0),
            "policy": libc::sched_getscheduler(0),
            "io_priority": libc::syscall(libc::SYS_ioprio_get, 1, 0),
            "timer_slack": libc::prctl(libc::PR_GET_TIMERSLACK),
        })
    }
}

fn process() -> Value {
    // SAFETY: no memory is involved.
    unsafe {
        json!({
            "pid": libc::getpid(),
            "ppid": libc::getppid(),
            "pgid": libc::getpgrp(),
            "sid": libc::getsid(0),
            "foreground": libc::tcgetpgrp(0),
            "dumpable": libc::prctl(libc::PR_GET_DUMPABLE),
            "keep_caps": libc::prctl(libc::PR_GET_KEEPCAPS),
            "secure_bits": libc::prctl(libc::PR_GET_SECUREBITS),
            "personality": libc::personality(0xffff_ffff),
            "name": fs::read_to_string("/proc/self/comm").unwrap_or_default(),
        })
    }
}

fn files() -> Value {
    ["oom_score_adj", "cgroup", "coredump_filter", "loginuid", "sessionid"]
        .into_iter()
        .map(|name| {
            let text = fs::read_to_string(format!("/proc/self/{name}"));
            (name.to_owned(), json!(text.ok()))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}
