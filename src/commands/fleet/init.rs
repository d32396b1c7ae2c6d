//! `bookend fleet init`: creates the schema of a fleet, and a role for each host.

use super::database::{block_on, connect};
use super::options::FleetInitOptions;
use crate::error::Error;
use crate::fleet::{DatabaseUrl, FleetError, SCHEMA_VERSION, host_role};
use crate::log;
use crate::sys::stdout::print;
use crate::view;

/// What is printed is a password file, so that a redirection keeps the passwords from the terminal.
pub(super) fn init(options: &FleetInitOptions) -> Result<String, Error> {
    let url = DatabaseUrl::parse(&options.url).map_err(FleetError::from)?;
    let roles: Vec<String> = options.hosts.iter().map(|host| role(host)).collect::<Result<_, _>>()?;
    block_on(async {
        let connection = connect(&url).await?;
        let rights = "the role needs the right to create a schema in the database, and CREATEROLE; without \
                      CREATEROLE, let an administrator create the roles bookend_host, bookend_operator, \
                      bookend_read and those of the hosts first";
        let denied = |e: FleetError| match &e {
            FleetError::Denied { .. } => Error::from(e).hint(rights),
            _ => e.into(),
        };
        match connection.migrate().await.map_err(denied)? {
            0 => log::note(&format!("{url}: the fleet is created, version {SCHEMA_VERSION}")),
            SCHEMA_VERSION if options.hosts.is_empty() && options.publish_argv.is_none() => {
                log::note(&format!("{url}: the fleet exists, version {SCHEMA_VERSION}"));
            }
            SCHEMA_VERSION => {}
            before => log::note(&format!("{url}: updated from version {before} to {SCHEMA_VERSION}")),
        }
        if let Some(publish) = options.publish_argv {
            connection.set_publish_argv(publish).await.map_err(denied)?;
        }
        for (host, role) in options.hosts.iter().zip(roles) {
            let made = connection.make_host_role(role).await.map_err(denied)?;
            let join =
                view::suggestion(None, &format!("fleet join {}", view::quoted(&url.with_role(&made.name))));
            match &made.password {
                Some(password) => {
                    let line = connection.password_line(&made.name, password);
                    // At once: it is stored nowhere, and making the next role may fail.
                    print(&format!(
                        "# {host}: write the next line to ~/.pgpass there, then run `{join}`\n{line}\n"
                    ))?;
                }
                None => log::note(&format!(
                    "the role {0} exists, and keeps its password; to change it: \\password \"{0}\" in psql",
                    made.name
                )),
            }
        }
        Ok(String::new())
    })
}

fn role(host: &str) -> Result<String, Error> {
    let wrong = || Error::usage(format!("{host:?} cannot be part of the name of a role"));
    host_role(host)
        .ok_or_else(|| wrong().hint("use at most 55 letters, digits, dots, hyphens and underscores"))
}
