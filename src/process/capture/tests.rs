//! What an agent says goes through whole, whatever its reader does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use super::backlog::{CHUNK, MEMORY};
use super::*;

#[test]
fn what_waits_comes_out_in_the_order_it_went_in_beyond_the_memory() {
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
fn a_reader_who_is_always_behind_fills_neither_disk_nor_memory() {
    let mut backlog = Backlog::new(u64::MAX);
    let part = vec![b'x'; CHUNK];
    let take = |backlog: &mut Backlog, mut n: usize| {
        while n > 0 {
            let some = backlog.front().expect("something waits").len().min(n);
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
    let spilled = backlog.file.as_ref().expect("he is behind");
    assert!(spilled.written >= 16 * MEMORY as u64);
    let blocks = spilled.file.metadata().expect("its size on the disk").blocks();
    assert!(blocks * 512 <= 6 * MEMORY as u64, "{blocks} blocks");
    take(&mut backlog, 4 * MEMORY);
    assert!(backlog.is_empty() && backlog.memory.capacity() <= CHUNK, "{}", backlog.memory.capacity());
}

/// A capture of an agent that we are, for a reader that we are too.
struct Between {
    capture: Capture,
    agent: Option<File>,
    reader: Option<File>,
    /// What the agent wrote, what was read along, and what the reader got.
    streams: [Vec<u8>; 3],
}

impl Between {
    fn new(when_gone: WhenReaderGone) -> Between {
        Between::of(when_gone, u64::MAX)
    }

    fn of(when_gone: WhenReaderGone, backlog: u64) -> Between {
        let (reader, stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (capture, agents) = Capture::new(stdout.as_fd(), when_gone, backlog).expect("a capture");
        for end in [&reader, &agents] {
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("its flags");
        }
        let (agent, reader) = (Some(agents.into()), Some(reader.into()));
        Between { capture, agent, reader, streams: Default::default() }
    }

    /// As much of `bytes` as goes without waiting.
    fn say(&mut self, bytes: &[u8]) {
        let n = self.agent.as_mut().expect("the agent").write(bytes).unwrap_or(0);
        self.streams[0].extend_from_slice(&bytes[..n]);
    }

    fn listen(&mut self) -> bool {
        self.capture.flush();
        self.capture.input().is_some() && self.capture.read(&mut |b| self.streams[1].extend_from_slice(b))
    }

    fn take(&mut self, most: usize) {
        let mut bytes = vec![0; most];
        let n = self.reader.as_mut().expect("the reader").read(&mut bytes).unwrap_or(0);
        self.streams[2].extend_from_slice(&bytes[..n]);
    }

    /// To the end of the output.
    fn finish(&mut self) {
        self.agent = None;
        while self.listen() || !self.capture.ended() || self.capture.output().is_some() {
            if self.reader.is_some() {
                self.take(CHUNK);
            }
        }
        if self.reader.is_some() {
            (0..64).for_each(|_| self.take(CHUNK));
        }
    }
}

/// Bytes of every value, in no order that repeats within a page.
fn noise(n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| ((i * i) >> 7) as u8 ^ i as u8).collect()
}

#[test]
fn what_is_given_by_pages_copied_and_kept_waiting_is_one_stream() {
    let mut between = Between::new(WhenReaderGone::HangUp);
    let noise = noise(300_000);
    let (mut by_pages, mut waited, mut chance) = (0, 0, 1_u64);
    for _ in 0..2000 {
        let mut draw = |below: usize| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) as usize % below
        };
        let from = draw(200_000);
        let n = [1, 100, 5000, 70_000, 100_000][draw(5)];
        between.say(&noise[from..from + 1 + draw(n)]);
        by_pages += usize::from(between.capture.much && between.capture.backlog.is_empty());
        if draw(3) > 0 {
            between.listen();
        }
        waited += usize::from(between.capture.output().is_some());
        // At times he sleeps.
        if draw(40) > 0 && !(100..130).contains(&(between.streams[0].len() / 100_000)) {
            between.take(1 + draw(60_000));
        }
    }
    between.finish();
    let [said, read, got] = &between.streams;
    assert!(said == read, "{} of {} bytes were read along", read.len(), said.len());
    assert!(said == got, "{} of {} bytes came", got.len(), said.len());
    assert!(by_pages > 100 && waited > 100, "{by_pages} by pages, {waited} times somebody waited");
}

#[test]
fn a_reader_who_leaves_amid_much_output_ends_it_or_is_done_without() {
    for when_gone in [WhenReaderGone::Drain, WhenReaderGone::HangUp] {
        let mut between = Between::new(when_gone);
        let noise = noise(200_000);
        between.say(&noise);
        assert!(between.listen() && between.capture.much);
        between.reader = None;
        if when_gone == WhenReaderGone::HangUp {
            assert!(!between.listen() && between.capture.ended(), "the agent is hung up on");
            continue;
        }
        between.finish();
        assert!(between.streams[0] == between.streams[1], "all is read along");
    }
}

#[test]
fn pages_are_not_given_past_what_waits() {
    let mut between = Between::new(WhenReaderGone::HangUp);
    let noise = noise(4 * CHUNK);
    between.say(&noise);
    // The reader's pipe is full after the first, and he takes nothing: the rest waits.
    while between.listen() {}
    assert!(between.capture.output().is_some() && between.capture.much);
    between.take(CHUNK);
    between.say(&noise);
    assert!(between.capture.read(&mut |b| between.streams[1].extend_from_slice(b)));
    between.finish();
    assert!(between.streams[0] == between.streams[2]);
}

#[test]
fn the_readers_pipe_is_enlarged_only_when_it_was_too_small() {
    let mut between = Between::new(WhenReaderGone::HangUp);
    let size = |between: &Between| {
        let reader = between.reader.as_ref().expect("the reader");
        nix::fcntl::fcntl(reader, nix::fcntl::FcntlArg::F_GETPIPE_SZ).expect("its pipe's size")
    };
    let noise = noise(2 * CHUNK);
    let before = size(&between);
    for part in [&noise[..100], &noise[..CHUNK], &noise[..5], &noise[..CHUNK]] {
        between.say(part);
        while between.listen() {}
        between.take(CHUNK);
    }
    assert_eq!(size(&between), before, "he has taken all, as it came");
    between.say(&noise[..CHUNK]);
    assert!(between.listen());
    between.say(&noise[..CHUNK]);
    assert!(between.listen());
    assert_eq!(size(&between), PIPE as i32);
    between.finish();
    assert!(between.streams[0] == between.streams[2]);
}

/// What stdout says of its refusals: only a closed pipe means that the reader has exited.
#[test]
fn a_refusal_is_known_by_its_errno() {
    let of = |errno: Errno| Refusal::of(&errno.into());
    for (errno, refusal) in [
        (Errno::EAGAIN, Refusal::NotNow),
        (Errno::EPIPE, Refusal::ReaderGone),
        (Errno::ECONNRESET, Refusal::ReaderGone),
        (Errno::ENOSPC, Refusal::Full(Errno::ENOSPC)),
        (Errno::EDQUOT, Refusal::Full(Errno::EDQUOT)),
        (Errno::EIO, Refusal::Failed(Errno::EIO)),
        (Errno::EFBIG, Refusal::Failed(Errno::EFBIG)),
    ] {
        assert_eq!(of(errno), refusal);
    }
}

#[test]
fn what_the_agent_has_written_is_read_after_its_end_whatever_waits() {
    let mut between = Between::of(WhenReaderGone::Drain, 1);
    let noise = noise(CHUNK);
    for _ in 0..8 {
        between.say(&noise);
        while between.listen() {}
    }
    assert!(between.capture.holds_agent_up(), "its reader takes nothing");
    between.say(&noise);
    assert!(!between.listen());
    between.capture.agent_ended();
    while between.listen() {}
    assert_eq!(between.streams[0].len(), between.streams[1].len());
    between.finish();
    assert!(between.streams[0] == between.streams[2]);
}
