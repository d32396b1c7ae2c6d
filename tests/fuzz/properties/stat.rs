//! `/proc/PID/stat`: the name of a process, with any bytes, never makes it look like another process.

use super::Chance;
use crate::process::procfs::identity::{ProcessStat, parse_stat};

/// Reads the bytes as a line, and as the name of a process in a complete line.
pub fn stat(bytes: &[u8]) {
    if let Some(read) = parse_stat(bytes) {
        let open = bytes.iter().position(|b| *b == b'(').expect("a name begins");
        let close = bytes.iter().rposition(|b| *b == b')').expect("a name ends");
        assert_eq!(read.comm.as_bytes(), &bytes[open + 1..close][..(close - open - 1).min(15)]);
        let renamed = [&bytes[..=open], b"x) Z 1 (\n", &bytes[close..]].concat();
        let renamed = parse_stat(&renamed).expect("another name changes nothing else");
        assert_eq!(ProcessStat { comm: read.comm, ..renamed }, read);
    }
    let mut chance = Chance::of(bytes);
    let mut any = |most: usize| chance.below(most);
    let (pid, tty) = (any(4_194_304) as i32, any(9) as i32 - 1);
    let (flags, start) = (any(u32::MAX as usize) as u32, any(usize::MAX - 1));
    let head = format!("{pid} (");
    let counts = "1 2 3 4 5 6 7 8 20 0 3 0";
    let rest = format!(") S 1 -1 42 {tty} 42 {flags} {counts} {start} 1 2 18446744073709551615\n");
    let line = [head.as_bytes(), bytes, rest.as_bytes()].concat();
    let read = parse_stat(&line).expect("a line as in proc(5)");
    assert_eq!(read.comm.as_bytes(), &bytes[..bytes.len().min(15)]);
    assert_eq!((read.pid, read.tty_nr, read.flags, read.start), (pid, tty, flags, start as u64));
    assert_eq!((read.state, read.ppid, read.pgrp, read.session, read.threads), ('S', 1, -1, 42, 3));
    for cut in 1..rest.len() {
        let cut = parse_stat(&line[..line.len() - cut]);
        assert!(cut.is_none_or(|s| s == read), "a truncated line names another process");
    }
}
