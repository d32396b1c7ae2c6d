//! Creates a role in PostgreSQL for each host of a fleet, with a password of its own.

use postgres_protocol::password::scram_sha_256;
use uuid::Uuid;

use super::connection::FleetConnection;
use super::error::FleetError;
use super::password::escaped;
use super::url::{DEFAULT_PORT, DatabaseUrl};

/// The role of a host.
pub struct HostRole {
    pub name: String,
    /// `None`: the role existed before, and its password stays.
    pub password: Option<String>,
}

const EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
const IS_HOST: &str = "SELECT pg_catalog.pg_has_role($1, 'bookend_host', 'MEMBER')";

/// The name of a host's role. `None`: it cannot be part of one, or of a line of a password file.
pub fn host_role(host: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // PostgreSQL cuts a longer name.
    (!host.is_empty() && host.len() <= 55 && host.chars().all(is_plain)).then(|| format!("bookend_{host}"))
}

impl FleetConnection {
    /// Creates the role of a host, or makes one that exists a member of the group.
    pub async fn make_host_role(&self, name: String) -> Result<HostRole, FleetError> {
        if self.call(EXISTS, &[name.as_str().into()]).await? {
            // Only an administrator of the group may repeat the grant.
            if self.call(IS_HOST, &[name.as_str().into()]).await? {
                return Ok(HostRole { name, password: None });
            }
            self.execute(&format!("GRANT bookend_host TO \"{name}\"")).await?;
            return Ok(HostRole { name, password: None });
        }
        let password = Uuid::new_v4().simple().to_string();
        // The server gets the verifier only: it may log the statement.
        let verifier = scram_sha_256(password.as_bytes());
        let create = format!("CREATE ROLE \"{name}\" LOGIN PASSWORD '{verifier}' IN ROLE bookend_host");
        self.execute(&create).await?;
        Ok(HostRole { name, password: Some(password) })
    }

    /// The line for the password file of a host. A host elsewhere does not know this one's Unix socket.
    pub fn password_line(&self, role: &str, password: &str) -> String {
        let host = self.host();
        let name = if host.is_socket() { "*".to_owned() } else { escaped(&host.name) };
        format!("{name}:{}:{}:{}:{password}", host.port, escaped(self.database()), escaped(role))
    }
}

impl DatabaseUrl {
    /// The same database as another role, for another machine. `HOST` stands for the name of a server that
    /// this one reaches by a Unix socket.
    pub fn with_role(&self, role: &str) -> String {
        let text = self.to_string();
        let (scheme, rest) = text.split_once("://").unwrap_or(("postgres", &text));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        if let Some(socket) = self.address.hosts.iter().find(|host| host.is_socket()) {
            let database = rest.split_once('/').map_or("", |(_, database)| database);
            let port = if socket.port == DEFAULT_PORT { String::new() } else { format!(":{}", socket.port) };
            return format!("{scheme}://{role}@HOST{port}/{database}");
        }
        let options: Vec<_> = query.split('&').filter(|o| !o.is_empty() && !o.starts_with("user=")).collect();
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("{scheme}://{role}@{rest}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_replaces_the_user_of_a_url() {
        let of = |url: &str| DatabaseUrl::parse(url).expect("a URL").with_role("bookend_a");
        assert_eq!(of("postgres://admin@db:5433/x"), "postgres://bookend_a@db:5433/x");
        assert_eq!(
            of("postgres://db/x?user=admin&sslmode=require"),
            "postgres://bookend_a@db/x?sslmode=require"
        );
        for socket in ["postgresql://admin@/x?host=/run/p", "postgresql://%2Frun%2Fp/x"] {
            assert_eq!(of(socket), "postgresql://bookend_a@HOST/x", "{socket}");
        }
        assert_eq!(of("postgres:///x?host=/run/p&port=5433"), "postgres://bookend_a@HOST:5433/x");
    }

    #[test]
    fn a_host_that_cannot_be_part_of_a_name_is_refused() {
        assert_eq!(host_role("db-1.example.org").as_deref(), Some("bookend_db-1.example.org"));
        for wrong in ["", "a b", "a\"; DROP SCHEMA bookend; --", "a:b", &"a".repeat(56)] {
            assert_eq!(host_role(wrong), None, "{wrong}");
        }
    }
}
