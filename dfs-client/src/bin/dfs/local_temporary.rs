//! Copies on this machine that are not whole yet: as `temporary` has them in the cluster.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::leftovers::{LeftoverId, Leftovers, Published};
use crate::local_id::LocalId;
use crate::local_name::LocalName;
use crate::temporary::NOT_REPLACED;
use crate::temporary_name::{TRIES, temporary_name};

/// Something of ours on this machine that has no final name yet.
#[derive(Clone, Debug)]
pub(crate) struct LocalTemporary {
    /// What it is called until then.
    name: LocalName,
    /// What it is to be called.
    place: LocalName,
    id: LocalId,
    leftover: LeftoverId,
}

impl LocalTemporary {
    /// Makes something, with `make`, beside what will be at `place`. `make` must refuse a name that is taken.
    ///
    /// # Errors
    /// Those of `make`; `Interrupted` when the command has ended.
    pub(crate) fn make<T>(
        leftovers: &Leftovers,
        place: &LocalName,
        make: impl Fn(&LocalName) -> io::Result<T>,
    ) -> io::Result<(T, Self)> {
        let mut tries = 1;
        loop {
            let name = place.beside(OsStr::from_bytes(&temporary_name(place.name().as_bytes())));
            match leftovers.make_local(&name, || make(&name)) {
                Ok((made, id, leftover)) => {
                    let place = place.clone();
                    return Ok((made, Self { name, place, id, leftover }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// What it is called for now.
    pub(crate) fn name(&self) -> &LocalName {
        &self.name
    }

    /// Gives it its final name, in place of a file or link of that name if `replace` is set.
    ///
    /// # Errors
    /// When something else has the name; of rename(2).
    pub(crate) fn publish(&self, leftovers: &Leftovers, replace: bool) -> Outcome {
        let path = self.place.path();
        if self.name.id().map_err(|error| Failure::local(path, error))? != self.id {
            let words = format!("somebody else has put a file in the place of {}", self.name.path().display());
            return Err(Failure::refused(path.display(), words));
        }
        let is_gone = if replace {
            leftovers.replacing(|published| self.replace(published))?;
            true
        } else {
            check_local_place(&self.place, false)?;
            rename_to_free(leftovers, &self.name, &self.place).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => exists(&self.place),
                _ => Failure::local(path, error),
            })?
        };
        // If it has its name and the other one stays, that is tried again at the end, and told if it still does.
        if is_gone {
            leftovers.forget(self.leftover);
        }
        Ok(())
    }

    /// Takes the place of what is there, unless this command has put it there: names that differ in the cluster may be one on
    /// this machine, where a file system does not tell capitals from small letters.
    fn replace(&self, published: &mut Published) -> Outcome {
        let path = self.place.path();
        let failed = |error| Failure::local(path, error);
        let directory = self.place.directory_id().map_err(failed)?;
        if let Some(there) = check_local_place(&self.place, true)?
            && let Some((of, name)) = published.get(&there)
            && *of == directory
            && leads_to(&self.place.beside(name), there).map_err(failed)?
        {
            return Err(Failure::refused(path.display(), "another file was just copied to this name; it stays"));
        }
        self.name.rename_over(&self.place).map_err(failed)?;
        published.insert(self.id, (directory, self.place.name().to_owned()));
        Ok(())
    }

    /// Removes it, because of a failure.
    pub(crate) async fn discard(self, ctx: &Context, because: &Failure) {
        ctx.leftovers.discard(&ctx.client, &ctx.caller, self.leftover, because).await;
    }
}

/// Renames only if nothing has the new name, also where the file system cannot do that in one call. Says whether the old name
/// is gone.
fn rename_to_free(leftovers: &Leftovers, from: &LocalName, to: &LocalName) -> io::Result<bool> {
    match rustix::fs::renameat_with(from.directory(), from.name(), to.directory(), to.name(), RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        renamed => return Ok(renamed.map(|()| true)?),
    }
    match link_to_free(from, to, LocalName::remove) {
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => occupy_free(leftovers, from, to).map(|()| true),
        linked => Ok(linked?),
    }
}

/// The same in two calls. Once the first is done, the file has its new name, whatever becomes of the old one.
fn link_to_free(
    from: &LocalName,
    to: &LocalName,
    remove: impl FnOnce(&LocalName) -> io::Result<()>,
) -> Result<bool, Errno> {
    rustix::fs::linkat(from.directory(), from.name(), to.directory(), to.name(), AtFlags::empty())?;
    Ok(remove(from).is_ok())
}

/// The same where a file has one name only: an empty file takes the new name exclusively, and is replaced. If that fails, it
/// goes when the command ends, as whatever else is noted.
fn occupy_free(leftovers: &Leftovers, from: &LocalName, to: &LocalName) -> io::Result<()> {
    let (_, ours, leftover) = leftovers.make_local(to, || to.create(0))?;
    if to.id()? != ours {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    from.rename_over(to)?;
    leftovers.forget(leftover);
    Ok(())
}

/// Refuses a place in which a copy may not be put: one that is taken, unless by a file or link that may be replaced. Says what
/// is there.
///
/// # Errors
/// With what is there.
pub(crate) fn check_local_place(place: &LocalName, replace: bool) -> Outcome<Option<LocalId>> {
    let there = match place.look() {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::local(place.path(), error)),
    };
    match FileType::from_raw_mode(there.st_mode) {
        FileType::Directory => Err(Failure::refused(place.path().display(), "is a directory")),
        FileType::RegularFile | FileType::Symlink if replace => Ok(Some(LocalId::of_stat(&there))),
        FileType::RegularFile | FileType::Symlink => Err(exists(place)),
        _ => Err(Failure::refused(place.path().display(), NOT_REPLACED)),
    }
}

fn leads_to(name: &LocalName, id: LocalId) -> io::Result<bool> {
    match name.id() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        is => Ok(is? == id),
    }
}

fn exists(place: &LocalName) -> Failure {
    Failure::refused(place.path().display(), "file exists").with_hint("use -f to replace it")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn at(path: &Path) -> LocalName {
        LocalName::at(path).unwrap()
    }

    fn create(name: &LocalName) -> io::Result<fs::File> {
        name.create(0o600)
    }

    fn make(leftovers: &Leftovers, path: &Path) -> LocalTemporary {
        LocalTemporary::make(leftovers, &at(path), create).unwrap().1
    }

    #[test]
    fn make_takes_nobodys_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("a"), dir.path().join("a._COPYING_"));
        fs::write(&theirs, "theirs").unwrap();
        let leftovers = Leftovers::default();
        let (one, other) = (make(&leftovers, &path), make(&leftovers, &path));
        assert_ne!(one.name.path(), other.name.path());
        one.publish(&leftovers, false).unwrap();
        assert!(other.publish(&leftovers, false).unwrap_err().to_string().contains("file exists"));
        other.publish(&leftovers, true).unwrap();
        assert!(!leftovers.are_left());
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn make_asks_for_another_name_when_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let place = at(&dir.path().join("a"));
        let is_first = std::cell::Cell::new(true);
        let make = |name: &LocalName| {
            if is_first.replace(false) { Err(io::ErrorKind::AlreadyExists.into()) } else { create(name) }
        };
        LocalTemporary::make(&Leftovers::default(), &place, make).unwrap();
        let never = |_: &LocalName| -> io::Result<()> { Err(io::ErrorKind::AlreadyExists.into()) };
        let refused = LocalTemporary::make(&Leftovers::default(), &place, never).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn publish_does_not_give_the_name_to_a_file_that_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("a"), dir.path().join("theirs"));
        let leftovers = Leftovers::default();
        let temporary = make(&leftovers, &path);
        fs::write(&theirs, "theirs").unwrap();
        fs::rename(&theirs, temporary.name.path()).unwrap();
        assert!(temporary.publish(&leftovers, true).is_err());
        assert!(!path.exists() && temporary.name.path().exists());
    }

    #[test]
    fn publish_replaces_files_and_links_only() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link, folder) = (dir.path().join("fifo"), dir.path().join("link"), dir.path().join("folder"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
        std::os::unix::fs::symlink("/no/such/place", &link).unwrap();
        fs::create_dir(&folder).unwrap();
        let leftovers = Leftovers::default();
        for (path, replaced) in [(&fifo, false), (&link, true), (&folder, false)] {
            let published = make(&leftovers, path).publish(&leftovers, true);
            assert_eq!(published.is_ok(), replaced, "{}", path.display());
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    /// On a file system that does not tell `A` from `a`, two names lead to one place. Here, they are two of one file.
    #[test]
    fn publish_does_not_replace_what_the_command_has_published() {
        let dir = tempfile::tempdir().unwrap();
        let (path, capital) = (dir.path().join("a"), dir.path().join("A"));
        fs::write(&path, "old").unwrap();
        let leftovers = Leftovers::default();
        make(&leftovers, &path).publish(&leftovers, true).unwrap();
        fs::hard_link(&path, &capital).unwrap();
        let published = at(&path).id().unwrap();
        for place in [&path, &capital] {
            let refused = make(&leftovers, place).publish(&leftovers, true).unwrap_err();
            assert!(refused.to_string().contains("just copied"), "{refused}");
            assert_eq!(at(place).id().unwrap(), published);
        }
    }

    /// When somebody has replaced a file that the command has published, a new one elsewhere may get its number. Here, the file
    /// itself goes there.
    #[test]
    fn publish_replaces_a_file_that_has_the_number_of_one_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, folder) = (dir.path().join("a"), dir.path().join("folder"));
        fs::create_dir(&folder).unwrap();
        let leftovers = Leftovers::default();
        for (place, is_replaced) in
            [(dir.path().join("b"), true), (dir.path().join("c"), false), (folder.join("a"), true)]
        {
            let _ = fs::remove_file(&path);
            make(&leftovers, &path).publish(&leftovers, true).unwrap();
            let published = at(&path).id().unwrap();
            fs::rename(&path, &place).unwrap();
            if is_replaced {
                fs::write(&path, "theirs").unwrap();
            }
            make(&leftovers, &place).publish(&leftovers, true).unwrap();
            assert_ne!(at(&place).id().unwrap(), published, "{}", place.display());
        }
    }

    #[test]
    fn rename_to_free_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let leftovers = Leftovers::default();
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        let refused = rename_to_free(&leftovers, &at(&from), &at(&to)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        assert!(rename_to_free(&leftovers, &at(&from), &at(&to)).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }

    #[test]
    fn link_to_free_is_done_once_the_new_name_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "new").unwrap();
        let stays = |_: &LocalName| Err(io::ErrorKind::PermissionDenied.into());
        assert!(!link_to_free(&at(&from), &at(&to), stays).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"new");
        let is_taken = link_to_free(&at(&from), &at(&to), |_| unreachable!()).unwrap_err();
        assert_eq!(is_taken, Errno::EXIST);
        fs::remove_file(&to).unwrap();
        assert!(link_to_free(&at(&from), &at(&to), LocalName::remove).unwrap());
        assert!(!from.exists() && to.exists());
    }

    #[test]
    fn occupy_free_replaces_nothing_and_leaves_nothing_empty() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let leftovers = Leftovers::default();
        fs::write(&to, "old").unwrap();
        fs::write(&from, "new").unwrap();
        let refused = occupy_free(&leftovers, &at(&from), &at(&to)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(!leftovers.are_left() && fs::read(&to).unwrap() == b"old");
        fs::remove_file(&to).unwrap();
        occupy_free(&leftovers, &at(&from), &at(&to)).unwrap();
        assert!(!leftovers.are_left() && !from.exists() && fs::read(&to).unwrap() == b"new");
        fs::remove_file(&to).unwrap();
        assert!(occupy_free(&leftovers, &at(&from), &at(&to)).is_err(), "there is nothing to rename");
        assert!(leftovers.are_left(), "the empty file goes at the end");
    }
}
