//! Raw system calls of the probe: glibc's wrappers hide signals 32 and 33.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

unsafe extern "C" {
    static environ: *const *const c_char;
}

pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

pub fn c_string(s: &OsStr) -> CString {
    CString::new(s.as_bytes()).expect("an argument holds no NUL")
}

pub fn args(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    (0..argc as usize)
        .map(|i| {
            // SAFETY: the kernel gives argc strings.
            let s = unsafe { CStr::from_ptr(*argv.add(i)) };
            OsString::from_vec(s.to_bytes().to_vec())
        })
        .collect()
}

/// The environment from the kernel, with duplicates and entries without `=`.
pub fn environment() -> Vec<OsString> {
    let mut all = Vec::new();
    // SAFETY: `environ` ends with a null pointer, and this program does not change it.
    unsafe {
        let mut p = environ;
        while !p.is_null() && !(*p).is_null() {
            all.push(OsString::from_vec(CStr::from_ptr(*p).to_bytes().to_vec()));
            p = p.add(1);
        }
    }
    all
}

/// Blocks the signals in `mask` (bit n-1 is signal n) in addition to those already blocked.
pub fn block(mask: u64) -> io::Result<()> {
    set_mask(libc::SIG_BLOCK, mask)
}

pub fn unblock(mask: u64) -> io::Result<()> {
    set_mask(libc::SIG_UNBLOCK, mask)
}

fn set_mask(how: c_int, mask: u64) -> io::Result<()> {
    // SAFETY: a kernel sigset is eight bytes, and the pointer for the old one is null.
    let r = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const mask, std::ptr::null_mut::<u64>(), 8usize)
    };
    check(r as c_int).map(drop)
}

/// A signalfd for the signals in `mask`.
pub fn signal_fd(mask: u64) -> io::Result<RawFd> {
    // SAFETY: a kernel sigset is eight bytes.
    let r = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8usize, libc::SFD_CLOEXEC) };
    check(r as c_int)
}

/// Waits for the next signal.
pub fn next_signal(fd: RawFd) -> io::Result<libc::signalfd_siginfo> {
    // SAFETY: all zeroes is a valid signalfd_siginfo, and the kernel writes at most its size.
    unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let size = std::mem::size_of_val(&info);
        let n = libc::read(fd, (&raw mut info).cast(), size);
        if n != size as isize {
            return Err(io::Error::last_os_error());
        }
        Ok(info)
    }
}

/// Sets a signal to SIG_DFL or SIG_IGN, also signals that glibc reserves.
pub fn disposition(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    /// The greatest size of the kernel's struct sigaction; all fields but the handler are zero.
    const WORDS: usize = 8;
    let mut action = [0usize; WORDS];
    action[0] = handler;
    // SAFETY: the kernel reads its sigaction from the array, and the pointer for the old one is null.
    let r = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null_mut::<usize>(), 8usize)
    };
    check(r as c_int).map(drop)
}

/// Dies by `signal`.
pub fn die(signal: c_int) -> io::Result<i32> {
    if signal != libc::SIGKILL && signal != libc::SIGSTOP {
        disposition(signal, libc::SIG_DFL)?;
    }
    unblock(1 << (signal - 1))?;
    // SAFETY: a signal to ourselves.
    check(unsafe { libc::kill(libc::getpid(), signal) })?;
    Ok(0)
}

/// Forks; `true` in the child. The probe has one thread, so the child may do anything.
pub fn fork() -> io::Result<bool> {
    // SAFETY: one thread.
    Ok(check(unsafe { libc::fork() })? == 0)
}

/// Executes `argv` (found in PATH) with `env`; returns only on failure.
pub fn exec(argv: &[OsString], argv0: Option<&OsStr>, env: &[OsString]) -> io::Error {
    let program = c_string(&argv[0]);
    let words: Vec<CString> =
        argv.iter().enumerate().map(|(i, a)| c_string(if i == 0 { argv0.unwrap_or(a) } else { a })).collect();
    let env: Vec<CString> = env.iter().map(|e| c_string(e)).collect();
    let pointers = |v: &[CString]| -> Vec<*const c_char> {
        v.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    // SAFETY: both lists end with a null pointer and outlive the call.
    unsafe { libc::execvpe(program.as_ptr(), pointers(&words).as_ptr(), pointers(&env).as_ptr()) };
    io::Error::last_os_error()
}
