//! Who is behind a request. The kernel tells user and group; supplementary groups are in /proc.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::OnceLock;

use dfs_client::Caller;

/// Who made a request, to be looked at if that is worth it.
#[derive(Debug)]
pub(crate) struct Asker {
    uid: u32,
    gid: u32,
    pid: u32,
    groups: OnceLock<Vec<u32>>,
}

impl Asker {
    /// The kernel's answer to who it is. `pid` is 0 when it cannot be seen from here.
    pub(crate) fn new(uid: u32, gid: u32, pid: u32) -> Self {
        Self { uid, gid, pid, groups: OnceLock::new() }
    }

    /// Reads the groups, for [`caller`](Self::caller). To be called before anything is waited for: once the request is answered,
    /// the process may be gone, or its number another one's.
    pub(crate) fn look(&self) {
        self.groups.get_or_init(|| groups_of(self.uid, self.pid));
    }

    /// With the groups, if they were read.
    pub(crate) fn caller(&self) -> Caller {
        let groups = self.groups.get().cloned().unwrap_or_default();
        Caller { uid: self.uid, gid: self.gid, groups: groups.into(), is_authorised: false }
    }

    /// With the groups; while the request is not answered.
    pub(crate) fn seen(self) -> Caller {
        self.look();
        self.caller()
    }
}

/// Lines of `/proc/PID/status` that are looked at: `Groups:` is the twelfth or so.
const LINES_MAX: usize = 32;

/// The supplementary groups of the process `pid`, which waits in a call and so cannot change them. Root's do not matter. A process
/// that cannot be seen from here (another pid namespace) has none: it loses rights, it never gains any.
///
/// Nothing is cached: a process may change its groups between two calls, and reading them takes about 10 us.
fn groups_of(uid: u32, pid: u32) -> Vec<u32> {
    if uid == 0 || pid == 0 {
        return Vec::new();
    }
    groups_in(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default()
}

/// Whether /proc tells of the processes that requests name: those of this process' pid namespace. In a container it may be that of
/// the host, or of another container, where the same numbers are other processes.
pub(crate) fn sees_processes() -> bool {
    let own = std::process::id().to_string();
    std::fs::read_link("/proc/self").is_ok_and(|number| number == Path::new(&own))
}

fn groups_in(status: &Path) -> Option<Vec<u32>> {
    let lines = BufReader::new(File::open(status).ok()?).split(b'\n').take(LINES_MAX);
    for line in lines {
        if let Some(list) = line.ok()?.strip_prefix(b"Groups:") {
            return Some(parse_groups(&String::from_utf8_lossy(list)));
        }
    }
    None
}

fn parse_groups(list: &str) -> Vec<u32> {
    list.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_groups_takes_numbers_between_blanks() {
        assert_eq!(parse_groups("\t4 24 27 1000 "), [4, 24, 27, 1000]);
        assert!(parse_groups("\t ").is_empty());
    }

    #[test]
    fn seen_reads_the_groups_of_who_asks() {
        let mut expected: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        let mut found = Asker::new(12_345, 1, std::process::id()).seen().groups.to_vec();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn nobody_whom_we_cannot_see_has_groups() {
        for pid in [0, u32::MAX] {
            assert!(Asker::new(12_345, 1, pid).seen().groups.is_empty());
        }
    }

    #[test]
    fn caller_has_the_groups_that_were_read_in_time() {
        let asker = Asker::new(12_345, 1, std::process::id());
        assert!(asker.caller().groups.is_empty());
        asker.look();
        assert_eq!(asker.caller(), Asker::new(12_345, 1, std::process::id()).seen());
    }

    #[test]
    fn sees_processes_where_proc_is_its_own() {
        assert!(sees_processes());
    }
}
