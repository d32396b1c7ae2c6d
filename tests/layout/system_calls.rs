//! Which crates make system calls where: nix by default, rustix in the files that need a call nix lacks, libc
//! and syscalls only in `src/sys` and in the gate.

use super::source::files_below;

/// The files that use rustix, and what nix lacks there. Their other calls share its error type.
const RUSTIX: [(&str, &str); 16] = [
    ("src/commands/list/watch.rs", "tcgetwinsize"),
    ("src/ledger/other_name.rs", "statx"),
    ("src/ledger/trust.rs", "lgetxattr"),
    ("src/owner.rs", "capabilities"),
    ("src/process/capture/mod.rs", "FIONREAD"),
    ("src/process/cgroup/mod.rs", "getxattr"),
    ("src/process/procfs/dying.rs", "the error of identity.rs"),
    ("src/process/procfs/identity/tests.rs", "pidfd_open"),
    ("src/process/procfs/identity.rs", "pidfd_open"),
    ("src/process/procfs/mark/tests.rs", "capabilities"),
    ("src/process/procfs/mark.rs", "the descriptors of identity.rs"),
    ("src/process/procfs/snapshot.rs", "getdents64 into a buffer of its own"),
    ("src/process/spawn/gate.rs", "prlimit"),
    ("src/sys/pidfd.rs", "pidfd_open"),
    ("src/sys/user.rs", "capabilities"),
    ("src/view/screen.rs", "tcgetwinsize"),
];

/// Where libc may be called: thin wrappers, and the child that shares the memory of its parent.
fn is_raw(file: &str) -> bool {
    file.starts_with("src/sys/") || file.starts_with("src/process/spawn/")
}

/// Whether `code` calls a function of libc; its constants and types are no calls.
fn calls_libc(code: &str) -> bool {
    code.split("libc::").skip(1).any(|rest| {
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        rest[name.len()..].starts_with('(') && name.starts_with(|c: char| c.is_ascii_lowercase())
    })
}

#[test]
fn rustix_is_used_only_where_nix_lacks_a_call() {
    let all = files_below("src");
    let using = all.iter().filter(|f| f.code_with_tests().contains("rustix::")).map(|f| f.name.as_str());
    assert_eq!(using.collect::<Vec<_>>(), RUSTIX.map(|(file, _)| file), "use nix, or name the call it lacks");
}

#[test]
fn libc_is_called_only_in_sys_and_the_gate() {
    for file in files_below("src").iter().filter(|f| !is_raw(&f.name)) {
        let code = file.code_with_tests();
        assert!(!calls_libc(&code), "{}: use nix or a wrapper in src/sys", file.name);
        assert!(!code.contains("syscalls::"), "{}: use nix or a wrapper in src/sys", file.name);
    }
}

#[test]
fn a_constant_of_libc_is_not_a_call() {
    assert!(calls_libc("unsafe { libc::kill(1, 2) }"));
    assert!(!calls_libc("let x = libc::SIGTERM; f(libc::S_IFMT(1)); let y: libc::c_int = 1;"));
}
