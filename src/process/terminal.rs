//! Job control: whether bookend may stop together with its agent.

use crate::process::procfs::identity;

/// Whether a shell would notice that we stopped, and could continue us: we have a controlling terminal, and
/// our process group is not orphaned (the parent of a member is in another group of the same session).
/// setpgid(2).
pub fn may_stop() -> bool {
    let Ok(Some(own)) = identity::stat(nix::unistd::getpid().as_raw()) else { return false };
    if own.tty_nr == 0 {
        return false;
    }
    let mut above = own.ppid;
    while above > 0 {
        match identity::stat(above) {
            Ok(Some(p)) if p.session != own.session => return false,
            Ok(Some(p)) if p.pgrp != own.pgrp => return true,
            Ok(Some(p)) => above = p.ppid,
            Ok(None) | Err(_) => return false,
        }
    }
    false
}
