//! The commands of the documents that need systemd or the installed package, run as they are written.

use std::path::PathBuf;

use crate::harness::{DocumentBlock, blocks, possible};
use crate::just::machine_with_just;
use crate::machine::Machine;

const SYSTEMD: &str = "contrib/doc/systemd.md";
const GUIDE: &str = "contrib/doc/guide.md";

/// The package that `cargo deb` built.
fn package(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("BOOKEND_DEB").map(PathBuf::from);
    let needs = "the package: set BOOKEND_DEB to what `cargo deb` made, or run .ci/run";
    possible(test, given.is_some(), needs).then(|| given.expect("checked above"))
}

/// A machine without bookend. The package is where `cargo deb` writes it in a checkout in /srv/bookend.
fn fresh(test: &str) -> Option<Machine> {
    let package = package(test)?;
    let m = Machine::bare(test)?;
    m.claude();
    m.write("/srv/bookend/target/debian/here", "");
    let name = package.file_name().and_then(|n| n.to_str()).expect("a name");
    std::fs::copy(&package, m.file("/srv/bookend/target/debian").join(name))
        .expect("the package in the machine");
    Some(m)
}

/// The `bash` blocks of a document, in order.
fn bash_blocks(name: &str) -> Vec<DocumentBlock> {
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

#[test]
fn the_commands_of_the_systemd_page_work() {
    let Some(m) = fresh("the_commands_of_the_systemd_page_work") else { return };
    let is_for_the_user = |b: &DocumentBlock| b.section == "Use the same units as a user";
    let (as_user, mut as_root): (Vec<_>, Vec<_>) =
        bash_blocks(SYSTEMD).into_iter().partition(is_for_the_user);
    assert_eq!(as_root.remove(0).text, "cargo deb\n", "the package was built before");
    let printed = run_blocks(&m, &as_root, |text| m.sh(&format!("cd /srv/bookend\n{text}")));
    assert!(printed.contains("enabled\n"), "{printed}");
    assert!(printed.contains("resume=<none>") && printed.contains("[recovery] task "), "{printed}");
    assert!(printed.contains("systemd:nightly") && printed.contains("interrupted"), "{printed}");
    assert!(printed.contains("was interrupted\n"), "the catalog explains: {printed}");
    assert!(m.holds("systemctl is-active bookend-prune.timer"));

    m.sh("useradd --create-home --shell /bin/sh ada && loginctl enable-linger ada");
    m.until("systemctl is-active user@$(id -u ada)");
    let ada = "cd /home/ada; runuser -u ada -- env HOME=/home/ada XDG_RUNTIME_DIR=/run/user/$(id -u ada)";
    let printed = run_blocks(&m, &as_user, |text| {
        m.write("/srv/block", text);
        m.sh(&format!("{ada} sh -eu /srv/block"))
    });
    assert!(printed.contains("systemd:nightly") && printed.contains("running"), "{printed}");
    assert!(m.holds("systemctl --user --machine=ada@.host is-enabled bookend-recover"));
}

#[test]
fn the_just_commands_of_the_guide_work() {
    let Some(m) = machine_with_just("the_just_commands_of_the_guide_work", fresh) else { return };
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    m.program("claude", "#!/bin/sh\necho hello\n");
    let just = bash_blocks(GUIDE).into_iter().filter(|b| b.section == "Use bookend from just");
    let printed = run_blocks(&m, &just.collect::<Vec<_>>(), |text| {
        m.sh(&format!("export XDG_STATE_HOME=/srv/state; mkdir -p /srv/work; cd /srv/work; {text}"))
    });
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
    m.sh("systemctl start bookend@one");
    m.working();
    m.sh("dpkg -r bookend");
    assert!(!m.holds("pgrep -u bookend"), "dpkg ended the running task");
    assert!(!m.holds("command -v bookend || systemctl cat bookend-recover"), "the program is gone");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "the ledger stays");
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    let row = m.row();
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"signal".into()), "{row:#}");
    m.sh("dpkg --purge bookend");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "the ledger stays after a purge");
}
