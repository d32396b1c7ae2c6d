//! A separate machine for each test: a booted systemd with journald, see `systemd-box`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{is_root, on_path, possible};

const BOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/systemd-box");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The time limit of one command in a machine, in seconds.
const LIMIT: &str = "90";
/// The ledger of the system units.
pub const LEDGER: &str = "/var/lib/bookend/bookend.db";

/// The output of a command and its exit code.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub struct Machine {
    home: PathBuf,
}

impl Machine {
    /// Boots a machine without bookend. `None`, reported on stderr, if the host cannot boot one.
    pub fn bare(test: &str) -> Option<Machine> {
        Machine::start(test, &[])
    }

    /// Boots a machine with bookend, its units, its user and its directories, and enables recovery.
    pub fn new(test: &str) -> Option<Machine> {
        let bind = format!("{}:/usr/bin/bookend:ro", env!("CARGO_BIN_EXE_bookend"));
        let machine = Machine::start(test, &["--bind", &bind])?;
        for (from, to) in [
            ("contrib/systemd", "/usr/lib/systemd/system"),
            ("contrib/systemd/user", "/usr/lib/systemd/user"),
            ("contrib/sysusers.d", "/usr/lib/sysusers.d"),
            ("contrib/tmpfiles.d", "/usr/lib/tmpfiles.d"),
            ("contrib/systemd/catalog", "/usr/lib/systemd/catalog"),
            ("contrib/just", "/usr/share/bookend"),
        ] {
            machine.copy(&Path::new(ROOT).join(from), to);
        }
        machine.sh("systemd-sysusers && systemd-tmpfiles --create /usr/lib/tmpfiles.d/bookend.conf &&
             journalctl --update-catalog && systemctl daemon-reload && systemctl enable -q bookend-recover");
        machine.claude();
        Some(machine)
    }

    /// Boots a machine with these options of `systemd-box start`.
    pub fn start(test: &str, options: &[&str]) -> Option<Machine> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let can = is_root()
            && Path::new("/lib/systemd/systemd").exists()
            && on_path("dbus-daemon")
            && on_path("nsenter")
            && cgroup2_is_mounted();
        if !possible(test, can, "root, cgroup v2 and the packages systemd, dbus and util-linux") {
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let home = PathBuf::from(format!("/dev/shm/bookend-box.{}.{number}", std::process::id()));
        let machine = Machine { home };
        machine.systemd_box(&[&["start", "box"], options].concat());
        // Files of bookend on the host are visible in the machine, and the policy of a container image, which
        // starts no service of a package.
        machine.sh("rm -rf /var/lib/bookend /etc/bookend /srv/state /usr/sbin/policy-rc.d");
        Some(machine)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", LIMIT, BOX])
            .args(arguments)
            .env("SYSTEMD_BOX_HOME", &self.home)
            .env_remove("BOOKEND_LEDGER")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn systemd_box(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("timeout(1)");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "systemd-box {arguments:?}: {}\n{err}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command in the machine and returns its result.
    pub fn exec(&self, argv: &[&str]) -> CommandOutput {
        let argv = [&["exec", "box", "--"], argv].concat();
        let output = self.command(&argv).output().expect("timeout(1)");
        CommandOutput {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a shell script, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.exec(&["sh", "-euc", script]);
        assert_eq!(output.code, Some(0), "{script}\n{}{}", output.out, output.err);
        output.out
    }

    /// Whether a shell condition holds in the machine.
    pub fn holds(&self, condition: &str) -> bool {
        self.exec(&["sh", "-c", condition]).code == Some(0)
    }

    /// Waits until a shell condition holds in the machine.
    #[track_caller]
    pub fn until(&self, condition: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.holds(condition) {
            assert!(
                Instant::now() < end,
                "timed out waiting for: {condition}\n{}",
                self.exec(&["sh", "-c", "journalctl --sync; journalctl -n 40 --no-pager; ps axf"]).out
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes the machine's boot id visible to the units. It is a bind mount below /proc; a unit with its own
    /// /proc would see the boot id of the host, which does not change.
    pub fn show_boot_ids(&self) {
        let units = ["bookend-recover.service", "bookend-report.service", "bookend-monitor.service"];
        for unit in units.into_iter().chain(["bookend@.service"]) {
            let drop_in = format!("/etc/systemd/system/{unit}.d/boot-id.conf");
            self.write(&drop_in, "[Service]\nProtectProc=default\nProtectKernelTunables=no\n");
        }
        self.sh("systemctl daemon-reload");
    }

    /// Kills everything in the machine at once, as a power cut does, and boots it with a new boot id.
    pub fn power_cut_and_boot(&self) {
        self.power_cut();
        self.boot();
    }

    /// Kills everything in the machine at once. Its files stay.
    pub fn power_cut(&self) {
        self.systemd_box(&["crash", "box"]);
    }

    pub fn boot(&self) {
        self.systemd_box(&["boot", "box"]);
    }

    /// Shuts the machine down in order, and boots it with a new boot id.
    pub fn shut_down_and_boot(&self) {
        self.systemd_box(&["halt", "box"]);
        self.boot();
    }

    /// The path of a file of the machine as seen from the host.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    /// The pid of its PID 1 on the host.
    pub fn pid(&self) -> String {
        self.systemd_box(&["pid", "box"]).trim().to_owned()
    }

    pub fn write(&self, path: &str, text: &str) {
        let file = self.file(path);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory in the machine");
        fs::write(&file, text).expect("a file in the machine");
    }

    /// Writes an executable into the PATH of every user.
    pub fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = format!("/usr/local/bin/{name}");
        self.write(&path, text);
        fs::set_permissions(self.file(&path), fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// Installs a stand-in for Claude Code in the PATH of every user.
    pub fn claude(&self) {
        self.program("claude", CLAUDE);
    }

    /// Copies the files of a directory of the repository, if it exists.
    pub fn copy(&self, from: &Path, to: &str) {
        let Ok(entries) = fs::read_dir(from) else { return };
        let to = self.file(to);
        fs::create_dir_all(&to).expect("a directory in the machine");
        for entry in entries.flatten().filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file in the machine");
        }
    }

    /// Writes the environment file of `bookend@<instance>`: its command and other lines.
    pub fn task(&self, instance: &str, command: &str, more: &str) {
        self.write(&format!("/etc/bookend/{instance}.env"), &format!("COMMAND=\"{command}\"\n{more}\n"));
    }

    /// Creates the user `ada`, whose manager runs without a login. Returns the systemctl of that manager.
    pub fn ada(&self) -> &'static str {
        let systemctl = "systemctl --user --machine=ada@.host";
        self.sh("useradd --create-home --shell /bin/sh ada && loginctl enable-linger ada");
        self.until(&format!("{systemctl} is-system-running --wait"));
        systemctl
    }

    /// The rows of the system ledger: running tasks first, then newest first.
    pub fn rows(&self) -> Vec<Value> {
        self.rows_of("bookend", LEDGER)
    }

    pub fn rows_of(&self, user: &str, ledger: &str) -> Vec<Value> {
        let argv = ["runuser", "-u", user, "--", "bookend", "--ledger", ledger, "list", "--jsonl"];
        let output = self.exec(&argv);
        assert_eq!(output.code, Some(0), "{}", output.err);
        output.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    }

    /// The only row of the system ledger.
    #[track_caller]
    pub fn row(&self) -> Value {
        let mut rows = self.rows();
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.remove(0)
    }

    /// The matching messages of the journal with all their fields, oldest first.
    pub fn journal(&self, matches: &[&str]) -> Vec<Value> {
        self.sh("journalctl --sync");
        let argv = [&["journalctl", "-o", "json", "--no-pager", "-q"], matches].concat();
        self.exec(&argv).out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    }

    /// The whole journal as text.
    pub fn whole_journal(&self) -> String {
        self.sh("journalctl --sync; journalctl -o export --no-pager -q | tr '\\0' ' '")
    }

    /// Waits until the agent of an instance reports that it works, and resets that report.
    #[track_caller]
    pub fn working(&self) {
        self.until("test -e /tmp/working || ls /tmp/systemd-private-*/tmp/working");
        self.sh("rm -f /tmp/working /tmp/systemd-private-*/tmp/working");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "box"]).output();
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn cgroup2_is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|l| l.split(' ').nth(2) == Some("cgroup2"))
}

/// Prints what Claude Code prints, stores its conversation where Claude Code does, and works until it is
/// stopped. With the prompt `done` it exits at once. On SIGTERM it exits with 143, as Claude Code does.
const CLAUDE: &str = r#"#!/bin/sh
id=11111111-1111-4111-8111-111111111111
prompt=
while [ $# -gt 0 ]; do
  case $1 in
    -p) prompt=$2; shift ;;
    --session-id | --resume) id=$2; shift ;;
  esac
  shift
done
folder=$HOME/.claude/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g')
mkdir -p "$folder"
echo '{}' >>"$folder/$id.jsonl"
echo '{"type":"system","subtype":"init","session_id":"'"$id"'","model":"stand-in"}'
if [ "$prompt" != done ]; then
  trap 'kill $tool; exit 143' TERM
  setsid sleep 1000 &
  tool=$!
  touch /tmp/working
  wait
fi
printf '{"type":"result","subtype":"success","is_error":false,"result":"hello","session_id":"%s",' "$id"
echo '"num_turns":1,"total_cost_usd":0.01,"usage":{"input_tokens":1,"output_tokens":1}}'
"#;
