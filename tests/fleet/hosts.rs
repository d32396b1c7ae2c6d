//! Hosts made of namespaces on this machine: each has its own mounts, processes, network, host name, boot id,
//! machine id and disk. They reach the database by TCP over a network of their own, which can be cut.
//!
//! Everything exists only in these namespaces, and ends with the process that holds them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

use crate::harness::{Deadline, World, eventually, forked, is_root, on_path, possible, stat_field};

/// The address of the database in the network of the hosts.
pub const DATABASE_ADDRESS: &str = "10.77.0.1";
/// The name of the database in `/etc/hosts` of each host.
pub const DATABASE_NAME: &str = "localhost";

/// What each host mounts, before it waits for the end of its stdin. `wait` also reaps orphans.
const BOOT: &str = r#"
set -e
mount -t proc proc /proc
mount --bind "$1/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$1/machine_id" /etc/machine-id
mount --bind "$1/hosts" /etc/hosts
mount -t tmpfs tmpfs /run
mount --bind "$1" "$2"
hostname "$3"
ip link set lo up
echo ready
exec 3<&0
cat <&3 >/dev/null &
wait $!
"#;

/// Whether hosts can be made here. If not, the test is reported as skipped.
pub fn can_make_hosts(test: &str) -> bool {
    let has_programs = ["unshare", "nsenter", "ip", "tc", "mount", "hostname"].iter().all(|p| on_path(p));
    possible(test, is_root() && has_programs && can_unshare(), "root, namespaces, iproute2 and util-linux")
}

fn can_unshare() -> bool {
    let words = ["--mount", "--pid", "--net", "--uts", "--fork", "--mount-proc", "sh", "-c"];
    let veth = "[ -e /etc/machine-id ] && ip link add end0 type veth peer name end1";
    let tried = Command::new("unshare").args(words).arg(veth).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// A process that holds namespaces. Its end is the end of all processes in its pid namespace.
struct Holder {
    process: Child,
    /// The kernel ends the holder when the test process has gone, however that ended.
    _stdin: Option<ChildStdin>,
    /// The first process of the namespaces.
    init: i32,
}

impl Holder {
    fn start(namespaces: &[&str], script: &str, words: &[&str]) -> Holder {
        let mut process = Command::new("unshare")
            .args(namespaces)
            .args(["--fork", "--kill-child=KILL", "sh", "-c", script, "sh"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().expect("its stdout"));
        stdout.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "a host did not start");
        let init = forked(process.id() as i32)[0];
        Holder { _stdin: process.stdin.take(), process, init }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // `--kill-child` ends its child with it, and the kernel all processes of its pid namespace.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a program, which must succeed.
#[track_caller]
fn execute(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{words:?}: {e}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a program in the network namespace of a process.
#[track_caller]
fn in_network_of(process: i32, words: &[&str]) {
    execute(&[&["nsenter", "--target", &process.to_string(), "--net", "--"], words].concat());
}

/// The network between the hosts, with the namespace in which the database runs.
pub struct Network {
    holder: Holder,
    /// How many hosts were started: each start of a host has a link of its own.
    links: Mutex<u8>,
}

impl Network {
    pub fn new() -> Network {
        let address = format!("ip link set lo up && ip addr add {DATABASE_ADDRESS}/32 dev lo");
        let script = format!("{address} && echo ready && exec cat >/dev/null");
        Network { holder: Holder::start(&["--net"], &script, &[]), links: Mutex::new(0) }
    }

    /// A process in the namespace of the database.
    pub fn process(&self) -> i32 {
        self.holder.init
    }

    fn execute(&self, words: &[&str]) {
        in_network_of(self.holder.init, words);
    }

    /// Links the network namespace of `init` to this one. Returns the name of this end.
    fn link(&self, init: i32) -> String {
        let number = {
            let mut links = self.links.lock().expect("the number of links");
            *links += 1;
            *links
        };
        let (name, pid) = (format!("host{number}"), init.to_string());
        let [ours, theirs] = [1, 2].map(|end| format!("10.77.{number}.{end}"));
        let add = ["ip", "link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &pid];
        self.execute(&add);
        self.execute(&["ip", "addr", "add", &format!("{ours}/30"), "dev", &name]);
        self.execute(&["ip", "link", "set", &name, "up"]);
        let inside = |words: &[&str]| in_network_of(init, words);
        inside(&["ip", "addr", "add", &format!("{theirs}/30"), "dev", "eth0"]);
        inside(&["ip", "link", "set", "eth0", "up"]);
        inside(&["ip", "route", "add", "default", "via", &ours]);
        name
    }
}

/// How the network of a host fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its interface is gone: an address cannot be reached, and connections stay as they are.
    Link,
    /// Packets get lost in both directions.
    Packets,
}

/// A host. Dropping it is as pulling its plug; its disk stays until the world ends.
pub struct Host<'w> {
    /// The name of its disk.
    pub name: String,
    hostname: String,
    world: &'w World,
    network: &'w Network,
    running: Option<Running>,
}

struct Running {
    holder: Holder,
    link: String,
    /// The pid namespace, as a link of `/proc/PID/ns` names it.
    pid_namespace: PathBuf,
}

impl<'w> Host<'w> {
    /// A host with an empty disk, started.
    pub fn new(world: &'w World, network: &'w Network, name: &str) -> Host<'w> {
        let host = Host { name: name.to_owned(), hostname: name.to_owned(), world, network, running: None };
        for directory in ["home", "state", "tmp"] {
            fs::create_dir_all(host.disk().join(directory)).expect("a directory of the host");
        }
        fs::write(host.disk().join("machine_id"), format!("{}\n", Uuid::new_v4().simple()))
            .expect("a machine id");
        fs::write(
            host.disk().join("hosts"),
            format!("{DATABASE_ADDRESS} {DATABASE_NAME}\n127.0.0.1 {name}\n"),
        )
        .expect("names of hosts");
        host.booted()
    }

    /// Another host with a copy of this one's disk and the same host name, started beside it, as a cloned
    /// virtual machine.
    pub fn clone_of(original: &Host<'w>, name: &str) -> Host<'w> {
        let copy = Host {
            name: name.to_owned(),
            hostname: original.hostname.clone(),
            world: original.world,
            network: original.network,
            running: None,
        };
        // A snapshot of a disk is of one moment.
        original.stop();
        let disks = [original.disk(), copy.disk()].map(|disk| disk.to_str().expect("UTF-8").to_owned());
        execute(&["cp", "--archive", "--no-target-directory", &disks[0], &disks[1]]);
        original.resume();
        copy.booted()
    }

    fn booted(mut self) -> Host<'w> {
        self.boot();
        self
    }

    /// Where this host's disk is outside of it.
    pub fn disk(&self) -> PathBuf {
        self.world.path("disks").join(&self.name)
    }

    /// Where a host finds its disk. All hosts have the same paths.
    fn root(&self) -> PathBuf {
        self.world.path("host")
    }

    /// Starts it with a new boot id.
    pub fn boot(&mut self) {
        assert!(self.running.is_none(), "{} runs", self.name);
        fs::create_dir_all(self.root()).expect("where the disk is mounted");
        fs::write(self.disk().join("boot_id"), format!("{}\n", Uuid::new_v4())).expect("a boot id");
        let namespaces = ["--mount", "--pid", "--net", "--uts", "--propagation=private"];
        let paths = [self.disk(), self.root()].map(|path| path.to_str().expect("UTF-8").to_owned());
        let holder = Holder::start(&namespaces, BOOT, &[&paths[0], &paths[1], &self.hostname]);
        let pid_namespace = namespace(holder.init).expect("the pid namespace of the host");
        let link = self.network.link(holder.init);
        self.running = Some(Running { holder, link, pid_namespace });
    }

    /// Ends all its processes at once.
    pub fn kill(&mut self) {
        self.running = None;
    }

    pub fn reboot(&mut self) {
        self.kill();
        self.boot();
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// A command on this host, with its output to pipes.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let root = self.root();
        let init = self.running().holder.init.to_string();
        let mut command = Command::new(self.world.path("bin/probe"));
        command
            .args(["enter", &init])
            .args(["sh", "-c", r#"cd "$HOME" && exec "$@""#, "sh"])
            .args(words)
            .env_clear()
            .envs(self.world.environment())
            .env("HOME", root.join("home"))
            .env("XDG_STATE_HOME", root.join("state"))
            .env("TMPDIR", root.join("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command on this host to its end. Its code is `None` if it was killed.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ended {
        Ended::of(self.command(words).spawn().expect("nsenter"))
    }

    /// The processes of this host by their pids outside of it, without its first ones.
    pub fn processes(&self) -> Vec<i32> {
        let Running { holder, pid_namespace, .. } = self.running();
        let own = forked(holder.init);
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != holder.init && namespace(*pid).as_ref() == Some(pid_namespace))
            .filter(|pid| !(own.contains(pid) && name_of(*pid) == "cat"))
            .collect()
    }

    /// The supervisors (`run`) or the monitor (`monitor`) of this host.
    pub fn bookends(&self, command: &str) -> Vec<i32> {
        let is_bookend = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            let program = words.next().unwrap_or_default();
            program.ends_with(b"bookend") && words.next() == Some(command.as_bytes())
        };
        let found: Vec<i32> = self.processes().into_iter().filter(|pid| is_bookend(*pid)).collect();
        // Children of bookend have its command line until they execute another program.
        let is_child = |pid: i32| {
            stat_field(pid, 4).and_then(|parent| parent.parse().ok()).is_some_and(|p: i32| found.contains(&p))
        };
        found.iter().copied().filter(|pid| !is_child(*pid)).collect()
    }

    /// Stops all its processes, as a hypervisor that suspends it.
    pub fn stop(&self) {
        let is_stopped = |pid: &i32| matches!(stat_field(*pid, 3).as_deref(), None | Some("T" | "Z" | "X"));
        eventually(Deadline::new(), "all processes of a host to stop", || {
            let left: Vec<i32> = self.processes().into_iter().filter(|pid| !is_stopped(pid)).collect();
            left.iter().for_each(|pid| send(*pid, Signal::STOP));
            left.is_empty()
        });
    }

    pub fn resume(&self) {
        self.processes().into_iter().for_each(|pid| send(pid, Signal::CONT));
    }

    pub fn cut(&self, cut: Cut) {
        match cut {
            Cut::Link => self.inside(&["ip", "link", "set", "eth0", "down"]),
            Cut::Packets => {
                self.inside(&["tc", "qdisc", "replace", "dev", "eth0", "root", "blackhole"]);
                self.network.execute(&[
                    "tc",
                    "qdisc",
                    "replace",
                    "dev",
                    &self.running().link,
                    "root",
                    "blackhole",
                ]);
            }
        }
    }

    /// Puts the network back.
    pub fn join_network(&self, cut: Cut) {
        match cut {
            Cut::Link => {
                self.inside(&["ip", "link", "set", "eth0", "up"]);
                // The kernel has removed the routes of the interface.
                let (address, _) = self.addresses();
                self.inside(&["ip", "route", "replace", "default", "via", &address]);
            }
            Cut::Packets => {
                self.inside(&["tc", "qdisc", "del", "dev", "eth0", "root"]);
                self.network.execute(&["tc", "qdisc", "del", "dev", &self.running().link, "root"]);
            }
        }
    }

    /// Ends its link and makes another one, with other addresses: connections of before do not end by
    /// themselves.
    pub fn renew_link(&mut self) {
        self.remove_link();
        self.make_link();
    }

    pub fn make_link(&mut self) {
        let running = self.running.as_mut().expect("a host that runs");
        running.link = self.network.link(running.holder.init);
    }

    pub fn remove_link(&self) {
        self.inside(&["ip", "link", "del", "eth0"]);
    }

    fn addresses(&self) -> (String, String) {
        let number = self.running().link.trim_start_matches("host");
        (format!("10.77.{number}.1"), format!("10.77.{number}.2"))
    }

    fn inside(&self, words: &[&str]) {
        in_network_of(self.running().holder.init, words);
    }
}

/// How a command on a host ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(child: Child) -> Ended {
        let output = child.wait_with_output().expect("the end of a command");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    #[track_caller]
    pub fn succeeded(self) -> Ended {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Signals a process of a host, which may have ended.
pub fn send(pid: i32, signal: Signal) {
    if let Some(Ok(handle)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let _ = pidfd_send_signal(&handle, signal);
    }
}
