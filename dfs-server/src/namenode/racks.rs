//! Who stands on which rack: by the operator's table, else by his script, else as the DataNode says itself.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

/// How long the script may take for an address.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(10);

/// Answers of the script that are kept: as many as there may be DataNodes.
const RACKS_CACHED_MAX: usize = 100_000;

/// Racks by names and addresses of DataNodes.
pub(super) type RackTable = BTreeMap<String, String>;

/// What is known of racks.
#[derive(Debug, Default)]
struct Known {
    /// None: there is no table.
    table: Option<RackTable>,
    /// Answers of the script.
    answers: BTreeMap<String, String>,
}

/// The racks of DataNodes.
#[derive(Debug)]
pub(super) struct Racks {
    script: Option<PathBuf>,
    /// Never held while the script runs.
    known: Mutex<Known>,
}

impl Racks {
    /// Without a table, until one is set.
    pub(super) fn new(script: Option<PathBuf>) -> Self {
        Self { script, known: Mutex::default() }
    }

    /// Goes by this table from now on. The script is asked anew.
    pub(super) fn set_table(&self, table: Option<RackTable>) {
        *self.known.lock() = Known { table, answers: BTreeMap::new() };
    }

    /// The rack of a DataNode with this host name, port and address, by table or script; none if there is neither, and the
    /// DataNode may say it. This may run the script, so it is not for a runtime's worker.
    pub(super) fn rack_of(&self, host: &str, data_port: u32, address: &str) -> Option<String> {
        let names =
            [format!("{host}:{data_port}"), format!("{address}:{data_port}"), host.to_owned(), address.to_owned()];
        {
            let known = self.known.lock();
            if let Some(table) = &known.table {
                let found = names.iter().find_map(|name| table.get(name));
                // Who is not in the table stands on the default rack, as in HDFS.
                return Some(found.cloned().unwrap_or_default());
            }
            if let Some(rack) = known.answers.get(address) {
                return Some(rack.clone());
            }
        }
        let script = self.script.as_deref()?;
        let rack = match ask(script, address, SCRIPT_PATIENCE) {
            Ok(rack) => rack,
            Err(why) => {
                tracing::error!(script = %script.display(), address, why, "no rack; the default one is taken");
                return Some(String::new());
            }
        };
        let mut known = self.known.lock();
        if known.answers.len() < RACKS_CACHED_MAX {
            known.answers.insert(address.to_owned(), rack.clone());
        }
        Some(rack)
    }
}

/// A rack's name as HDFS writes it: absolute, no empty component.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_rack(rack: &str) -> Result<(), String> {
    let is_path = rack.len() > 1 && rack.starts_with('/') && !rack.ends_with('/') && !rack.contains("//");
    if is_path { Ok(()) } else { Err(format!("{rack:?} is not a rack; racks look like /rack1 or /dc1/rack1")) }
}

/// Runs the script for one address. One that takes too long is killed with all that it has started, because a DataNode waits
/// to register.
fn ask(script: &Path, address: &str, patience: Duration) -> Result<String, String> {
    let child = Command::new(script)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run it: {error}"))?;
    let group = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    let waiter = thread::Builder::new().name("rack-script".into()).spawn(move || {
        // Nobody listens when it took too long.
        let _ = sender.send(child.wait_with_output());
    });
    let output = waiter.map(|_| ended.recv_timeout(patience));
    let Ok(Ok(output)) = output else {
        // This fails only if they are gone already.
        let _ = kill_process_group(group, Signal::KILL);
        return Err(format!("it did not end within {patience:?}"));
    };
    let output = output.map_err(|error| format!("cannot read what it prints: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let rack = text.split_whitespace().next().ok_or("it printed nothing")?;
    check_rack(rack)?;
    Ok(rack.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_script_that_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("racks.sh");
        // The reader of its output waits for whoever can still write to it.
        std::fs::write(&path, "#!/bin/sh\nsleep 100000 &\necho /r1\nwait\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = ask(&path, "10.0.0.1", Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
    }
}
