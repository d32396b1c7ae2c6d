//! Users: whether this process has more rights than its caller, and the names of users for messages.

use nix::unistd::{User, getegid, geteuid, getgid, getuid};

/// Whether this process has more rights than its caller, by a set-user-ID or set-group-ID bit or by file
/// capabilities. It would then obey its environment with the rights of another user.
pub fn is_elevated() -> bool {
    // SAFETY: getauxval only reads what the kernel laid out for this process.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // A security module may set AT_SECURE too, without granting anything.
    let has_capabilities = || rustix::thread::capabilities(None).is_ok_and(|c| !c.permitted.is_empty());
    getuid() != geteuid()
        || getgid() != getegid()
        || (is_secure && !geteuid().is_root() && has_capabilities())
}

/// A user for messages: `user alice (uid 1000)`, or `uid 1000` where no name is known.
pub fn user_name(uid: u32) -> String {
    let user = User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |u| format!("user {} (uid {uid})", u.name))
}
