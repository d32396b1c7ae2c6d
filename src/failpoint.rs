//! Fail points, where a test can kill bookend or make its I/O fail. Empty without the feature `failpoints`.
//!
//! `BOOKEND_FAILPOINT=name:kill` ends the process there by SIGKILL, `name:io` makes the step fail,
//! `name:panic` panics. `name#2:kill` means the second time that the point is passed; several are separated
//! by commas. `BOOKEND_FAILPOINT_TRACE=file`: each point that is passed adds a line to the file.

#[cfg(feature = "failpoints")]
pub mod points;

use std::io;

/// Passes a point whose step can fail.
///
/// # Errors
/// Where the environment asks for an I/O error.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) -> io::Result<()> {
    match armed::pass(name, "io") {
        Some(armed::Action::Io) => Err(io::Error::from_raw_os_error(libc::EIO)),
        other => {
            armed::act(name, other);
            Ok(())
        }
    }
}

/// Passes a point whose step cannot fail.
#[cfg(feature = "failpoints")]
pub fn reached(name: &'static str) {
    armed::act(name, armed::pass(name, ""));
}

/// Whether a test kills a newly forked child, or its parent, at this point.
#[cfg(feature = "failpoints")]
pub fn dooms_child(name: &'static str) -> bool {
    armed::pass(name, "child") == Some(armed::Action::Kill)
}

/// Never fails.
///
/// # Errors
/// None.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_: &'static str) -> io::Result<()> {
    Ok(())
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reached(_: &'static str) {}

/// Always false.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn dooms_child(_: &'static str) -> bool {
    false
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write;
    use std::sync::Mutex;

    use super::points;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Action {
        Kill,
        Io,
        Panic,
    }

    static PASSED: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

    /// Records that the point is passed, and returns the action that the environment requests.
    pub fn pass(name: &'static str, kind: &str) -> Option<Action> {
        assert!(
            [points::STEPS, points::HUB, points::ADOPTION].iter().any(|points| points.contains(&name)),
            "the point {name} is in no list"
        );
        let wanted = std::env::var("BOOKEND_FAILPOINT").unwrap_or_default();
        let trace = std::env::var_os("BOOKEND_FAILPOINT_TRACE");
        if wanted.is_empty() && trace.is_none() {
            return None;
        }
        let nth = {
            let mut passed = PASSED.lock().unwrap_or_else(|e| e.into_inner());
            passed.push(name);
            passed.iter().filter(|p| **p == name).count()
        };
        if let Some(file) = trace
            && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
        {
            let _ = file.write_all(format!("{name}#{nth} {kind}\n").as_bytes());
        }
        let numbered = format!("{name}#{nth}");
        wanted.split(',').find_map(|w| {
            let (point, action) = w.rsplit_once(':')?;
            if point != numbered && !(nth == 1 && point == name) {
                return None;
            }
            match action {
                "kill" => Some(Action::Kill),
                "io" => Some(Action::Io),
                "panic" => Some(Action::Panic),
                _ => None,
            }
        })
    }

    pub fn act(name: &str, action: Option<Action>) {
        match action {
            Some(Action::Kill) => {
                let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
            }
            Some(Action::Panic) => panic!("the point {name} asks for it"),
            Some(Action::Io) | None => {}
        }
    }
}
