//! What every command works with: the client, who asks, where results and complaints go.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_client::{Caller, DfsClient};
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::leftovers::Leftovers;
use crate::location::Locations;
use crate::output::Output;
use crate::owner::Owners;
use crate::progress::Progress;
use crate::same_cluster;
use crate::unfinished::Unfinished;

/// What new files ask for; 0 leaves it to the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileDefaults {
    /// Replicas.
    pub(crate) replication: u32,
    /// Bytes per block.
    pub(crate) block_size: u64,
}

/// What `main` knows when it starts a command.
pub(crate) struct Settings {
    /// The command's name, for complaints.
    pub(crate) command: &'static str,
    /// Results are for a program.
    pub(crate) json: bool,
    /// Permission bits that new files and directories do not get.
    pub(crate) umask: u32,
    /// What new files ask for.
    pub(crate) file_defaults: FileDefaults,
}

/// Shared by a command and its tasks.
pub(crate) struct Context {
    /// The cluster.
    pub(crate) client: DfsClient,
    /// Whoever started us.
    pub(crate) caller: Caller,
    /// Against what arguments are read.
    locations: Locations,
    /// Standard output.
    pub(crate) output: Output,
    /// Names of owners and groups.
    pub(crate) owners: Owners,
    /// The bar of a long transfer.
    pub(crate) progress: Progress,
    /// Half-written files to be removed if we do not finish.
    pub(crate) leftovers: Arc<Leftovers>,
    /// Directories that get their attributes once everything is in them.
    pub(crate) unfinished: Unfinished,
    /// What `main` knew.
    pub(crate) settings: Settings,
    /// How many failures were reported.
    failures: AtomicU64,
}

impl Context {
    /// A context without a failure yet.
    pub(crate) fn new(client: DfsClient, caller: Caller, settings: Settings) -> Arc<Self> {
        let owners = Owners::default();
        let user = owners.user(caller.uid);
        let locations = Locations::new(&user, &client.config().namenodes, &client.defaults().cluster_id);
        Arc::new(Self {
            client,
            caller,
            locations,
            output: Output::new(),
            owners,
            progress: Progress::new(!settings.json),
            leftovers: Arc::default(),
            unfinished: Unfinished::default(),
            settings,
            failures: AtomicU64::new(0),
        })
    }

    /// Whether results are for a program.
    pub(crate) fn json(&self) -> bool {
        self.settings.json
    }

    /// The absolute path that an argument spells, patterns left as they are.
    ///
    /// # Errors
    /// When it names another cluster or file system.
    pub(crate) async fn absolute(&self, arg: &OsStr) -> Outcome<Vec<u8>> {
        let ask = async |address: &str| same_cluster::ask(self.client.defaults(), &[address.to_owned()]).await;
        let path = self.locations.absolute(arg.as_bytes(), ask).await;
        path.map_err(|words| Failure::refused(arg.display(), words))
    }

    /// Tells the user about a failure, and counts it.
    pub(crate) fn report(&self, failure: &Failure) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !failure.is_broken_pipe() {
            self.progress.say(&format!("dfs: {}: {failure}", self.settings.command));
        }
    }

    /// Makes the exit status 1 without a word: the answer to a question is no.
    pub(crate) fn answer_no(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether anything failed so far.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures() > 0
    }

    /// How many things failed so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Ends a command that changes one thing after the other: prints the document about those that it has changed, if one is
    /// wanted, also when a failure has then ended it.
    ///
    /// # Errors
    /// The failure, or that of standard output.
    pub(crate) fn conclude(&self, outcome: Outcome, changed: &impl Serialize) -> Outcome {
        let told = if self.json() { self.output.json(changed) } else { Ok(()) };
        outcome.and(told)
    }

    /// Gives the directories that were copied the attributes that they are to get. What fails is reported.
    ///
    /// # Errors
    /// A failure that would meet all of them.
    pub(crate) async fn finish_directories(&self) -> Outcome {
        let report = |failure: &Failure| self.report(failure);
        self.unfinished.finish(&self.client, &self.caller, self.settings.umask, report).await
    }

    /// Reports a failure that leaves the other operands alone; passes on one that would meet them all.
    ///
    /// # Errors
    /// The failure, when going on is pointless.
    pub(crate) fn tolerate<T>(&self, outcome: Outcome<T>) -> Outcome<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.is_fatal() => Err(failure),
            Err(failure) => {
                self.report(&failure);
                Ok(None)
            }
        }
    }
}
