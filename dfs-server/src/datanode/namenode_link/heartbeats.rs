//! Heartbeats: that this node lives, its volumes, its load and which copies failed; orders come back.

use dfs_common::error::{ErrorKind, Result};
use dfs_proto::v1;
use dfs_proto::v1::order::Order;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::{CALL_TIMEOUT, Link, Registration};
use crate::datanode::deadline::call;

impl Link {
    /// Sends heartbeats until the NameNode wants a new registration; returns why.
    pub(super) async fn heartbeats(&self, registration: &Registration) -> &'static str {
        let mut ticks = tokio::time::interval(self.context.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.signals.heartbeat_now.notified() => {}
            }
            match self.heartbeat(registration).await {
                Ok(response) => {
                    failures = 0;
                    self.status.on_answer();
                    if self.obey(response) {
                        return "the NameNode does not know the registration";
                    }
                }
                Err(error) if error.kind() == ErrorKind::Stale => return "the NameNode refused a heartbeat",
                Err(error) => {
                    if failures.is_multiple_of(30) {
                        warn!(namenode = self.address, "heartbeat failed: {}", error.chain());
                    }
                    failures += 1;
                }
            }
        }
    }

    async fn heartbeat(&self, registration: &Registration) -> Result<v1::SendHeartbeatResponse> {
        let storages = self.storages();
        let failed_copies = self.failed_copies.take();
        let request = v1::SendHeartbeatRequest {
            datanode_uuid: registration.datanode_uuid.clone(),
            registration_id: registration.id,
            storages,
            active_transfers: u32::try_from(self.context.data_service.active_transfers()).unwrap_or(u32::MAX),
            failed_copies: failed_copies.iter().map(|&block| block.into()).collect(),
        };
        let answer = call(CALL_TIMEOUT, self.client.clone().send_heartbeat(request)).await;
        if answer.is_err() {
            self.failed_copies.add(failed_copies);
        }
        answer
    }

    /// Passes orders on; true when one is to register again.
    fn obey(&self, response: v1::SendHeartbeatResponse) -> bool {
        let mut register = false;
        for order in response.orders.into_iter().filter_map(|order| order.order) {
            match order {
                Order::Register(_) => register = true,
                Order::BlockReport(_) => self.signals.full_report_now.notify_one(),
                Order::Transfer(_) | Order::Invalidate(_) | Order::Verify(_) | Order::Recover(_)
                    if !response.is_active =>
                {
                    // A deposed leader may not know it yet.
                    debug!(namenode = self.address, "ignoring an order of a NameNode that does not lead");
                }
                Order::Transfer(order) => self.context.orders.transfer(order, &self.failed_copies),
                Order::Invalidate(order) => self.context.orders.invalidate(order),
                Order::Verify(order) => self.context.orders.verify(order),
                Order::Recover(order) => self.context.orders.recover(order, self.client.clone()),
            }
        }
        register
    }
}
