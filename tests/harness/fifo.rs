//! A named pipe through which agents report to the test.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::wait::Deadline;

pub struct Fifo {
    path: PathBuf,
    reader: File,
    /// Keeps the pipe from reporting end of file between two writers.
    writer: Option<File>,
    buffer: Vec<u8>,
    deadline: Deadline,
}

impl Fifo {
    pub(super) fn make(path: &Path, deadline: Deadline) -> Fifo {
        rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o666), 0)
            .expect("a named pipe");
        let open = |read| {
            OpenOptions::new()
                .read(read)
                .write(!read)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(path)
                .expect("an end of a named pipe")
        };
        let reader = open(true);
        let writer = Some(open(false));
        Fifo { path: path.to_owned(), reader, writer, buffer: Vec::new(), deadline }
    }

    pub fn path(&self) -> String {
        self.path.to_str().expect("UTF-8").to_owned()
    }

    /// Restarts the deadline, as [`World::renew_deadline`] does.
    pub fn renew_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Writes a line for the process that reads from the pipe. Each direction needs its own pipe.
    pub fn write_line(&mut self, line: &str) {
        let mut writer = self.writer.as_ref().expect("the writing end was closed");
        writeln!(writer, "{line}").expect("a line into the pipe");
    }

    /// Fills the pipe, as if its reader had stopped: a blocking write to it then never returns.
    pub fn fill_up(&mut self) {
        let mut writer = self.writer.as_ref().expect("the writing end was closed");
        while writer.write(&[b'x'; 1]).is_ok() {}
    }

    /// Waits for the next line.
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            let what = format!("a line on {}, {:?} so far", self.path.display(), self.text());
            self.deadline.readable(&what, &[&self.reader]);
            assert!(self.fill() > 0, "{} ended before a line was complete", self.path.display());
        }
    }

    /// Returns the number after `word` in the next line: `ready 123 …`.
    pub fn pid(&mut self, word: &str) -> i32 {
        let line = self.line();
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some(word), "in {line:?}");
        words.next().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("a pid in {line:?}"))
    }

    /// Waits until no other process has the pipe open for writing and returns the lines read until then.
    pub fn rest(&mut self) -> Vec<String> {
        self.writer = None;
        loop {
            let what = format!("the end of {}", self.path.display());
            self.deadline.readable(&what, &[&self.reader]);
            if self.fill() == 0 {
                let lines = self.text().lines().map(str::to_owned).collect();
                self.buffer.clear();
                return lines;
            }
        }
    }

    /// Returns the lines that are already in the pipe.
    pub fn lines_so_far(&mut self) -> Vec<String> {
        while super::wait::ready(&[&self.reader], std::time::Duration::ZERO)[0] && self.fill() > 0 {}
        let lines = self.text().lines().map(str::to_owned).collect();
        self.buffer.clear();
        lines
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    fn fill(&mut self) -> usize {
        let mut chunk = [0; 65536];
        match self.reader.read(&mut chunk) {
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                n
            }
            Err(e) => panic!("reading {}: {e}", self.path.display()),
        }
    }
}
