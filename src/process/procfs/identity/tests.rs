//! Reading the identity of a process from /proc, and the verdict about it.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use nix::poll::{PollFd, PollFlags};

use super::*;

const REST: &str = " S 1 42 42 34816 42 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 1 2 3\n";

fn line(comm: &[u8]) -> Vec<u8> {
    [b"42 (", comm, b")", REST.as_bytes()].concat()
}

proptest! {
    #[test]
    fn a_name_of_any_bytes_does_not_shift_the_fields(comm in prop::collection::vec(any::<u8>(), 0..64)) {
        let stat = parse_stat(&line(&comm)).unwrap();
        prop_assert_eq!(stat.comm.as_bytes(), &comm[..comm.len().min(15)]);
        prop_assert_eq!(
            (stat.pid, stat.state, stat.ppid, stat.pgrp, stat.session, stat.tty_nr),
            (42, 'S', 1, 42, 42, 34816)
        );
        prop_assert_eq!((stat.flags, stat.threads, stat.start), (4_194_560, 3, 98765));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_stat(&bytes);
    }

    #[test]
    fn a_cut_line_never_names_another_process(at in 0usize..64) {
        let whole = line(b"a) R 7 (b");
        let cut = &whole[..at.min(whole.len())];
        prop_assert!(parse_stat(cut).is_none_or(|s| s.pid == 42));
    }
}

#[test]
fn a_name_that_contains_fields_is_still_a_name() {
    let stat = parse_stat(&line(b"x) Z 9 9 (\n")).unwrap();
    assert_eq!((stat.state, stat.ppid, stat.start), ('S', 1, 98765));
}

#[test]
fn the_current_process_is_alive_and_a_zombie_is_dead() {
    let me = std::process::id() as i32;
    assert_eq!(of(me).unwrap().unwrap().pid, me);
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id() as i32;
    let held = rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::NONE).unwrap();
    assert!(stat(pid).unwrap().is_some_and(|s| s.is_dead()));
    assert_eq!(of(pid).unwrap(), None);
    child.wait().unwrap();
    assert_eq!(stat(pid).unwrap(), None);
}

#[test]
fn a_handle_is_opened_only_for_the_recorded_process() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let identity = of(child.id() as i32).unwrap().unwrap();
    let recycled = ProcessIdentity { start: identity.start + 1, ..identity };
    assert!(open(&recycled).unwrap().is_none());
    let handle = open(&identity).unwrap().unwrap();
    assert_eq!(handle.identity(), identity);
    assert!(handle.signal(Signal::KILL).unwrap());
    let has_ended = handle.wait(Duration::from_secs(30)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(has_ended, "the handle reports the end");
    assert!(!handle.signal(Signal::KILL).unwrap());
    assert!(open(&identity).unwrap().is_none());
}

#[test]
fn the_verdict_depends_on_identity_and_scope() {
    let here = place();
    let me = of(std::process::id() as i32).unwrap().unwrap();
    let other = ProcessIdentity { start: me.start + 1, ..me };
    assert_eq!(judge(me.into(), &here, &here), Verdict::Alive);
    assert_eq!(judge(other.into(), &here, &here), Verdict::Recycled);
    assert_eq!(judge(ProcessIdentity { pid: i32::MAX, start: 1 }.into(), &here, &here), Verdict::Gone);
    let booted = ProcessScope { boot_id: "another".to_owned(), ..here.clone() };
    assert_eq!(judge(me.into(), &booted, &here), Verdict::Gone);
    let elsewhere = ProcessScope { host: "another".to_owned(), ..booted };
    assert_eq!(judge(me.into(), &elsewhere, &here), Verdict::Unverifiable);
    let namespace = ProcessScope { pid_ns: here.pid_ns + 1, ..here.clone() };
    assert_eq!(judge(me.into(), &namespace, &here), Verdict::Unverifiable);
    let renamed = ProcessScope { host: "another".to_owned(), ..here.clone() };
    assert_eq!(judge(me.into(), &renamed, &here), Verdict::Alive);
    assert_eq!(judge(ProcessIdentity { start: 0, ..me }.into(), &here, &here), Verdict::Unverifiable);
}

/// A value that was not recorded (`""`, 0) is no evidence.
#[test]
fn a_process_is_judged_only_within_its_recorded_scope() {
    let here = place();
    let me = of(std::process::id() as i32).unwrap().unwrap();
    let other_ns = here.pid_ns + 1;
    for boot in ["", here.boot_id.as_str(), "another"] {
        for host in ["", here.host.as_str(), "another"] {
            for pid_ns in [0, here.pid_ns, other_ns] {
                let (host, boot_id) = (host.to_owned(), boot.to_owned());
                let at = ProcessScope { host, boot_id, pid_ns, cgroup: None };
                let expected = match (boot, at.host.as_str()) {
                    ("another" | "", "another") => Verdict::Unverifiable,
                    ("another", _) => Verdict::Gone,
                    _ if pid_ns == other_ns => Verdict::Unverifiable,
                    _ => Verdict::Alive,
                };
                assert_eq!(judge(me.into(), &at, &here), expected, "{at:?}");

                let nowhere = ProcessScope { boot_id: String::new(), ..here.clone() };
                if !boot.is_empty() {
                    assert_eq!(
                        judge(me.into(), &at, &nowhere),
                        Verdict::Unverifiable,
                        "{at:?}: which boot is this?"
                    );
                }
            }
        }
    }
}

#[test]
fn the_process_scope_matches_the_files_of_the_kernel() {
    let here = place();
    let line = |path: &str| std::fs::read_to_string(path).unwrap().trim_end().to_owned();
    assert_eq!(here.host, line("/proc/sys/kernel/hostname"));
    assert_eq!(here.boot_id, line("/proc/sys/kernel/random/boot_id"));
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(namespace.to_str(), Some(format!("pid:[{}]", here.pid_ns).as_str()));
    let groups = line("/proc/self/cgroup");
    let unified = groups.lines().find(|l| l.starts_with("0::")).map(|l| l[3..].to_owned());
    assert_eq!(here.cgroup, unified);
    assert!(proc_is_ours());
}

#[test]
fn a_zombie_with_running_threads_is_not_dead_and_kernel_threads_are_recognised() {
    let with = |state: char, flags: u32, threads: i32| {
        parse_stat(
            format!("7 (a) {state} 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 5 0").as_bytes(),
        )
        .unwrap()
    };
    let dead = |state, threads| with(state, 0, threads).is_dead();
    assert!(dead('X', 1) && dead('x', 1) && dead('Z', 0) && dead('Z', 1) && dead('X', 2));
    assert!(!dead('Z', 2), "its first thread has ended, but another runs");
    for state in ['R', 'S', 'D', 'T', 't', 'I'] {
        assert!(!dead(state, 1), "{state}");
    }
    assert!(with('S', KERNEL_THREAD | 0x40, 1).is_kernel_thread());
    assert!(!with('S', 0x40, 1).is_kernel_thread() && !with('S', 0, 1).is_kernel_thread());
    assert_eq!(with('S', 0, 1).identity(), ProcessIdentity { pid: 7, start: 5 });
}

#[test]
fn a_name_is_displayed_unchanged_and_padded_on_request() {
    let name = Comm::new(b"sh\xff");
    assert_eq!((format!("{name}"), format!("{name:>5}")), ("sh\u{fffd}".into(), "  sh\u{fffd}".into()));
    assert_eq!(format!("{name:?}"), r#""sh\xff""#);
}

#[test]
fn an_invalid_pid_names_no_process() {
    for pid in [0, -1, i32::MIN] {
        assert_eq!(stat(pid).unwrap(), None, "{pid}");
        assert!(open(&ProcessIdentity { pid, start: 0 }).unwrap().is_none(), "{pid}");
    }
}

#[test]
fn waits_for_a_process_until_it_ends_or_the_time_is_over() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let handle = open(&of(child.id() as i32).unwrap().unwrap()).unwrap().unwrap();
    assert!(!handle.wait(Duration::ZERO).unwrap(), "it runs");
    let (before, some) = (Instant::now(), Duration::from_millis(20));
    assert!(!handle.wait(some).unwrap(), "it runs");
    assert!(before.elapsed() >= some);
    child.kill().unwrap();
    assert!(handle.wait(Duration::from_secs(60)).unwrap(), "it has ended, reaped or not");
    assert!(before.elapsed() < Duration::from_secs(30), "the wait ends with the process");
    child.wait().unwrap();
    assert!(handle.wait(Duration::ZERO).unwrap());
    assert_eq!(handle.as_fd().as_raw_fd(), handle.pidfd.as_raw_fd());
}

#[test]
fn a_poll_timeout_is_rounded_up_and_accepts_any_duration() {
    let ms = |left| poll_timeout(left).as_millis();
    assert_eq!(ms(Duration::ZERO), Some(0));
    assert_eq!(ms(Duration::from_nanos(1)), Some(1));
    assert_eq!(ms(Duration::from_millis(7)), Some(7));
    assert_eq!(ms(Duration::from_micros(7001)), Some(8));
    assert_eq!(ms(Duration::MAX), Some(i32::MAX as u32));
}

#[test]
fn the_user_of_a_process_is_its_effective_user() {
    let dir = tempfile::tempdir().unwrap();
    let user = |text: &str| {
        let path = dir.path().join("status");
        std::fs::write(&path, text).unwrap();
        user_at(CWD, path.as_os_str().as_encoded_bytes())
    };
    assert_eq!(user("Name:\tUid: 9\nUid:\t11\t12\t13\t14\nGid:\t1\t2\t3\t4\n"), Some(12));
    assert_eq!(user("Name:\tx\n"), None);
    assert_eq!(super::user(i32::MAX), None);
    // Only root can start a process of another user.
    let (uid, nobody) = (nix::unistd::getuid(), 65534);
    let owner = if uid.is_root() { nobody } else { uid.as_raw() };
    let mut child = Command::new("sleep").arg("1000").uid(owner).spawn().unwrap();
    let seen = super::user(child.id() as i32);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, Some(owner));
}
