//! A command in a test's world: builds it, starts it, waits for it, and kills and reaps it in every case.

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
use super::{World, Wrapper};

/// How a process ended.
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
    /// Asserts that the command ended like this. A failure shows its output.
    #[track_caller]
    pub fn ended(self, end: End) -> Output {
        assert_eq!(self.end, end, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Asserts that stderr is empty.
    #[track_caller]
    pub fn silent(self) -> Output {
        assert_eq!(self.stderr, "", "stderr is not empty");
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

    /// Adds options of `bookend run`; the agent does not see them.
    pub fn options<S: Into<String>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Sets up the process that calls the command: specs of `probe with`.
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

    /// Uses this file as standard input.
    pub fn input(mut self, file: std::fs::File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// Uses a pipe as standard input: `Proc::stdin`.
    pub fn piped_input(mut self) -> Self {
        self.input = Input::Piped;
        self
    }

    /// Makes the caller the leader of a new process group, as a job of a shell is.
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
        let program = find_program(&words[0], self.world);
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
        let mut child = command.spawn().unwrap_or_else(|e| panic!("failed to start {words:?}: {e}"));
        let pid = Pid::from_child(&child);
        Proc {
            stdin: child.stdin.take(),
            stdout: Stream::new(child.stdout.take().map(OwnedFd::from)),
            stderr: Stream::new(child.stderr.take().map(OwnedFd::from)),
            handle: pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd of our child"),
            child,
            supervised: self.wrapped && self.world.wrapper != Wrapper::Other(Vec::new()),
            deadline: self.world.deadline(),
        }
    }

    /// Starts the command and waits until it exits.
    pub fn run(self) -> Output {
        self.start().wait()
    }
}

/// Looks up the program in the world's PATH, not in that of the test.
fn find_program(program: &OsStr, world: &World) -> OsString {
    let own = world.path("bin").join(program);
    if own.exists() { own.into() } else { program.to_owned() }
}

/// The output read from one stream so far.
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

    /// Reads what is in the pipe now, even if another process still holds it open.
    fn drain(&mut self) {
        while let Some(file) = &self.file {
            if !ready(&[file], Duration::ZERO)[0] {
                return;
            }
            self.take();
        }
    }
}

/// A started process, which is killed and reaped when dropped.
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

    /// Whether a supervisor runs between the caller and the agent.
    pub fn supervised(&self) -> bool {
        self.supervised
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.handle, signal).expect("a signal to our child");
    }

    /// Waits until the process exits and returns all output up to then.
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
            stderr: without_sanitizer_warning(&self.stderr.text),
        }
    }

    /// Waits until every process has closed standard output, which may be before the process exits.
    pub fn read_stdout_to_end(&mut self) -> String {
        while let Some(file) = &self.stdout.file {
            self.deadline.readable("the end of standard output", &[file]);
            self.stdout.take();
        }
        String::from_utf8_lossy(&self.stdout.text).into_owned()
    }

    /// What the process has written to standard error up to now.
    #[allow(dead_code, reason = "used by the tests of the fleet")]
    pub fn stderr_so_far(&mut self) -> String {
        self.stderr.drain();
        String::from_utf8_lossy(&self.stderr.text).into_owned()
    }

    /// Closes the reading end of standard output.
    pub fn close_stdout(&mut self) {
        self.stdout.file = None;
    }

    /// Waits until standard output contains `bytes` and reads no more of it than needed.
    pub fn wait_for_output(&mut self, bytes: &[u8]) {
        while !self.stdout.text.windows(bytes.len()).any(|part| part == bytes) {
            let file = self.stdout.file.as_ref().expect("standard output ended before the expected bytes");
            let what = format!("{:?} on standard output", String::from_utf8_lossy(bytes));
            self.deadline.readable(&what, &[file]);
            self.stdout.take();
        }
    }

    /// Waits for the next line on standard output and returns it.
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.stdout.text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.stdout.text.drain(..=end).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            let file = self.stdout.file.as_ref().expect("standard output ended before a line was complete");
            self.deadline.readable("a line on standard output", &[file]);
            self.stdout.take();
        }
    }
}

/// The text of stderr without AddressSanitizer's warning (`just sanitize`) that the gated child runs on a
/// stack that belongs to no thread, which is intended. An error that AddressSanitizer reports fails the test.
pub(super) fn without_sanitizer_warning(stderr: &[u8]) -> String {
    const WARNING: [&str; 3] = [
        "WARNING: ASan is ignoring requested __asan_handle_no_return",
        "False positive error reports may follow",
        "https://github.com/google/sanitizers/issues/189",
    ];
    let text = String::from_utf8_lossy(stderr).into_owned();
    assert!(!text.contains("ERROR: AddressSanitizer"), "{text}");
    if !text.contains(WARNING[0]) {
        return text;
    }
    text.split_inclusive('\n').filter(|line| !WARNING.iter().any(|r| line.contains(r))).collect()
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
