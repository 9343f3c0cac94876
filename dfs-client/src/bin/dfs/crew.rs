//! A bounded number of transfers at once, and what they came to.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::format;

/// Files copied at once unless told otherwise. Small files wait for round trips rather than for bytes, so a few at once
/// are several times faster; large ones fill the network with one or two.
const TRANSFERS_DEFAULT: usize = 4;
/// Most files copied at once: each may hold its pipeline's bytes in flight.
pub(crate) const TRANSFERS_MAX: usize = 64;

/// How files are copied: what all commands that copy take.
#[derive(Debug, Args)]
pub(crate) struct Copying {
    /// Replace files that are there
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Files copied at once
    #[arg(short = 't', long, value_name = "N", default_value_t = TRANSFERS_DEFAULT, value_parser = parse_limit)]
    pub(crate) threads: usize,
    /// Accepted as in HDFS: files wait in a queue of fitting length
    #[arg(short = 'q', value_name = "N")]
    _queue: Option<u32>,
}

/// What a command has moved: the document of `put`, `get`, `moveFromLocal` and `cp`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Totals {
    /// Files, links included.
    pub(crate) files: u64,
    /// Directories made.
    pub(crate) directories: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
    /// What failed: files, directories and sources, also those that could not be removed. Each is reported.
    pub(crate) failed: u64,
    /// From the first to the last.
    pub(crate) seconds: f64,
}

/// The transfers of a command.
pub(crate) struct Crew {
    ctx: Arc<Context>,
    tasks: JoinSet<Outcome<u64>>,
    limit: usize,
    totals: Totals,
    started: Instant,
}

impl Crew {
    /// Nobody works yet.
    pub(crate) fn new(ctx: &Arc<Context>, limit: usize) -> Self {
        let ctx = Arc::clone(ctx);
        Self { ctx, tasks: JoinSet::new(), limit, totals: Totals::default(), started: Instant::now() }
    }

    /// Starts a transfer that returns its bytes, once there is room for it.
    ///
    /// # Errors
    /// A failure of an earlier transfer that would meet all others too.
    pub(crate) async fn start(&mut self, transfer: impl Future<Output = Outcome<u64>> + Send + 'static) -> Outcome {
        while self.tasks.len() >= self.limit {
            self.take_one().await?;
        }
        self.tasks.spawn(transfer);
        Ok(())
    }

    /// Counts a directory that was made.
    pub(crate) fn count_directory(&mut self) {
        self.totals.directories += 1;
    }

    /// Counts a link that was made.
    pub(crate) fn count_link(&mut self) {
        self.totals.files += 1;
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    /// As [`Crew::start`].
    pub(crate) async fn wait(&mut self) -> Outcome {
        while !self.tasks.is_empty() {
            self.take_one().await?;
        }
        Ok(())
    }

    /// Waits for the rest and prints the document, when one is wanted. After a failure that has ended the command nobody waits:
    /// the document tells of what was done by then.
    ///
    /// # Errors
    /// That of `outcome`; as [`Crew::start`].
    pub(crate) async fn finish(mut self, outcome: Outcome) -> Outcome {
        let outcome = match outcome {
            Ok(()) => self.wait().await,
            failed => failed,
        };
        while let Some(joined) = self.tasks.try_join_next() {
            // The failure that has ended the command is told, and this one is like it.
            let _ = self.count(joined);
        }
        self.totals.failed = self.ctx.failures() + u64::from(outcome.is_err());
        self.totals.seconds = self.started.elapsed().as_secs_f64();
        self.ctx.progress.finish();
        self.ctx.conclude(outcome, &self.totals)
    }

    async fn take_one(&mut self) -> Outcome {
        self.tasks.join_next().await.map_or(Ok(()), |joined| self.count(joined))
    }

    fn count(&mut self, joined: Result<Outcome<u64>, JoinError>) -> Outcome {
        let outcome = joined.unwrap_or_else(|error| Err(Failure::refused("transfer", error.to_string())));
        if let Some(bytes) = self.ctx.tolerate(outcome)? {
            self.totals.files += 1;
            self.totals.bytes += bytes;
        }
        Ok(())
    }
}

/// Parses the number of transfers.
///
/// # Errors
/// A sentence with the limits.
fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=TRANSFERS_MAX).contains(&limit) => Ok(limit),
        _ => Err(format!("not a number from 1 to {}", format::counted(TRANSFERS_MAX as u64, "transfer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_limit_knows_its_bounds() {
        assert_eq!(parse_limit("1"), Ok(1));
        assert_eq!(parse_limit("64"), Ok(64));
        for bad in ["0", "65", "-1", "x"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
    }
}
