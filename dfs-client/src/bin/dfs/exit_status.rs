//! What the process tells of how a command ended, besides 0 and 2, which clap gives for a command line that makes no sense.

/// Something failed; it has been told.
pub(crate) const FAILED: u8 = 1;
/// 128 and SIGPIPE: the reader of the output has gone.
pub(crate) const BROKEN_PIPE: u8 = 141;
/// What a shell adds to the number of the signal that ended a command.
pub(crate) const SIGNAL_BASE: u8 = 128;
