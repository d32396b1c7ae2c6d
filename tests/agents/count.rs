//! Receives and sends signals, and writes one line for each signal in the order of delivery.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use crate::raw::{self, check};

/// The last real-time signal. Some of its values end `count`; any other is only counted.
const COMMAND: u32 = 64;
const EXIT: i32 = 1000;
const DIE: i32 = 2000;

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Writes `ready PID PPID`, then `SIGNAL VALUE CODE` for every signal, until signal 64 arrives with the
/// value 1000+N (exits with N) or 2000+N (dies by signal N).
pub fn count(out: &str) -> io::Result<i32> {
    raw::block(u64::MAX)?;
    let signals = raw::signal_fd(u64::MAX)?;
    let mut out = open(out)?;
    // SAFETY: no memory is involved.
    let parent = unsafe { libc::getppid() };
    writeln!(out, "ready {} {parent}", std::process::id())?;
    loop {
        let s = raw::next_signal(signals)?;
        if s.ssi_signo == COMMAND && (EXIT..EXIT + 256).contains(&s.ssi_int) {
            return Ok(s.ssi_int - EXIT);
        }
        if s.ssi_signo == COMMAND && (DIE..DIE + 65).contains(&s.ssi_int) {
            raw::die(s.ssi_int - DIE)?;
        }
        let value = if s.ssi_code < 0 { s.ssi_int } else { 0 };
        writeln!(out, "{} {value} {}", s.ssi_signo, s.ssi_code)?;
    }
}

/// Writes `stay PID` and keeps running with the inherited signal settings. The reader of `out` gets end of
/// file when this process exits.
pub fn stay(out: &str) -> io::Result<i32> {
    let mut out = open(out)?;
    writeln!(out, "stay {}", std::process::id())?;
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// Writes `ready PID`, stops only itself, as Claude Code does on Ctrl-Z, and writes `continued`.
pub fn stop_self(signal: i32, out: &str) -> io::Result<i32> {
    let mut out = open(out)?;
    writeln!(out, "ready {}", std::process::id())?;
    // SAFETY: a signal to ourselves.
    check(unsafe { libc::kill(libc::getpid(), signal) })?;
    writeln!(out, "continued")?;
    Ok(0)
}

/// `send PID SIGNAL[:VALUE]…`: kill, or sigqueue with a value; a negative pid is a process group.
pub fn send(args: &[OsString]) -> io::Result<i32> {
    let word = |a: &OsString| a.to_str().unwrap_or_default().to_owned();
    let pid: i32 = word(&args[0]).parse().map_err(io::Error::other)?;
    for arg in &args[1..] {
        let arg = word(arg);
        match arg.split_once(':') {
            None => {
                let signal = arg.parse().map_err(io::Error::other)?;
                // SAFETY: no memory is involved.
                check(unsafe { libc::kill(pid, signal) })?;
            }
            Some((signal, value)) => {
                let signal = signal.parse().map_err(io::Error::other)?;
                let value: isize = value.parse().map_err(io::Error::other)?;
                let value = libc::sigval { sival_ptr: value as *mut libc::c_void };
                // SAFETY: the value is a number stored as a pointer, which is never dereferenced.
                check(unsafe { libc::sigqueue(pid, signal, value) })?;
            }
        }
    }
    Ok(0)
}
