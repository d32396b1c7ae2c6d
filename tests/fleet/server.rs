//! Tests of the servers that the other tests use.

use crate::pgbouncer::Pgbouncer;
use crate::postgres::{Postgres, SUPERUSER};

#[test]
fn a_server_keeps_what_was_committed_before_it_was_killed() {
    let Some(postgres) = Postgres::start("a_server_keeps_what_was_committed_before_it_was_killed") else {
        return;
    };
    assert_eq!(postgres.psql("SHOW fsync"), "on");
    postgres.psql("CREATE TABLE kept (n int)");
    let session = postgres.session(SUPERUSER);
    session.query("INSERT INTO kept VALUES (1)").expect("a row");
    postgres.kill();
    assert_eq!(session.error("SELECT 1"), "");
    postgres.start_again();
    assert_eq!(postgres.psql("SELECT n FROM kept"), "1");
    postgres.stop();
    postgres.start_again();
    assert_eq!(postgres.psql("SELECT n FROM kept"), "1");
}

#[test]
fn a_suspended_server_answers_when_it_goes_on() {
    let Some(postgres) = Postgres::start("a_suspended_server_answers_when_it_goes_on") else {
        return;
    };
    let session = postgres.session(SUPERUSER);
    postgres.suspend();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| session.query("SELECT 1"));
        assert!(!answer.is_finished());
        postgres.resume();
        assert_eq!(answer.join().expect("an answer"), Ok("1".to_owned()));
    });
}

#[test]
fn roles_log_in_by_tls_and_by_the_unix_socket() {
    let Some(postgres) = Postgres::start("roles_log_in_by_tls_and_by_the_unix_socket") else {
        return;
    };
    postgres.role("bookend_a", &[]);
    let pgbouncer = Pgbouncer::in_front_of(&postgres);
    let by_tls = [postgres.tls_url("bookend_a"), pgbouncer.tls_url("bookend_a")];
    let by_tls = by_tls.map(|url| format!("{url}&sslmode=verify-full"));
    let by_socket = [postgres.database_url("bookend_a"), pgbouncer.database_url("bookend_a")];
    for url in by_tls.iter().chain(&by_socket) {
        let psql = std::process::Command::new("psql")
            .args(["-X", "-A", "-t", "-c", "SELECT session_user", url])
            .env("PGPASSFILE", postgres.password_file())
            .output()
            .expect("psql");
        let output = (String::from_utf8_lossy(&psql.stdout), String::from_utf8_lossy(&psql.stderr));
        assert_eq!(output, ("bookend_a\n".into(), "".into()), "{url}");
    }
}

#[test]
fn dropping_a_server_removes_its_processes_and_its_directory() {
    let Some(postgres) = Postgres::start("dropping_a_server_removes_its_processes_and_its_directory") else {
        return;
    };
    let dir = postgres.dir().to_owned();
    let _session = postgres.session(SUPERUSER);
    postgres.suspend();
    drop(postgres);
    assert!(!dir.exists());
    let is_in_use =
        |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&dir));
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let left: Vec<i32> =
        pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_in_use).collect();
    assert_eq!(left, [0; 0]);
}
