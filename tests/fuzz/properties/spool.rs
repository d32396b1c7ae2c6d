//! The spool's records: a written record is read back, a damaged one is rejected. Their types are private
//! to the spool, so this is a child module of it.

use super::*;
use crate::exit::Exit;
use crate::fuzz::Chance;
use crate::task::{
    CancelReason, EndSource, Ending, FailureReason, InterruptReason, KeepSession, SessionId, SessionTotals,
    Signal, SignalSender, TokenUsage, UsageCounts,
};

/// Reads the bytes as a record, and generates from them an ending to write.
pub fn spool(bytes: &[u8]) {
    if let Ok(read) = parse(bytes) {
        assert_eq!(through(read.task.as_str(), &read.ended, &read.by_command), read.ended);
    }
    let mut from = From(bytes);
    let (task, by, ended) = (from.text(), from.text(), from.ended());
    assert_eq!(through(&task, &ended, &by), ended);
    if let Ok(name) = file_name(&TaskId::recorded(&task)) {
        assert!(!name.contains(['/', '.', '\0']) && id_of(&name) == Some(TaskId::recorded(task)));
    }
}

/// Writes the ending and returns it as read back. Checks that damaged copies are rejected.
fn through(task: &str, ended: &TaskEnd, by: &str) -> TaskEnd {
    let written = Record::new(&TaskId::recorded(task), ended, by).sealed().expect("JSON");
    let read = match parse(&written) {
        Ok(read) => read,
        other => panic!("{other:?} of {}", written.escape_ascii()),
    };
    assert_eq!((read.task.as_str(), read.by_command.as_str()), (task, by));
    let as_json: serde_json::Value = serde_json::from_slice(&written).expect("a record is JSON");
    assert_eq!(as_json["task"], task);

    let refused = |damaged: &[u8]| assert!(parse(damaged).is_err(), "{}", damaged.escape_ascii());
    let mut chance = Chance::of(&written);
    for _ in 0..16 {
        let at = chance.below(written.len() - 1);
        refused(&written[..at]);
        let mut damaged = written.clone();
        damaged[at] ^= 1 + chance.below(254) as u8;
        refused(&damaged);
        // A page that was not written to the disk.
        damaged = written.clone();
        damaged[at..].fill(0);
        refused(&damaged);
        // A repeated part.
        refused(&[&written[..=at], &written[at..]].concat());
    }
    refused(&[&written, &b" "[..]].concat());
    refused(&[&written, &[0; 100][..]].concat());
    read.ended
}

/// Generates values from bytes; after their end, zeros.
struct From<'a>(&'a [u8]);

impl From<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn text(&mut self) -> String {
        let (text, rest) = self.0.split_at(usize::from(self.byte()).min(self.0.len()));
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }

    fn maybe<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.byte() & 1 == 1).then(|| one(self))
    }

    fn integer(&mut self) -> Option<i64> {
        self.maybe(|from| from.number() as i64)
    }

    fn small(&mut self) -> Option<i32> {
        self.maybe(|from| from.number() as i32)
    }

    fn time(&mut self) -> Option<Time> {
        self.integer().and_then(Time::from_unix_millis)
    }

    fn real(&mut self) -> Option<f64> {
        self.maybe(|from| f64::from_bits(from.number())).filter(|n| n.is_finite())
    }

    fn ending(&mut self) -> Ending {
        use {CancelReason as C, FailureReason as F, InterruptReason as I};
        match self.byte() % 18 {
            0 => Ending::Success,
            1 => Ending::Failure(F::AgentError),
            2 => Ending::Failure(F::Exit),
            3 => Ending::Failure(F::Signal),
            4 => Ending::Failure(F::NoResult),
            5 => Ending::Failure(F::Prepare),
            6 => Ending::Failure(F::Spawn),
            7 => Ending::Cancelled(C::Operator),
            8 => Ending::Cancelled(C::Timeout),
            9 => Ending::Cancelled(C::IdleTimeout),
            10 => Ending::Interrupted(I::Signal),
            11 => Ending::Interrupted(I::SupervisorLost),
            12 => Ending::Interrupted(I::Oom),
            13 => Ending::Interrupted(I::Rebooted),
            14 => Ending::Interrupted(I::Ttl),
            15 => Ending::Failure(F::Output),
            16 => Ending::Backgrounded,
            _ => Ending::AbortedNoSkill(self.text()),
        }
    }

    fn ended(&mut self) -> TaskEnd {
        TaskEnd {
            ending: self.ending(),
            error: self.maybe(Self::text),
            source: EndSource::Spool,
            finished_at: self.time(),
            duration_ms: self.integer(),
            exit: match self.byte() % 3 {
                0 => None,
                1 => Some(Exit::Code(self.number() as i32)),
                _ => Some(Exit::Signal(Signal::from_number(self.number() as i32))),
            },
            stop_signal: self.small().map(Signal::from_number),
            stop_sender: self
                .maybe(|from| SignalSender { pid: from.number() as i32, uid: from.number() as u32 }),
            counts: UsageCounts {
                cost_usd: self.real(),
                turns: self.integer(),
                input_tokens: self.integer(),
                output_tokens: self.integer(),
                cache_read_tokens: self.integer(),
                cache_creation_tokens: self.integer(),
            },
            session_totals: SessionTotals {
                cost_usd: self.real(),
                tokens: self.maybe(|from| TokenUsage {
                    input: from.integer(),
                    output: from.integer(),
                    cache_read: from.integer(),
                    cache_creation: from.integer(),
                }),
            },
            model: self.maybe(Self::text),
            session_id: self.maybe(|from| SessionId::recorded(from.text())),
            tool_in_flight: self.maybe(Self::text),
            context_lost: self.byte() & 1 == 1,
            transcript_seen: self.maybe(|from| from.byte() & 1 == 1),
            session_kept: self.maybe(|from| match from.byte() & 1 {
                0 => KeepSession::Limit,
                _ => KeepSession::ApiError,
            }),
            limit_resets_at: self.time(),
            oom_killed: self.maybe(|from| from.byte() & 1 == 1),
            cpu_ms: self.integer(),
            max_rss_kib: self.integer(),
            leftovers: self.maybe(Self::text),
            executed: self.byte() & 1 == 1,
        }
    }
}
