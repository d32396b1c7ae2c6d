//! What a child is to become: program, arguments, environment, directory and standard descriptors.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// What a child is to become. All of it is prepared before the child exists, since the child allocates
/// nothing.
pub struct Launch {
    /// The paths to try, in the order of `PATH`.
    pub(super) candidates: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) cwd: Option<CString>,
    /// Whether it leads a process group of its own, so that all that it starts can be ended with it.
    pub(super) leads_group: bool,
    /// Its descriptors 0, 1 and 2; `None`: as inherited.
    pub(super) stdio: [Option<OwnedFd>; 3],
}

impl Launch {
    /// `argv[0]` is the program. It is searched in the `PATH` of `env`, as execvp(3) does.
    ///
    /// # Errors
    /// `InvalidInput`: a word contains a NUL byte, or there is no program.
    pub fn new<S: AsRef<OsStr>>(argv: &[S], env: Vec<CString>) -> io::Result<Launch> {
        let argv = argv.iter().map(|w| CString::new(w.as_ref().as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let Some(program) = argv.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program to execute"));
        };
        let candidates = candidates(program, &env);
        Ok(Launch { candidates, argv, env, cwd: None, leads_group: false, stdio: [None, None, None] })
    }

    pub fn cwd(mut self, cwd: Option<&OsStr>) -> io::Result<Launch> {
        self.cwd = cwd.map(|c| CString::new(c.as_bytes())).transpose()?;
        Ok(self)
    }

    /// Makes it the leader of a new process group.
    pub fn own_group(mut self) -> Launch {
        self.leads_group = true;
        self
    }

    /// Gives the child `fd` as its descriptor `number` (0 to 2).
    pub fn stdio(mut self, number: usize, fd: OwnedFd) -> Launch {
        self.stdio[number] = Some(fd);
        self
    }
}

/// The step of a start that failed, as the child reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStep {
    Chdir,
    Stdio,
    Exec,
}

/// Why the program was not executed: the step that failed, and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartError {
    pub step: StartStep,
    pub errno: i32,
}

/// The paths that execvp(3) would try for `program`.
fn candidates(program: &CStr, env: &[CString]) -> Vec<CString> {
    let name = program.to_bytes();
    if name.is_empty() || name.contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/bin:/usr/bin");
    path.split(|&b| b == b':')
        .filter_map(|dir| {
            let mut file = dir.to_vec();
            if !file.is_empty() {
                file.push(b'/');
            }
            file.extend_from_slice(name);
            CString::new(file).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(program: &CStr, env: &[&CStr]) -> Vec<String> {
        let env: Vec<CString> = env.iter().map(|e| (*e).to_owned()).collect();
        candidates(program, &env).into_iter().map(|c| c.into_string().expect("ascii")).collect()
    }

    #[test]
    fn searches_a_program_as_execvp_does() {
        assert_eq!(paths(c"./a", &[c"PATH=/x"]), ["./a"]);
        assert_eq!(paths(c"a", &[c"PATH=/x::/y"]), ["/x/a", "a", "/y/a"]);
        assert_eq!(paths(c"a", &[c"HOME=/"]), ["/bin/a", "/usr/bin/a"]);
        assert_eq!(paths(c"", &[c"PATH=/x"]), [""]);
    }
}
