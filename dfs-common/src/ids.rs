//! One type per kind of identifier, so that none is taken for another. All are plain numbers on the wire.

use std::fmt;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl $name {
            /// The identifier after this one. Counters never wrap: 2^64 is out of reach.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

id_type!(
    /// An inode of the namespace; also the mount's inode number. Below 2^48, never used twice.
    InodeId
);
id_type!(
    /// A block of a file, unique in its block pool, never used twice.
    BlockId
);
id_type!(
    /// Version of a block: raised by append and recovery, so that replicas which missed them are known as stale.
    GenerationStamp
);
id_type!(
    /// Position in the edit log. Numbers operations, not log entries.
    TxId
);
id_type!(
    /// One life of a client; a new one ends the one before it.
    Incarnation
);
id_type!(
    /// One mutating call of a client's incarnation, from 1.
    CallId
);

/// The root directory.
pub const ROOT_INODE: InodeId = InodeId(1);

/// First inode id given to a new file. HDFS keeps the ids below for itself; so do we.
pub const FIRST_INODE: InodeId = InodeId(16_385);

/// Inode ids stay below this: the 16 bits above it number the nameservice in a federation.
pub const INODE_LIMIT: u64 = 1 << 48;

/// First block id given out, HDFS's.
pub const FIRST_BLOCK: BlockId = BlockId(1_073_741_825);

/// First generation stamp given out, HDFS's.
pub const FIRST_GENERATION_STAMP: GenerationStamp = GenerationStamp(1_001);

/// A client's durable identity: a mount keeps it across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub [u8; 16]);

impl ClientId {
    /// A fresh identity.
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }

    /// The identity in `bytes`, if they are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({self})")
    }
}
