//! `probe with SPEC… -- command`: executes a command with settings that `std::process::Command` cannot make
//! without unsafe code: signal masks, ignored signals, closed descriptors, raw environments, terminals.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::raw::{self, check};

pub fn with(args: &[OsString]) -> io::Result<i32> {
    let end = args.iter().position(|a| a == "--").ok_or_else(|| io::Error::other("with SPEC… -- command"))?;
    let mut env = raw::environment();
    let mut argv0 = None;
    for spec in &args[..end] {
        let bytes = spec.as_bytes();
        let cut = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
        let name = std::str::from_utf8(&bytes[..cut]).map_err(io::Error::other)?;
        let value = OsString::from_vec(bytes.get(cut + 1..).unwrap_or_default().to_vec());
        match name {
            "env" => env.push(value),
            "clearenv" => env.clear(),
            "unset" => env.retain(|e| !e.as_bytes().starts_with(&[value.as_bytes(), b"="].concat())),
            "argv0" => argv0 = Some(value),
            // A variable that names the command that is executed.
            "own-pid" => {
                let name = value.to_str().unwrap_or_default();
                env.push(format!("{name}={}", std::process::id()).into());
            }
            "listen-pid" => {
                env.push(format!("LISTEN_PID={}", std::process::id()).into());
                env.push("LISTEN_FDS=1".into());
            }
            name => apply(name, value.to_str().unwrap_or_default())
                .map_err(|e| io::Error::other(format!("{spec:?}: {e}")))?,
        }
    }
    Err(raw::exec(&args[end + 1..], argv0.as_deref(), &env))
}

fn numbers(value: &str) -> io::Result<Vec<i32>> {
    value.split([',', ':']).map(|n| n.parse().map_err(io::Error::other)).collect()
}

fn apply(name: &str, value: &str) -> io::Result<()> {
    match name {
        "mask" => {
            for n in numbers(value)? {
                raw::block(1 << (n - 1))?;
            }
        }
        "ignore" => {
            for n in numbers(value)? {
                raw::disposition(n, libc::SIG_IGN)?;
            }
        }
        "default" => {
            for n in numbers(value)? {
                raw::disposition(n, libc::SIG_DFL)?;
            }
        }
        "close" => {
            for n in numbers(value)? {
                // SAFETY: a descriptor that nothing here uses.
                unsafe { libc::close(n) };
            }
        }
        "dup" => {
            let n = numbers(value)?;
            // SAFETY: dup2 of descriptors that nothing here owns.
            check(unsafe { libc::dup2(n[0], n[1]) })?;
        }
        "open" => open(value)?,
        "pipe" => {
            // A pipe with its ends at the given descriptors.
            let n = numbers(value)?;
            let mut ends = [0; 2];
            // SAFETY: two descriptors are written.
            check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
            move_to(ends[0], n[0])?;
            move_to(ends[1], n[1])?;
        }
        "setsid" => {
            // SAFETY: no memory is involved.
            check(unsafe { libc::setsid() })?;
        }
        "setpgid" => {
            // SAFETY: no memory is involved.
            check(unsafe { libc::setpgid(0, 0) })?;
        }
        "ctty" => terminal(value)?,
        "own-pty" => own_pty()?,
        "nice" => {
            // SAFETY: no memory is involved.
            check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, numbers(value)?[0]) })?;
        }
        "umask" => {
            let mask = u32::from_str_radix(value, 8).map_err(io::Error::other)?;
            // SAFETY: no memory is involved.
            unsafe { libc::umask(mask) };
        }
        "rlimit" => {
            let n = numbers(value)?;
            let limit = libc::rlimit { rlim_cur: n[1] as u64, rlim_max: n[2] as u64 };
            // SAFETY: the limit outlives the call.
            check(unsafe { libc::setrlimit(n[0] as u32, &limit) })?;
        }
        "cwd" => std::env::set_current_dir(value)?,
        "uid" => {
            let id = numbers(value)?[0] as u32;
            // SAFETY: an empty list of groups is read.
            unsafe {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setresgid(id, id, id))?;
                check(libc::setresuid(id, id, id))?;
            }
        }
        "proc" => proc(value)?,
        "seccomp" => refuse(value)?,
        "alarm" => {
            // SAFETY: no memory is involved.
            unsafe { libc::alarm(numbers(value)?[0] as u32) };
        }
        "timerslack" => {
            // SAFETY: no memory is involved.
            check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, numbers(value)?[0] as libc::c_ulong) })?;
        }
        other => return Err(io::Error::other(format!("no spec {other:?}"))),
    }
    Ok(())
}

/// Mounts `/proc` with these options in a new mount namespace.
fn proc(options: &str) -> io::Result<()> {
    let options = raw::c_string(OsStr::new(options));
    // SAFETY: every string outlives the call.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let none = std::ptr::null();
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let proc = c"proc".as_ptr();
        check(libc::mount(proc, c"/proc".as_ptr(), proc, 0, options.as_ptr().cast()))?;
    }
    Ok(())
}

/// `NUMBER:ERRNO`: makes this system call fail with this error, as a sandbox does: seccomp(2).
fn refuse(value: &str) -> io::Result<()> {
    let n = numbers(value)?;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the call is the first word of `struct seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, n[0] as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | n[1] as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter outlive the calls.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))?;
    }
    Ok(())
}

fn move_to(from: RawFd, to: RawFd) -> io::Result<()> {
    if from == to {
        // SAFETY: no memory is involved.
        return check(unsafe { libc::fcntl(from, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: `from` was just opened here.
    unsafe {
        check(libc::dup2(from, to))?;
        libc::close(from);
    }
    Ok(())
}

/// `FD:MODE:PATH`, mode `r`, `w`, `a` (append), `rw`.
fn open(value: &str) -> io::Result<()> {
    let mut parts = value.splitn(3, ':');
    let (Some(fd), Some(mode), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(io::Error::other("open=FD:MODE:PATH"));
    };
    let to: RawFd = fd.parse().map_err(io::Error::other)?;
    let flags = match mode {
        "r" => libc::O_RDONLY,
        "w" => libc::O_WRONLY | libc::O_CREAT,
        "a" => libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
        _ => libc::O_RDWR | libc::O_CREAT,
    };
    let path = raw::c_string(OsStr::new(path));
    // SAFETY: the path outlives the call.
    let from = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) })?;
    move_to(from, to)
}

/// Makes `path` the controlling terminal and standard input, output and error.
fn terminal(path: &str) -> io::Result<()> {
    let path = raw::c_string(OsStr::new(path));
    // SAFETY: the path outlives the calls; 0, 1 and 2 have no owner here.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), libc::O_RDWR))?;
        check(libc::ioctl(fd, libc::TIOCSCTTY, 0))?;
        for to in 0..=2 {
            check(libc::dup2(fd, to))?;
        }
        if fd > 2 {
            libc::close(fd);
        }
    }
    Ok(())
}

/// Creates a terminal, as a terminal multiplexer does for its child. The master stays open in the command.
fn own_pty() -> io::Result<()> {
    // SAFETY: the name is copied before the next call that could change it.
    let name: CString = unsafe {
        let master = check(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY))?;
        check(libc::grantpt(master))?;
        check(libc::unlockpt(master))?;
        std::ffi::CStr::from_ptr(libc::ptsname(master)).to_owned()
    };
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() })?;
    // SAFETY: the name outlives the calls.
    unsafe {
        let slave = check(libc::open(name.as_ptr(), libc::O_RDWR))?;
        check(libc::ioctl(slave, libc::TIOCSCTTY, 0))?;
    }
    Ok(())
}
