//! Signals, received and sent: one line for each that arrives, in the order in which it is taken.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use crate::raw::{self, check};

/// The last real-time signal: its value says what `count` does next, and any other value is only counted.
const COMMAND: u32 = 64;
const EXIT: i32 = 1000;
const DIE: i32 = 2000;

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Says `ready PID PPID`, then `SIGNAL VALUE CODE` for every signal that comes, until signal 64 comes with
/// value 1000+N (exits N) or 2000+N (dies by signal N).
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

/// Says `stay PID` and stays, with every signal as it was inherited; whoever reads `out` sees the end of it
/// when this process is gone.
pub fn stay(out: &str) -> io::Result<i32> {
    let mut out = open(out)?;
    writeln!(out, "stay {}", std::process::id())?;
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// Says `ready PID`, stops itself alone, as Claude Code does on Ctrl-Z, and says `continued`.
pub fn stop_self(signal: i32, out: &str) -> io::Result<i32> {
    let mut out = open(out)?;
    writeln!(out, "ready {}", std::process::id())?;
    // SAFETY: a signal to ourselves.
    check(unsafe { libc::kill(libc::getpid(), signal) })?;
    writeln!(out, "continued")?;
    Ok(0)
}

/// `send PID SIGNAL[:VALUE]…`: kill, or sigqueue where a value is given; a negative pid is a group.
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
                // SAFETY: the value is a number in a pointer's clothes, never followed.
                check(unsafe { libc::sigqueue(pid, signal, value) })?;
            }
        }
    }
    Ok(0)
}
