//! skeleton
use std::time::{Duration, Instant};
pub(crate) struct Datanodes {}
impl Datanodes {
    pub(crate) fn new(_connect_timeout: Duration) -> Self {
        Self {}
    }
    pub(crate) fn close_idle(&self, _now: Instant) {}
}
