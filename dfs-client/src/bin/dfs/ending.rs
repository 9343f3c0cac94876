//! How a command ends: by itself, or by SIGINT, SIGTERM or SIGHUP, whatever any of its threads waits for.
//!
//! ```text
//! main thread      waits for the command and for signals; never for a reader, a disk or a lock that somebody may keep
//! command          runs the command; may wait in a system call: for the reader of a pipe, for a disk
//! the runtime's    bytes on their way, calls to the cluster; wait for the network, and while a bar is shown for its terminal
//! beside it        reading, writing and naming local files (`aside`, `content`); may wait as long as disks and pipes let them
//! ```
//!
//! After a signal, and when the command panics, the main thread has the rest of the output written, the temporary files
//! removed and the directories that were made given their modes by the others. It gives them a moment for it, and ends the
//! process under all that still waits.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::context::Context;
use crate::exit_status;
use crate::leftovers::{CLEANUP_PATIENCE, Place};
use crate::output;

/// How long a signal's end waits for what is usually done at once: the rest of the output, local files, the session.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(800);
/// How long it then still waits for temporary names in the cluster to go, which nobody else would remove.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits for a complaint to be read.
const COMPLAINT_PATIENCE: Duration = Duration::from_millis(200);

/// The signals that end a command. One that was ignored when we were started stays so: by nohup, or by a shell that has put
/// us into the background.
struct EndSignals([(SignalKind, Option<Signal>); 3]);

impl EndSignals {
    /// Listens from now on. To be called within a runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    fn listen() -> io::Result<Self> {
        // Read before the first handler is there.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let listen = |kind: SignalKind| {
            let is_awaited = !is_ignored(&status, kind.as_raw_value());
            is_awaited.then(|| signal(kind)).transpose().map(|signal| (kind, signal))
        };
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(listen);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    /// Returns when one comes: the exit status that tells of it.
    async fn arrival(&mut self) -> u8 {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            status = arrival(interrupt) => status,
            status = arrival(terminate) => status,
            status = arrival(hangup) => status,
        }
    }
}

async fn arrival((kind, signal): &mut (SignalKind, Option<Signal>)) -> u8 {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return status_of(*kind);
    }
    std::future::pending().await
}

fn status_of(kind: SignalKind) -> u8 {
    // Those that we listen to have small numbers.
    exit_status::SIGNAL_BASE.saturating_add(u8::try_from(kind.as_raw_value()).unwrap_or(u8::MAX))
}

/// Whether a process ignores a signal, by its `/proc/PID/status`.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// What a command has to work with, once it has begun.
pub(crate) type Begun = Arc<OnceLock<Arc<Context>>>;

/// Runs a command on a thread of its own until it ends or a signal comes; the exit status. `make` gets where the command
/// notes what it works with as soon as it has it.
///
/// # Errors
/// When there is no thread, or no signal handler.
pub(crate) async fn supervise<Command>(
    workers: &Handle,
    make: impl FnOnce(Begun) -> Command + Send + 'static,
) -> io::Result<u8>
where
    Command: Future<Output = u8>,
{
    let mut signals = EndSignals::listen()?;
    let begun = Begun::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell_end, mut end) = oneshot::channel();
    let (runtime, noted) = (workers.clone(), Arc::clone(&begun));
    std::thread::Builder::new().name("command".to_owned()).spawn(move || {
        let ended = runtime.block_on(async {
            tokio::select! {
                status = make(noted) => Some(status),
                _ = stopped => None,
            }
        });
        // Nobody listens after a signal.
        let _ = ended.map(|status| tell_end.send(status));
    })?;
    let status = tokio::select! {
        ended = &mut end => match ended {
            // It has tidied up itself.
            Ok(status) => return Ok(status),
            // The thread has panicked, and said so.
            Err(_) => exit_status::FAILED,
        },
        status = signals.arrival() => {
            // Unless it waits in a system call, this ends the command and its transfers.
            let _ = stop.send(());
            status
        }
    };
    if let Some(ctx) = begun.get() {
        wind_up(workers, ctx).await;
    }
    Ok(status)
}

/// Has done what is to be done after a signal or a panic, as far as that works in a moment.
async fn wind_up(workers: &Handle, ctx: &Arc<Context>) {
    let (clearing, printing) = (Arc::clone(ctx), Arc::clone(ctx));
    let clear = workers.spawn_blocking(move || clearing.progress.finish());
    // What was printed before the signal came. Whether anybody reads it makes no difference any more.
    let print = workers.spawn_blocking(move || printing.output.flush().is_ok());
    let tidying = Arc::clone(ctx);
    let tidy = workers.spawn(async move { tidy(&tidying).await });
    if timeout(LAST_WORDS_PATIENCE, async { tokio::join!(clear, print, tidy) }).await.is_err() {
        // Whether they have gone shows in what is left.
        let _ = timeout(REMOVAL_PATIENCE, ctx.leftovers.gone(Place::Cluster)).await;
    }
    if let Some(complaint) = complaint(ctx) {
        // Whoever does not read it cannot be told that either.
        let _ = timeout(COMPLAINT_PATIENCE, workers.spawn_blocking(move || output::tell(&complaint))).await;
    }
}

/// Removes what is left half done, finishes the directories that are left, and ends the session.
async fn tidy(ctx: &Context) {
    let discard = |place| ctx.leftovers.discard_all(&ctx.client, &ctx.caller, place);
    tokio::join!(discard(Place::Cluster), discard(Place::Here));
    // What would meet all of them is what has ended the command, and has been told.
    let _ = ctx.finish_directories().await;
    ctx.client.clone().close().await;
}

/// Tidies up after a command that has ended by itself. It has not done everything if something is left behind.
pub(crate) async fn clean_up(ctx: &Arc<Context>) {
    // What could not be removed in time shows in what is left.
    let _ = timeout(CLEANUP_PATIENCE, tidy(ctx)).await;
    if let Some(complaint) = complaint(ctx) {
        output::tell(&complaint);
        ctx.answer_no();
    }
}

/// What is to be said of temporary files that are still there.
fn complaint(ctx: &Context) -> Option<String> {
    let command = ctx.settings.command;
    ctx.leftovers
        .are_left()
        .then(|| format!("dfs: {command}: temporary files (*._COPYING_) are left behind; remove them later"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ignored_reads_the_mask() {
        let status = "Name:\tdfs\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n";
        assert!(is_ignored(status, libc::SIGHUP) && is_ignored(status, libc::SIGPIPE));
        assert!(!is_ignored(status, libc::SIGINT) && !is_ignored("", libc::SIGHUP));
    }

    /// Runs a command as `main` does.
    fn supervised<Command>(command: impl FnOnce(Begun) -> Command + Send + 'static) -> u8
    where
        Command: Future<Output = u8>,
    {
        let watch = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        watch.block_on(supervise(workers.handle(), command)).unwrap()
    }

    /// One case, because a signal is for the whole process: it would end a command of another one.
    #[test]
    fn supervise_waits_for_the_command_and_for_no_thread_after_a_signal() {
        use rustix::process::{Signal, getpid, kill_process};
        assert_eq!(supervised(|_| async { 7 }), 7);
        assert_eq!(supervised(|_| async { panic!("a panic that belongs to the test") }), exit_status::FAILED);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let signals = [(Signal::HUP, 129), (Signal::TERM, 143), (Signal::INT, 130)];
        let listened_to = signals.into_iter().find(|(signal, _)| !is_ignored(&status, signal.as_raw()));
        let (signal, expected) = listened_to.expect("tests run with a signal that ends them");
        let (held, blocks) = std::sync::mpsc::channel::<()>();
        let given = supervised(move |_| async move {
            kill_process(getpid(), signal).unwrap();
            // Waits as in a system call: no signal wakes it.
            blocks.recv().map_or(1, |()| 0)
        });
        assert_eq!(given, expected);
        drop(held);
    }

    #[test]
    fn status_of_a_signal_is_the_shell_s() {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        assert_eq!(kinds.map(status_of), [130, 143, 129]);
    }
}
