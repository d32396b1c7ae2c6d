//! `contrib/doc/fleet.md` word by word: three machines, a PostgreSQL as Debian installs it, and networks that
//! connect them. Each command must print what the page shows.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::documents::fresh_with;
use crate::harness::{DocumentBlock, blocks, possible};
use crate::machine::Machine;
use crate::transcript::agree;

const PAGE: &str = "contrib/doc/fleet.md";
/// Sections before which something happens to `beta` that is no command.
const POWER_CUT: &str = "If a host is gone";
const POWER_BACK: &str = "When the host is back";
/// A machine with the name `db`, and the cluster that the package of PostgreSQL creates.
const CLUSTER: &str = "hostname db; echo 127.0.1.1 db >>/etc/hosts
    make-ssl-cert generate-default-snakeoil --force-overwrite
    version=$(ls /usr/lib/postgresql | sort -n | tail -n 1)
    rm -rf /etc/postgresql/* /var/lib/postgresql/* /etc/postgresql-common/createcluster.conf
    pg_createcluster $version main >/dev/null
    systemctl daemon-reload; systemctl add-wants -q postgresql.service postgresql@$version-main.service
    systemctl start postgresql";
/// How long a command that only shows something may show what was true before.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command of the page, the machine of its prompt, and what the page shows below it.
struct FleetStep {
    place: String,
    section: String,
    host: String,
    command: String,
    expected: Vec<String>,
}

/// The commands of the `console` blocks: `HOST# ` begins one, `> ` continues it, all else is output.
fn steps(blocks: &[DocumentBlock]) -> Vec<FleetStep> {
    let mut steps: Vec<FleetStep> = Vec::new();
    for block in blocks.iter().filter(|block| block.language == "console") {
        let first = steps.len();
        for line in block.text.lines() {
            let prompt = line.split_once("# ").filter(|(host, _)| ["db", "alpha", "beta"].contains(host));
            if let Some((host, command)) = prompt {
                steps.push(FleetStep {
                    place: block.place(),
                    section: block.section.clone(),
                    host: host.to_owned(),
                    command: command.to_owned(),
                    expected: Vec::new(),
                });
                continue;
            }
            assert!(steps.len() > first, "{}: output before the first command", block.place());
            let step = steps.last_mut().expect("a command");
            match line.strip_prefix("> ") {
                Some(more) => step.command += &format!("\n{more}"),
                None => step.expected.push(line.to_owned()),
            }
        }
    }
    steps
}

/// The three machines, and the passwords that this fleet has in the place of those of the page.
struct Fleet {
    db: Machine,
    alpha: Machine,
    beta: Machine,
    passwords: Vec<(String, String)>,
}

impl Fleet {
    fn new(test: &str) -> Option<Fleet> {
        let has_server =
            Path::new("/usr/bin/pg_createcluster").exists() && Path::new("/usr/sbin/pgbouncer").exists();
        let can_connect = Path::new("/usr/sbin/ip").exists() || Path::new("/sbin/ip").exists();
        if !possible(
            test,
            has_server && can_connect,
            "the packages postgresql, pgbouncer, ssl-cert and iproute2",
        ) {
            return None;
        }
        let installed = || {
            let machine = fresh_with(test, &[])?;
            machine.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
            machine.claude();
            Some(machine)
        };
        let (db, alpha, beta) = (installed()?, installed()?, installed()?);
        db.sh(CLUSTER);
        for (name, host) in [("alpha", &alpha), ("beta", &beta)] {
            host.show_boot_ids();
            host.sh(&format!("hostname {name}; echo {name} >/etc/hostname"));
            // Its unit has a host name of its own (ProtectHostname=yes), the one from its start.
            host.sh("systemctl restart bookend-monitor");
        }
        let fleet = Fleet { db, alpha, beta, passwords: Vec::new() };
        fleet.connect(&fleet.alpha, 1);
        fleet.connect(&fleet.beta, 2);
        Some(fleet)
    }

    /// Connects the machine to `db` by a network of their own, in which `db` has its name.
    fn connect(&self, host: &Machine, net: u8) {
        let wire = format!("wire{net}");
        let (here, there) = (host.pid(), self.db.pid());
        let ip = |pid: &str, words: &str| {
            let words = ["-t", pid, "-n", "ip"].into_iter().chain(words.split(' '));
            let output = Command::new("nsenter").args(words).output().expect("nsenter(1)");
            assert!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
        };
        ip(&here, &format!("link add {wire} type veth peer name {wire} netns {there}"));
        for (pid, last) in [(&here, 2), (&there, 1)] {
            ip(pid, &format!("address add 10.99.{net}.{last}/24 dev {wire}"));
            ip(pid, &format!("link set {wire} up"));
        }
        host.sh(&format!("sed -i '/ db$/d' /etc/hosts; echo 10.99.{net}.1 db >>/etc/hosts"));
    }

    fn machine(&self, name: &str) -> &Machine {
        match name {
            "db" => &self.db,
            "alpha" => &self.alpha,
            _ => &self.beta,
        }
    }

    /// What happens between the sections, and is no command.
    fn enter(&self, section: &str) {
        match section {
            POWER_CUT => self.beta.power_cut(),
            POWER_BACK => {
                self.beta.boot();
                self.beta.sh("hostname beta");
                self.connect(&self.beta, 2);
            }
            _ => {}
        }
    }

    /// What the command prints, with the passwords of the page.
    fn output(&self, step: &FleetStep) -> Vec<String> {
        if let Some(words) = step.command.strip_prefix("scp -q db:") {
            let (from, to) = words.split_once(' ').expect("scp -q db:FROM TO");
            std::fs::copy(self.db.file(from), self.machine(&step.host).file(to)).expect("a copy");
            return Vec::new();
        }
        let of_page = |command: String, (page, own): &(String, String)| command.replace(page, own);
        let command = self.passwords.iter().fold(step.command.clone(), of_page);
        let script = format!("exec 2>&1; cd /\n{command}");
        let output = self.machine(&step.host).exec(&["sh", "-c", &script]).out;
        let to_page = |text: String, (page, own): &(String, String)| text.replace(own, page);
        self.passwords.iter().fold(output, to_page).lines().map(str::to_owned).collect()
    }

    /// Learns the password of each host from the line that `fleet init` prints.
    fn learn_passwords(&mut self, expected: &[String], output: &mut [String]) {
        let password = |lines: &[String], role: &str| {
            let line = lines.iter().find(|line| line.contains(role))?;
            Some(line.rsplit(':').next().expect("a password").to_owned())
        };
        for role in [":bookend_alpha:", ":bookend_beta:"] {
            let (Some(page), Some(own)) = (password(expected, role), password(output, role)) else { return };
            output.iter_mut().for_each(|line| *line = line.replace(&own, &page));
            self.passwords.push((page, own));
        }
    }

    /// Runs a step. `Some`: its output is another one than that of the page.
    fn run(&mut self, step: &FleetStep) -> Option<String> {
        let only_shows =
            [" list", " status", " audit", "systemctl is-"].iter().any(|w| step.command.contains(w));
        let end = Instant::now() + PATIENCE;
        loop {
            let mut output = self.output(step);
            self.learn_passwords(&step.expected, &mut output);
            if agree(&without_causes(&step.expected), &without_causes(&output)) {
                return None;
            }
            if !only_shows || Instant::now() > end {
                let (place, host, command) = (&step.place, &step.host, &step.command);
                return Some(format!("{place}: {host}# {command}\n{}\n", output.join("\n")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Why PostgreSQL is not reachable depends on the moment: the connection broke, or none came about.
fn without_causes(lines: &[String]) -> Vec<String> {
    const AWAY: &str = " is not reachable: ";
    lines
        .iter()
        .map(|line| line.split_once(AWAY).map_or(line.as_str(), |(what, _)| what).to_owned())
        .collect()
}

#[test]
fn the_page_of_the_fleet_leads_from_an_empty_database_to_two_hosts_and_back() {
    let test = "the_page_of_the_fleet_leads_from_an_empty_database_to_two_hosts_and_back";
    let steps = steps(&blocks(PAGE));
    assert!(steps.len() > 10, "{} commands", steps.len());
    for section in [POWER_CUT, POWER_BACK] {
        assert!(steps.iter().any(|step| step.section == section), "{PAGE} has no commands in {section:?}");
    }
    let Some(mut fleet) = Fleet::new(test) else { return };
    let mut section = "";
    let mut wrong = String::new();
    for step in &steps {
        if section != step.section {
            section = &step.section;
            fleet.enter(section);
        }
        wrong += &fleet.run(step).unwrap_or_default();
    }
    assert!(wrong.is_empty(), "{PAGE} shows something else than this:\n{wrong}");

    // The page has enabled the socket: a run with a key starts the monitor, and waits for it.
    let alpha = &fleet.alpha;
    alpha.sh("systemctl stop bookend-monitor.service; ! systemctl is-active -q bookend-monitor.service");
    alpha.task("weekly", "claude -p done --output-format json", "");
    alpha.sh("systemctl start --wait bookend@weekly");
    assert!(alpha.holds("systemctl is-active -q bookend-monitor.service"), "the run has started it");
    assert_eq!(alpha.sh("systemctl show -P ExecMainStatus bookend@weekly"), "0\n");
    assert!(alpha.sh("bookend --system list --here --key systemd:weekly").contains("success"));
}
