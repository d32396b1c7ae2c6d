//! Output that stdout has not accepted yet: up to 1 MiB in memory, the rest in an unlinked file, up to a
//! limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::FallocateFlags;

use crate::sys;

/// Bytes that are copied at a time.
pub(super) const CHUNK: usize = 64 * 1024;
/// Bytes that wait in memory at most.
pub(super) const MEMORY: usize = 1 << 20;

/// What the reader has not accepted yet, oldest first: `memory`, then `file`, then `held`.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) memory: VecDeque<u8>,
    pub(super) file: Option<Spilled>,
    /// What could not be written to the file. While there is any, nothing more is read from the agent.
    held: Vec<u8>,
    /// With so many bytes waiting, nothing more is read from the agent.
    limit: u64,
}

#[derive(Debug)]
pub(super) struct Spilled {
    pub(super) file: File,
    read: u64,
    pub(super) written: u64,
    /// How many of the bytes read no longer occupy the disk.
    punched: u64,
}

impl Backlog {
    pub(super) fn new(limit: u64) -> Backlog {
        Backlog { memory: VecDeque::new(), file: None, held: Vec::new(), limit }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.file.is_none() && self.held.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        let in_file = self.file.as_ref().map_or(0, |f| f.written - f.read);
        self.memory.len() as u64 + in_file + self.held.len() as u64
    }

    /// Whether more may be read from the agent.
    pub(super) fn has_room(&self) -> bool {
        self.is_empty() || (self.held.is_empty() && self.len() < self.limit)
    }

    pub(super) fn clear(&mut self) {
        *self = Backlog::new(self.limit);
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.file.is_none() && self.held.is_empty() && self.memory.len() + bytes.len() <= MEMORY {
            self.memory.extend(bytes);
        } else if bytes.is_empty() || (self.held.is_empty() && self.spill(bytes).is_ok()) {
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    fn spill(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(Spilled { file: tempfile::tempfile()?, read: 0, written: 0, punched: 0 });
        }
        if let Some(spilled) = &mut self.file {
            spilled.file.write_all_at(bytes, spilled.written)?;
            spilled.written += bytes.len() as u64;
        }
        Ok(())
    }

    pub(super) fn front(&mut self) -> Option<&[u8]> {
        if self.memory.is_empty()
            && let Some(spilled) = &mut self.file
        {
            let mut chunk = [0; CHUNK];
            let left = (spilled.written - spilled.read).min(CHUNK as u64) as usize;
            match spilled.file.read_at(&mut chunk[..left], spilled.read) {
                Ok(n) if n > 0 => {
                    spilled.read += n as u64;
                    self.memory.extend(&chunk[..n]);
                }
                // Our own unlinked file cannot be read: its content is lost, and the order is kept.
                _ => spilled.read = spilled.written,
            }
            if spilled.read == spilled.written {
                self.file = None;
            } else {
                spilled.free_read_part();
            }
        }
        if self.memory.is_empty() && self.file.is_none() {
            self.memory.extend(self.held.drain(..));
        }
        let front = self.memory.as_slices().0;
        if front.is_empty() { None } else { Some(front) }
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.memory.drain(..n);
        if self.is_empty() && self.memory.capacity() > CHUNK {
            self.memory = VecDeque::new();
            sys::trim_memory();
        }
    }
}

impl Spilled {
    /// Frees the disk space of what has been read. With a reader that never quite catches up, the file would
    /// otherwise grow as long as the whole output of the agent.
    fn free_read_part(&mut self) {
        if self.read - self.punched >= MEMORY as u64 {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A file system without holes keeps it until the end.
            let _ = nix::fcntl::fallocate(&self.file, flags, 0, self.read.cast_signed());
            self.punched = self.read;
        }
    }
}
