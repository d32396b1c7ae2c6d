//! The environment and the command line, as the kernel laid them out for this process.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;

use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// The environment as this process received it, malformed and repeated entries included. environ(7).
pub fn environment() -> Vec<CString> {
    environment_with(b"")
}

/// The entries of the environment that begin with `prefix`.
pub fn environment_with(prefix: &[u8]) -> Vec<CString> {
    let mut entries = Vec::new();
    // SAFETY: only `forget_variable` changes the environment, before a second thread exists, and unsetenv(3)
    // leaves an array of NUL-terminated strings that ends with a null pointer. Unseen: AddressSanitizer does
    // not know the bounds of what the kernel laid out.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            let entry = CStr::from_ptr(*at);
            if entry.to_bytes().starts_with(prefix) {
                entries.push(entry.to_owned());
            }
            at = at.add(1);
        }
    }
    entries
}

/// Removes a variable from the environment of this process. Call it only while there is a single thread.
pub fn forget_variable(name: &str) {
    // SAFETY: `main` calls this before it starts anything, so no other thread reads the environment.
    unsafe { std::env::remove_var(name) }
}

/// Overwrites the last `count` words of bookend's command line, which other users can read: see
/// `/proc/PID/cmdline` in proc(5). Copy the words first: std reads them from that memory at each call.
pub fn hide_arguments(count: usize) {
    // The addresses of the words, which are adjacent: fields 48 and 49 of proc_pid_stat(5), readable by the
    // owner. The program's name before them may contain any bytes.
    let Some(stat) = proc_self_stat() else { return };
    let Some(fields) = stat.rsplit(|b| *b == b')').next().and_then(|f| std::str::from_utf8(f).ok()) else {
        return;
    };
    let mut fields = fields.split_ascii_whitespace().skip(48 - 3).map(|n| n.parse::<usize>().unwrap_or(0));
    let (Some(start), Some(end)) = (fields.next(), fields.next()) else { return };
    if start == 0 || end <= start {
        return;
    }
    // SAFETY: the kernel itself says that the words lie there, on our own writable stack; one thread runs,
    // and nothing keeps a reference to them: std copies them each time it is asked. Unseen: AddressSanitizer
    // does not know the bounds of what the kernel laid out.
    let words = unsafe {
        std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), end - start)
    };
    let breaks: Vec<usize> = words.iter().enumerate().filter(|(_, b)| **b == 0).map(|(at, _)| at).collect();
    if count > 0 && count < breaks.len() {
        words[breaks[breaks.len() - count - 1] + 1..].fill(0);
    }
}

/// `/proc/self/stat`, if it really is procfs: anything may be mounted on `/proc`.
fn proc_self_stat() -> Option<Vec<u8>> {
    let mut file = File::open("/proc/self/stat").ok()?;
    let on = fstatfs(&file).ok()?.filesystem_type();
    let mut stat = Vec::new();
    file.read_to_end(&mut stat).ok().filter(|_| on == PROC_SUPER_MAGIC)?;
    Some(stat)
}
