//! A private PostgreSQL server for one test: Unix socket, TLS on the loopback interface, fsync on.
//!
//! The server belongs to nobody if the tests run as root. Its directory is a copy of a template that each
//! test process makes once.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Deadline, eventually, forked, is_root, on_path, possible};
use crate::sql_session::SqlSession;

pub const SCHEMA: &str = include_str!("../../src/fleet/schema/001.sql");
/// The owner of the server and its files, if the tests run as root: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;
const DATABASE: &str = "postgres";
pub const SUPERUSER: &str = "postgres";

const CONFIGURATION: &str = "
    listen_addresses = '127.0.0.1'
    max_connections = 100
    shared_buffers = '32MB'
    fsync = on
    ssl = on
    ssl_cert_file = 'server.pem'
    ssl_key_file = 'server.key'
    password_encryption = 'scram-sha-256'
    # Its files are in the data directory, and are removed with it.
    dynamic_shared_memory_type = mmap
    log_line_prefix = '%m [%p] %u '
";

/// The password of each role that a test creates. Its verifier is of one round of PBKDF2: the usual 4096 take
/// long without optimization.
const PASSWORD: &str = "the password of a test";
const VERIFIER: &str = "SCRAM-SHA-256$1:c2FsdCBvZiB0aGUgdGVzdA==$\
    Xw3ZKFoMZY30/WHvhI/p70tbmsMyifXxIWMP1fsp0Co=:OdK8FM4dUvJiE7GOwM5KcTNenXd110Fo7LiomSjZDok=";

/// Only the superuser needs no password.
const ACCESS: &str = "
    local all postgres trust
    local all all scram-sha-256
    host all all 127.0.0.1/32 scram-sha-256
    host all all 10.0.0.0/8 scram-sha-256
";

/// The tests use one database, and a third of the files is copied faster.
const DROP_DATABASES: &str = "
    UPDATE pg_database SET datistemplate = false, datallowconn = true
    DROP DATABASE template0
    DROP DATABASE template1
";

/// A certificate authority, and the server's certificate by it. `server.pem` also serves as pgbouncer's.
const CERTIFICATES: &str = "
    openssl ecparam -genkey -name prime256v1 -noout -out ca.key &&
    openssl req -x509 -new -key ca.key -days 2 -subj '/CN=fleet test' -out ca.pem &&
    openssl ecparam -genkey -name prime256v1 -noout -out server.key &&
    openssl req -new -key server.key -subj /CN=localhost -out server.csr &&
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' >server.ext &&
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile server.ext -out server.pem &&
    chmod 600 server.key";

/// Waits for the end of the test process, however it ends, and removes the server. In the directory of a
/// killed server, `postmaster.pid` still names its process, and a segment of System V's shared memory.
const KEEPER: &str = r#"
    cat >/dev/null
    if cd "$1/data" && [ -e postmaster.pid ]; then
        pid=$(sed -n 1p postmaster.pid) segment=$(awk 'NR == 7 { print $2 }' postmaster.pid)
        is_there() { [ "$(readlink "/proc/$pid/cwd")" = "$(pwd -P)" ]; }
        if is_there; then
            kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children")
            kill -QUIT "$pid"
            while is_there; do sleep 0.01; done
        fi
        if [ -e postmaster.pid ]; then ipcrm -m "$segment"; fi
    fi
    cd / && rm -rf "$1"
"#;

/// The server of one test. Dropping it stops the server and removes its directory.
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    /// The process in whose network namespace it runs, if not in that of the test.
    network: Option<i32>,
    postmaster: Mutex<Option<Child>>,
    keeper: Child,
}

impl Postgres {
    /// Starts an empty server. `None`, reported on stderr, where PostgreSQL is missing.
    pub fn start(test: &str) -> Option<Postgres> {
        is_possible(test).then(|| Postgres::of(&empty().path().join("data"), None))
    }

    /// As [`Postgres::start`], with the fleet's schema.
    pub fn with_schema(test: &str) -> Option<Postgres> {
        Postgres::with_schema_in(test, None)
    }

    /// As [`Postgres::with_schema`], in the network namespace of this process, on all its addresses.
    pub fn with_schema_in(test: &str, network: Option<i32>) -> Option<Postgres> {
        static WITH_SCHEMA: OnceLock<Postgres> = OnceLock::new();
        let template = || {
            let postgres = Postgres::of(&empty().path().join("data"), None);
            postgres.create_schema();
            postgres.stop();
            postgres
        };
        is_possible(test).then(|| Postgres::of(&WITH_SCHEMA.get_or_init(template).dir.join("data"), network))
    }

    /// Starts a server with a copy of this data directory.
    fn of(data: &Path, network: Option<i32>) -> Postgres {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("bookend-fleet.").tempdir().expect("a temporary directory").keep();
        give(&dir);
        let keeper = keeper(KEEPER, &dir);
        succeeds(as_owner("cp").arg("-a").arg(data).arg(&dir));
        let postgres = Postgres { dir, port: free_port(), network, postmaster: Mutex::new(None), keeper };
        postgres.add_password(SUPERUSER, "not asked for");
        postgres.start_again();
        postgres
    }

    /// Creates the fleet's schema, as the superuser.
    pub fn create_schema(&self) {
        self.psql(SCHEMA);
    }

    /// Starts the server after [`Postgres::stop`] or [`Postgres::kill`], and waits until it is ready.
    pub fn start_again(&self) {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log")).expect("its log");
        let mut child = self
            .server()
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("-k")
            .arg(&self.dir)
            .args(["-p", &self.port.to_string()])
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("a server");
        let id = child.id().to_string();
        eventually(Deadline::new(), "a PostgreSQL server that is ready", || {
            let ended = child.try_wait().expect("its state");
            assert!(ended.is_none(), "PostgreSQL has ended:\n{}", self.log());
            let state = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
            state.lines().next() == Some(&id) && state.lines().nth(7).is_some_and(|s| s.starts_with("ready"))
        });
        *self.postmaster.lock().expect("the server") = Some(child);
    }

    /// The command that starts the server.
    fn server(&self) -> Command {
        let program = programs().expect("the programs of PostgreSQL").join("postgres");
        let Some(process) = self.network else { return as_owner(program) };
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &process.to_string()]);
        // Only root can enter a namespace.
        command.args(["--setuid", &NOBODY.to_string(), "--setgid", &NOBODY.to_string(), "--"]);
        command.arg(program).args(["-c", "listen_addresses=*"]);
        command
    }

    /// Keeps a copy of the data directory of a server that is stopped.
    pub fn back_up(&self) {
        succeeds(as_owner("cp").arg("-a").arg(self.dir.join("data")).arg(self.dir.join("backup")));
    }

    /// Puts the copy in place of the data directory of a server that is stopped.
    pub fn restore(&self) {
        succeeds(as_owner("rm").arg("-r").arg(self.dir.join("data")));
        succeeds(as_owner("mv").arg(self.dir.join("backup")).arg(self.dir.join("data")));
    }

    /// Shuts the server down, as an administrator does: open transactions are rolled back.
    pub fn stop(&self) {
        self.end(|postmaster, _| send(postmaster, Signal::INT));
    }

    /// Kills the server and all its sessions, as a power cut does.
    pub fn kill(&self) {
        self.end(|postmaster, sessions| {
            // Otherwise it would replace a process that ends.
            send(postmaster, Signal::STOP);
            for pid in sessions {
                send(pid, Signal::KILL);
            }
            send(postmaster, Signal::KILL);
        });
    }

    fn end(&self, signal: impl FnOnce(i32, Vec<i32>)) {
        let mut child = self.postmaster.lock().expect("the server").take().expect("a server that runs");
        let postmaster = child.id().cast_signed();
        let sessions = forked(postmaster);
        signal(postmaster, sessions.clone());
        child.wait().expect("the end of the server");
        let is_in_use =
            |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|d| d.starts_with(&self.dir));
        eventually(Deadline::new(), "the end of all sessions", || !sessions.iter().any(is_in_use));
    }

    /// Stops all processes of the server: it accepts connections and answers nothing.
    pub fn suspend(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets a suspended server go on.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let server = self.postmaster.lock().expect("the server");
        let postmaster = server.as_ref().expect("a server that runs").id().cast_signed();
        // The postmaster first: it starts no other process then.
        send(postmaster, signal);
        forked(postmaster).into_iter().for_each(|pid| send(pid, signal));
    }

    /// Creates a role that may log in, with the rights of these roles, and writes its password to the file.
    pub fn role(&self, name: &str, groups: &[&str]) {
        let mut sql = format!("CREATE ROLE {name} LOGIN PASSWORD '{VERIFIER}';");
        groups.iter().for_each(|group| sql.push_str(&format!("GRANT {group} TO {name};")));
        self.psql(&sql);
        self.add_password(name, PASSWORD);
    }

    /// Appends a line to the password file, for a role on any server and port.
    pub fn add_password(&self, role: &str, password: &str) {
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.password_file())
            .expect("the password file");
        writeln!(file, "*:*:*:{role}:{password}").expect("a line of the password file");
    }

    /// For PGPASSFILE.
    pub fn password_file(&self) -> PathBuf {
        self.dir.join("pgpass")
    }

    /// The password of a role, from the file.
    pub fn password(&self, role: &str) -> String {
        let text = fs::read_to_string(self.password_file()).expect("the password file");
        let prefix = format!("*:*:*:{role}:");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).expect("a password of the role").to_owned()
    }

    /// The URL with which bookend logs in as this role, by the Unix socket.
    pub fn database_url(&self, role: &str) -> String {
        let dir = self.dir.to_str().expect("UTF-8").replace('/', "%2F");
        format!("postgres://{role}@{dir}:{}/{DATABASE}", self.port)
    }

    /// The URL with which bookend logs in as this role, by TLS, with the test's certificate authority.
    pub fn tls_url(&self, role: &str) -> String {
        let ca = self.certificate_authority();
        format!("postgres://{role}@localhost:{}/{DATABASE}?sslrootcert={}", self.port, ca.display())
    }

    pub fn certificate_authority(&self) -> PathBuf {
        self.dir.join("data/ca.pem")
    }

    /// The directory with the Unix socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port, of the Unix socket too.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// What psql prints, as the superuser: rows as lines, columns separated by `|`.
    ///
    /// # Panics
    /// If a statement fails.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_as(SUPERUSER, sql).unwrap_or_else(|e| panic!("{e}\n{sql}"))
    }

    /// As [`Postgres::psql`], as this role; psql's errors are returned.
    pub fn psql_as(&self, role: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(client());
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-1", "-f", "-", "-h"])
            .arg(&self.dir)
            .args(["-p", &self.port.to_string(), "-U", role, "-d", DATABASE])
            .env("PGPASSFILE", self.password_file())
            .env("PGOPTIONS", "-c client_min_messages=warning");
        let Output { status, stdout, stderr } = fed(psql, sql);
        match status.success() {
            true => Ok(String::from_utf8(stdout).expect("UTF-8").trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&stderr).into_owned()),
        }
    }

    /// A connection that stays open, as this role.
    pub fn session(&self, role: &str) -> SqlSession {
        SqlSession::open(&self.dir, self.port, DATABASE, role, &self.password(role))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        if let Ok(Some(mut child)) = self.postmaster.lock().map(|mut server| server.take()) {
            let _ = child.wait();
        }
    }
}

/// The directory with PostgreSQL's programs: the one in PATH, or Debian's of the newest version.
fn programs() -> Option<&'static Path> {
    static PROGRAMS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let versions = versions
            .filter_map(|v| Some((v.file_name().to_str()?.parse::<u32>().ok()?, v.path().join("bin"))));
        let mut versions: Vec<_> = versions.filter(|(version, _)| *version >= 14).collect();
        versions.sort();
        let debian = versions.into_iter().rev().map(|(_, bin)| bin);
        std::env::split_paths(&path).chain(debian).find(|bin| bin.join("initdb").exists())
    };
    PROGRAMS.get_or_init(find).as_deref()
}

/// The psql of the server's version, or the one in PATH, which Debian has as a script that starts the former:
/// that takes several times as long.
fn client() -> &'static Path {
    static CLIENT: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let initdb = fs::canonicalize(programs()?.join("initdb")).ok()?;
        Some(initdb.with_file_name("psql")).filter(|psql| psql.exists())
    };
    CLIENT.get_or_init(|| find().unwrap_or_else(|| "psql".into()))
}

/// Debian's pgbouncer is in a directory that is in root's PATH only.
pub fn pgbouncer() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    dirs.find_map(|dir| Some(dir.join("pgbouncer")).filter(|program| program.exists()))
}

/// What an empty server is a copy of. Its keeper removes it when this process ends: a static is not dropped.
fn empty() -> &'static Template {
    static EMPTY: OnceLock<Template> = OnceLock::new();
    EMPTY.get_or_init(Template::new)
}

struct Template {
    dir: PathBuf,
    _keeper: Mutex<Child>,
}

impl Template {
    fn new() -> Template {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("bookend-fleet.").tempdir().expect("a temporary directory").keep();
        give(&dir);
        let keeper = keeper(r#"cat >/dev/null; rm -rf "$1""#, &dir);
        let (data, programs) = (dir.join("data"), programs().expect("the programs of PostgreSQL"));
        let mut initdb = as_owner(programs.join("initdb"));
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--wal-segsize=4", "--auth=trust"]);
        succeeds(initdb.arg("--username").arg(SUPERUSER).arg("-D").arg(&data));
        let mut single = as_owner(programs.join("postgres"));
        single.args(["--single", "-F", "-D"]).arg(&data).arg(DATABASE);
        let Output { status, stderr, .. } = fed(single, DROP_DATABASES);
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        succeeds(as_owner("sh").args(["-c", CERTIFICATES]).current_dir(&data));
        let mut settings = OpenOptions::new();
        let mut settings = settings.append(true).open(data.join("postgresql.conf")).expect("its settings");
        settings.write_all(CONFIGURATION.as_bytes()).expect("its settings");
        fs::write(data.join("pg_hba.conf"), ACCESS).expect("who may log in");
        Template { dir, _keeper: Mutex::new(keeper) }
    }

    fn path(&self) -> &Path {
        &self.dir
    }
}

/// Whether this machine has what the tests need.
fn is_possible(test: &str) -> bool {
    let needs = "PostgreSQL 14 or newer, pgbouncer and openssl: install Debian's postgresql and pgbouncer";
    let can = programs().is_some() && on_path("psql") && on_path("openssl") && pgbouncer().is_some();
    possible(test, can, needs)
}

/// A shell that runs this script with a directory, and whose input ends with this process.
fn keeper(script: &str, dir: &Path) -> Child {
    Command::new("sh")
        .args(["-c", script, "keeper"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell")
}

/// A directory that the server's owner can write.
fn give(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("its mode");
    if is_root() {
        chown(dir, Some(NOBODY), Some(NOBODY)).expect("its owner");
    }
}

/// A command that runs as the owner of the server's files.
pub fn as_owner(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn succeeds(command: &mut Command) {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().expect("a command");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
}

/// Runs a command with this input, which it reads before it prints much.
fn fed(mut command: Command, input: &str) -> Output {
    let mut file: File = tempfile::tempfile().expect("a temporary file");
    file.write_all(input.as_bytes()).and_then(|()| std::io::Seek::rewind(&mut file)).expect("its input");
    command.stdin(file).output().expect("a command")
}

/// A port of the loopback interface below those that the kernel gives to clients: it stays free while the
/// server is stopped.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| 20_000 + (uuid::Uuid::new_v4().as_u128() % 12_000) as u16)
        .find(is_free)
        .expect("a free port")
}

pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
