//! Classifies the processes of a scan: the task's, a nested supervisor's, or to be spared. It only decides.

use serde::Serialize;

use super::swept_task::{SupervisorLookup, SweepOwner, SweptTask};
use crate::process::procfs::identity::ProcessStat;
use crate::process::procfs::snapshot::ProcessSnapshot;

/// What the environment of a process shows about the task's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkCheck {
    Marked,
    /// Marked, but another user's process: the task's only if it is below us.
    MarkedOfAnother,
    /// Marked with the task's id, but perhaps of another ledger ([`crate::process::procfs::mark`]).
    Doubtful,
    Unmarked,
    /// It exits and has released its memory, so nothing shows whether it is the task's.
    Exiting,
    ExitingOfAnother,
    Unreadable,
    UnreadableOfAnother,
}

/// What a process is to the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessClass {
    Ours,
    /// It holds its live lock: it is sent SIGTERM, and then ends its own task.
    Supervisor,
    Spared(SparedReason),
    Unreadable,
    /// It exits and may be the task's: its end is awaited, and it is sent nothing.
    Exiting,
}

/// Why one of the task's processes is spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SparedReason {
    /// It serves or uses a terminal that is not the agent's: a person may be using it.
    Terminal,
    /// It is not our child and does not carry the mark: nothing proves what it is when it is to be signalled.
    Unmarked,
    /// Its environment names the task and a ledger that may or may not be this one.
    UnknownLedger,
    /// It is the task's, but its environment cannot be read, so nothing proves what it is when it is to be
    /// signalled: it may have changed its user.
    Unreadable,
    /// It is a supervisor, which settles its own task.
    Supervisor,
    /// It is below a live supervisor that its row does not name; others may have written the row.
    Supervised,
    /// It is being killed or exits, and has not ended in time (a hung disk, a core dump).
    Dying,
    /// Its environment contains `BOOKEND_DETACHED=1`: it serves more than the task.
    Detached,
    /// It is the agent or our child, and `/proc` hides it: it may have changed its user.
    Hidden,
}

/// One scan, as seen from this process on behalf of one task.
pub struct ScanView<'a> {
    pub task: &'a SweptTask,
    pub me: i32,
    pub snapshot: &'a ProcessSnapshot,
}

impl ScanView<'_> {
    /// Whether a process is the agent, or is below the agent or us.
    pub fn is_related(&self, stat: &ProcessStat) -> bool {
        let is_root = |s: &ProcessStat| s.pid == self.me || s.identity() == self.task.agent;
        let rows = self.snapshot.rows();
        let above = self.snapshot.index(stat.pid).map(|i| self.snapshot.above(i));
        is_root(stat) || above.into_iter().flatten().any(|a| is_root(&rows[a]))
    }
}

/// Classifies the processes that concern the task; `check` is called at most once for each that may.
pub fn classify(
    view: &ScanView<'_>,
    check: &mut dyn FnMut(&ProcessStat) -> MarkCheck,
    supervisors: &dyn SupervisorLookup,
) -> Vec<(ProcessStat, ProcessClass)> {
    let rows = view.snapshot.rows();
    let ancestors: Vec<usize> = match view.snapshot.index(view.me) {
        Some(me) => view.snapshot.above(me).collect(),
        None => Vec::new(),
    };
    let helpers: &[i32] = match &view.task.owner {
        SweepOwner::Supervisor { helpers, .. } => helpers,
        SweepOwner::Recovery | SweepOwner::DistrustfulRecovery => &[],
    };
    let checks: Vec<Option<MarkCheck>> = rows
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let may_be = s.start >= view.task.agent.start
                && !s.is_kernel_thread()
                && !s.is_dead()
                && s.pid != view.me
                && !ancestors.contains(&i)
                && !helpers.contains(&s.pid);
            may_be.then(|| check(s))
        })
        .collect();
    let mut asked = vec![None; rows.len()];
    let mut judge = Judge {
        terminals: Terminals::of(view),
        view,
        checks: &checks,
        is_supervisor: &mut |i| *asked[i].get_or_insert_with(|| supervisors.is_supervisor(&rows[i])),
    };
    let classes = (0..rows.len()).filter_map(|i| Some((rows[i], judge.class(i, checks[i]?)?)));
    classes.collect()
}

/// Which processes have a terminal that is not the agent's. Indexed by row.
struct Terminals {
    /// The process or one below it has one.
    reaches: Vec<bool>,
    /// A child of it has one.
    serves: Vec<bool>,
}

impl Terminals {
    fn of(view: &ScanView<'_>) -> Terminals {
        let rows = view.snapshot.rows();
        let mut reaches = vec![false; rows.len()];
        let mut serves = vec![false; rows.len()];
        let foreign = |s: &ProcessStat| s.tty_nr != 0 && s.tty_nr != view.task.agent_tty && !s.is_dead();
        for i in (0..rows.len()).filter(|i| foreign(&rows[*i])) {
            reaches[i] = true;
            for (n, up) in view.snapshot.above(i).enumerate() {
                serves[up] |= n == 0;
                // The ancestors are marked already, by the first process that reached this one.
                if std::mem::replace(&mut reaches[up], true) {
                    break;
                }
            }
        }
        Terminals { reaches, serves }
    }
}

struct Judge<'a> {
    view: &'a ScanView<'a>,
    checks: &'a [Option<MarkCheck>],
    terminals: Terminals,
    is_supervisor: &'a mut dyn FnMut(usize) -> bool,
}

impl Judge<'_> {
    fn class(&mut self, i: usize, check: MarkCheck) -> Option<ProcessClass> {
        let rows = self.view.snapshot.rows();
        let above: Vec<usize> =
            self.view.snapshot.above(i).take_while(|a| rows[*a].pid != self.view.me).collect();
        let below_us = self.is_below_us(i, &above);
        let below_agent =
            std::iter::once(&i).chain(&above).any(|a| rows[*a].identity() == self.view.task.agent);
        let marked_above = above.iter().any(|a| self.is_marked(*a));
        let rooted = below_us || below_agent;
        let marked = match check {
            MarkCheck::Marked => true,
            MarkCheck::MarkedOfAnother => rooted,
            MarkCheck::Doubtful if !below_us => {
                return Some(ProcessClass::Spared(SparedReason::UnknownLedger));
            }
            MarkCheck::Doubtful | MarkCheck::Unmarked => false,
            MarkCheck::Unreadable | MarkCheck::UnreadableOfAnother if rooted => false,
            MarkCheck::Exiting | MarkCheck::ExitingOfAnother if rooted || marked_above => false,
            // All processes of a supervisor are below it.
            MarkCheck::Exiting => return self.is_recovery().then_some(ProcessClass::Exiting),
            MarkCheck::ExitingOfAnother => return None,
            MarkCheck::Unreadable => return Some(ProcessClass::Unreadable),
            MarkCheck::UnreadableOfAnother => return marked_above.then_some(ProcessClass::Unreadable),
        };
        if !(marked || rooted || marked_above) {
            return None;
        }
        let distrusts = matches!(self.view.task.owner, SweepOwner::DistrustfulRecovery);
        for a in &above {
            if (below_us || distrusts || self.is_marked(*a)) && (self.is_supervisor)(*a) {
                return (distrusts && marked).then_some(ProcessClass::Spared(SparedReason::Supervised));
            }
        }
        if matches!(check, MarkCheck::Unreadable | MarkCheck::UnreadableOfAnother) {
            return Some(ProcessClass::Spared(SparedReason::Unreadable));
        }
        if matches!(check, MarkCheck::Exiting | MarkCheck::ExitingOfAnother) {
            return Some(if below_us { ProcessClass::Ours } else { ProcessClass::Exiting });
        }
        Some(if self.belongs_to_a_terminal(i, &above, rooted) {
            ProcessClass::Spared(SparedReason::Terminal)
        } else if (self.is_supervisor)(i) {
            ProcessClass::Supervisor
        } else if marked || below_us {
            ProcessClass::Ours
        } else {
            ProcessClass::Spared(SparedReason::Unmarked)
        })
    }

    fn is_recovery(&self) -> bool {
        matches!(self.view.task.owner, SweepOwner::Recovery | SweepOwner::DistrustfulRecovery)
    }

    fn is_marked(&self, i: usize) -> bool {
        self.checks[i] == Some(MarkCheck::Marked)
    }

    /// Whether it is below us and the task's. If we had children before the task began, their descendants are
    /// not the task's, and an orphan may belong to either: then only a mark proves it.
    fn is_below_us(&self, i: usize, above: &[usize]) -> bool {
        let SweepOwner::Supervisor { inherited, .. } = &self.view.task.owner else {
            return false;
        };
        let rows = self.view.snapshot.rows();
        let top = above.last().copied().unwrap_or(i);
        if rows[top].ppid != self.view.me {
            return false;
        }
        let carries =
            |a: &usize| matches!(self.checks[*a], Some(MarkCheck::Marked | MarkCheck::MarkedOfAnother));
        inherited.is_empty() || std::iter::once(&i).chain(above).any(carries)
    }

    /// A process that is known by its mark alone is spared if it or one below it has a terminal that is not
    /// the agent's, or if it is below such a process. A process that the agent started is spared only if it
    /// is, or is below, a daemon that serves terminals: a tmux server started in the task and used outside of
    /// it.
    fn belongs_to_a_terminal(&self, i: usize, above: &[usize], rooted: bool) -> bool {
        let mut family = std::iter::once(i).chain(above.iter().copied());
        if rooted {
            family.any(|a| self.is_terminal_server(a))
        } else {
            self.terminals.reaches[i] || family.any(|a| self.is_marked(a) && self.terminals.reaches[a])
        }
    }

    /// Whether it has no terminal, leads its session or is in one without a leader, has lost its parent, and
    /// has a child on a terminal that is not the agent's.
    fn is_terminal_server(&self, i: usize) -> bool {
        let rows = self.view.snapshot.rows();
        let s = &rows[i];
        let leads = s.session == s.pid || self.view.snapshot.index(s.session).is_none();
        self.terminals.serves[i] && s.tty_nr == 0 && leads && s.ppid == self.view.me
    }
}

#[cfg(test)]
mod tests;
