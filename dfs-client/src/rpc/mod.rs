//! The way to the NameNode: who is dialled, what is tried again, and under which session and call id.
//!
//! A call goes to the NameNode that answered last. When that one does not lead, the one it names is asked; when it does
//! not answer, the next one of the list; after a round without success, again with growing pauses, until the
//! caller's patience ends. A call that changes something carries the same call id at each try, so that the NameNode does
//! it once however often it arrives. One that nobody waits for any more stays in its session until it is settled.

mod dial;
mod gathering_stream;
mod namenode_link;
mod session;

pub(crate) use dial::{dial_data, grpc_channel};
pub(crate) use namenode_link::{Failed, NamenodeClient, NamenodeLink, Patience, rpc};
pub(crate) use session::{Claim, PendingCall, Session, Sessions, Work};
