//! Agents that take long to exit or exit in parts: much memory, many threads, a leader thread that has
//! exited.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ptr;

use crate::raw::{self, check};

fn say_ready(out: &str) -> io::Result<()> {
    writeln!(OpenOptions::new().append(true).open(out)?, "ready {}", std::process::id())
}

fn stay() -> ! {
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// Touches this many MiB of memory, writes `ready PID` and keeps running. The kernel takes long to free them.
pub fn large(mib: usize, out: &str) -> io::Result<i32> {
    let (read, map) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses, used only here.
    let at = unsafe { libc::mmap(ptr::null_mut(), mib << 20, read, map | libc::MAP_POPULATE, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    say_ready(out)?;
    stay()
}

/// Writes `ready PID` when it has this many threads, and keeps running.
pub fn threads(n: usize, out: &str) -> io::Result<i32> {
    for _ in 1..n {
        std::thread::spawn(|| stay());
    }
    say_ready(out)?;
    stay()
}

/// Its first thread exits; another one writes `ready PID` once the first is a zombie, and keeps running.
/// Ignores SIGTERM.
pub fn headless(out: &str) -> io::Result<i32> {
    raw::disposition(libc::SIGTERM, libc::SIG_IGN)?;
    let out = out.to_owned();
    std::thread::spawn(move || {
        let is_zombie = || {
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
        };
        while !is_zombie() {
            std::thread::yield_now();
        }
        let _ = say_ready(&out);
        stay()
    });
    // SAFETY: it ends only this thread, and no memory is involved.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    Ok(0)
}

/// Traces the process, which keeps running, until it exits. Writes `traced PID` once it traces, or `no` if
/// ptrace(2) is not allowed. With `holds` the process cannot exit while it is traced.
pub fn tracer(pid: i32, out: &str, holds: bool) -> io::Result<i32> {
    let mut out = OpenOptions::new().append(true).open(out)?;
    let options = if holds { libc::PTRACE_O_TRACEEXIT } else { 0 };
    // SAFETY: no memory is involved.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, ptr::null_mut::<libc::c_void>(), options) };
    if let Err(e) = check(seized as i32) {
        writeln!(out, "no")?;
        return Err(e);
    }
    writeln!(out, "traced {pid}")?;
    loop {
        let mut status = 0;
        // SAFETY: one status is written.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } < 0 || !libc::WIFSTOPPED(status) {
            return Ok(0);
        }
        if status >> 16 == libc::PTRACE_EVENT_EXIT {
            stay();
        }
        // A stop by a ptrace event is not a signal.
        let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
        // SAFETY: the signal is a number. If the process has exited, the next wait reports it.
        unsafe { libc::ptrace(libc::PTRACE_CONT, pid, ptr::null_mut::<libc::c_void>(), signal) };
    }
}
