//! Stopping a daemon: one signal out to all tasks, and the two signals of the operating system that start it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Held by every task that must stop; cloned freely.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Held by whoever decides to stop.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

/// A trigger and its listener.
pub fn channel() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl ShutdownTrigger {
    /// Tells every listener; again is harmless.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns once the stop was asked for, or its trigger is gone.
    pub async fn wait(&mut self) {
        // An error means the trigger is gone: nobody is left to keep us running.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Has a thread of its own obey SIGTERM and SIGINT for the rest of the process's life, whatever holds up the others: the first one
/// calls `stop`, the second one `end`, which is to end the process.
///
/// # Errors
/// When the handlers cannot be installed, or the thread cannot be started.
pub fn obey_signals(stop: impl FnOnce() + Send + 'static, end: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _in_runtime = runtime.enter();
        TerminationSignals::listen()?
    };
    let obey = move || {
        runtime.block_on(signals.next());
        stop();
        runtime.block_on(signals.next());
        end();
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(obey).map(drop)
}

/// SIGTERM and SIGINT, one after the other. From the first of these on, they no longer end the process by themselves.
#[derive(Debug)]
pub struct TerminationSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl TerminationSignals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when the next one arrives.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn signals_are_obeyed_while_every_other_thread_is_held_up() {
        const PATIENCE: Duration = Duration::from_secs(20);
        let (trigger, mut stop) = channel();
        let (told, tells) = mpsc::channel();
        obey_signals(move || trigger.trigger(), move || told.send(()).unwrap()).unwrap();
        let signal = |signal| kill_process(getpid(), signal).unwrap();
        signal(Signal::TERM);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, stop.wait()).await }).expect("the first one stops");
        assert!(tells.try_recv().is_err(), "there was only one");
        signal(Signal::INT);
        tells.recv_timeout(PATIENCE).expect("the second one ends");
    }
}
