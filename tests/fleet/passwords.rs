//! Passwords and TLS of connections to PostgreSQL, as the commands of a user make them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Cmd, End, Output, World};
use crate::pgbouncer::Pgbouncer;
use crate::postgres::{Postgres, as_owner};

/// A role of a host, in a fleet that no host has joined.
fn fleet(test: &str) -> Option<(World, Postgres)> {
    let postgres = Postgres::with_schema(test)?;
    postgres.role("host_a", &["bookend_host"]);
    Some((World::new(), postgres))
}

/// `fleet status` connects and reads.
fn status<'w>(world: &'w World, url: &str) -> Cmd<'w> {
    world.bare(["bookend", "fleet", "status", "--ledger", url])
}

fn with_file(world: &World, postgres: &Postgres, url: &str) -> Output {
    status(world, url).env("PGPASSFILE", postgres.password_file()).run()
}

/// It fails, says so in these words, and shows no password.
fn refused(output: Output, words: &[&str]) {
    let output = output.ended(End::Code(125));
    for words in words {
        assert!(output.stderr.contains(words), "{words:?} is not in {output:?}");
    }
    assert!(!output.stderr.contains("the password of"), "{output:?}");
}

/// Gives the server a certificate for another name, by the same authority.
fn rename_server(postgres: &Postgres) {
    let script = "printf 'subjectAltName=DNS:elsewhere.example' >server.ext &&
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile server.ext -out server.pem";
    change_certificate(postgres, script);
}

fn change_certificate(postgres: &Postgres, script: &str) {
    let made = as_owner("sh").args(["-c", script]).current_dir(postgres.dir().join("data")).output();
    assert!(made.expect("openssl").status.success());
    postgres.psql("SELECT pg_reload_conf()");
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let world = World::new();
    for url in ["postgres://a:secret@db/x", "postgres://a@db/x?password=secret"] {
        for words in
            [&["fleet", "init", url][..], &["fleet", "join", url], &["fleet", "status", "--ledger", url]]
        {
            let output = world.bare(["bookend"].iter().chain(words).copied()).run().ended(End::Code(2));
            assert!(
                output.stderr.contains("holds a password") && output.stderr.contains("~/.pgpass"),
                "{output:?}"
            );
            assert!(!output.stderr.contains("secret"), "{output:?}");
        }
    }
    assert!(!world.ledger().exists(), "a refused join creates no ledger");
}

#[test]
fn a_password_comes_from_a_private_file_and_not_from_pgpassword() {
    let Some((world, postgres)) = fleet("a_password_comes_from_a_private_file_and_not_from_pgpassword")
    else {
        return;
    };
    let url = postgres.tls_url("host_a");
    with_file(&world, &postgres, &url).ended(End::Code(0)).silent();

    let output = status(&world, &url).env("PGPASSWORD", postgres.password("host_a")).run();
    refused(output, &["the server asks for a password", "bookend ignores PGPASSWORD"]);

    let own = world.path("home/.pgpass");
    fs::copy(postgres.password_file(), &own).expect("a password file");
    fs::set_permissions(&own, Permissions::from_mode(0o640)).expect("its mode");
    let open = status(&world, &url).run();
    refused(open, &["other users may read", "0640", &format!("chmod 0600 {}", own.display())]);
    fs::set_permissions(&own, Permissions::from_mode(0o600)).expect("its mode");
    status(&world, &url).run().ended(End::Code(0)).silent();

    fs::write(&own, "*:*:*:host_a:the password of nobody\n").expect("a password file");
    refused(status(&world, &url).run(), &["refused the connection", "password authentication failed"]);

    let directory = world.path("tmp");
    fs::copy(postgres.password_file(), directory.join("bookend-pgpass")).expect("a credential");
    status(&world, &url).env("CREDENTIALS_DIRECTORY", directory).run().ended(End::Code(0)).silent();
}

#[test]
fn a_service_names_the_database_and_its_file_is_checked() {
    let Some((world, postgres)) = fleet("a_service_names_the_database_and_its_file_is_checked") else {
        return;
    };
    let file = world.path("home/.pg_service.conf");
    let (port, ca) = (postgres.port(), postgres.certificate_authority());
    let service = |more: &str| {
        let ca = ca.display();
        let text = format!("[fleet]\nhost=localhost\nport={port}\ndbname=postgres\nsslrootcert={ca}\n{more}");
        fs::write(&file, text).expect("a service file");
        with_file(&world, &postgres, "postgres://host_a@/?service=fleet")
    };
    service("").ended(End::Code(0)).silent();
    refused(service("sslmode=prefer\n"), &["line 6", "sslmode=prefer is not possible"]);
    refused(
        service(&format!("password={}\n", postgres.password("host_a"))),
        &["other users may read", "chmod 0600"],
    );
    let other = with_file(&world, &postgres, "postgres://host_a@/?service=other");
    refused(other, &["no service other in", ".pg_service.conf"]);
}

#[test]
fn a_server_with_another_name_or_an_unknown_authority_is_refused() {
    let Some((world, postgres)) = fleet("a_server_with_another_name_or_an_unknown_authority_is_refused")
    else {
        return;
    };
    let checked = postgres.tls_url("host_a");
    let (bare, _) = checked.split_once('?').expect("its options");
    let see = |url: &str| with_file(&world, &postgres, url);
    see(&checked).ended(End::Code(0)).silent();
    // The system's authorities do not know the test's.
    refused(see(bare), &["no secure connection", "UnknownIssuer"]);
    see(&format!("{bare}?sslmode=require")).ended(End::Code(0)).silent();

    rename_server(&postgres);
    refused(see(&checked), &["no secure connection", "not valid for name \"localhost\""]);
    refused(see(&format!("{checked}&sslmode=verify-full")), &["not valid for name"]);
    see(&format!("{bare}?sslmode=require")).ended(End::Code(0)).silent();
    let both = format!("{checked}&sslmode=require");
    let output = see(&both).ended(End::Code(2));
    assert!(output.stderr.contains("sslrootcert has no effect"), "{output:?}");
}

#[test]
fn a_server_that_signed_its_own_certificate_is_known_by_it() {
    let Some((world, postgres)) = fleet("a_server_that_signed_its_own_certificate_is_known_by_it") else {
        return;
    };
    // As PostgreSQL's documentation says: an authority, with a name that only libpq takes for one.
    let sign = "openssl req -new -x509 -days 2 -nodes -text -out server.pem -keyout server.key -subj /CN=db";
    let certificate = |name: &str| {
        change_certificate(&postgres, sign);
        let file = world.path(name);
        fs::copy(postgres.dir().join("data/server.pem"), &file).expect("its certificate");
        file
    };
    let url = postgres.tls_url("host_a");
    let (bare, _) = url.split_once('?').expect("its options");
    let see = |file: &std::path::Path| {
        with_file(&world, &postgres, &format!("{bare}?sslrootcert={}", file.display()))
    };
    let first = certificate("first.pem");
    see(&first).ended(End::Code(0)).silent();
    let second = certificate("second.pem");
    refused(see(&first), &["no secure connection", "it signed its certificate itself"]);
    see(&second).ended(End::Code(0)).silent();
    // Authorities: neither is a server's certificate then.
    let both = world.path("both.pem");
    fs::write(&both, [&first, &second].map(|file| fs::read_to_string(file).expect("text")).concat())
        .expect("both");
    refused(see(&both), &["no secure connection"]);
}

#[test]
fn a_server_without_tls_is_used_only_if_that_is_written() {
    let Some((world, postgres)) = fleet("a_server_without_tls_is_used_only_if_that_is_written") else {
        return;
    };
    fs::write(postgres.dir().join("data/postgresql.auto.conf"), "ssl = off\n").expect("its settings");
    postgres.stop();
    postgres.start_again();
    let checked = postgres.tls_url("host_a");
    let (bare, _) = checked.split_once('?').expect("its options");
    refused(with_file(&world, &postgres, &checked), &["no secure connection", "does not support TLS"]);
    let required = format!("{bare}?sslmode=require");
    refused(with_file(&world, &postgres, &required), &["no secure connection", "does not support TLS"]);
    with_file(&world, &postgres, &format!("{bare}?sslmode=disable")).ended(End::Code(0)).silent();
    with_file(&world, &postgres, &postgres.database_url("host_a")).ended(End::Code(0)).silent();
}

#[test]
fn a_pooler_in_transaction_mode_is_used_and_one_that_forces_a_user_refused() {
    let test = "a_pooler_in_transaction_mode_is_used_and_one_that_forces_a_user_refused";
    let Some((world, postgres)) = fleet(test) else { return };
    let join = |url: &str| {
        world.bare(["bookend", "fleet", "join", url]).env("PGPASSFILE", postgres.password_file()).run()
    };
    postgres.role("shared", &["bookend_host"]);
    let access = postgres.dir().join("data/pg_hba.conf");
    let lines = fs::read_to_string(&access).expect("who may log in");
    fs::write(&access, format!("local all shared trust\n{lines}")).expect("who may log in");
    postgres.psql("SELECT pg_reload_conf()");
    let forcing = Pgbouncer::forcing(&postgres, "shared");
    let words = ["sees the role shared instead of host_a", "configure the pooler to keep the user"];
    refused(join(&forcing.tls_url("host_a")), &words);
    assert!(!world.ledger().exists(), "a join that is refused creates no ledger");
    let own = Pgbouncer::in_front_of(&postgres);
    join(&own.tls_url("host_a")).ended(End::Code(0));
}

#[test]
fn an_unreachable_server_is_named_and_does_not_hang() {
    let Some((world, postgres)) = fleet("an_unreachable_server_is_named_and_does_not_hang") else { return };
    let url = postgres.tls_url("host_a");
    let server = format!("PostgreSQL at localhost:{}", postgres.port());
    postgres.suspend();
    refused(with_file(&world, &postgres, &url), &[&server, "did not answer within 3s"]);
    postgres.resume();
    postgres.stop();
    refused(with_file(&world, &postgres, &url), &[&server, "is not reachable"]);
}
