//! Tests of the functions in `src/fleet/schema`.

use crate::postgres::Postgres;

#[test]
fn roles_know_the_version_and_the_settings() {
    let Some(postgres) = Postgres::with_schema("roles_know_the_version_and_the_settings") else {
        return;
    };
    for group in ["bookend_host", "bookend_operator", "bookend_read"] {
        let role = format!("{group}_a");
        postgres.role(&role, &[group]);
        let version = postgres.session(&role).json("SELECT bookend.version()");
        assert_eq!(version, serde_json::json!({ "schema": 1, "renew_ms": 5000, "publish_argv": false }));
    }
}
