//! The fsimage: the durable state as one file. `format` is the container, `records` is what is in it.

pub mod format;
mod record;
pub mod records;
mod session_record;
