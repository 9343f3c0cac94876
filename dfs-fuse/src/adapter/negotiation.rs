//! The first words with the kernel: what either side can do, and how much at once.

use std::fmt::Display;
use std::io;

use fuser::{InitFlags, KernelConfig};
use tracing::{debug, info};

use crate::flags;

/// Largest write request, bytes: three to five times the throughput of the kernel's default of 128 KiB, and its own limit
/// (256 pages) unless an administrator has raised it.
const MAX_WRITE: u32 = 1024 * 1024;

/// What the kernel is told at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiation {
    /// Read-ahead and asynchronous requests that may be under way.
    pub(crate) max_background: u16,
}

/// Agrees with the kernel.
///
/// # Errors
/// What it does not take.
pub(super) fn negotiate(config: &mut KernelConfig, wanted: Negotiation) -> io::Result<()> {
    for capability in flags::wanted_capabilities().iter() {
        // What an older kernel does not offer, it does without.
        if config.add_capabilities(capability).is_err() {
            debug!(?capability, "not offered by the kernel");
        }
    }
    let refused = |what: &str, limit: &dyn Display| io::Error::other(format!("{what}: at most {limit}"));
    config.set_max_write(MAX_WRITE).map_err(|limit| refused("max_write", &limit))?;
    let background = wanted.max_background;
    config.set_max_background(background).map_err(|limit| refused("max_background", &limit))?;
    // Above it writers wait for the device; three quarters is the kernel's own choice.
    let congested = (background / 4 * 3).max(1);
    config.set_congestion_threshold(congested).map_err(|limit| refused("congestion threshold", &limit))?;
    let offered = config.capabilities() & flags::wanted_capabilities();
    info!(abi = %config.kernel_abi(), capabilities = ?InitFlags::iter_names(&offered).map(|(name, _)| name).collect::<Vec<_>>(), "kernel connected");
    Ok(())
}
