//! pgbouncer in transaction mode in front of a server, with each user's own login.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::harness::{Deadline, eventually};
use crate::postgres::{Postgres, SUPERUSER, as_owner, free_port, pgbouncer};

/// Ends pgbouncer when the test process ends, however it does.
const KEEPER: &str = r#""$0" "$1" & cat >/dev/null; kill $! && wait"#;

/// Ends when it is dropped.
pub struct Pgbouncer {
    keeper: Child,
    dir: PathBuf,
    port: u16,
    certificate_authority: PathBuf,
}

impl Pgbouncer {
    /// Accepts TLS, and plain connections by its Unix socket. Passwords are those of the server.
    pub fn in_front_of(postgres: &Postgres) -> Pgbouncer {
        Pgbouncer::with_login(postgres, &format!("auth_user={SUPERUSER}"))
    }

    /// Every client becomes this role on the server, which needs no password there, whoever it is.
    pub fn forcing(postgres: &Postgres, role: &str) -> Pgbouncer {
        Pgbouncer::with_login(postgres, &format!("auth_user={SUPERUSER} user={role}"))
    }

    fn with_login(postgres: &Postgres, login: &str) -> Pgbouncer {
        let (dir, port) = (postgres.dir().to_owned(), free_port());
        let (shown, server_port) = (dir.display(), postgres.port());
        let configuration = format!(
            "[databases]
             * = host={shown} port={server_port} {login}
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {port}
             unix_socket_dir = {shown}
             auth_type = scram-sha-256
             auth_query = SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1
             pool_mode = transaction
             default_pool_size = 20
             max_client_conn = 200
             client_tls_sslmode = allow
             client_tls_key_file = {shown}/data/server.key
             client_tls_cert_file = {shown}/data/server.pem
             "
        );
        let file = dir.join(format!("pgbouncer.{port}.ini"));
        // It takes no spaces before a name.
        let lines: Vec<&str> = configuration.lines().map(str::trim_start).collect();
        fs::write(&file, lines.join("\n")).expect("the configuration of pgbouncer");
        let log = dir.join("pgbouncer.log");
        let keeper = as_owner("sh")
            .args(["-c", KEEPER])
            .arg(pgbouncer().expect("pgbouncer"))
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("its log"))
            .process_group(0)
            .spawn()
            .expect("a shell");
        eventually(Deadline::new(), "pgbouncer that accepts connections", || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            assert!(!log.contains("FATAL"), "pgbouncer has ended:\n{log}");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Pgbouncer { keeper, dir, port, certificate_authority: postgres.certificate_authority() }
    }

    /// The URL with which bookend logs in as this role, by the Unix socket.
    pub fn database_url(&self, role: &str) -> String {
        let dir = self.dir.to_str().expect("UTF-8").replace('/', "%2F");
        format!("postgres://{role}@{dir}:{}/postgres", self.port)
    }

    /// The URL with which bookend logs in as this role, by TLS.
    pub fn tls_url(&self, role: &str) -> String {
        let ca = self.certificate_authority.display();
        format!("postgres://{role}@localhost:{}/postgres?sslrootcert={ca}", self.port)
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
