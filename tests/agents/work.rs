//! An agent that records when it worked, by a clock that all hosts of a test share.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::Duration;

use crate::raw::check;

/// Between two lines of the record, while it works.
const TICK: Duration = Duration::from_millis(2);

/// `work FILE TASK KEY HOST RESUMED SESSION MS`: appends `TASK KEY HOST RESUMED SESSION TIME` to FILE, in one
/// write each, at once, every two milliseconds, and after MS milliseconds. TIME is CLOCK_MONOTONIC in
/// nanoseconds. Its output is that of Claude Code, with a cost of MS millionths of a dollar.
pub fn work(args: [&str; 7]) -> io::Result<i32> {
    let [file, task, key, host, resumed, session, milliseconds] = args;
    let mut record = OpenOptions::new().append(true).create(true).open(file)?;
    let duration: i64 = milliseconds.parse().map_err(io::Error::other)?;
    let mut tick = || {
        let now = monotonic()?;
        let line = format!("{task} {key} {host} {resumed} {session} {now}\n");
        record.write_all(line.as_bytes())?;
        Ok::<i64, io::Error>(now)
    };
    let until = tick()? + duration * 1_000_000;
    let mut out = io::stdout();
    writeln!(out, r#"{{"type":"system","subtype":"init","session_id":"{session}","model":"m"}}"#)?;
    while tick()? < until {
        std::thread::sleep(TICK);
    }
    writeln!(
        out,
        concat!(
            r#"{{"type":"result","subtype":"success","is_error":false,"session_id":"{}","result":"done","#,
            r#""num_turns":1,"total_cost_usd":{},"usage":{{"input_tokens":3,"output_tokens":2}}}}"#
        ),
        session,
        duration as f64 / 1e6
    )?;
    tick()?;
    Ok(0)
}

fn monotonic() -> io::Result<i64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time outlives the call.
    check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) })?;
    Ok(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}
