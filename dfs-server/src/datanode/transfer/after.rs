//! What an operation leaves of its connection: every operation says it, and the thread that serves the connection obeys.

/// What becomes of the connection after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It serves the next request.
    Serve,
    /// Its peer must read our last words; then it is closed.
    Linger,
    /// It is of no more use.
    Close,
}
