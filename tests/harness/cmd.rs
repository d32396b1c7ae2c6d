//! One command of a world: built, started, waited for, and killed and reaped whatever happens.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::wait::{AsFdRef, Deadline, ready};
use super::{Under, World};

/// How a process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> End {
        match status.code() {
            Some(code) => End::Code(code),
            None => End::Signal(status.signal().expect("a code or a signal")),
        }
    }
}

pub struct Output {
    pub end: End,
    pub stdout: String,
    /// Standard output, byte for byte.
    pub bytes: Vec<u8>,
    pub stderr: String,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { end, stdout, stderr, .. } = self;
        f.debug_struct("Output")
            .field("end", end)
            .field("stdout", stdout)
            .field("stderr", stderr)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Asserts that the command ended so, and shows what it said if not.
    #[track_caller]
    pub fn ended(self, end: End) -> Output {
        assert_eq!(self.end, end, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Asserts that nothing was said on stderr.
    #[track_caller]
    pub fn silent(self) -> Output {
        assert_eq!(self.stderr, "", "silence on stderr");
        self
    }
}

enum Input {
    Null,
    Piped,
    File(std::fs::File),
}

pub struct Cmd<'w> {
    world: &'w World,
    wrapped: bool,
    options: Vec<String>,
    argv: Vec<OsString>,
    specs: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    cwd: Option<std::path::PathBuf>,
    input: Input,
    own_group: bool,
}

impl<'w> Cmd<'w> {
    pub(super) fn new<S: Into<OsString>>(
        world: &'w World,
        wrapped: bool,
        argv: impl IntoIterator<Item = S>,
    ) -> Cmd<'w> {
        Cmd {
            world,
            wrapped,
            options: Vec::new(),
            argv: argv.into_iter().map(Into::into).collect(),
            specs: Vec::new(),
            environment: Vec::new(),
            cwd: None,
            input: Input::Null,
            own_group: false,
        }
    }

    /// Options of `bookend run`; nobody else sees them.
    pub fn options<S: Into<String>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// The world in which the caller stands: specs of `probe with`.
    pub fn with<S: Into<OsString>>(mut self, specs: impl IntoIterator<Item = S>) -> Self {
        self.specs.extend(specs.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn cwd(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Standard input is this file.
    pub fn input(mut self, file: std::fs::File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// Standard input is a pipe: `Proc::stdin`.
    pub fn piped_input(mut self) -> Self {
        self.input = Input::Piped;
        self
    }

    /// The caller leads a process group of its own, as a job of a shell does.
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if !self.specs.is_empty() {
            words.extend(["probe".into(), "with".into()]);
            words.extend(self.specs.iter().cloned());
            words.push("--".into());
        }
        if self.wrapped {
            words.extend(self.world.prefix(&self.options).into_iter().map(OsString::from));
        }
        words.extend(self.argv.iter().cloned());
        words
    }

    pub fn start(self) -> Proc {
        let words = self.words();
        let program = find(&words[0], self.world);
        let mut command = Command::new(program);
        command
            .arg0(&words[0])
            .args(&words[1..])
            .env_clear()
            .envs(self.world.environment())
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .current_dir(self.cwd.unwrap_or_else(|| self.world.path("home")))
            .stdin(match self.input {
                Input::Null => Stdio::null(),
                Input::Piped => Stdio::piped(),
                Input::File(file) => file.into(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.own_group {
            command.process_group(0);
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("starting {words:?}: {e}"));
        let pid = Pid::from_child(&child);
        Proc {
            stdin: child.stdin.take(),
            stdout: Stream::new(child.stdout.take().map(OwnedFd::from)),
            stderr: Stream::new(child.stderr.take().map(OwnedFd::from)),
            handle: pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd of our child"),
            child,
            supervised: self.wrapped && self.world.under != Under::Other(Vec::new()),
            deadline: self.world.deadline(),
        }
    }

    /// Starts it and waits for its end.
    pub fn run(self) -> Output {
        self.start().wait()
    }
}

/// The program as the world's PATH has it, not the test's own.
fn find(program: &OsStr, world: &World) -> OsString {
    let own = world.path("bin").join(program);
    if own.exists() { own.into() } else { program.to_owned() }
}

/// What has come on one stream so far.
struct Stream {
    file: Option<File>,
    text: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> Stream {
        Stream { file: fd.map(File::from), text: Vec::new() }
    }

    fn take(&mut self) {
        let mut chunk = vec![0; 65536];
        if let Some(file) = &mut self.file {
            match file.read(&mut chunk) {
                Ok(0) | Err(_) => self.file = None,
                Ok(n) => self.text.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// What is in the pipe now, although somebody may still hold it open.
    fn drain(&mut self) {
        while let Some(file) = &self.file {
            if !ready(&[file], Duration::ZERO)[0] {
                return;
            }
            self.take();
        }
    }
}

/// A process that was started; killed and reaped when dropped.
pub struct Proc {
    child: Child,
    handle: OwnedFd,
    pub stdin: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    supervised: bool,
    deadline: Deadline,
}

impl Proc {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether anything stands between the caller and the agent.
    pub fn supervised(&self) -> bool {
        self.supervised
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.handle, signal).expect("a signal to our child");
    }

    /// Waits for the end; whatever has been said by then is in the output.
    pub fn wait(mut self) -> Output {
        self.wait_here()
    }

    pub fn wait_here(&mut self) -> Output {
        loop {
            let mut fds: Vec<&dyn AsFdRef> = vec![&self.handle];
            fds.extend(self.stdout.file.as_ref().map(|f| f as &dyn AsFdRef));
            fds.extend(self.stderr.file.as_ref().map(|f| f as &dyn AsFdRef));
            let what = format!("the end of process {}", self.pid());
            let is_ready = self.deadline.readable(&what, &fds);
            if is_ready[0] {
                break;
            }
            let has_stdout = self.stdout.file.is_some();
            if has_stdout && is_ready[1] {
                self.stdout.take();
            }
            if is_ready.get(1 + usize::from(has_stdout)) == Some(&true) {
                self.stderr.take();
            }
        }
        self.stdout.drain();
        self.stderr.drain();
        let status = self.child.wait().expect("the status of our child");
        Output {
            end: status.into(),
            stdout: String::from_utf8_lossy(&self.stdout.text).into_owned(),
            bytes: std::mem::take(&mut self.stdout.text),
            stderr: heard(&self.stderr.text),
        }
    }

    /// Waits until standard output has ended: nobody holds it open any more. The process may live on.
    pub fn stdout_end(&mut self) -> String {
        while let Some(file) = &self.stdout.file {
            self.deadline.readable("the end of standard output", &[file]);
            self.stdout.take();
        }
        String::from_utf8_lossy(&self.stdout.text).into_owned()
    }

    /// The reader of standard output goes away.
    pub fn drop_stdout(&mut self) {
        self.stdout.file = None;
    }

    /// Waits until standard output has said `bytes`, and takes no more of it than needed.
    pub fn said(&mut self, bytes: &[u8]) {
        while !self.stdout.text.windows(bytes.len()).any(|part| part == bytes) {
            let file = self.stdout.file.as_ref().expect("standard output ended without it");
            let what = format!("{:?} on standard output", String::from_utf8_lossy(bytes));
            self.deadline.readable(&what, &[file]);
            self.stdout.take();
        }
    }

    /// Waits until standard output has said a line, and gives it.
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.stdout.text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.stdout.text.drain(..=end).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            let file = self.stdout.file.as_ref().expect("standard output ended without a line");
            self.deadline.readable("a line on standard output", &[file]);
            self.stdout.take();
        }
    }
}

/// What was said on stderr. AddressSanitizer (`just sanitize`) remarks that the gated child stands on a stack
/// that is no thread's, which is so; what it finds is nobody's intent.
fn heard(stderr: &[u8]) -> String {
    const REMARK: [&str; 3] = [
        "WARNING: ASan is ignoring requested __asan_handle_no_return",
        "False positive error reports may follow",
        "https://github.com/google/sanitizers/issues/189",
    ];
    let said = String::from_utf8_lossy(stderr).into_owned();
    assert!(!said.contains("ERROR: AddressSanitizer"), "{said}");
    if !said.contains(REMARK[0]) {
        return said;
    }
    said.split_inclusive('\n').filter(|line| !REMARK.iter().any(|r| line.contains(r))).collect()
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
