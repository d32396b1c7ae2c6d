//! A ledger of a fleet with its monitor. Two of them on one machine are two nodes.

use crate::harness::{Cmd, End, Monitor, Output, World, eventually};
use crate::postgres::Postgres;

/// A fleet whose nodes renew their leases often.
pub fn fleet(test: &str) -> Option<Postgres> {
    let postgres = Postgres::with_schema(test)?;
    postgres.psql("UPDATE bookend.setting SET value = '300' WHERE name = 'renew_ms'");
    Some(postgres)
}

pub struct Node {
    pub world: World,
    pub role: String,
    password_file: String,
    pub monitor: Option<Monitor>,
}

impl Node {
    /// A ledger that has joined the fleet as the role `bookend_NAME`, without a monitor.
    pub fn join(postgres: &Postgres, name: &str) -> Node {
        Node::join_at(postgres, name, &postgres.database_url(&format!("bookend_{name}")))
    }

    /// As [`Node::join`], by this URL.
    pub fn join_at(postgres: &Postgres, name: &str, url: &str) -> Node {
        let role = format!("bookend_{name}");
        postgres.role(&role, &["bookend_host"]);
        let password_file = postgres.password_file().to_str().expect("UTF-8").to_owned();
        let node = Node { world: World::new(), role, password_file, monitor: None };
        let joined =
            node.world.bare(["bookend", "fleet", "join", url]).env("PGPASSFILE", &node.password_file);
        joined.run().ended(End::Code(0));
        node
    }

    /// As [`Node::join`], with a monitor that has registered.
    pub fn start(postgres: &Postgres, name: &str) -> Node {
        let mut node = Node::join(postgres, name);
        node.start_monitor(&[]);
        node.monitor().service.until("publishing to");
        node
    }

    pub fn start_monitor(&mut self, environment: &[(&str, &str)]) {
        self.start_monitor_by(&[], environment);
    }

    /// As [`Node::start_monitor`], by the command `prefix`.
    pub fn start_monitor_by(&mut self, prefix: &[&str], environment: &[(&str, &str)]) {
        let environment = [environment, &[("PGPASSFILE", &self.password_file)]].concat();
        self.monitor = Some(Monitor::start_with(&self.world, prefix, &environment, &[]));
    }

    /// As [`Node::start_monitor`], without waiting until it is ready.
    #[cfg(feature = "failpoints")]
    pub fn spawn_monitor(&mut self, environment: &[(&str, &str)]) {
        let environment = [environment, &[("PGPASSFILE", &self.password_file)]].concat();
        self.monitor = Some(Monitor::spawn(&self.world, &[], &environment, &[]));
    }

    /// A copy of the ledger in a world of its own, with a monitor. It has the same role.
    pub fn copy(&self) -> Node {
        let (role, password_file) = (self.role.clone(), self.password_file.clone());
        let mut copy = Node { world: World::new(), role, password_file, monitor: None };
        let directory = copy.world.path("state/bookend");
        std::fs::create_dir_all(&directory).expect("a directory");
        let ledger = copy.world.ledger();
        self.bookend(&["backup", ledger.to_str().expect("UTF-8")]).ended(End::Code(0));
        copy.start_monitor(&[]);
        copy
    }

    /// Joins the fleet of this server again, as this role.
    pub fn rejoin(&self, postgres: &Postgres, role: &str, options: &[&str]) {
        let url = postgres.database_url(role);
        let words = [&["bookend", "fleet", "join"], options, &[url.as_str()]].concat();
        self.world.bare(words).env("PGPASSFILE", &self.password_file).run().ended(End::Code(0));
    }

    pub fn monitor(&self) -> &Monitor {
        self.monitor.as_ref().expect("a monitor")
    }

    pub fn kill_monitor(&mut self) {
        self.monitor.take().expect("a monitor").kill();
    }

    /// A run under a key.
    pub fn keyed(&self, key: &str, script: &str) -> Cmd<'_> {
        self.world.run_sh(script).options(["--key", key]).own_group()
    }

    /// For PGPASSFILE.
    pub fn password_file(&self) -> &str {
        &self.password_file
    }

    /// The id of this node.
    pub fn id(&self, postgres: &Postgres) -> String {
        postgres.psql(&format!("SELECT id FROM bookend.node WHERE role = '{}'", self.role))
    }

    pub fn bookend(&self, words: &[&str]) -> Output {
        let words = [&["bookend"], words].concat();
        self.world.bare(words).env("PGPASSFILE", &self.password_file).run()
    }

    /// Waits until this ledger has published everything.
    pub fn published(&self) {
        eventually(self.world.deadline(), "the publication of everything", || {
            let sql = "SELECT count(*) AS n FROM fleet_dirty";
            self.world.sql(sql)[0].number("n") == Some(0)
        });
    }
}

/// The claims in the database, as `key|task` lines.
pub fn claims(postgres: &Postgres) -> String {
    postgres.psql("SELECT key, task_id FROM bookend.claim ORDER BY key")
}
