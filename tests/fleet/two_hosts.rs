//! The hosts of the tests are separate machines for bookend.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{World, eventually};
use crate::hosts::{Cut, DATABASE_ADDRESS, Host, Network, can_make_hosts, send};
use crate::postgres::Postgres;

#[test]
fn hosts_have_their_own_names_boots_processes_and_disks() {
    let test = "hosts_have_their_own_names_boots_processes_and_disks";
    if !can_make_hosts(test) {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let network = Network::new();
    let mut a = Host::new(&world, &network, "a");
    let b = Host::new(&world, &network, "b");
    let facts = |host: &Host| {
        let script = "uname -n; cat /proc/sys/kernel/random/boot_id /etc/machine-id; echo $XDG_STATE_HOME";
        let lines: Vec<String> =
            host.run(["sh", "-c", script]).succeeded().stdout.lines().map(str::to_owned).collect();
        lines
    };
    let (of_a, of_b) = (facts(&a), facts(&b));
    assert_eq!((of_a[0].as_str(), of_b[0].as_str()), ("a", "b"));
    assert!(of_a[1] != of_b[1] && of_a[2] != of_b[2], "{of_a:?} {of_b:?}");
    assert_eq!(of_a[3], of_b[3], "the path of the disk");

    a.run(["bookend", "run", "--id", "t", "--", "true"]).succeeded();
    assert!(
        a.run(["bookend", "show", "t"]).code == Some(0) && b.run(["bookend", "show", "t"]).code != Some(0)
    );
    let clone = Host::clone_of(&a, "c");
    let of_clone = facts(&clone);
    assert!(of_clone[2] == of_a[2] && of_clone[1] != of_a[1], "{of_a:?} {of_clone:?}");
    clone.run(["bookend", "show", "t"]).succeeded();

    a.reboot();
    let again = facts(&a);
    assert!(again[1] != of_a[1] && again[2] == of_a[2], "{of_a:?} {again:?}");
    a.run(["bookend", "show", "t"]).succeeded();
    assert_eq!(a.processes(), [0; 0]);
}

#[test]
fn a_host_is_stopped_continued_and_killed_with_all_its_processes() {
    let test = "a_host_is_stopped_continued_and_killed_with_all_its_processes";
    if !can_make_hosts(test) {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let network = Network::new();
    let mut host = Host::new(&world, &network, "a");
    let run = host.command(["bookend", "run", "--", "sleep", "1000"]).spawn().expect("a run");
    eventually(world.deadline(), "a supervisor and its agent", || {
        host.bookends("run").len() == 1 && host.processes().len() >= 3
    });
    assert_eq!(host.bookends("monitor"), [0; 0]);
    let all = host.processes();
    let states = |all: &[i32]| -> String { all.iter().filter_map(|p| crate::harness::state(*p)).collect() };
    host.stop();
    assert_eq!(states(&all), "T".repeat(all.len()));
    host.resume();
    eventually(world.deadline(), "all to go on", || !states(&all).contains('T'));
    send(host.bookends("run")[0], Signal::STOP);
    host.kill();
    assert!(!host.is_running());
    assert_eq!(crate::hosts::Ended::of(run).code, None);
    eventually(world.deadline(), "the end of all", || states(&all).chars().all(|state| state == 'Z'));
}

#[test]
fn the_network_of_a_host_is_cut_and_put_back() {
    let test = "the_network_of_a_host_is_cut_and_put_back";
    if !can_make_hosts(test) {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let network = Network::new();
    let Some(database) = Postgres::with_schema_in(test, Some(network.process())) else { return };
    let mut host = Host::new(&world, &network, "a");
    database.role("bookend_a", &[]);
    let port = database.port().to_string();
    let reaches = |host: &Host| {
        let login = format!(
            "host=localhost port={port} user=bookend_a dbname=postgres connect_timeout=2 sslmode=verify-full \
             sslrootcert={}",
            database.certificate_authority().display()
        );
        let mut psql = host.command(["psql", "-X", "-A", "-t", "-c", "SELECT session_user", &login]);
        let psql = psql.env("PGPASSFILE", database.password_file()).spawn().expect("psql");
        let ended = crate::hosts::Ended::of(psql);
        match ended.code {
            Some(0) => Ok(ended.stdout),
            _ => Err(ended.stderr),
        }
    };
    assert_eq!(reaches(&host).as_deref(), Ok("bookend_a\n"));
    for (cut, reason) in [(Cut::Link, "unreachable"), (Cut::Packets, "timeout")] {
        host.cut(cut);
        let error = reaches(&host).expect_err("no connection");
        assert!(error.contains(reason) && error.contains(DATABASE_ADDRESS), "{cut:?}: {error}");
        host.join_network(cut);
        eventually(world.deadline(), "the network to be back", || reaches(&host).is_ok());
    }
    host.renew_link();
    assert_eq!(reaches(&host).as_deref(), Ok("bookend_a\n"));
    database.suspend();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| reaches(&host));
        crate::harness::pause(Duration::from_millis(100));
        database.resume();
        waiting.join().expect("psql")
    });
    assert_eq!(waiting.as_deref(), Ok("bookend_a\n"));
}
