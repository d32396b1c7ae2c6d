//! The README's sections on systemd and just, followed word by word.

use std::path::{Path, PathBuf};

use crate::harness::possible;
use crate::just::machine_with_just;
use crate::machine::Machine;

/// The package that `cargo deb` made.
fn package(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("BOOKEND_DEB").map(PathBuf::from);
    let needs = "the package: set BOOKEND_DEB to what `cargo deb` made, or start .ci/run";
    possible(test, given.is_some(), needs).then(|| given.expect("just asked for"))
}

/// A machine without anything of bookend, the package where `cargo deb` puts it below /srv/bookend.
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

/// The blocks for machines in one section of the README, in order.
fn blocks(section: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README");
    let section = text.split("\n## ").find(|s| s.starts_with(section)).expect("the section");
    let rest = section.split("```bash\n").skip(1);
    rest.map(|r| r.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_systemd_section_of_the_readme_does_what_it_says() {
    let Some(m) = fresh("the_systemd_section_of_the_readme_does_what_it_says") else { return };
    let mut as_root = blocks("Under systemd");
    assert_eq!(as_root.remove(0), "cargo deb\n");
    let as_user = as_root.split_off(as_root.len() - 2);
    let mut said = String::new();
    for block in &as_root {
        said += &m.sh(&format!("cd /srv/bookend\n{block}"));
        if block.contains("start bookend@nightly") {
            m.working();
        }
    }
    assert!(said.contains("enabled\n"), "{said}");
    assert!(said.contains("resume=<none>") && said.contains("[recovery] task "), "{said}");
    assert!(said.contains("systemd:nightly") && said.contains("interrupted"), "{said}");
    assert!(said.contains("was interrupted\n"), "the catalog explains: {said}");
    assert!(m.holds("systemctl is-active bookend-prune.timer"));

    m.sh("useradd --create-home --shell /bin/sh ada && loginctl enable-linger ada");
    m.until("systemctl is-active user@$(id -u ada)");
    let ada = "cd /home/ada; runuser -u ada -- env HOME=/home/ada XDG_RUNTIME_DIR=/run/user/$(id -u ada)";
    let mut said = String::new();
    for block in &as_user {
        m.write("/srv/block", block);
        said = m.sh(&format!("{ada} sh -eu /srv/block"));
        if block.contains("start bookend@nightly") {
            m.working();
        }
    }
    assert!(said.contains("systemd:nightly") && said.contains("running"), "{said}");
    assert!(m.holds("systemctl --user --machine=ada@.host is-enabled bookend-recover"));
}

#[test]
fn the_just_section_of_the_readme_does_what_it_says() {
    let Some(m) = machine_with_just("the_just_section_of_the_readme_does_what_it_says", fresh) else {
        return;
    };
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    m.program("claude", "#!/bin/sh\necho hello\n");
    for block in blocks("From just") {
        let said =
            m.sh(&format!("export XDG_STATE_HOME=/srv/state; mkdir -p /srv/work; cd /srv/work; {block}"));
        assert!(said.contains("hello") && said.contains("success") && said.contains("0 findings"), "{said}");
    }
}

#[test]
fn the_package_comes_and_goes_and_the_ledger_stays() {
    let Some(m) = fresh("the_package_comes_and_goes_and_the_ledger_stays") else { return };
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
    ] {
        // Some systems are told to leave manuals and documents out, so the package itself is asked.
        assert!(m.holds(&format!("dpkg -L bookend | grep -qx /usr/share/{file}")), "{file}");
    }
    m.task("one", "claude -p work --output-format stream-json --verbose", "");
    m.sh("systemctl start bookend@one");
    m.working();
    m.sh("dpkg -r bookend");
    assert!(!m.holds("pgrep -u bookend"), "what ran was ended");
    assert!(!m.holds("command -v bookend || systemctl cat bookend-recover"), "the program is gone");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "the ledger stays");
    m.sh("dpkg -i /srv/bookend/target/debian/bookend_*.deb");
    let row = m.row();
    assert_eq!((&row["status"], &row["reason"]), (&"interrupted".into(), &"signal".into()), "{row:#}");
    m.sh("dpkg --purge bookend");
    assert!(m.holds("test -s /var/lib/bookend/bookend.db"), "even then");
}
