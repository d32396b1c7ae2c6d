//! A terminal that runs an interactive bash, as a user has it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcgetwinsize, tcsetwinsize};

use super::wait::Deadline;
use super::{Cmd, Output, Proc, World};

pub struct Pty {
    master: Option<File>,
    seen: String,
    /// The beginning of a character whose other bytes were not read yet.
    split: Vec<u8>,
    /// The end of the last expected text: the search continues from here.
    cursor: usize,
    process: Proc,
    deadline: Deadline,
}

impl Pty {
    /// Opens a terminal and runs `command` on it as the leader of a new session.
    pub fn of(world: &World, command: Cmd<'_>) -> Pty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master: OwnedFd = openpt(flags).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let name = name.to_str().expect("the terminal's name");
        let process = command.with(["setsid".to_owned(), format!("ctty={name}")]).start();
        Pty {
            master: Some(File::from(master)),
            seen: String::new(),
            split: Vec::new(),
            cursor: 0,
            process,
            deadline: world.deadline(),
        }
    }

    /// Starts an interactive bash with job control and waits for its first prompt: `<status of the last
    /// command>`.
    pub fn bash(world: &World) -> Pty {
        let command = world
            .bare(["bash", "--norc", "--noprofile", "--noediting", "-i"])
            .env("PS1", "<$?>")
            .env("TERM", "dumb")
            .env("HISTFILE", "");
        let mut pty = Pty::of(world, command);
        assert_eq!(pty.prompt(), 0);
        pty
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    fn master(&self) -> &File {
        self.master.as_ref().expect("the terminal was hung up")
    }

    pub fn send(&mut self, keys: &str) {
        self.master().write_all(keys.as_bytes()).expect("keys");
    }

    /// Types a line.
    pub fn line(&mut self, line: &str) {
        self.send(&format!("{line}\n"));
    }

    /// Waits for `text` and returns the output between the previous match and it.
    pub fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen[self.cursor..].find(text) {
                let before = self.seen[self.cursor..self.cursor + at].to_owned();
                self.cursor += at + text.len();
                return before;
            }
            self.more(text);
        }
    }

    /// Waits until the screen shows `text`. A program that redraws a line prints only the characters that
    /// differ from those before, so that [`Pty::expect`] cannot find its words.
    pub fn shows(&mut self, text: &str) {
        let size = tcgetwinsize(self.master()).expect("the size");
        let [rows, columns] = [size.ws_row, size.ws_col].map(|n| NonZero::new(n).expect("a screen"));
        loop {
            let mut screen = vt100::Parser::new(rows, columns, 0);
            screen.process(self.seen.as_bytes());
            if screen.screen().contents().contains(text) {
                self.cursor = self.seen.len();
                return;
            }
            self.more(text);
        }
    }

    /// Waits for bash's prompt and returns the status of the last command.
    pub fn prompt(&mut self) -> i32 {
        self.output().1
    }

    /// As [`Pty::prompt`], with the output before the prompt.
    pub fn output(&mut self) -> (String, i32) {
        loop {
            if let Some((before, status, end)) = find_prompt(&self.seen[self.cursor..]) {
                let before = before.to_owned();
                self.cursor += end;
                return (before, status);
            }
            self.more("a prompt");
        }
    }

    fn more(&mut self, what: &str) {
        let what = format!("{what:?} on the terminal, which printed {:?}", self.seen);
        self.deadline.readable(&what, &[self.master()]);
        let mut chunk = [0; 4096];
        // The read fails with EIO once no process has the terminal open.
        let n = self.master().read(&mut chunk).unwrap_or(0);
        assert!(n > 0, "the terminal ended before {what}");
        self.split.extend_from_slice(&chunk[..n]);
        let whole = match std::str::from_utf8(&self.split) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.split.len(),
        };
        let whole: Vec<u8> = self.split.drain(..whole).collect();
        self.seen.push_str(&String::from_utf8_lossy(&whole));
    }

    /// The foreground process group of the terminal.
    pub fn foreground(&self) -> i32 {
        tcgetpgrp(self.master()).expect("a foreground group").as_raw_nonzero().get()
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master(), size).expect("a new size");
    }

    /// Hangs up: the kernel sends SIGHUP to the session of the terminal.
    pub fn hang_up(&mut self) {
        self.master = None;
    }

    /// Waits until the session leader exits.
    pub fn wait(mut self) -> Output {
        self.process.wait_here()
    }
}

/// Finds the first `<number>` in `text`: returns the text before it, the number and the position of its end.
fn find_prompt(text: &str) -> Option<(&str, i32, usize)> {
    text.match_indices('<').find_map(|(start, _)| {
        let end = start + text[start..].find('>')?;
        let status = text[start + 1..end].parse().ok()?;
        Some((&text[..start], status, end + 1))
    })
}
