//! How often the kernel's OOM killer has killed in a cgroup: `oom_kill` of `memory.events`, cgroups(7).

use std::path::Path;

use super::MOUNTS;

/// How many processes it has killed in this cgroup and below since the cgroup was created. `None`: unknown
/// (the cgroup was removed, or has no memory controller).
pub fn kills(cgroup: &str) -> Option<u64> {
    let inside = cgroup.trim_start_matches('/');
    let read =
        |mount: &&str| std::fs::read_to_string(Path::new(mount).join(inside).join("memory.events")).ok();
    parse(&MOUNTS.iter().find_map(read)?)
}

/// Whether it has killed since `before` was counted. A smaller count belongs to another cgroup.
pub fn struck_since(cgroup: Option<&str>, before: Option<u64>) -> Option<bool> {
    let before = before?;
    kills(cgroup?).filter(|now| *now >= before).map(|now| now > before)
}

fn parse(events: &str) -> Option<u64> {
    events.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_count_not_the_pressure_before_them() {
        let events = "low 0\nhigh 7\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(parse(events), Some(2));
        assert_eq!(parse("low 0\n"), None);
    }
}
