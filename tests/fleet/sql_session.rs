//! An open connection to a server, for transactions that tests keep open beside others.

use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

/// A connection as one role. Its calls block.
pub struct SqlSession {
    runtime: Runtime,
    client: Client,
    notifications: Arc<Mutex<Vec<String>>>,
}

/// An error of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// The SQLSTATE; empty if the connection is lost.
    pub code: String,
    pub message: String,
}

impl SqlSession {
    pub fn open(host: &Path, port: u16, database: &str, role: &str, password: &str) -> SqlSession {
        let mut config = Config::new();
        config.host_path(host).port(port).dbname(database).user(role).password(password);
        config.connect_timeout(Duration::from_secs(30));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let notifications = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&notifications);
        let client = runtime.block_on(async {
            let (client, mut connection) = config.connect(NoTls).await.expect("a connection");
            tokio::spawn(async move {
                while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                    if let AsyncMessage::Notification(n) = message {
                        let text = format!("{} {}", n.channel(), n.payload());
                        received.lock().expect("the notifications").push(text);
                    }
                }
            });
            client
        });
        SqlSession { runtime, client, notifications }
    }

    /// The first column of the last row, as text; empty for NULL and without rows.
    pub fn query(&self, sql: &str) -> Result<String, SqlError> {
        let messages = self.runtime.block_on(self.client.simple_query(sql)).map_err(|e| {
            let error = e.as_db_error();
            SqlError {
                code: error.map(|e| e.code().code().to_owned()).unwrap_or_default(),
                message: error.map_or_else(|| e.to_string(), |e| e.message().to_owned()),
            }
        })?;
        let rows = messages.iter().filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(rows.last().unwrap_or_default().to_owned())
    }

    /// The JSON that a function returns.
    ///
    /// # Panics
    /// If the statement fails.
    pub fn json(&self, sql: &str) -> Value {
        let text = self.query(sql).unwrap_or_else(|e| panic!("{e:?}: {sql}"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The SQLSTATE with which a statement fails.
    ///
    /// # Panics
    /// If it succeeds.
    pub fn error(&self, sql: &str) -> String {
        match self.query(sql) {
            Ok(value) => panic!("{sql} returned {value}"),
            Err(e) => e.code,
        }
    }

    /// The notifications since the last call, each as channel and payload. PostgreSQL sends them before the
    /// answer of a statement that begins after their commit.
    pub fn notifications(&self) -> Vec<String> {
        self.query("SELECT 1").expect("an answer");
        std::mem::take(&mut *self.notifications.lock().expect("the notifications"))
    }
}
