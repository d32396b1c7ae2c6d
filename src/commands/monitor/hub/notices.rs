//! What the database reports by NOTIFY, on a second connection: orders and free keys need not wait for the
//! next renewal of the lease. Nothing depends on it: behind a pooler by transactions, nothing arrives.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::node::HubNode;
use crate::error::chain;
use crate::fleet::{ConnectOptions, FleetConnection};

/// The payload is the node that is meant.
const LISTEN: ConnectOptions = ConnectOptions {
    timeout: Duration::from_secs(10),
    call_timeout: Duration::from_secs(30),
    listen: &["bookend_node"],
};
/// The pause after the connection has failed. Renewals go on.
const PAUSE: Duration = Duration::from_secs(30);

/// Has the lease renewed whenever there is news for this node: the answer has the orders and the free keys.
pub async fn follow(node: &HubNode) -> Infallible {
    let own = node.membership.node.to_string();
    loop {
        match FleetConnection::connect(&node.url, LISTEN).await {
            Ok(mut connection) => {
                let mut notices = connection.notifications();
                // What was sent before now is not reported.
                node.renew_now.notify_one();
                while let Some(notice) = notices.next().await {
                    if notice.payload == own {
                        node.renew_now.notify_one();
                    }
                }
            }
            Err(e) => debug!("notices of the fleet: {}", chain(&e)),
        }
        sleep(PAUSE).await;
    }
}
