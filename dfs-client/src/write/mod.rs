//! Writing: from bytes given to a file's end to bytes acknowledged by every node of a pipeline.
//!
//! ```text
//! FileWriter          one file being written: blocks one after another, flush, sync, complete; a failure ends it
//!   writer_status     how far it is and how it ended, for those who do not wait for their turn
//!   block_output      its blocks: packets queued, blocks begun and ended
//!   block_setup       blocks begun, reopened, begun again
//!   pipeline_recovery pipelines rebuilt when they fail: other nodes, a new generation stamp
//!   questions         what a writer asks of the NameNode
//!   replica_sync      finished blocks brought to disk
//!   packet            bytes cut into packets, with their checksums (pure)
//!   pipeline          one block under way: a connection to the first DataNode, which passes everything on
//!   pipeline_state    which packets are sent and not acknowledged (pure)
//!   recovery_plan     what to do when a pipeline fails (pure)
//! ```
//!
//! There is no task per file. Whoever writes or flushes drives the connection himself: sends what is queued and takes in the
//! acks that have come, and waits only when he must (the window is full, or he wants acks). That saves two thread
//! wake-ups per packet. When nobody is there, the client's upkeep task looks in: it sends what has waited for
//! too long, takes in acks, and keeps an idle pipeline alive.
//!
//! Promises:
//! - [`FileWriter::position`] counts every byte accepted, [`FileWriter::acked_len`] those that every node of the pipeline has.
//! - A packet is kept until it is acknowledged; at most `dfs.client.write.max-in-flight` bytes are.
//! - A call that is dropped before it ends leaves the writer usable, unless it was in the middle of a question to the
//!   NameNode whose answer is then unknown: that fails the writer.

mod block_output;
mod block_setup;
mod file_writer;
mod packet;
mod pipeline;
mod pipeline_recovery;
mod pipeline_state;
mod questions;
mod recovery_plan;
mod replica_sync;
mod writer_status;

pub(crate) use block_output::Start;
#[cfg(test)]
pub(crate) use file_writer::Chore;
pub(crate) use file_writer::Opened;
pub use file_writer::{FileWriter, Privileges, SyncLevel};
pub(crate) use replica_sync::ReplicaSync;
pub(crate) use writer_status::ServerClock;
