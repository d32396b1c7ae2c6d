//! Runs the agents of npm that bookend knows by a declaration: the real programs, each against its own API on
//! the loopback interface.
//!
//! They need `BOOKEND_REAL_AGENTS`, the folder with their programs, and python3 for the API; `.ci/run`
//! installs both.

mod known;
mod outcomes;
mod sessions;
mod stopping;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Cmd, End, Output, Proc, Row, World, all_processes, eventually, on_path, possible};

/// The time that one run may take: most of these agents use seconds of CPU time before they ask the API.
const LIMIT: Duration = Duration::from_secs(120);

/// A real agent: how it is started, and what bookend must know about its run. `{port}` is the API's port,
/// `{id}` the id of a session.
pub struct NpmAgent {
    pub name: &'static str,
    /// The options of a run whose output bookend reads.
    pub options: &'static [&'static str],
    /// The last words of that run.
    pub prompt: &'static [&'static str],
    pub environment: &'static [(&'static str, &'static str)],
    /// Files below the home directory.
    pub files: &'static [(&'static str, &'static str)],
    pub model: &'static str,
    /// The agent reports tokens.
    pub tokens: bool,
    /// What the agent reports for one answer, in US dollars.
    pub cost: Option<f64>,
    /// The name of its shell tool; `None`: no event before the tool has finished names it.
    pub tool: Option<&'static str>,
    /// The words that resume a session.
    pub resume: &'static [&'static str],
    /// The words that copy a session.
    pub fork: Option<&'static [&'static str]>,
    /// An id that no session has.
    pub unknown: &'static str,
    /// The exit code after an error of the API, and for a session that does not exist.
    pub codes: [i32; 2],
    /// How it ends by SIGTERM in a tool call.
    pub stopped: End,
    /// Where the agent stores its sessions; `None`: no declared place.
    pub transcripts: Option<&'static str>,
}

/// Makes a test of each function for each agent.
macro_rules! for_each_agent {
    ($($behaviour:ident)+) => {
        crate::agents::for_each_agent!(@ codex CODEX $($behaviour)+);
        crate::agents::for_each_agent!(@ gemini GEMINI $($behaviour)+);
        crate::agents::for_each_agent!(@ opencode OPENCODE $($behaviour)+);
        crate::agents::for_each_agent!(@ qwen QWEN $($behaviour)+);
        crate::agents::for_each_agent!(@ copilot COPILOT $($behaviour)+);
    };
    (@ $module:ident $agent:ident $($behaviour:ident)+) => {
        mod $module {
            $(#[test] fn $behaviour() {
                super::$behaviour(&crate::agents::known::$agent);
            })+
        }
    };
}
use for_each_agent;

/// A world with one of the agents in its PATH and an API.
pub struct AgentWorld<'a> {
    pub world: World,
    agent: &'a NpmAgent,
    /// The API server, which runs until it is dropped.
    api: Proc,
}

impl AgentWorld<'_> {
    /// `script` is the list of the API's answers: see the head of `fake_openai_gemini_api.py`. `{tool}` is
    /// the tool of [`AgentWorld::start_in_a_tool_call`].
    pub fn new<'a>(agent: &'a NpmAgent, script: &str) -> Option<AgentWorld<'a>> {
        let thread = std::thread::current();
        let folder = std::env::var_os("BOOKEND_REAL_AGENTS").map(PathBuf::from);
        let needs =
            "real agents: set BOOKEND_REAL_AGENTS=/folder/of/programs and have python3, or start .ci/run";
        if !possible(thread.name().unwrap_or_default(), folder.is_some() && on_path("python3"), needs) {
            return None;
        }
        let mut world = World::new();
        world.limit = LIMIT;
        world.renew_deadline();
        let program = folder.expect("just asked for").join(agent.name);
        let program = fs::canonicalize(&program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        symlink(program, world.path("bin").join(agent.name)).expect("the agent in the world's PATH");
        fs::create_dir(world.path("bodies")).expect("a folder for requests");
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/fake_openai_gemini_api.py");
        let script = script.replace("{tool}", &world.name("bin/slow-tool"));
        let api = world.bare(["python3", server]).env("FAKE_SCRIPT", script);
        let mut api = api.env("FAKE_BODIES", world.path("bodies")).start();
        let port = api.line();
        for (name, text) in agent.files {
            let path = world.path("home").join(name);
            fs::create_dir_all(path.parent().expect("its folder")).expect("its folder");
            fs::write(path, text.replace("{port}", &port)).expect("a file of the agent");
        }
        fs::write(world.path("port"), port).expect("the port");
        Some(AgentWorld { world, agent, api })
    }

    fn in_environment<'a>(&self, command: Cmd<'a>) -> Cmd<'a> {
        let port = fs::read_to_string(self.world.path("port")).expect("the port");
        let set = |command: Cmd<'a>, (name, value): &(&str, &str)| {
            command.env(*name, value.replace("{port}", &port))
        };
        self.agent.environment.iter().fold(command, set)
    }

    /// `bookend run --key k -- AGENT…`
    pub fn command(&self) -> Cmd<'_> {
        self.with_words(&[])
    }

    /// As [`AgentWorld::command`], with more words before the prompt.
    pub fn with_words(&self, words: &[String]) -> Cmd<'_> {
        let (options, prompt) = (self.agent.options.iter(), self.agent.prompt.iter());
        let words = words.iter().map(String::as_str);
        let argv = [self.agent.name].into_iter().chain(options.copied()).chain(words).chain(prompt.copied());
        self.in_environment(self.world.run(argv)).options(["--key", "k"])
    }

    /// Runs the agent under the key to its end.
    pub fn run(&mut self, end: i32) -> Output {
        self.world.renew_deadline();
        self.command().run().ended(End::Code(end))
    }

    /// The row of the last run.
    pub fn last(&self) -> Row {
        self.world.rows().pop().expect("a row")
    }

    /// The API's latest request with tools, as text.
    pub fn latest_request(&self) -> String {
        let bodies = fs::read_dir(self.world.path("bodies")).expect("the requests");
        let latest = bodies.flatten().map(|entry| entry.path()).max().expect("a request");
        fs::read_to_string(latest).expect("a request")
    }

    /// Starts the agent and waits until its tool has started two processes, one of them in a session of its
    /// own, and the row has the tool.
    pub fn start_in_a_tool_call(&mut self, grace: Duration) -> Proc {
        let mut started = self.world.fifo("started");
        let path = started.path();
        let script = format!("#!/bin/sh\nsetsid sleep 1000 & sleep 1000 & echo started >{path}\nwait\n");
        self.world.program("slow-tool", &script);
        let grace = format!("{}s", grace.as_secs());
        let run = self.command().options(["--grace", &grace]).start();
        started.line();
        let tool = self.agent.tool.unwrap_or_default();
        eventually(self.world.deadline(), "the tool in the row", || {
            self.last().text("tool_in_flight") == tool
        });
        run
    }

    /// Kills the process that bookend started.
    pub fn kill_agent(&self) {
        let pid = Pid::from_raw(self.last().pid("agent_pid")).expect("a pid");
        kill_process(pid, Signal::KILL).expect("a signal to the agent");
    }

    /// No process of this world runs, except the API.
    #[track_caller]
    pub fn assert_nothing_runs(&self) {
        let others = all_processes(&self.world).into_iter().filter(|pid| *pid != self.api.pid());
        let line = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let lines: Vec<String> =
            others.map(|p| String::from_utf8_lossy(&line(p)).replace('\0', " ")).collect();
        assert!(lines.is_empty(), "{lines:#?} run after {:?}", self.last());
    }
}
