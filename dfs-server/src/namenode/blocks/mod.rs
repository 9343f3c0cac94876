//! The NameNode's soft state: which DataNodes live, which replicas of which block they hold, and what must be copied or
//! deleted. Never logged; rebuilt from reports (design D3).
//!
//! ```text
//!  namespace --BlockEvent--> +--------------+ <--register, heartbeat, reports-- DataNodes
//!                            | BlockManager |
//!  services --choose_targets,+--------------+ --orders in heartbeat replies---> DataNodes
//!             locate, stats->       ^
//!                                 tick, once a second
//! ```
//!
//! One lock guards everything (`state::SoftState`); what it decides is pure and lies in modules of its own: what a
//! reported replica means (`disposition`), where replicas go (`placement`), which block is repaired first (`replication`)
//! and which replica is too many (`excess`). Nothing here waits, sleeps, or knows of sockets; time and the seed of chance are
//! arguments.
//!
//! Promises:
//!
//! - a replica is ordered to be deleted only by the active leader outside safe mode, and only when its block was removed
//!   from the namespace, when enough good replicas are known from reports since this leader began, or when it is bad and a
//!   good one is there;
//! - a replica of a block that was never allocated here is kept, and so is one of a block or a generation that may have been
//!   allocated by a NameNode that was lost;
//! - a call holds the lock for a millisecond or two at most: long work (reports, dead nodes, walks over all blocks) goes in
//!   slices of time (`holds`); `/metrics` shows how long holds were;
//! - nothing grows beyond a bound, and what was not kept for want of room is asked for again: the DataNode is ordered to
//!   report in full once there is room (`overflow`);
//! - nobody is given up for a silence that was this NameNode's own (`namenode::listening`).

mod backlog;
mod balancer_run;
mod block_manager;
mod block_map;
mod calls;
mod copies;
mod disposition;
mod draining;
mod duties;
mod events;
mod excess;
mod health;
mod holds;
mod intake;
mod limits;
mod liveness;
mod locate;
mod moves;
mod overflow;
mod pending;
mod placement;
mod recovery_holders;
mod redundancy;
mod repair_queues;
mod replica_steps;
mod replication;
mod reporting;
mod settings;
mod state;
mod stats;
mod suspects;
mod targets;
#[cfg(test)]
mod tests;
mod ticks;

pub use self::balancer_run::Moved;
pub use self::block_manager::BlockManager;
pub use self::duties::NodeName;
pub use self::events::BlockEvent;
pub use self::locate::Locations;
pub use self::moves::{MoveRequest, Moves};
pub use self::recovery_holders::Holders;
pub(crate) use self::reporting::{is_long, origin_of};
pub use self::stats::FsStats;
pub use self::targets::{Target, TargetRequest};
