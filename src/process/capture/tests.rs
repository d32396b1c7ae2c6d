//! The reader receives the agent's complete output, whatever it does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use super::backlog::{CHUNK, MEMORY};
use super::*;

#[test]
fn the_backlog_keeps_its_order_beyond_its_memory() {
    let mut backlog = Backlog::new(u64::MAX);
    let all: Vec<u8> = (0..3 * MEMORY).map(|i| (i % 251) as u8).collect();
    for part in all.chunks(70_001) {
        backlog.push(part);
    }
    assert!(backlog.memory.len() <= MEMORY && backlog.file.is_some());
    let mut out = Vec::new();
    while let Some(front) = backlog.front() {
        let n = front.len().min(33_333);
        out.extend_from_slice(&front[..n]);
        backlog.consume(n);
    }
    assert!(out == all && backlog.is_empty());
}

#[test]
fn a_reader_that_never_catches_up_fills_neither_disk_nor_memory() {
    let mut backlog = Backlog::new(u64::MAX);
    let part = vec![b'x'; CHUNK];
    let take = |backlog: &mut Backlog, mut n: usize| {
        while n > 0 {
            let some = backlog.front().expect("the backlog is not empty").len().min(n);
            backlog.consume(some);
            n -= some;
        }
    };
    let parts = 16 * MEMORY / CHUNK;
    (0..4 * MEMORY / CHUNK).for_each(|_| backlog.push(&part));
    for _ in 0..parts {
        backlog.push(&part);
        take(&mut backlog, CHUNK);
    }
    let spilled = backlog.file.as_ref().expect("the reader is behind");
    assert!(spilled.written >= 16 * MEMORY as u64);
    let blocks = spilled.file.metadata().expect("its size on the disk").blocks();
    assert!(blocks * 512 <= 6 * MEMORY as u64, "{blocks} blocks");
    take(&mut backlog, 4 * MEMORY);
    assert!(backlog.is_empty() && backlog.memory.capacity() <= CHUNK, "{}", backlog.memory.capacity());
}

/// A capture whose agent and reader are this test.
struct Between {
    capture: Capture,
    agent: Option<File>,
    reader: Option<File>,
    /// The bytes that the agent wrote, the adapter saw and the reader received.
    streams: [Vec<u8>; 3],
}

impl Between {
    fn new(on_closed: OnClosedOutput) -> Between {
        Between::of(on_closed, u64::MAX)
    }

    fn of(on_closed: OnClosedOutput, backlog: u64) -> Between {
        let (reader, stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (capture, agents) = Capture::new(stdout.as_fd(), on_closed, backlog).expect("a capture");
        for end in [&reader, &agents] {
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("its flags");
        }
        let (agent, reader) = (Some(agents.into()), Some(reader.into()));
        Between { capture, agent, reader, streams: Default::default() }
    }

    /// Writes as much of `bytes` as possible without waiting.
    fn write(&mut self, bytes: &[u8]) {
        let n = self.agent.as_mut().expect("the agent").write(bytes).unwrap_or(0);
        self.streams[0].extend_from_slice(&bytes[..n]);
    }

    fn read(&mut self) -> bool {
        self.capture.flush();
        self.capture.input().is_some() && self.capture.read(&mut |b| self.streams[1].extend_from_slice(b))
    }

    fn receive(&mut self, most: usize) {
        let mut bytes = vec![0; most];
        let n = self.reader.as_mut().expect("the reader").read(&mut bytes).unwrap_or(0);
        self.streams[2].extend_from_slice(&bytes[..n]);
    }

    /// Reads and writes until the end of the output.
    fn finish(&mut self) {
        self.agent = None;
        while self.read() || !self.capture.ended() || self.capture.output().is_some() {
            if self.reader.is_some() {
                self.receive(CHUNK);
            }
        }
        if self.reader.is_some() {
            (0..64).for_each(|_| self.receive(CHUNK));
        }
    }
}

/// Bytes of every value, without a pattern that repeats within a page.
fn noise(n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| ((i * i) >> 7) as u8 ^ i as u8).collect()
}

#[test]
fn pages_copies_and_backlog_form_one_stream() {
    let mut between = Between::new(OnClosedOutput::HangUp);
    let noise = noise(300_000);
    let (mut by_pages, mut waited, mut chance) = (0, 0, 1_u64);
    for _ in 0..2000 {
        let mut draw = |below: usize| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) as usize % below
        };
        let from = draw(200_000);
        let n = [1, 100, 5000, 70_000, 100_000][draw(5)];
        between.write(&noise[from..from + 1 + draw(n)]);
        by_pages += usize::from(between.capture.much && between.capture.backlog.is_empty());
        if draw(3) > 0 {
            between.read();
        }
        waited += usize::from(between.capture.output().is_some());
        // At times the reader pauses.
        if draw(40) > 0 && !(100..130).contains(&(between.streams[0].len() / 100_000)) {
            between.receive(1 + draw(60_000));
        }
    }
    between.finish();
    let [written, observed, got] = &between.streams;
    assert!(written == observed, "{} of {} bytes were observed", observed.len(), written.len());
    assert!(written == got, "{} of {} bytes arrived", got.len(), written.len());
    assert!(by_pages > 100 && waited > 100, "{by_pages} by pages, {waited} times output waited");
}

#[test]
fn a_reader_that_exits_during_much_output_ends_it_or_is_ignored() {
    for on_closed in [OnClosedOutput::Drain, OnClosedOutput::HangUp] {
        let mut between = Between::new(on_closed);
        let noise = noise(200_000);
        between.write(&noise);
        assert!(between.read() && between.capture.much);
        between.reader = None;
        if on_closed == OnClosedOutput::HangUp {
            assert!(!between.read() && between.capture.ended(), "the agent's pipe is closed");
            continue;
        }
        between.finish();
        assert!(between.streams[0] == between.streams[1], "all output is observed");
    }
}

#[test]
fn pages_do_not_overtake_the_backlog() {
    let mut between = Between::new(OnClosedOutput::HangUp);
    let noise = noise(4 * CHUNK);
    between.write(&noise);
    // The reader's pipe is full after the first chunk and the reader reads nothing, so the rest waits.
    while between.read() {}
    assert!(between.capture.output().is_some() && between.capture.much);
    between.receive(CHUNK);
    between.write(&noise);
    assert!(between.capture.read(&mut |b| between.streams[1].extend_from_slice(b)));
    between.finish();
    assert!(between.streams[0] == between.streams[2]);
}

#[test]
fn the_readers_pipe_is_enlarged_only_when_it_was_too_small() {
    let mut between = Between::new(OnClosedOutput::HangUp);
    let size = |between: &Between| {
        let reader = between.reader.as_ref().expect("the reader");
        nix::fcntl::fcntl(reader, nix::fcntl::FcntlArg::F_GETPIPE_SZ).expect("its pipe's size")
    };
    let noise = noise(2 * CHUNK);
    let before = size(&between);
    for part in [&noise[..100], &noise[..CHUNK], &noise[..5], &noise[..CHUNK]] {
        between.write(part);
        while between.read() {}
        between.receive(CHUNK);
    }
    assert_eq!(size(&between), before, "the reader has read everything at once");
    between.write(&noise[..CHUNK]);
    assert!(between.read());
    between.write(&noise[..CHUNK]);
    assert!(between.read());
    assert_eq!(size(&between), PIPE as i32);
    between.finish();
    assert!(between.streams[0] == between.streams[2]);
}

#[test]
fn only_a_closed_pipe_means_that_the_reader_has_exited() {
    let of = |errno: Errno| WriteRefusal::of(&errno.into());
    for (errno, refusal) in [
        (Errno::EAGAIN, WriteRefusal::WouldBlock),
        (Errno::EPIPE, WriteRefusal::ReaderGone),
        (Errno::ECONNRESET, WriteRefusal::ReaderGone),
        (Errno::ENOSPC, WriteRefusal::Full(Errno::ENOSPC)),
        (Errno::EDQUOT, WriteRefusal::Full(Errno::EDQUOT)),
        (Errno::EIO, WriteRefusal::Failed(Errno::EIO)),
        (Errno::EFBIG, WriteRefusal::Failed(Errno::EFBIG)),
    ] {
        assert_eq!(of(errno), refusal);
    }
}

#[test]
fn the_agents_last_output_is_read_even_if_the_backlog_is_full() {
    let mut between = Between::of(OnClosedOutput::Drain, 1);
    let noise = noise(CHUNK);
    for _ in 0..8 {
        between.write(&noise);
        while between.read() {}
    }
    assert!(between.capture.delays_agent(), "its reader reads nothing");
    between.write(&noise);
    assert!(!between.read());
    between.capture.agent_ended();
    while between.read() {}
    assert_eq!(between.streams[0].len(), between.streams[1].len());
    between.finish();
    assert!(between.streams[0] == between.streams[2]);
}
