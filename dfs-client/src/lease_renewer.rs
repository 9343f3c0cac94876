//! The background work of a client: its session renewed, its idle connections closed, its writers looked after.
//!
//! Each task ends with the client: it holds it only while it works for it, for as long as a call to the NameNode may take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::client_core::ClientCore;
use crate::rpc::Session;

/// Design D12: a third of the soft limit. One renewal may be lost, and the next one come late.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// How often writers are looked at. A partial packet leaves within a second, so a few looks per second are needed.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Renews `session` until it or its client is gone.
pub(crate) fn spawn_renewal(core: &Arc<ClientCore>, session: &Arc<Session>) {
    let (core, session) = (Arc::downgrade(core), Arc::downgrade(session));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            let (Some(core), Some(session)) = (core.upgrade(), session.upgrade()) else { return };
            if session.is_dead() {
                return;
            }
            if let Err(error) = core.renew(&session).await {
                warn!(error = %error.chain(), "session not renewed");
            }
        }
    });
}

/// Looks after writers and pooled connections until the client is gone.
pub(crate) fn spawn_upkeep(core: &Arc<ClientCore>) {
    let core = Arc::downgrade(core);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(core) = core.upgrade() else {
                debug!("client dropped, upkeep ends");
                return;
            };
            let now = Instant::now();
            core.datanodes.close_idle(now);
            core.writers.look_after(now);
        }
    });
}
