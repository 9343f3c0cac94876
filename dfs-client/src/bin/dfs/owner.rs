//! Owners by name. The file system knows numbers only; the names are those of the machine the command runs on.

use std::collections::HashMap;
use std::sync::Mutex;

use nix::unistd::{Gid, Group, Uid, User};

/// Names looked up so far: asking the system's user database once per line of a listing would dominate it.
#[derive(Default)]
pub(crate) struct Owners {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Owners {
    /// The user's name, or the number when it has none here.
    pub(crate) fn user(&self, uid: u32) -> String {
        cached(&self.users, uid, |uid| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name))
    }

    /// The group's name, or the number when it has none here.
    pub(crate) fn group(&self, gid: u32) -> String {
        cached(&self.groups, gid, |gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name))
    }
}

fn cached(names: &Mutex<HashMap<u32, String>>, id: u32, look_up: impl Fn(u32) -> Option<String>) -> String {
    let mut names = names.lock().expect("no holder panics");
    names.entry(id).or_insert_with(|| look_up(id).unwrap_or_else(|| id.to_string())).clone()
}

/// What `chown` is to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    /// The new owner.
    pub(crate) uid: Option<u32>,
    /// The new group.
    pub(crate) gid: Option<u32>,
}

impl Ownership {
    /// Parses `USER`, `USER:GROUP` or `:GROUP`; each a name of this machine or a number.
    ///
    /// # Errors
    /// A sentence that names what is unknown.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let uid = if user.is_empty() { None } else { Some(uid_of(user)?) };
        let gid = group.filter(|group| !group.is_empty()).map(gid_of).transpose()?;
        if uid.is_none() && gid.is_none() {
            return Err(format!("{text:?} names neither owner nor group; write it like USER, USER:GROUP or :GROUP"));
        }
        Ok(Self { uid, gid })
    }
}

// A name wins over a number, as POSIX says of chown: a user may be called "1000".
fn uid_of(text: &str) -> Result<u32, String> {
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => text.parse().map_err(|_| format!("user {text:?} is unknown on this machine; give the number instead")),
    }
}

/// The number of a group.
///
/// # Errors
/// A sentence, when the group is unknown here.
pub(crate) fn gid_of(text: &str) -> Result<u32, String> {
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => text.parse().map_err(|_| format!("group {text:?} is unknown on this machine; give the number instead")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_takes_names_and_numbers() {
        let both = |uid, gid| Ok(Ownership { uid, gid });
        assert_eq!(Ownership::parse("root"), both(Some(0), None));
        assert_eq!(Ownership::parse("4242:root"), both(Some(4242), Some(0)));
        assert_eq!(Ownership::parse(":77"), both(None, Some(77)));
        assert_eq!(Ownership::parse("7:"), both(Some(7), None));
        for bad in ["", ":", "no such user", "-1", "1:no such group", "4294967296"] {
            assert!(Ownership::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_fall_back_to_numbers() {
        let owners = Owners::default();
        assert_eq!(owners.user(0), "root");
        assert_eq!(owners.user(4_000_000_001), "4000000001");
        assert_eq!(owners.group(4_000_000_001), "4000000001");
    }
}
