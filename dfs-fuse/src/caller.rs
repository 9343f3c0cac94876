//! Who is behind a request. The kernel tells user and group; supplementary groups are in /proc.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use dfs_client::Caller;

/// Who made a request, to be looked at if that is worth it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

impl Asker {
    /// See [`caller_of`]; while the request is not answered.
    pub(crate) fn caller(self) -> Caller {
        caller_of(self.uid, self.gid, self.pid)
    }
}

/// Lines of `/proc/PID/status` that are looked at: `Groups:` is the twelfth or so.
const LINES_MAX: usize = 32;

/// The identity of the process `pid`, which waits in a call and so cannot change it. Root's groups do not matter. A process
/// that cannot be seen from here (another pid namespace) has none: it loses rights, it never gains any.
///
/// Nothing is cached: a process may change its groups between two calls, and reading them takes about 10 us.
pub(crate) fn caller_of(uid: u32, gid: u32, pid: u32) -> Caller {
    let groups = if uid == 0 || pid == 0 {
        Vec::new()
    } else {
        groups_in(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default()
    };
    Caller { uid, gid, groups: groups.into(), is_authorised: false }
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
    fn caller_of_this_process_has_its_groups() {
        let mut expected: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        let mut found = caller_of(12_345, 1, std::process::id()).groups.to_vec();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn caller_of_nobody_we_can_see_has_no_groups() {
        assert!(caller_of(12_345, 1, u32::MAX).groups.is_empty());
        assert!(caller_of(12_345, 1, 0).groups.is_empty());
    }
}
