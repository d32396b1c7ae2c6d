//! Signals by their names.

use std::fmt;

use serde::{Deserialize, Serialize};
use signal_hook::{consts, low_level};

/// A signal, by the number that this machine's kernel gives it: signal(7). Where another program may have
/// written the number, it can be any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    pub const CHLD: Signal = Signal(consts::SIGCHLD);
    pub const CONT: Signal = Signal(consts::SIGCONT);
    pub const HUP: Signal = Signal(consts::SIGHUP);
    pub const INT: Signal = Signal(consts::SIGINT);
    pub const KILL: Signal = Signal(consts::SIGKILL);
    pub const PIPE: Signal = Signal(consts::SIGPIPE);
    pub const QUIT: Signal = Signal(consts::SIGQUIT);
    pub const TERM: Signal = Signal(consts::SIGTERM);
    pub const TSTP: Signal = Signal(consts::SIGTSTP);
    pub const TTIN: Signal = Signal(consts::SIGTTIN);
    pub const TTOU: Signal = Signal(consts::SIGTTOU);
    pub const WINCH: Signal = Signal(consts::SIGWINCH);

    /// Those that ask a program to stop.
    pub const STOPS: [Signal; 4] = [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT];

    pub const fn from_number(number: i32) -> Signal {
        Signal(number)
    }

    pub const fn number(self) -> i32 {
        self.0
    }

    /// Real-time signals queue; the others merge while one is pending.
    pub fn is_real_time(self) -> bool {
        self.0 >= libc::SIGRTMIN()
    }
}

/// `SIGTERM`, `SIGRTMIN+6`, or `signal 32` for a number that signal(7) does not name.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, first, last) = (self.0, libc::SIGRTMIN(), libc::SIGRTMAX());
        match (low_level::signal_name(number), number) {
            (Some(name), _) => f.pad(name),
            // signal-hook has no name for these two.
            (None, libc::SIGPWR) => f.pad("SIGPWR"),
            (None, libc::SIGSTKFLT) => f.pad("SIGSTKFLT"),
            (None, _) if number == first => f.pad("SIGRTMIN"),
            (None, _) if (first..=last).contains(&number) => write!(f, "SIGRTMIN+{}", number - first),
            (None, _) => write!(f, "signal {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_shown_by_its_name() {
        for (number, name) in [
            (1, "SIGHUP"),
            (15, "SIGTERM"),
            (libc::SIGPWR, "SIGPWR"),
            (libc::SIGSTKFLT, "SIGSTKFLT"),
            (libc::SIGRTMIN(), "SIGRTMIN"),
            (libc::SIGRTMIN() + 6, "SIGRTMIN+6"),
        ] {
            assert_eq!(Signal::from_number(number).to_string(), name);
        }
    }

    #[test]
    fn a_number_without_a_name_is_shown_as_a_number() {
        for number in [i32::MIN, -1, 0, 32, 65] {
            assert_eq!(Signal::from_number(number).to_string(), format!("signal {number}"));
        }
    }

    #[test]
    fn all_signals_of_the_kernel_have_a_name() {
        let is_named = |n: i32| Signal::from_number(n).to_string().starts_with("SIG");
        assert!((1..32).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()).all(is_named));
    }

    #[test]
    fn a_signal_is_a_number_in_json() {
        assert_eq!(serde_json::to_string(&Signal::TERM).unwrap(), "15");
        assert_eq!(serde_json::from_str::<Signal>("9").unwrap(), Signal::KILL);
    }
}
