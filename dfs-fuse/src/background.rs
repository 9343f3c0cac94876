//! Starting in the background and still telling whether it worked.
//!
//! The process that was called starts itself again as the daemon and reads the daemon's standard output: `ready` once the
//! mount answers, or else the reason why it does not. A second process rather than a fork: no thread, lock or runtime is
//! ever copied half-way.
//!
//! ```text
//! dfs-fuse ---spawn--> dfs-fuse --background-child (own session, log file as stderr)
//!     |                     | connects, mounts, asks the mount for its root
//!     | <----- "ready" -----|
//!   exit 0                  | serves until unmounted
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The daemon's word that the mount answers.
const READY: &str = "ready\n";
/// Where root's daemons log unless told otherwise.
const DEFAULT_LOG: &str = "/var/log/dfs-fuse.log";

/// Starts the daemon and waits for its word.
///
/// # Errors
/// The daemon's, in its words.
pub(crate) fn start(words: &[std::ffi::OsString], log: Option<&Path>) -> anyhow::Result<()> {
    let program = words.first().cloned().unwrap_or_else(|| "dfs-fuse".into());
    let mut child = Command::new("/proc/self/exe")
        .arg0(program)
        .args(words.iter().skip(1))
        .arg("--background-child")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file(log)?)
        .spawn()
        .context("start the daemon")?;
    let mut said = String::new();
    if let Some(output) = child.stdout.as_mut() {
        read_word(output, &mut said).context("listen to the daemon")?;
    }
    if said == READY {
        return Ok(());
    }
    let status = child.wait().context("wait for the daemon")?;
    match said.trim() {
        "" => bail!("the daemon ended with {status} before the mount answered; its log says why"),
        reason => bail!("{reason}"),
    }
}

/// Reads until the word or the end.
fn read_word(output: &mut impl Read, said: &mut String) -> std::io::Result<()> {
    /// Longest reason that is passed on, bytes.
    const REASON_MAX: usize = 64 * 1024;
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while bytes != READY.as_bytes() && bytes.len() < REASON_MAX {
        match output.read(&mut buffer)? {
            0 => break,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    *said = String::from_utf8_lossy(&bytes).into_owned();
    Ok(())
}

fn log_file(asked_for: Option<&Path>) -> anyhow::Result<Stdio> {
    let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
    if let Some(path) = asked_for {
        return Ok(open(path).with_context(|| format!("open log file {}", path.display()))?.into());
    }
    // Nobody asked for a log: its absence is no reason not to mount.
    Ok(open(Path::new(DEFAULT_LOG)).map_or_else(|_| Stdio::null(), File::into))
}

/// Leaves the terminal and the directory that the daemon was started from.
///
/// # Errors
/// Of the system calls.
pub(crate) fn detach() -> anyhow::Result<()> {
    // Fails only for a process that leads its group, as one started by a service manager: it has no terminal to leave.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").context("change to /")
}

/// Tells the process that started us how it went. Nobody may be there any more: then nobody needs to know.
pub(crate) fn report(outcome: Result<(), &anyhow::Error>) {
    let words = match outcome {
        Ok(()) => READY.to_owned(),
        Err(error) => format!("{error:#}\n"),
    };
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(words.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one by one.
    struct Trickle(std::collections::VecDeque<u8>);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            Ok(self.0.pop_front().map_or(0, |byte| {
                buffer[0] = byte;
                1
            }))
        }
    }

    fn heard(words: &str) -> String {
        let mut said = String::new();
        read_word(&mut Trickle(words.bytes().collect()), &mut said).unwrap();
        said
    }

    #[test]
    fn read_word_stops_at_the_word() {
        assert_eq!(heard("ready\nand more that is never waited for"), READY);
    }

    #[test]
    fn read_word_takes_a_reason_whole() {
        assert_eq!(heard("mount /x: no such\ndirectory\n"), "mount /x: no such\ndirectory\n");
        assert_eq!(heard(""), "");
    }
}
