//! The mode that `-p` gives a copy.
//!
//! A set-user-id bit lends the rights of a file's owner to whoever runs it. The owner of the source gave it for himself;
//! a copy that belongs to somebody else would lend that one's rights, who was never asked. So the bits are kept only with
//! the owner and group that they were given for, as by GNU cp.

use rustix::process::{getegid, geteuid};

/// Set-user-id and set-group-id.
pub(crate) const SET_ID_BITS: u32 = 0o6000;

/// What of a source's permission bits its copy gets when this process makes it.
pub(crate) fn kept_mode(permissions: u32, source_uid: u32, source_gid: u32) -> u32 {
    let caller = (geteuid().as_raw(), getegid().as_raw());
    kept_for(caller, permissions, source_uid, source_gid)
}

/// As [`kept_mode`], of a copy that stays the caller's own, whoever he is.
pub(crate) fn kept_mode_of_own(permissions: u32, source_uid: u32, source_gid: u32) -> u32 {
    let caller = (geteuid().as_raw(), getegid().as_raw());
    kept_of_own(caller, permissions, source_uid, source_gid)
}

fn kept_for(caller: (u32, u32), permissions: u32, source_uid: u32, source_gid: u32) -> u32 {
    // The superuser's copies get the owner and group of the source.
    if caller.0 == 0 { permissions } else { kept_of_own(caller, permissions, source_uid, source_gid) }
}

fn kept_of_own(caller: (u32, u32), permissions: u32, source_uid: u32, source_gid: u32) -> u32 {
    if caller == (source_uid, source_gid) { permissions } else { permissions & !SET_ID_BITS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_for_keeps_set_id_bits_with_their_owner_only() {
        for (caller, source, permissions, expected) in [
            ((0, 0), (1, 1), 0o6755, 0o6755),
            ((1, 1), (1, 1), 0o6755, 0o6755),
            ((1, 1), (0, 0), 0o4755, 0o755),
            ((1, 1), (2, 1), 0o6755, 0o755),
            ((1, 1), (1, 2), 0o2755, 0o755),
            ((1, 0), (1, 1), 0o6755, 0o755),
            ((1, 1), (2, 2), 0o1777, 0o1777),
        ] {
            assert_eq!(kept_for(caller, permissions, source.0, source.1), expected, "{caller:?} {source:?}");
        }
    }

    #[test]
    fn kept_of_own_knows_no_superuser() {
        assert_eq!(kept_of_own((0, 0), 0o4755, 1, 1), 0o755);
        assert_eq!(kept_of_own((0, 0), 0o4755, 0, 0), 0o4755);
    }
}
