//! The schema of a fleet: creates it, brings it up to date, and says whether this program fits it.

use super::connection::FleetConnection;
use super::error::FleetError;
use super::schema::{MIGRATIONS, SCHEMA_VERSION};

const HAS_SCHEMA: &str = "SELECT to_regclass('bookend.migration') IS NOT NULL";
const SELECT_VERSION: &str = "SELECT max(version)::bigint FROM bookend.migration";

impl FleetConnection {
    /// Creates or updates the schema. Returns the version that it had before, 0 without one.
    pub async fn migrate(&self) -> Result<i64, FleetError> {
        let has_schema: bool = self.call(HAS_SCHEMA, &[]).await?;
        let found: i64 = if has_schema { self.call(SELECT_VERSION, &[]).await? } else { 0 };
        if found > SCHEMA_VERSION {
            return Err(FleetError::Schema { found });
        }
        for (version, migration) in (1..).zip(MIGRATIONS) {
            if version > found {
                self.execute(migration).await?;
            }
        }
        Ok(found)
    }

    /// Sets whether hosts publish command lines and prompts.
    pub async fn set_publish_argv(&self, publish: bool) -> Result<(), FleetError> {
        let value = if publish { "true" } else { "false" };
        self.execute(&format!("UPDATE bookend.setting SET value = '{value}' WHERE name = 'publish_argv'"))
            .await
    }

    /// Refuses a fleet whose schema is older or newer than this program.
    pub async fn check_schema(&self) -> Result<(), FleetError> {
        match self.call("SELECT (bookend.version()->>'schema')::bigint", &[]).await? {
            SCHEMA_VERSION => Ok(()),
            found => Err(FleetError::Schema { found }),
        }
    }
}
