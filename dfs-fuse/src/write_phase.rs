//! When a file being written is completed, recorded and reopened (pure; design D8).
//!
//! ```text
//!            write                first flush, times set, last release
//!   Clean ----------> Dirty ------------------------------------------> Closed
//!     ^                 |                                                 |
//!     |  record         | flush, once reopened                            | write: append
//!     +-----------------+            Dirty (reopened) <-------------------+
//! ```
//!
//! A lease that is gone, usually with its session, makes the file Closed, too, when the next operation finds no byte at risk.
//!
//! - A flush before any write changes nothing: shells and `dd` duplicate and close descriptors before they write.
//! - The first flush after writes completes the file: that is `close` for nearly every program, and its errors reach it.
//! - If writes follow, the descriptor was a duplicate (`make > log`: each child's exit flushes). From then on a flush only
//!   records the length, so that no child costs a new pipeline, and the last release completes.

/// What a file's one writer on this mount is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The lease is held, the NameNode knows every byte.
    Clean,
    /// The lease is held, bytes were written that the NameNode does not know.
    Dirty,
    /// Completed, and the lease is back; or the lease is gone, and every byte is safe.
    Closed,
}

/// Content, and whether a write came after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WritePhase {
    pub(crate) content: Content,
    pub(crate) was_reopened: bool,
}

/// What a flush has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushAction {
    Nothing,
    /// Send everything, complete the file, give the lease back.
    Complete,
    /// Send everything, record the length, keep the lease.
    Record,
}

impl WritePhase {
    /// Just opened, lease taken.
    pub(crate) fn opened() -> Self {
        Self { content: Content::Clean, was_reopened: false }
    }

    /// Whether a write needs the lease again first.
    pub(crate) fn is_closed(self) -> bool {
        self.content == Content::Closed
    }

    /// What a flush does now.
    pub(crate) fn on_flush(self) -> FlushAction {
        match (self.content, self.was_reopened) {
            (Content::Clean | Content::Closed, _) => FlushAction::Nothing,
            (Content::Dirty, false) => FlushAction::Complete,
            (Content::Dirty, true) => FlushAction::Record,
        }
    }

    /// Whether the last release, or a setting of times, which must not be undone by a later completion, has to complete
    /// the file.
    pub(crate) fn must_complete(self) -> bool {
        !self.is_closed()
    }

    pub(crate) fn written(&mut self) {
        self.content = Content::Dirty;
    }

    pub(crate) fn recorded(&mut self) {
        self.content = Content::Clean;
    }

    pub(crate) fn completed(&mut self) {
        self.content = Content::Closed;
    }

    /// The lease was taken again.
    pub(crate) fn reopened(&mut self) {
        *self = Self { content: Content::Clean, was_reopened: true };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of a program, or of the kernel on its behalf.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Write,
        Flush,
        Release,
    }

    /// The calls to the NameNode that the steps cause.
    fn calls(steps: &[Step]) -> Vec<&'static str> {
        let mut phase = WritePhase::opened();
        let mut calls = Vec::new();
        for step in steps {
            match step {
                Step::Write => {
                    if phase.is_closed() {
                        calls.push("append");
                        phase.reopened();
                    }
                    phase.written();
                }
                Step::Flush => match phase.on_flush() {
                    FlushAction::Nothing => {}
                    FlushAction::Complete => {
                        calls.push("complete");
                        phase.completed();
                    }
                    FlushAction::Record => {
                        calls.push("record");
                        phase.recorded();
                    }
                },
                Step::Release => {
                    if phase.must_complete() {
                        calls.push("complete");
                        phase.completed();
                    }
                }
            }
        }
        calls
    }

    #[test]
    fn a_small_file_is_completed_once_and_by_close() {
        use Step::{Flush, Release, Write};
        assert_eq!(calls(&[Write, Flush]), ["complete"]);
        assert_eq!(calls(&[Write, Write, Flush, Release]), ["complete"]);
    }

    #[test]
    fn a_flush_before_any_write_changes_nothing() {
        use Step::{Flush, Release, Write};
        assert_eq!(calls(&[Flush, Flush]), [""; 0]);
        assert_eq!(calls(&[Flush, Write, Flush, Release]), ["complete"]);
    }

    #[test]
    fn a_file_never_written_is_completed_by_release() {
        use Step::{Flush, Release};
        assert_eq!(calls(&[Flush, Release]), ["complete"]);
    }

    #[test]
    fn writers_behind_one_redirection_reopen_once() {
        use Step::{Flush, Release, Write};
        let make = [Write, Flush, Write, Flush, Write, Write, Flush, Flush, Release];
        assert_eq!(calls(&make), ["complete", "append", "record", "record", "complete"]);
    }
}
