//! Tests of many clients at once, and of what renewing a lease costs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Host;
use crate::harness::print_line;
use crate::postgres::Postgres;

const CLIENTS: usize = 64;
const KEYS: usize = 5;
const TIME: Duration = Duration::from_secs(2);

#[test]
fn clients_on_few_keys_never_hold_one_together() {
    let Some(postgres) = Postgres::with_schema("clients_on_few_keys_never_hold_one_together") else { return };
    postgres.role("bookend_all", &["bookend_host"]);
    let hosts: Vec<Host> = (0..CLIENTS).map(|n| Host::beside(&postgres, "all", &format!("h{n}"))).collect();
    let is_held: [AtomicBool; KEYS] = Default::default();
    let [attempts, grants, overlaps] = [const { AtomicUsize::new(0) }; 3];
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (n, host) in hosts.into_iter().enumerate() {
            let (is_held, attempts, grants, overlaps) = (&is_held, &attempts, &grants, &overlaps);
            scope.spawn(move || {
                for round in n.. {
                    if start.elapsed() > TIME {
                        break;
                    }
                    let (key, waits) = (round % KEYS, round % 3 == 0);
                    let answer = host.take(&format!("k{key}"), &format!("t{n}"), waits);
                    attempts.fetch_add(1, Ordering::Relaxed);
                    if answer == "granted" {
                        grants.fetch_add(1, Ordering::Relaxed);
                        overlaps
                            .fetch_add(is_held[key].swap(true, Ordering::SeqCst).into(), Ordering::Relaxed);
                        std::thread::yield_now();
                        overlaps.fetch_add(
                            (!is_held[key].swap(false, Ordering::SeqCst)).into(),
                            Ordering::Relaxed,
                        );
                        host.call("release", &format!("'k{key}', 't{n}'"));
                    } else if waits {
                        host.call("give_up_waiting", &format!("'k{key}'"));
                    }
                }
            });
        }
    });
    let [attempts, grants, overlaps] = [attempts, grants, overlaps].map(AtomicUsize::into_inner);
    let rate = attempts as f64 / start.elapsed().as_secs_f64();
    print_line(&format!(
        "{CLIENTS} clients on {KEYS} keys: {attempts} attempts, {grants} grants, {rate:.0}/s"
    ));
    assert_eq!(overlaps, 0);
    assert!(grants > 2 * KEYS, "{grants} grants of {attempts} attempts");
    assert_eq!(
        postgres.psql("SELECT (SELECT count(*) FROM bookend.claim), (SELECT count(*) FROM bookend.waiter)"),
        "0|0"
    );
}

#[test]
fn renewing_a_lease_is_a_hot_update() {
    let Some(postgres) = Postgres::with_schema("renewing_a_lease_is_a_hot_update") else { return };
    postgres.role("bookend_all", &["bookend_host"]);
    let hosts: Vec<Host> = (0..20).map(|n| Host::beside(&postgres, "all", &format!("h{n}"))).collect();
    let instances: Vec<uuid::Uuid> = hosts.iter().map(|_| uuid::Uuid::new_v4()).collect();
    for (host, instance) in hosts.iter().zip(&instances) {
        host.register_as(*instance, "boot 1", "8:1", None);
    }
    for _ in 0..100 {
        for (host, instance) in hosts.iter().zip(&instances) {
            assert_eq!(host.call("renew", &format!("'{instance}'"))["state"], "ok");
        }
    }
    hosts
        .iter()
        .for_each(|host| host.session.query("SELECT pg_stat_force_next_flush()").map(drop).unwrap_or(()));
    drop(hosts);
    let updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'lease'";
    let counted = || -> (f64, f64) {
        let text = postgres.psql(updates);
        let (all, hot) = text.split_once('|').expect("two numbers");
        (all.parse().expect("a number"), hot.parse().expect("a number"))
    };
    crate::harness::eventually(crate::harness::Deadline::new(), "statistics", || counted().0 >= 2000.0);
    let (all, hot) = counted();
    print_line(&format!("{hot} of {all} updates of lease are HOT"));
    assert!(hot / all >= 0.99, "{hot} of {all}");
}
