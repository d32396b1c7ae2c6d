//! The format of a record in the spool.

use std::io;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::task::{
    EndSource, Ending, KeepSession, SessionId, SessionTotals, Signal, SignalSender, Status, TaskEnd, TaskId,
    Time, TokenUsage, UsageCounts,
};

/// The length to which an error's text is truncated if the record does not fit in its slot.
const SHORT_ERROR_CHARS: usize = 2000;
const RECORD_VERSION: u32 = 1;

/// A record in the spool: flat, with its own version, independent of the tables.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    task: TaskId,
    by_pid: u32,
    by_command: String,
    status: String,
    reason: Option<String>,
    error: Option<String>,
    finished_at: Option<Time>,
    duration_ms: Option<i64>,
    exit_code: Option<i32>,
    term_signal: Option<Signal>,
    stop_signal: Option<Signal>,
    stop_sender_pid: Option<i32>,
    stop_sender_uid: Option<u32>,
    cost_usd: Option<f64>,
    turns: Option<i64>,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    cache_read_tokens: Option<i64>,
    cache_creation_tokens: Option<i64>,
    session_cost_usd: Option<f64>,
    #[serde(default)]
    session_tokens: Option<TokenUsage>,
    model: Option<String>,
    session_id: Option<SessionId>,
    #[serde(default)]
    tool_in_flight: Option<String>,
    #[serde(default)]
    context_lost: bool,
    #[serde(default)]
    transcript_seen: Option<bool>,
    #[serde(default)]
    session_kept: Option<KeepSession>,
    #[serde(default)]
    limit_resets_at: Option<Time>,
    oom_killed: Option<bool>,
    cpu_ms: Option<i64>,
    max_rss_kib: Option<i64>,
    leftovers: Option<String>,
    executed: bool,
}

impl Record {
    pub(super) fn new(task: &TaskId, ended: &TaskEnd, by: &str) -> Record {
        let (exit_code, term_signal) = match ended.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        Record {
            version: RECORD_VERSION,
            task: task.to_owned(),
            by_pid: std::process::id(),
            by_command: by.to_owned(),
            status: ended.ending.status().as_str().to_owned(),
            reason: ended.ending.reason().map(str::to_owned),
            error: ended.error.clone(),
            finished_at: ended.finished_at,
            duration_ms: ended.duration_ms,
            exit_code,
            term_signal,
            stop_signal: ended.stop_signal,
            stop_sender_pid: ended.stop_sender.map(|s| s.pid),
            stop_sender_uid: ended.stop_sender.map(|s| s.uid),
            cost_usd: ended.counts.cost_usd,
            turns: ended.counts.turns,
            input_tokens: ended.counts.input_tokens,
            output_tokens: ended.counts.output_tokens,
            cache_read_tokens: ended.counts.cache_read_tokens,
            cache_creation_tokens: ended.counts.cache_creation_tokens,
            session_cost_usd: ended.session_totals.cost_usd,
            session_tokens: ended.session_totals.tokens,
            model: ended.model.clone(),
            session_id: ended.session_id.clone(),
            tool_in_flight: ended.tool_in_flight.clone(),
            context_lost: ended.context_lost,
            transcript_seen: ended.transcript_seen,
            session_kept: ended.session_kept,
            limit_resets_at: ended.limit_resets_at,
            oom_killed: ended.oom_killed,
            cpu_ms: ended.cpu_ms,
            max_rss_kib: ended.max_rss_kib,
            leftovers: ended.leftovers.clone(),
            executed: ended.executed,
        }
    }

    /// The bytes of the record, with a checksum.
    pub(super) fn sealed(&self) -> io::Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)?;
        let rest = &bytes[1..];
        Ok([seal(rest).as_bytes(), rest].concat())
    }

    /// Shortens a record that does not fit in its slot.
    pub(super) fn shorten(&mut self) {
        self.error = self.error.take().map(|e| e.chars().take(SHORT_ERROR_CHARS).collect());
        self.leftovers = None;
    }

    /// The record as one line of ASCII, which a terminal and the journal show unchanged.
    pub(super) fn line(&self) -> io::Result<String> {
        let mut rest = String::new();
        for c in serde_json::to_string(self)?.chars().skip(1) {
            match c {
                ' '..='~' => rest.push(c),
                // serde_json has already escaped the control characters.
                _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| rest.push_str(&format!("\\u{u:04x}"))),
            }
        }
        Ok(seal(rest.as_bytes()) + &rest)
    }

    fn ended(self) -> Result<TaskEnd, String> {
        let ending = Status::parse(&self.status)
            .and_then(|status| Ending::from_words(status, self.reason.as_deref()))
            .ok_or_else(|| format!("no ending is called {:?}, {:?}", self.status, self.reason))?;
        Ok(TaskEnd {
            ending,
            error: self.error,
            source: EndSource::Spool,
            finished_at: self.finished_at,
            duration_ms: self.duration_ms,
            exit: self.exit_code.map(Exit::Code).or(self.term_signal.map(Exit::Signal)),
            stop_signal: self.stop_signal,
            stop_sender: match (self.stop_sender_pid, self.stop_sender_uid) {
                (Some(pid), Some(uid)) => Some(SignalSender { pid, uid }),
                _ => None,
            },
            counts: UsageCounts {
                cost_usd: self.cost_usd,
                turns: self.turns,
                input_tokens: self.input_tokens,
                output_tokens: self.output_tokens,
                cache_read_tokens: self.cache_read_tokens,
                cache_creation_tokens: self.cache_creation_tokens,
            },
            session_totals: SessionTotals { cost_usd: self.session_cost_usd, tokens: self.session_tokens },
            model: self.model,
            session_id: self.session_id,
            tool_in_flight: self.tool_in_flight,
            context_lost: self.context_lost,
            transcript_seen: self.transcript_seen,
            session_kept: self.session_kept,
            limit_resets_at: self.limit_resets_at,
            oom_killed: self.oom_killed,
            cpu_ms: self.cpu_ms,
            max_rss_kib: self.max_rss_kib,
            leftovers: self.leftovers,
            executed: self.executed,
        })
    }
}

/// The beginning of a record: the FNV-1a hash of the `rest`, so that a damaged record is not taken for an
/// ending.
fn seal(rest: &[u8]) -> String {
    let hash = rest.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{{\"check\":\"{hash:016x}\",")
}
const SEAL_BYTES: usize = r#"{"check":"0123456789abcdef","#.len();

#[derive(Debug)]
pub struct SpooledEnd {
    pub task: TaskId,
    pub by_pid: u32,
    pub by_command: String,
    pub ended: TaskEnd,
}

pub(super) fn parse(bytes: &[u8]) -> Result<SpooledEnd, String> {
    if bytes.split_at_checked(SEAL_BYTES).is_none_or(|(head, rest)| head != seal(rest).as_bytes()) {
        return Err("it is not a record, or is truncated or damaged: its checksum is wrong".to_owned());
    }
    let record: Record = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if record.version != RECORD_VERSION {
        return Err(format!("it has version {}, not {RECORD_VERSION}", record.version));
    }
    Ok(SpooledEnd {
        task: record.task.clone(),
        by_pid: record.by_pid,
        by_command: record.by_command.clone(),
        ended: record.ended()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{CancelReason, FailureReason, InterruptReason};

    fn every_ending() -> Vec<Ending> {
        vec![
            Ending::Success,
            Ending::Failure(FailureReason::AgentError),
            Ending::Failure(FailureReason::Exit),
            Ending::Failure(FailureReason::Signal),
            Ending::Failure(FailureReason::NoResult),
            Ending::Failure(FailureReason::Prepare),
            Ending::Failure(FailureReason::Spawn),
            Ending::Cancelled(CancelReason::Operator),
            Ending::Cancelled(CancelReason::Timeout),
            Ending::Cancelled(CancelReason::IdleTimeout),
            Ending::Interrupted(InterruptReason::Signal),
            Ending::Interrupted(InterruptReason::SupervisorLost),
            Ending::Interrupted(InterruptReason::Oom),
            Ending::Interrupted(InterruptReason::Rebooted),
            Ending::Interrupted(InterruptReason::Ttl),
            Ending::AbortedNoSkill("review".into()),
        ]
    }

    #[test]
    fn every_ending_is_read_back_from_its_words() {
        for ending in every_ending() {
            assert_eq!(Ending::from_words(ending.status(), ending.reason()), Some(ending));
        }
    }

    #[test]
    fn a_record_of_another_version_is_not_read() {
        let ended = TaskEnd::unknown(Ending::Success);
        let record = Record::new(&TaskId::recorded("t"), &ended, "run");
        assert!(parse(&record.sealed().unwrap()).is_ok());
        let newer = Record { version: RECORD_VERSION + 1, ..record };
        assert_eq!(parse(&newer.sealed().unwrap()).unwrap_err(), "it has version 2, not 1");
    }

    #[test]
    fn a_record_that_an_older_bookend_left_is_read() {
        // Written before there was `session_tokens`.
        let left = concat!(
            r#"{"check":"b41fa068e061c380","version":1,"task":"a","by_pid":10304,"by_command":"run","#,
            r#""status":"failure","reason":"exit","error":null,"finished_at":"2026-11-30T08:05:12.974Z","#,
            r#""duration_ms":73,"exit_code":4,"term_signal":null,"stop_signal":null,"#,
            r#""stop_sender_pid":null,"stop_sender_uid":null,"cost_usd":null,"turns":null,"#,
            r#""input_tokens":null,"output_tokens":null,"cache_read_tokens":null,"#,
            r#""cache_creation_tokens":null,"session_cost_usd":null,"model":null,"session_id":null,"#,
            r#""tool_in_flight":null,"context_lost":false,"transcript_seen":null,"session_kept":null,"#,
            r#""limit_resets_at":null,"oom_killed":null,"cpu_ms":2,"max_rss_kib":4944,"leftovers":null,"#,
            r#""executed":true}"#
        );
        let spooled = parse(left.as_bytes()).unwrap();
        assert_eq!(spooled.task, TaskId::recorded("a"));
        assert_eq!(spooled.ended.ending, Ending::Failure(FailureReason::Exit));
        assert_eq!(spooled.ended.exit, Some(Exit::Code(4)));
        assert_eq!(spooled.ended.session_totals.tokens, None);
    }
}
