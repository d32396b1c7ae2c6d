//! Kills Claude Code in the middle of a tool call: the next command waits for the exiting processes and
//! settles the task. `BOOKEND_KILLS=N` sets the number of kills of each kind (default 5).

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{End, print_line, state};
use crate::{Real, STREAM_JSON};

const NEXT: [&[&str]; 4] = [
    &["recover", "--grace", "1s"],
    &["run", "-q", "--grace", "1s", "--key", "k", "--", "true"],
    &["run", "-q", "--grace", "1s", "--key", "k", "--wait", "--", "true"],
    &["run", "-q", "--grace", "1s", "--key", "k", "--replace", "--", "true"],
];

#[test]
fn a_run_killed_in_a_tool_call_is_settled_by_the_next_command() {
    let test = "a_run_killed_in_a_tool_call_is_settled_by_the_next_command";
    let Some(mut real) = Real::new(test, "tool:slow-tool") else { return };
    let mut started = real.world.fifo("started");
    let script = format!(
        "#!/bin/sh\nsetsid sleep 1000 & a=$!\nsleep 1000 & b=$!\necho $$ $a $b >{}\nwait\n",
        started.path()
    );
    real.world.program("slow-tool", &script);
    let asked = std::env::var("BOOKEND_KILLS").ok();
    let kills = asked.map_or(5, |n| n.parse().expect("BOOKEND_KILLS is a number"));
    let mut wrong = Vec::new();
    for n in 0..kills {
        for kills_both in [false, true] {
            for next in NEXT {
                real.world.renew_deadline();
                started.renew_deadline(real.world.deadline());
                let id = format!("{n}-{kills_both}-{}", next.join("_"));
                let run = real.claude(STREAM_JSON).options(["--key", "k", "--id", &id]).start();
                let tools = started.line();
                let row = || {
                    let sql = format!("SELECT * FROM task_history WHERE id = '{id}'");
                    real.world.sql(&sql).remove(0)
                };
                let agent = row().pid("agent_pid");
                run.signal(Signal::KILL);
                if kills_both {
                    // It may have exited after its supervisor by now.
                    let _ = kill_process(Pid::from_raw(agent).expect("a pid"), Signal::KILL);
                }
                let output = real.world.bare(["bookend"].iter().chain(next).copied()).run();
                let pids = tools.split_whitespace().map(|pid| pid.parse().expect("a pid"));
                let living: Vec<i32> =
                    pids.chain([agent]).filter(|p| !matches!(state(*p), None | Some('Z'))).collect();
                let ending = row().ending();
                let is_well = output.end == End::Code(0) && ending == "interrupted/supervisor_lost";
                if !is_well || !living.is_empty() {
                    wrong.push(format!("{id}: {ending}, {living:?} live: {output:?}"));
                }
                run.wait();
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), kills * 8, wrong.join("\n"));
    print_line(&format!("{test}: {} kills, each settled", kills * 8));
}
