//! The bytes of files on their way: streams of pieces from one side, sinks at the other.
//!
//! Local files are read and written by a blocking thread each, with a short queue in between, so that neither side waits
//! for the other piece by piece. Reads from the cluster keep several pieces in flight and deliver them in order.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dfs_client::FileReader;
use dfs_common::{DfsError, ErrorKind};
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;

use crate::failure::{Failure, Outcome};
use crate::path::DfsPath;

/// Bytes of a piece read from the cluster: large enough that a request's round trip does not show.
const REMOTE_PIECE: u64 = 4 << 20;
/// Pieces of one file asked for at once.
const REMOTE_PIECES: usize = 4;
/// Most bytes of a piece read from a local file.
const LOCAL_PIECE: usize = 1 << 20;
/// A buffer with less room than this is not read into any more: the pieces would get too small.
const LOCAL_ROOM_MIN: usize = 64 << 10;
/// Pieces that wait between a thread and a stream.
const QUEUED_PIECES: usize = 4;

/// A range of a file in the cluster, in order. Ends with a failure when the file has become shorter than the range.
pub(crate) fn of_remote(
    path: &DfsPath,
    reader: &Arc<FileReader>,
    range: Range<u64>,
) -> impl Stream<Item = Outcome<Bytes>> + Send + use<> {
    let (path, reader) = (path.clone(), Arc::clone(reader));
    let starts = (0..).map(move |index| range.start + index * REMOTE_PIECE).take_while(move |start| *start < range.end);
    let pieces = starts.map(move |start| {
        let (path, reader) = (path.clone(), Arc::clone(&reader));
        async move { read_piece(&path, &reader, start, REMOTE_PIECE.min(range.end - start)).await }
    });
    stream::iter(pieces).buffered(REMOTE_PIECES)
}

async fn read_piece(path: &DfsPath, reader: &FileReader, start: u64, length: u64) -> Outcome<Bytes> {
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    let piece = reader.read_at(start, wanted).await.map_err(|error| Failure::dfs(path, error))?;
    if piece.len() == wanted {
        return Ok(piece);
    }
    let what = format!(
        "{} bytes instead of {wanted} at offset {start}: the file became shorter while it was read",
        piece.len()
    );
    Err(Failure::dfs(path, DfsError::new(ErrorKind::Io, what)))
}

/// What `source` yields until its end, each piece as soon as it can be read: a pipe may have nothing more for hours. `path` is
/// for complaints.
pub(crate) fn of_local(
    mut source: impl Read + Send + 'static,
    path: PathBuf,
) -> impl Stream<Item = Outcome<Bytes>> + Send {
    let (sender, mut receiver) = mpsc::channel(QUEUED_PIECES);
    tokio::task::spawn_blocking(move || {
        let mut room = BytesMut::new();
        loop {
            if room.len() < LOCAL_ROOM_MIN {
                room = BytesMut::zeroed(LOCAL_PIECE);
            }
            let outcome = match source.read(&mut room) {
                Ok(0) => return,
                Ok(length) => Ok(room.split_to(length).freeze()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(Failure::local(&path, error)),
            };
            let failed = outcome.is_err();
            // A receiver that has gone wants no more.
            if sender.blocking_send(outcome).is_err() || failed {
                return;
            }
        }
    });
    stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// Writes a stream to `sink`, and says how many bytes there were. `complain` names the sink in a failure.
///
/// # Errors
/// The stream's failure, or the sink's.
pub(crate) async fn into_local<W: Write + Send + 'static>(
    content: impl Stream<Item = Outcome<Bytes>>,
    mut sink: W,
    complain: impl Fn(io::Error) -> Failure,
) -> Outcome<(W, u64)> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUED_PIECES);
    let writer = tokio::task::spawn_blocking(move || -> io::Result<(W, u64)> {
        let mut written = 0;
        while let Some(piece) = receiver.blocking_recv() {
            sink.write_all(&piece)?;
            written += piece.len() as u64;
        }
        sink.flush()?;
        Ok((sink, written))
    });
    let mut content = std::pin::pin!(content);
    let mut broken = None;
    while let Some(piece) = content.next().await {
        match piece {
            // A writer that has gone tells why below.
            Ok(piece) => {
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Err(failure) => {
                broken = Some(failure);
                break;
            }
        }
    }
    drop(sender);
    let written = writer.await.map_err(|error| complain(io::Error::other(error)))?.map_err(complain)?;
    match broken {
        Some(failure) => Err(failure),
        None => Ok(written),
    }
}

/// Standard output without the line buffering that the standard library puts before it. Closed once, by `Output::close`. The
/// file system reports lost bytes to whoever closes first; an earlier close would take that report away from the exit status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Closes a file that was written. Many file systems tell only now that bytes were lost (NFS, this one), and dropping a
/// file ignores what they say. It may take as long as sending the bytes: not on a thread of the runtime.
///
/// # Errors
/// Those of close(2).
pub(crate) async fn close(file: impl IntoRawFd + Send + 'static) -> io::Result<()> {
    let closed = tokio::task::spawn_blocking(move || close_now(file)).await;
    closed.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// As [`close`], by this thread.
///
/// # Errors
/// The same.
pub(crate) fn close_now(file: impl IntoRawFd) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn complain(error: io::Error) -> Failure {
        Failure::local(Path::new("sink"), error)
    }

    #[tokio::test]
    async fn local_bytes_pass_in_order() {
        let bytes: Vec<u8> = (0..3_500_000u32).map(|index| (index % 251) as u8).collect();
        let content = of_local(io::Cursor::new(bytes.clone()), "source".into());
        let (sink, written) = into_local(content, Vec::new(), complain).await.unwrap();
        assert_eq!(written, bytes.len() as u64);
        assert!(sink == bytes);
    }

    #[tokio::test]
    async fn local_bytes_pass_before_the_source_has_more() {
        use std::io::Write;
        let (source, mut end) = io::pipe().unwrap();
        let mut content = std::pin::pin!(of_local(source, "source".into()));
        for bytes in [&b"first"[..], b"second"] {
            end.write_all(bytes).unwrap();
            assert_eq!(content.next().await.unwrap().unwrap(), bytes);
        }
        drop(end);
        assert!(content.next().await.is_none());
    }

    #[tokio::test]
    async fn a_failing_source_fails_the_sink() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("disk gone"))
            }
        }
        let content = of_local(Failing, "source".into());
        let failure = into_local(content, Vec::new(), complain).await.unwrap_err();
        assert_eq!(failure.to_string(), "source: disk gone");
    }

    #[tokio::test]
    async fn close_says_what_the_system_says() {
        close(tempfile::tempfile().unwrap()).await.unwrap();
        // No process has so many.
        let refused = close(i32::MAX).await.unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
    }

    #[tokio::test]
    async fn a_failing_sink_ends_the_transfer() {
        #[derive(Debug)]
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let content = of_local(io::repeat(7), "source".into());
        let failure = into_local(content, Full, Failure::stdout).await.unwrap_err();
        assert!(failure.is_broken_pipe());
    }
}
