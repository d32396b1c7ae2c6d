//! One connection to the fleet's database. Connecting and each statement have a deadline.

use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Row};

use super::answer;
use super::argument::CallArgument;
use super::error::FleetError;
use super::password::PasswordLookup;
use super::target::DatabaseTarget;
use super::tls;
use super::url::{DatabaseHost, DatabaseUrl, Encryption, UrlError};
use crate::sys::{self, SignalSet};

/// A superuser has the rights of every role.
const SELECT_OWNS_SCHEMA: &str = "
    SELECT pg_has_role(session_user, nspowner, 'MEMBER') FROM pg_namespace WHERE nspname = 'bookend'";

/// How to connect.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// For the connection itself, all hosts of the URL together.
    pub timeout: Duration,
    /// For each statement.
    pub call_timeout: Duration,
    /// Channels to LISTEN on. Behind pgbouncer in transaction mode nothing arrives.
    pub listen: &'static [&'static str],
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions { timeout: Duration::from_secs(3), call_timeout: Duration::from_secs(30), listen: &[] }
    }
}

/// A connection. It ends when this is dropped.
pub struct FleetConnection {
    client: Client,
    host: DatabaseHost,
    server: String,
    user: String,
    database: String,
    call_timeout: Duration,
    notifications: UnboundedReceiver<FleetNotification>,
}

/// The notifications of a connection, which must outlive them.
pub struct FleetNotifications(UnboundedReceiver<FleetNotification>);

/// What NOTIFY sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetNotification {
    pub channel: String,
    pub payload: String,
}

impl FleetConnection {
    /// Connects to the first host of the URL that answers and accepts writing.
    pub async fn connect(url: &DatabaseUrl, options: ConnectOptions) -> Result<FleetConnection, FleetError> {
        let target = DatabaseTarget::of(url)?;
        // A host that does not answer leaves the others their share of the time, in whole milliseconds.
        let hosts = u32::try_from(target.hosts.len()).unwrap_or(u32::MAX);
        let within = Duration::from_millis((options.timeout / hosts).as_millis() as u64);
        let mut connected = Err(FleetError::from(UrlError::NoHost));
        for host in &target.hosts {
            let silent = |_| FleetError::Silent { server: host.to_string(), within };
            let connecting = connect_to(host, &target, options);
            connected = timeout(within, connecting).await.map_err(silent).flatten();
            if !connected.as_ref().is_err_and(FleetError::is_away) {
                break;
            }
        }
        let connection = connected?;
        for channel in options.listen {
            connection.execute(&format!("LISTEN {channel}")).await?;
        }
        Ok(connection)
    }

    /// Runs a statement and reads the first column of its one row. Each call is a transaction of its own.
    pub async fn call<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        arguments: &[CallArgument],
    ) -> Result<T, FleetError> {
        let rows = self.query(sql, arguments).await?;
        match rows.as_slice() {
            [row] => answer::read(row),
            rows => Err(FleetError::Answer(format!("{} rows instead of one", rows.len()).into())),
        }
    }

    /// Runs a statement and reads the first column of each row.
    pub async fn rows<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        arguments: &[CallArgument],
    ) -> Result<Vec<T>, FleetError> {
        self.query(sql, arguments).await?.iter().map(answer::read).collect()
    }

    /// Runs statements without parameters and without a result, in one transaction.
    pub async fn execute(&self, sql: &str) -> Result<(), FleetError> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// The notifications from now on. They belong to the first caller.
    pub fn notifications(&mut self) -> FleetNotifications {
        let (_, none) = unbounded_channel();
        FleetNotifications(std::mem::replace(&mut self.notifications, none))
    }

    /// The server, for messages.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The user that connected. A pooler may log in to PostgreSQL as another one.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The user that is logged in to PostgreSQL.
    pub async fn session_user(&self) -> Result<String, FleetError> {
        self.call("SELECT session_user::text", &[]).await
    }

    /// Whether this role has the rights of the owner of the schema.
    pub async fn may_change_schema(&self) -> Result<bool, FleetError> {
        self.call(SELECT_OWNS_SCHEMA, &[]).await
    }

    pub(super) fn host(&self) -> &DatabaseHost {
        &self.host
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    async fn query(&self, sql: &str, arguments: &[CallArgument]) -> Result<Vec<Row>, FleetError> {
        let typed: Vec<_> = arguments.iter().map(CallArgument::typed).collect();
        self.within(self.client.query_typed(sql, &typed)).await
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, FleetError> {
        match timeout(self.call_timeout, call).await {
            Ok(done) => done.map_err(|e| FleetError::of_statement(&self.server, e)),
            Err(_) => Err(FleetError::Silent { server: self.server.clone(), within: self.call_timeout }),
        }
    }
}

impl FleetNotifications {
    /// Waits for the next one. `None`: the connection has ended.
    pub async fn next(&mut self) -> Option<FleetNotification> {
        self.0.recv().await
    }
}

/// A runtime for this thread. The threads in which it looks up names do not receive the signals that this one
/// has blocked, now or later. End it with `shutdown_background`, which does not wait for a name server.
pub(super) fn runtime() -> io::Result<Runtime> {
    let block_signals = || {
        sys::set_mask(SignalSet::ALL);
    };
    Builder::new_current_thread().enable_all().on_thread_start(block_signals).build()
}

/// Runs a future of a short command on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = runtime()?;
    let done = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(done)
}

async fn connect_to(
    host: &DatabaseHost,
    target: &DatabaseTarget,
    options: ConnectOptions,
) -> Result<FleetConnection, FleetError> {
    let server = host.to_string();
    let encryption = target.encryption(host);
    let mut config = configuration(host, target, encryption);
    let missing = match target.password(host) {
        PasswordLookup::Password(password) => {
            config.password(password);
            None
        }
        PasswordLookup::None(missing) => Some(missing),
    };
    let (notify, notifications) = unbounded_channel();
    // Without a reader they would pile up.
    let notify = (!options.listen.is_empty()).then_some(notify);
    let started = match tls::connector(encryption, target.root_certificate.as_ref())? {
        Some(tls) => config.connect(tls).await.map(|connected| started(connected, notify)),
        None => config.connect(NoTls).await.map(|connected| started(connected, notify)),
    };
    let client = started.map_err(|e| match missing {
        Some(missing) if asks_for_a_password(&e) => FleetError::Password(missing),
        _ => FleetError::of_connecting(&server, e),
    })?;
    Ok(FleetConnection {
        client,
        host: host.clone(),
        server,
        user: target.user.clone(),
        database: target.database.clone(),
        call_timeout: options.call_timeout,
        notifications,
    })
}

/// The client says so in words only, when the server asks and the configuration has none.
fn asks_for_a_password(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|cause| cause.to_string() == "password missing")
}

fn configuration(host: &DatabaseHost, target: &DatabaseTarget, encryption: Encryption) -> Config {
    let mut config = Config::new();
    config.host(&host.name).port(host.port).user(&target.user).dbname(&target.database);
    config.application_name("bookend");
    config.ssl_mode(if encryption == Encryption::Disable { SslMode::Disable } else { SslMode::Require });
    if target.hosts.len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    // Without these, the connection to a host that vanished would wait for two hours.
    let seconds = Duration::from_secs;
    config.keepalives_idle(seconds(20)).keepalives_interval(seconds(10)).keepalives_retries(3);
    config.tcp_user_timeout(seconds(30));
    config
}

/// Lets the connection read and write in the background, until the client is dropped.
fn started<S, T>(
    (client, mut connection): (Client, Connection<S, T>),
    notify: Option<UnboundedSender<FleetNotification>>,
) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let (AsyncMessage::Notification(n), Some(notify)) = (message, &notify) {
                let (channel, payload) = (n.channel().to_owned(), n.payload().to_owned());
                // The reader may be gone.
                let _ = notify.send(FleetNotification { channel, payload });
            }
        }
    });
    client
}
