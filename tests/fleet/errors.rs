//! Errors of PostgreSQL that pass by themselves, while the lease is renewed: each call is made again.

use rustix::process::Signal;

use crate::harness::{End, Fifo, Proc, eventually};
use crate::node::{Node, fleet};
use crate::postgres::Postgres;

/// A cancelled statement, a serialization failure, a deadlock, a full disk and a lock that is not free.
const PASSING: [&str; 5] = ["57014", "40001", "40P01", "53100", "55P03"];

/// Lets the first `count` changes of a table fail with this SQLSTATE, from now on.
fn fail(postgres: &Postgres, what: &str, count: u32, code: &str) {
    // What a sequence has counted stays counted when the transaction is rolled back.
    postgres.psql(&format!(
        "DROP FUNCTION IF EXISTS public.fail CASCADE;
         CREATE SEQUENCE IF NOT EXISTS public.failures;
         ALTER SEQUENCE public.failures RESTART;
         CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF nextval('public.failures') <= {count} THEN
                 RAISE EXCEPTION 'it passes' USING ERRCODE = '{code}';
             END IF;
             RETURN coalesce(NEW, OLD);
         END $$;
         CREATE TRIGGER fail BEFORE {what} FOR EACH ROW EXECUTE FUNCTION public.fail();"
    ));
}

/// How often a change was tried.
fn tries(postgres: &Postgres) -> u32 {
    let called = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.failures";
    postgres.psql(called).parse().expect("a number")
}

fn until(node: &Node, postgres: &Postgres, sql: &str, expected: &str) {
    eventually(node.world.deadline(), &format!("{expected:?} by {sql}"), || postgres.psql(sql) == expected);
}

/// A task with the key `k` that runs until it receives a line.
fn holder(node: &Node, id: &str) -> (Proc, Fifo) {
    let (mut up, go) = (node.world.fifo(&format!("up {id}")), node.world.fifo(&format!("go {id}")));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let process = node.keyed("k", &script).options(["--id", id]).start();
    up.line();
    (process, go)
}

#[test]
fn a_request_that_fails_for_a_moment_is_made_again() {
    let Some(postgres) = fleet("a_request_that_fails_for_a_moment_is_made_again") else { return };
    let (mut a, mut b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    for code in PASSING {
        a.world.renew_deadline();
        b.world.renew_deadline();
        fail(&postgres, "INSERT ON bookend.claim", 2, code);
        let (process, mut go) = holder(&a, &format!("t{code}"));
        assert_eq!(tries(&postgres), 3, "{code}");
        fail(&postgres, "INSERT ON bookend.waiter", 2, code);
        let first = b.keyed("k", "true").options(["--wait"]).start();
        until(&b, &postgres, "SELECT count(*) FROM bookend.waiter", "1");
        assert_eq!(tries(&postgres), 3, "{code}");
        let second = b.keyed("k", "true").options(["--wait"]).start();
        go.write_line("on");
        for run in [process, first, second] {
            run.wait().ended(End::Code(0));
        }
        until(&b, &postgres, "SELECT count(*) FROM bookend.claim", "0");
    }
    let registrations = "SELECT max(registration) FROM bookend.lease";
    assert_eq!(postgres.psql(registrations), "1", "the other calls were not disturbed");
}

#[test]
fn a_request_that_goes_on_failing_says_why() {
    let Some(postgres) = fleet("a_request_that_goes_on_failing_says_why") else { return };
    let a = Node::start(&postgres, "a");
    fail(&postgres, "INSERT ON bookend.claim", 1000, "53100");
    let refused = a.keyed("k", "true").options(["--fleet-timeout", "60s"]).run().ended(End::Code(125));
    assert!(refused.stderr.contains("it passes"), "{}", refused.stderr);
    let mut waiting = a.keyed("k", "true").options(["--wait"]).start();
    eventually(a.world.deadline(), "a report", || waiting.stderr_so_far().contains("it passes; waiting"));
    postgres.psql("DROP FUNCTION public.fail CASCADE");
    waiting.wait().ended(End::Code(0));
    // What does not pass is the run's.
    fail(&postgres, "INSERT ON bookend.claim", 1, "22001");
    let refused = a.keyed("k", "true").options(["--wait"]).run().ended(End::Code(125));
    assert!(refused.stderr.contains("it passes"), "{}", refused.stderr);
}

#[test]
fn a_key_is_given_back_although_that_fails_for_a_moment() {
    let Some(postgres) = fleet("a_key_is_given_back_although_that_fails_for_a_moment") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let (process, mut go) = holder(&a, "t1");
    // No run waits any longer.
    let waiters = "SELECT count(*) FROM bookend.waiter";
    let waiting = b.keyed("k", "true").options(["--wait"]).start();
    until(&b, &postgres, waiters, "1");
    fail(&postgres, "DELETE ON bookend.waiter", 2, "57014");
    waiting.signal(Signal::TERM);
    waiting.wait().ended(End::Signal(15));
    until(&b, &postgres, waiters, "0");
    // The claim goes to a run that has waited on the host of its holder.
    fail(&postgres, "UPDATE ON bookend.claim", 2, "57014");
    let (mut up, mut end) = (a.world.fifo("up t2"), a.world.fifo("go t2"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), end.path());
    let next = a.keyed("k", &script).options(["--wait", "--id", "t2"]).start();
    crate::keys::until_asked(&a, 1);
    let number = "SELECT no FROM bookend.claim";
    let before = postgres.psql(number);
    go.write_line("on");
    process.wait().ended(End::Code(0));
    up.line();
    until(&a, &postgres, "SELECT key, task_id FROM bookend.claim", "k|t2");
    // If the end of the holder is published first, the run makes a claim of its own.
    assert!(tries(&postgres) >= 3 || postgres.psql(number) != before);
    // Its end frees the key.
    fail(&postgres, "DELETE ON bookend.claim", 2, "57014");
    end.write_line("on");
    next.wait().ended(End::Code(0));
    until(&a, &postgres, "SELECT count(*) FROM bookend.claim", "0");
    assert!(tries(&postgres) >= 3);
}

#[test]
#[cfg(feature = "failpoints")]
fn a_key_of_a_killed_run_is_released_although_that_fails_for_a_moment() {
    let test = "a_key_of_a_killed_run_is_released_although_that_fails_for_a_moment";
    let Some(postgres) = fleet(test) else { return };
    let a = Node::start(&postgres, "a");
    fail(&postgres, "DELETE ON bookend.claim", 3, "57014");
    let run = a.keyed("k", "true").env("BOOKEND_FAILPOINT", "run.granted:kill");
    assert_eq!(run.run().end, End::Signal(9));
    until(&a, &postgres, "SELECT count(*) FROM bookend.claim", "0");
    assert_eq!(tries(&postgres), 4);
}

#[test]
fn a_holder_is_cancelled_although_the_order_fails_for_a_moment() {
    let test = "a_holder_is_cancelled_although_the_order_fails_for_a_moment";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let (process, _go) = holder(&a, "t1");
    fail(&postgres, "INSERT ON bookend.cancel_order", 2, "40P01");
    b.keyed("k", "true").options(["--replace"]).run().ended(End::Code(0));
    process.wait().ended(End::Signal(15));
    assert_eq!(tries(&postgres), 3);
}
