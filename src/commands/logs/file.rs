//! The file of a transcript, read line by line while another process may write, cut or replace it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The longest line that is read, in bytes. A tool's output of many megabytes is one line.
const LONGEST_LINE: usize = 64 << 20;
/// The bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A transcript that is open.
pub(super) struct TranscriptFile {
    path: PathBuf,
    file: File,
    /// How much has been read.
    offset: u64,
    /// The beginning of a line that is not complete yet.
    begun: Vec<u8>,
    /// The rest of the present line is left out: it is too long.
    skips: bool,
}

impl TranscriptFile {
    /// Opens a regular file. A named pipe would block its reader.
    ///
    /// # Errors
    /// Those of open(2), or that it is not a regular file.
    pub(super) fn open(path: &Path) -> io::Result<TranscriptFile> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(TranscriptFile { path: path.to_owned(), file, offset: 0, begun: Vec::new(), skips: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing has been in it so far.
    pub(super) fn is_empty(&self) -> bool {
        self.offset == 0
    }

    /// Whether the file at the path was replaced or shortened.
    pub(super) fn was_replaced(&self) -> bool {
        let identity = |meta: &Metadata| (meta.dev(), meta.ino());
        let (Ok(open), Ok(there)) = (self.file.metadata(), self.path.metadata()) else { return false };
        identity(&open) != identity(&there) || there.len() < self.offset
    }

    /// Reads what was added, and passes each complete line on. `is_last`: what follows the last newline is
    /// complete, too.
    ///
    /// # Errors
    /// Those of read(2) and of `each`.
    pub(super) fn read(
        &mut self,
        is_last: bool,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = self.file.read(&mut chunk).map_err(|e| failed(&self.path, e))?;
            if length == 0 {
                break;
            }
            self.offset += length as u64;
            let mut lines = chunk[..length].split(|byte| *byte == b'\n').peekable();
            while let Some(part) = lines.next() {
                self.add(part);
                if lines.peek().is_some() {
                    self.complete(each)?;
                }
            }
        }
        if is_last && (self.skips || !self.begun.is_empty()) {
            self.complete(each)?;
        }
        Ok(())
    }

    fn add(&mut self, part: &[u8]) {
        if self.begun.len() + part.len() > LONGEST_LINE {
            self.begun = Vec::new();
            self.skips = true;
        }
        if !self.skips {
            self.begun.extend_from_slice(part);
        }
    }

    /// A line that was too long is passed on as an empty one.
    fn complete(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.skips = false;
        let line = std::mem::take(&mut self.begun);
        each(&line)
    }
}

/// The error of a transcript that cannot be read.
pub(super) fn failed(path: &Path, why: io::Error) -> Error {
    Error::failed(format!("reading the transcript {}", path.display())).caused_by(why)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(file: &mut TranscriptFile, is_last: bool) -> Vec<String> {
        let mut lines = Vec::new();
        file.read(is_last, &mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })
        .expect("a file that can be read");
        lines
    }

    #[test]
    fn lines_are_passed_on_once_they_are_complete() {
        let mut written = tempfile::NamedTempFile::new().expect("a file");
        let mut file = TranscriptFile::open(written.path()).expect("open");
        assert!(file.is_empty() && read(&mut file, false).is_empty());
        written.write_all(b"one\ntw").expect("written");
        assert_eq!(read(&mut file, false), ["one"]);
        written.write_all(b"o\n\nthree").expect("written");
        assert_eq!(read(&mut file, false), ["two", ""]);
        assert_eq!(read(&mut file, true), ["three"]);
        assert!(read(&mut file, true).is_empty() && !file.is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out() {
        let mut written = tempfile::NamedTempFile::new().expect("a file");
        written.write_all(&vec![b'x'; LONGEST_LINE + 1]).expect("written");
        written.write_all(b"\nnext\n").expect("written");
        let mut file = TranscriptFile::open(written.path()).expect("open");
        assert_eq!(read(&mut file, true), ["", "next"]);
    }

    #[test]
    fn a_file_that_was_cut_or_replaced_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t");
        std::fs::write(&path, "one\n").expect("written");
        let mut file = TranscriptFile::open(&path).expect("open");
        read(&mut file, false);
        assert!(!file.was_replaced());
        std::fs::write(&path, "").expect("cut");
        assert!(file.was_replaced());
        std::fs::write(dir.path().join("u"), "one\ntwo\n").expect("written");
        std::fs::rename(dir.path().join("u"), &path).expect("replaced");
        assert!(file.was_replaced());
        std::fs::remove_file(&path).expect("removed");
        assert!(!file.was_replaced(), "what is open is all there is");
        assert!(TranscriptFile::open(dir.path()).is_err());
    }
}
