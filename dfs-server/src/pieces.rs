//! Files on their way between the NameNode and the SecondaryNameNode, in either direction: cut into pieces, and waited for no
//! longer than a sender that lives needs. What comes in is judged and written by who receives it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use dfs_common::disk;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::status::from_status;
use dfs_proto::v1::FilePiece;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Bytes in a piece; well below the message limit.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead of the network.
pub(crate) const PIECES_AHEAD: usize = 4;
/// Who sends no piece for this long, or takes none, has given up, or is to.
pub(crate) const PIECE_PATIENCE: Duration = Duration::from_secs(60);
/// Slower than this on the whole, bytes a second, nobody may send while others wait for it.
const RATE_MIN: u64 = 1 << 20;

/// The pieces of one file as they come in.
pub(crate) struct Incoming<S> {
    pieces: S,
    /// Deadline for the next piece. Each byte received extends it; the announced length does not. None: no deadline on the
    /// whole.
    due: Option<Instant>,
}

impl<S: Stream<Item = Result<FilePiece, Status>> + Unpin> Incoming<S> {
    /// The pieces that `pieces` gives from now on, for which nobody but the receiver waits.
    pub(crate) fn new(pieces: S) -> Self {
        Self { pieces, due: None }
    }

    /// The same while others wait until all have come.
    pub(crate) fn waited_for(pieces: S) -> Self {
        Self { pieces, due: Some(Instant::now() + PIECE_PATIENCE) }
    }

    /// The next piece; none when the sender has ended.
    ///
    /// # Errors
    /// `TimedOut` when it does not come in time, or those before it came too slowly; else the sender's.
    pub(crate) async fn next(&mut self) -> Result<Option<FilePiece>> {
        let late = || {
            let words = format!(
                "no piece of the file came for {PIECE_PATIENCE:?}, or less than {RATE_MIN} bytes a second on the whole"
            );
            DfsError::new(ErrorKind::TimedOut, words)
        };
        let now = Instant::now();
        // A piece that is there already would be taken by a timeout of any length.
        if self.due.is_some_and(|due| now >= due) {
            return Err(late());
        }
        let deadline = self.due.map_or(now + PIECE_PATIENCE, |due| due.min(now + PIECE_PATIENCE));
        let piece = tokio::time::timeout_at(deadline.into(), self.pieces.next()).await.map_err(|_| late())?;
        let piece = piece.transpose().map_err(|status| from_status(&status))?;
        if let (Some(due), Some(piece)) = (&mut self.due, &piece) {
            *due += time_for(piece.data.len() as u64);
        }
        Ok(piece)
    }
}

/// The pieces of one file as they go out, while others wait until all have gone.
pub(crate) struct Outgoing {
    pieces: mpsc::Sender<Result<FilePiece, Status>>,
    /// By when the next one must have been taken. What has gone moves it on.
    due: Instant,
}

impl Outgoing {
    /// Goes on from now.
    pub(crate) fn new(pieces: mpsc::Sender<Result<FilePiece, Status>>) -> Self {
        Self { pieces, due: Instant::now() + PIECE_PATIENCE }
    }

    /// Sends a piece, or the error that ends it; false when the peer has gone away or takes them too slowly: nobody is left to
    /// tell. Blocks, so not for a runtime's own thread.
    pub(crate) fn send(&mut self, runtime: &Handle, piece: Result<FilePiece, Status>) -> bool {
        let patience = self.due.saturating_duration_since(Instant::now()).min(PIECE_PATIENCE);
        self.due += piece.as_ref().map_or(Duration::ZERO, |piece| time_for(piece.data.len() as u64));
        !patience.is_zero() && runtime.block_on(self.pieces.send_timeout(piece, patience)).is_ok()
    }
}

/// How long so many bytes may take.
fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / RATE_MIN) + Duration::from_secs(bytes % RATE_MIN) / RATE_MIN as u32
}

/// Reads the first `length` bytes of a file and gives them to `send` in pieces, until that says false: nobody takes them any more.
///
/// # Errors
/// Of reading; `Io` when the file is shorter.
pub(crate) fn cut(path: &Path, name: &str, length: u64, mut send: impl FnMut(FilePiece) -> bool) -> Result<()> {
    let context = |error| DfsError::io(format!("read {}", path.display()), error);
    disk::reads(path);
    let mut file = File::open(path).map_err(context)?.take(length);
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(PIECE_BYTES);
        let read = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data).map_err(context)? as u64;
        let last = offset + read >= length;
        if read == 0 && !last {
            return Err(DfsError::new(ErrorKind::Io, format!("{} is shorter than it was", path.display())));
        }
        let piece = FilePiece { name: name.to_owned(), offset, data: data.into(), last, length };
        if !send(piece) || last {
            return Ok(());
        }
        offset += read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: usize) -> FilePiece {
        FilePiece { data: vec![1; bytes].into(), ..FilePiece::default() }
    }

    #[tokio::test]
    async fn what_has_come_gives_time_for_more_and_what_is_said_to_come_does_not() {
        let long = FilePiece { length: u64::MAX, ..piece(3 << 19) };
        let mut incoming = Incoming::waited_for(tokio_stream::iter([Ok(long), Ok(piece(0))]));
        let begun = incoming.due.unwrap();
        assert!(incoming.next().await.unwrap().is_some());
        assert_eq!(incoming.due.unwrap() - begun, Duration::from_millis(1_500));
        assert!(incoming.next().await.unwrap().is_some());
        assert_eq!(incoming.due.unwrap() - begun, Duration::from_millis(1_500), "an empty piece");
        assert!(incoming.next().await.unwrap().is_none());
    }

    #[test]
    fn a_peer_that_takes_pieces_too_slowly_gets_no_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (pieces, mut receiver) = mpsc::channel(2);
        let mut outgoing = Outgoing::new(pieces);
        let begun = outgoing.due;
        assert!(outgoing.send(runtime.handle(), Ok(piece(3 << 19))));
        assert_eq!(outgoing.due - begun, Duration::from_millis(1_500));
        // As if it had taken nothing but this for as long as that may take.
        outgoing.due = Instant::now();
        assert!(!outgoing.send(runtime.handle(), Ok(piece(1))));
        assert!(receiver.try_recv().is_ok() && receiver.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_piece_that_is_there_already_is_not_taken_when_it_is_too_late() {
        let mut incoming = Incoming::new(tokio_stream::iter([Ok(piece(1))]));
        incoming.due = Some(Instant::now());
        assert_eq!(incoming.next().await.unwrap_err().kind(), ErrorKind::TimedOut);
        // And one that does not come is not waited for any longer.
        let mut incoming = Incoming::new(tokio_stream::pending());
        incoming.due = Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(incoming.next().await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_file_is_cut_into_pieces_that_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let cut_to = |length| {
            let mut pieces = Vec::new();
            let result = cut(&path, "name", length, |piece| {
                pieces.push((piece.offset, piece.data.len(), piece.last));
                true
            });
            result.map(|()| pieces).map_err(|error| error.kind())
        };
        std::fs::write(&path, vec![7; PIECE_BYTES + 5]).unwrap();
        let whole = PIECE_BYTES as u64;
        assert_eq!(cut_to(whole + 5), Ok(vec![(0, PIECE_BYTES, false), (whole, 5, true)]));
        assert_eq!(cut_to(3), Ok(vec![(0, 3, true)]), "what is behind it does not count");
        assert_eq!(cut_to(0), Ok(vec![(0, 0, true)]));
        assert_eq!(cut_to(whole + 6), Err(ErrorKind::Io));
        let mut sent = 0;
        cut(&path, "name", whole + 5, |_| {
            sent += 1;
            false
        })
        .unwrap();
        assert_eq!(sent, 1, "nobody takes more");
    }
}
