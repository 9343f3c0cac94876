//! Reading: from a byte range of a file to verified bytes.
//!
//! ```text
//! FileReader::read_at
//!   prefetch        which bytes to fetch ahead, by the pattern of reads so far (pure)
//!   ahead, budget   the parts that are fetched ahead, and how many bytes all files together may have of them
//!   locations       which block holds a byte, and where its replicas are; asks the NameNode when it must
//!   known_blocks    what it has heard of that (pure)
//!   visible_length  how long a block is that is being written; asks its replicas
//!   replica_choice  in which order to ask the replicas (pure)
//!   block_reader    READ_BLOCK on one replica: every chunk verified before a byte leaves
//! ```
//!
//! Promises:
//! - No byte is returned that its checksum does not vouch for. A replica whose bytes do not fit is reported to the NameNode. It, or
//!   one that cannot be read, costs a read nothing but time: another one is asked.
//! - Every wait has a bound: a silent node costs [`read_timeout`](crate::ClientConfig::read_timeout), then the next one is asked. Only
//!   when all have failed are they asked again, with three and nine times as much patience.
//! - A random read fetches what was asked for, rounded to chunks, and nothing else.

mod ahead;
mod block_reader;
mod budget;
mod file_reader;
mod known_blocks;
mod locations;
mod part;
mod prefetch;
mod replica_choice;
mod visible_length;

pub(crate) use budget::PrefetchBudget;
pub use file_reader::FileReader;
pub use known_blocks::Shown;
pub use locations::{BlockLocation, ReplicaLocation};
pub(crate) use locations::{Locations, locate_page};
