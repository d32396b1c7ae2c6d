//! A terminal with an interactive bash on it, as a person has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};

use super::wait::Deadline;
use super::{Cmd, Output, Proc, World};

pub struct Pty {
    master: Option<File>,
    seen: String,
    /// What has been expected and found: everything before it is done with.
    cursor: usize,
    process: Proc,
    deadline: Deadline,
}

impl Pty {
    /// A terminal on which `command` runs as the leader of a new session.
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
            cursor: 0,
            process,
            deadline: world.deadline(),
        }
    }

    /// An interactive bash with job control, at its first prompt: `<status of the last command>`.
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

    /// Waits for `text`, and gives what came before it since the last time.
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

    /// Waits for bash's prompt, and gives the status of the last command.
    pub fn prompt(&mut self) -> i32 {
        self.output().1
    }

    /// The same, with what was said before it.
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
        let what = format!("{what:?} on the terminal, which said {:?}", self.seen);
        self.deadline.readable(&what, &[self.master()]);
        let mut chunk = [0; 4096];
        // EIO: nobody has the terminal open any more.
        let n = self.master().read(&mut chunk).unwrap_or(0);
        assert!(n > 0, "the terminal ended before {what}");
        self.seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }

    /// The group that the terminal's keys go to.
    pub fn foreground(&self) -> i32 {
        tcgetpgrp(self.master()).expect("a foreground group").as_raw_nonzero().get()
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master(), size).expect("a new size");
    }

    /// The line is cut: the terminal's session is sent SIGHUP.
    pub fn hang_up(&mut self) {
        self.master = None;
    }

    /// Waits for the end of the session's leader.
    pub fn wait(mut self) -> Output {
        self.process.wait_here()
    }
}

/// The first `<number>` in `text`: what is before it, the number, and where it ends.
fn find_prompt(text: &str) -> Option<(&str, i32, usize)> {
    text.match_indices('<').find_map(|(start, _)| {
        let end = start + text[start..].find('>')?;
        let status = text[start + 1..end].parse().ok()?;
        Some((&text[..start], status, end + 1))
    })
}
