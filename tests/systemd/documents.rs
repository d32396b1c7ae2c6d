//! The commands of the documents that need systemd or the installed package, run as they are written.

use std::path::PathBuf;

use crate::harness::{DocumentBlock, blocks, possible};
use crate::just::machine_with_just;
use crate::machine::Machine;

pub const SYSTEMD: &str = "contrib/doc/systemd.md";
const MAKES_THE_PACKAGE: &str =
    "cargo build --release && cp target/release/bookend target/bookend-fleet && cargo deb\n";
/// Commands of the page that need a network or a compiler: their results are in the machine already.
const DONE_BEFORE: [&str; 2] = [MAKES_THE_PACKAGE, "npm install -g @anthropic-ai/claude-code\n"];
const FOR_THE_USER: &str = "Use the same units as a user";
const WITHOUT_THE_PACKAGE: &str = "Set up the units without the package";
const GUIDE: &str = "contrib/doc/guide.md";

/// The package that `cargo deb` built.
fn package(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("BOOKEND_DEB").map(PathBuf::from);
    let needs = "the package: set BOOKEND_DEB to what `cargo deb` made, or run .ci/run";
    possible(test, given.is_some(), needs).then(|| given.expect("checked above"))
}

/// A machine without bookend, and with a stand-in for Claude Code.
fn fresh(test: &str) -> Option<Machine> {
    let m = fresh_with(test, &[])?;
    m.claude();
    Some(m)
}

/// A machine without bookend, booted with these options of `systemd-box start`. The package is where
/// `cargo deb` writes it in a checkout in /srv/bookend.
pub fn fresh_with(test: &str, options: &[&str]) -> Option<Machine> {
    let package = package(test)?;
    let m = Machine::start(test, options)?;
    m.write("/srv/bookend/target/debian/here", "");
    let name = package.file_name().and_then(|n| n.to_str()).expect("a name");
    std::fs::copy(&package, m.file("/srv/bookend/target/debian").join(name))
        .expect("the package in the machine");
    Some(m)
}

/// The `bash` blocks of a document, in order.
pub fn bash_blocks(name: &str) -> Vec<DocumentBlock> {
    blocks(name).into_iter().filter(|block| block.language == "bash").collect()
}

/// Runs the blocks in order and returns their output. The stand-in agent works before the next block runs.
fn run_blocks(m: &Machine, blocks: &[DocumentBlock], run: impl Fn(&str) -> String) -> String {
    let mut printed = String::new();
    for block in blocks {
        printed += &run(&block.text);
        if block.text.contains("start bookend@nightly") {
            m.working();
        }
    }
    printed
}

/// The blocks of the systemd page for root, from the installation of the package on.
pub fn blocks_of_root() -> Vec<DocumentBlock> {
    let blocks = bash_blocks(SYSTEMD);
    let (done, blocks): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| DONE_BEFORE.contains(&block.text.as_str()));
    assert_eq!(done.len(), DONE_BEFORE.len());
    let is_other = |b: &DocumentBlock| [FOR_THE_USER, WITHOUT_THE_PACKAGE].contains(&b.section.as_str());
    blocks.into_iter().filter(|block| !is_other(block)).collect()
}

/// A user with a user manager, and a shell that runs scripts as that user.
fn ada(m: &Machine) -> impl Fn(&str) -> String {
    m.sh("useradd --create-home --shell /bin/sh ada && loginctl enable-linger ada");
    m.until("systemctl is-active user@$(id -u ada)");
    let ada =
        "cd /home/ada; runuser -u ada -- env HOME=/home/ada USER=ada XDG_RUNTIME_DIR=/run/user/$(id -u ada)";
    move |script| {
        m.write("/srv/block", script);
        m.sh(&format!("{ada} sh -eu /srv/block"))
    }
}

#[test]
fn the_commands_of_the_systemd_page_work() {
    let Some(m) = fresh("the_commands_of_the_systemd_page_work") else { return };
    let printed = run_blocks(&m, &blocks_of_root(), |text| m.sh(&format!("cd /srv/bookend\n{text}")));
    assert!(printed.contains("enabled\n"), "{printed}");
    assert!(printed.contains("resume=<none>") && printed.contains("[recovery] task "), "{printed}");
    assert!(printed.contains("systemd:nightly") && printed.contains("interrupted"), "{printed}");
    assert!(printed.contains("was interrupted\n"), "the catalog explains: {printed}");
    assert!(m.holds("systemctl is-active bookend-prune.timer"));

    assert!(m.holds("systemctl is-enabled bookend@nightly.timer"));

    let as_user: Vec<_> = bash_blocks(SYSTEMD).into_iter().filter(|b| b.section == FOR_THE_USER).collect();
    let printed = run_blocks(&m, &as_user, ada(&m));
    assert!(printed.contains("on: your units start at boot"), "{printed}");
    assert!(printed.contains("systemd:nightly") && printed.contains("running"), "{printed}");
    assert!(m.holds("systemctl --user --machine=ada@.host is-enabled bookend-recover"));
}

#[test]
fn the_units_of_a_program_elsewhere_run_its_tasks() {
    let test = "the_units_of_a_program_elsewhere_run_its_tasks";
    let program = env!("CARGO_BIN_EXE_bookend");
    let binds = [
        format!("{program}:/usr/local/bin/bookend:ro"),
        format!("{program}:/home/ada/.cargo/bin/bookend:ro"),
    ];
    let Some(m) = Machine::start(test, &["--bind", &binds[0], "--bind", &binds[1]]) else { return };
    m.claude();
    let blocks: Vec<_> =
        bash_blocks(SYSTEMD).into_iter().filter(|b| b.section == WITHOUT_THE_PACKAGE).collect();
    assert_eq!(blocks.len(), 2);
    m.sh(&blocks[1].text);
    let units = "bookend-recover.service bookend-report.service bookend-monitor.service bookend@.service";
    let lines = "^Exec.*/usr/bin/bookend|^Docum";
    m.sh(&format!("! systemctl cat {units} bookend-prune.service bookend-prune.timer | grep -E '{lines}'"));
    m.task("nightly", "claude -p done --output-format stream-json --verbose", "");
    m.sh("systemctl start bookend@nightly bookend-prune; systemctl is-enabled bookend-recover");
    m.until("systemctl show -P ActiveState bookend@nightly | grep -q inactive");
    assert_eq!(m.row()["status"], "success");

    m.sh("mv /usr/local/bin/claude /usr/local/bin/agent; mkdir -p /home/ada/.config/bookend");
    m.write("/home/ada/.config/bookend/nightly.env", "COMMAND=\"agent -p done\"\n");
    let ada = ada(&m);
    m.sh("chown ada: /home/ada; chown -R ada: /home/ada/.config");
    ada(&format!(
        "PATH=/home/ada/.cargo/bin:$PATH\n{}systemctl --user start bookend@nightly",
        blocks[0].text
    ));
    let cat = ada("systemctl --user cat bookend@nightly");
    assert!(cat.contains("ExecStart=/home/ada/.cargo/bin/bookend run -- $COMMAND"), "{cat}");
    m.until("systemctl --user --machine=ada@.host show -P ActiveState bookend@nightly | grep -q inactive");
    assert_eq!(m.rows_of("ada", "/home/ada/.local/state/bookend/bookend.db")[0]["status"], "success");
}

#[test]
fn the_just_commands_of_the_guide_work() {
    let Some(m) = machine_with_just("the_just_commands_of_the_guide_work", fresh) else { return };
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    m.program("claude", "#!/bin/sh\necho hello\n");
    let just = bash_blocks(GUIDE).into_iter().filter(|b| b.section == "Use bookend from just");
    let printed = run_blocks(&m, &just.collect::<Vec<_>>(), ada(&m));
    for part in ["hello", "success", "0 findings"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

/// Checks the README's comparison with `systemd-run --wait`.
#[test]
fn systemd_run_keeps_the_unit_running_and_forwards_no_signal() {
    let Some(m) = Machine::bare("systemd_run_keeps_the_unit_running_and_forwards_no_signal") else { return };
    let code = |script: &str| m.exec(&["systemd-run", "--wait", "--quiet", "sh", "-c", script]).code;
    assert_eq!(code("exit 3"), Some(3));
    // systemd replaces `$$` by `$`.
    assert_eq!([code("kill -TERM $$$$"), code("kill -KILL $$$$")], [Some(0), Some(255)]);
    for signal in ["KILL", "TERM"] {
        let active = m.sh(&format!(
            "systemd-run --wait --quiet --unit=kept-{signal} sleep 1000 & client=$!
             until systemctl is-active -q kept-{signal}; do sleep 0.05; done
             kill -{signal} $client; wait $client || systemctl is-active kept-{signal}"
        ));
        assert_eq!(active, "active\n", "after SIG{signal} to the client");
    }
}

#[test]
fn removing_the_package_keeps_the_ledger() {
    let Some(m) = fresh("removing_the_package_keeps_the_ledger") else { return };
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    assert_eq!(m.sh("stat -c %a:%U /var/lib/bookend /etc/bookend"), "700:bookend\n700:root\n");
    assert!(m.holds("systemctl is-enabled -q bookend-recover"));
    assert!(!m.holds("systemctl is-enabled -q bookend-prune.timer"));
    m.sh("systemctl start bookend-recover bookend-prune");
    for file in [
        "man/man1/bookend.1.gz",
        "man/man1/bookend-run.1.gz",
        "bash-completion/completions/bookend",
        "zsh/vendor-completions/_bookend",
        "fish/vendor_completions.d/bookend.fish",
        "bookend/bookend.just",
        "doc/bookend/copyright",
        "doc/bookend/contrib/doc/guide.md",
        "doc/bookend/contrib/doc/timeline.png",
    ] {
        // dpkg can be configured to leave out manuals and documents, so the list of the package is checked.
        assert!(m.holds(&format!("dpkg -L bookend | grep -qx /usr/share/{file}")), "{file}");
    }
    m.task("one", "claude -p work --output-format stream-json --verbose", "");
    m.sh("systemctl start bookend@one; systemctl enable -q --now bookend@one.timer");
    m.working();
    m.sh("dpkg -r bookend");
    assert_eq!(m.sh("find /etc/systemd/system -name 'bookend*'"), "", "nothing stays enabled");
    assert!(!m.holds("systemctl is-active -q bookend@one.timer"), "no timer starts it again");
    assert!(!m.holds("pgrep -u bookend"), "dpkg ended the running task");
    assert!(!m.holds("command -v bookend || systemctl cat bookend-recover"), "the program is gone");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "the ledger stays");
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    let row = m.row();
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"signal".into()), "{row:#}");
    m.sh("dpkg --purge bookend");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "the ledger stays after a purge");
}

/// The package as it was before it had the monitor, made of the one that is tested.
const OLDER_PACKAGE: &str = "cd /srv; dpkg-deb -R bookend/target/debian/bookend_*.deb older
    rm -f older/usr/lib/systemd/system/bookend-monitor.service older/DEBIAN/md5sums older/DEBIAN/p*
    cd older/DEBIAN; echo '#!/bin/sh\nsystemctl daemon-reload; systemctl enable -q bookend-recover' >postinst
    chmod 755 postinst; sed -i 's/^Version: .*/Version: 0.0.1/' control; dpkg-deb -b .. /srv/older.deb";

#[test]
fn the_package_enables_the_monitor_once_and_an_upgrade_restarts_it() {
    let Some(m) = fresh("the_package_enables_the_monitor_once_and_an_upgrade_restarts_it") else { return };
    // The triggers of man-db would take most of the time.
    let dpkg = |words: &str| m.sh(&format!("dpkg --no-triggers {words}"));
    let install = || dpkg("-i /srv/bookend/target/debian/bookend_*.deb");
    let state = || {
        let output =
            m.sh("systemctl is-enabled bookend-monitor || :; systemctl is-active bookend-monitor || :");
        output.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let pid = || m.sh("systemctl show -P MainPID bookend-monitor");
    m.sh(OLDER_PACKAGE);
    dpkg("-i /srv/older.deb");
    assert!(m.holds("systemctl is-enabled -q bookend-recover && ! systemctl cat bookend-monitor"));
    install();
    assert_eq!(state(), "enabled active", "the upgrade brings it");
    let socket = || m.exec(&["systemctl", "is-enabled", "bookend-monitor.socket"]).out;
    assert_eq!(socket(), "disabled\n", "only a fleet needs it");

    let before = pid();
    m.task("one", "claude -p work --output-format stream-json --verbose", "");
    m.sh("systemctl start bookend@one");
    m.working();
    let running = m.row();
    install();
    assert_eq!(state(), "enabled active");
    assert_ne!(pid(), before, "the new program runs");
    assert_eq!((&m.row()["status"], &m.row()["agent_pid"]), (&"running".into(), &running["agent_pid"]));

    m.sh("systemctl disable -q --now bookend-monitor bookend-recover");
    install();
    assert_eq!(state(), "disabled inactive", "an upgrade respects the administrator");
    assert!(!m.holds("systemctl is-enabled -q bookend-recover"));
    m.sh("systemctl start bookend-monitor");
    let before = pid();
    install();
    assert_eq!(state(), "disabled active");
    assert_ne!(pid(), before, "one that was started by hand is restarted too");

    m.sh("systemctl stop bookend-monitor; systemctl enable -q --now bookend-monitor.socket");
    m.sh("systemctl start bookend-monitor");
    assert_eq!((state().as_str(), socket().as_str()), ("disabled active", "enabled\n"));
    dpkg("-r bookend");
    assert!(!m.holds("systemctl is-active -q bookend-monitor"));
    assert!(!m.holds("systemctl is-active -q bookend-monitor.socket"));
    assert_eq!(m.sh("find /etc/systemd /run -name 'bookend*'"), "", "nothing stays enabled");
    install();
    assert_eq!(state(), "enabled active");
    assert!(m.holds("systemctl is-enabled -q bookend-recover"), "as after the first installation");
    dpkg("--purge bookend");
    assert_eq!(m.sh("find /etc/systemd -name 'bookend*'"), "");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "the ledger stays");
}
