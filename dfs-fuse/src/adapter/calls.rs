//! The kernel's calls, one function each: decode, hand over, encode.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use dfs_client::Caller;
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answers::GENERATION;
use super::convert::{handle, inode, time_set, to_attr, to_handle};
use super::dispatch::{Asked, Class};
use super::{Adapter, answers, negotiation};
use crate::caller::Asker;
use crate::errno::FsResult;
use crate::flags;
use crate::fs::{AttrChange, Entry, FileSystem, NewInode, Opened, Read};
use crate::writer::Write;

impl Adapter {
    /// The thread that waits for the answer, if /proc tells of it.
    fn thread(&self, request: &Request) -> u32 {
        if self.sees_processes { request.pid() } else { 0 }
    }

    fn asked(&self, request: &Request, class: Class, operation: &'static str) -> Asked {
        Asked { class, operation, thread: self.thread(request) }
    }

    fn asker(&self, request: &Request) -> Asker {
        Asker::new(request.uid(), request.gid(), self.thread(request))
    }

    fn caller(&self, request: &Request) -> Caller {
        self.asker(request).seen()
    }

    fn entry<W, F>(&self, request: &Request, operation: &'static str, reply: ReplyEntry, work: W)
    where
        W: FnOnce(Arc<FileSystem>) -> F,
        F: Future<Output = FsResult<Entry>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.fs));
        self.dispatcher.run(self.asked(request, Class::Metadata, operation), reply, work, |reply, entry: Entry| {
            reply.entry_with_ttls(&entry.attr_ttl, &entry.entry_ttl, &to_attr(&entry.attr), GENERATION);
        });
    }

    fn empty<W, F>(&self, request: &Request, class: Class, operation: &'static str, reply: ReplyEmpty, work: W)
    where
        W: FnOnce(Arc<FileSystem>) -> F,
        F: Future<Output = FsResult<()>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.fs));
        self.dispatcher.run(self.asked(request, class, operation), reply, work, |reply, ()| reply.ok());
    }

    /// Answers a value or a list of names: a size of 0 asks for the size, one too small is ERANGE.
    fn sized<W, F>(&self, request: &Request, operation: &'static str, size: u32, reply: ReplyXattr, work: W)
    where
        W: FnOnce(Arc<FileSystem>) -> F,
        F: Future<Output = FsResult<Vec<u8>>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.fs));
        self.dispatcher.run(
            self.asked(request, Class::Metadata, operation),
            reply,
            work,
            move |reply, value: Vec<u8>| {
                if size == 0 {
                    reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX));
                } else if value.len() > size as usize {
                    reply.error(Errno::ERANGE);
                } else {
                    reply.data(&value);
                }
            },
        );
    }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.writes);
    flags.set(FopenFlags::FOPEN_NOFLUSH, !opened.writes);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_pages);
    flags
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiation::negotiate(config, self.negotiation)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, parent, name) = (self.caller(request), inode(parent), bytes(name));
        self.entry(request, "lookup", reply, |fs| async move { fs.lookup(&caller, parent, &name).await });
    }

    fn getattr(&self, request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, caller, number) = (Arc::clone(&self.fs), self.caller(request), inode(number));
        let work = async move { fs.getattr(&caller, number).await };
        self.dispatcher.run(self.asked(request, Class::Metadata, "getattr"), reply, work, |reply, entry: Entry| {
            reply.attr(&entry.attr_ttl, &to_attr(&entry.attr));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, caller, number, file) = (Arc::clone(&self.fs), self.caller(request), inode(number), file.map(handle));
        let (atime, mtime) = (atime.map(time_set), mtime.map(time_set));
        let change = AttrChange { mode, uid, gid, length: size, atime, mtime };
        let work = async move { fs.setattr(&caller, number, file, change).await };
        // A change of length or time may have to complete a file first: as patient as data.
        self.dispatcher.run(self.asked(request, Class::Write, "setattr"), reply, work, |reply, entry: Entry| {
            reply.attr(&entry.attr_ttl, &to_attr(&entry.attr));
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        let (fs, caller, number) = (Arc::clone(&self.fs), self.caller(request), inode(number));
        let work = async move { fs.readlink(&caller, number).await };
        self.dispatcher.run(self.asked(request, Class::Metadata, "readlink"), reply, work, |reply, target: Vec<u8>| {
            reply.data(&target)
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, parent, name) = (self.caller(request), inode(parent), bytes(name));
        self.entry(request, "mknod", reply, |fs| async move {
            fs.mknod(&caller, NewInode { parent, name: &name, mode, umask }, rdev).await
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (caller, parent, name) = (self.caller(request), inode(parent), bytes(name));
        self.entry(request, "mkdir", reply, |fs| async move {
            fs.mkdir(&caller, NewInode { parent, name: &name, mode, umask }).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent, name) = (self.caller(request), inode(parent), bytes(name));
        self.empty(
            request,
            Class::Metadata,
            "unlink",
            reply,
            |fs| async move { fs.unlink(&caller, parent, &name).await },
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent, name) = (self.caller(request), inode(parent), bytes(name));
        self.empty(
            request,
            Class::Metadata,
            "rmdir",
            reply,
            |fs| async move { fs.rmdir(&caller, parent, &name).await },
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, parent, name, target) =
            (self.caller(request), inode(parent), bytes(name), bytes(target.as_os_str()));
        self.entry(request, "symlink", reply, |fs| async move { fs.symlink(&caller, parent, &name, &target).await });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let caller = self.caller(request);
        let (from, to) = ((inode(parent), bytes(name)), (inode(new_parent), bytes(new_name)));
        self.empty(request, Class::Metadata, "rename", reply, |fs| async move {
            let flag = flags::rename_flag(flags)?;
            fs.rename(&caller, (from.0, &from.1), (to.0, &to.1), flag).await
        });
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, number, parent, name) = (self.caller(request), inode(number), inode(parent), bytes(name));
        self.entry(request, "link", reply, |fs| async move { fs.link(&caller, number, parent, &name).await });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller, number) = (Arc::clone(&self.fs), self.caller(request), inode(number));
        let work = async move { fs.open(&caller, number, flags).await };
        self.dispatcher.run(self.asked(request, Class::Metadata, "open"), reply, work, |reply, opened: Opened| {
            let flags = open_flags(&opened);
            reply.opened(to_handle(opened.hand_over()), flags);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, caller, parent, name) = (Arc::clone(&self.fs), self.caller(request), inode(parent), bytes(name));
        let work =
            async move { fs.create(&caller, NewInode { parent, name: &name, mode, umask }, OpenFlags(flags)).await };
        self.dispatcher.run(self.asked(request, Class::Metadata, "create"), reply, work, |reply, created| {
            // fuser has one time-to-live here; the shorter one is right for both.
            let ttl = created.entry.attr_ttl.min(created.entry.entry_ttl);
            let flags = open_flags(&created.opened);
            let handle = to_handle(created.opened.hand_over());
            reply.created(&ttl, &to_attr(&created.entry.attr), GENERATION, handle, flags);
        });
    }

    fn read(
        &self,
        request: &Request,
        _number: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (fs, driver) = (Arc::clone(&self.fs), Arc::clone(&self.driver));
        let work = async move { fs.read(handle(file), offset, size).await };
        self.dispatcher.run(self.asked(request, Class::Read, "read"), reply, work, move |reply, read: Read| {
            reply.data(&read.bytes);
            if read.fetches_ahead {
                driver.on_fetch_ahead();
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _number: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fs, data) = (Arc::clone(&self.fs), data.to_vec());
        let by = self.asker(request);
        let work = async move {
            let write = Write {
                offset,
                data: &data,
                appends: flags::appends(flags),
                syncs: flags::syncs(flags),
                keeps_set_id: !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
                by,
            };
            fs.write(handle(file), write).await
        };
        self.dispatcher
            .run(self.asked(request, Class::Write, "write"), reply, work, |reply, written| reply.written(written));
    }

    fn flush(&self, request: &Request, _number: INodeNo, file: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.empty(request, Class::Write, "flush", reply, |fs| async move { fs.flush(handle(file)).await });
    }

    fn fsync(&self, request: &Request, _number: INodeNo, file: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.empty(request, Class::Write, "fsync", reply, |fs| async move { fs.fsync(handle(file)).await });
    }

    fn release(
        &self,
        request: &Request,
        _number: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(request, Class::Release, "release", reply, |fs| async move {
            fs.release(handle(file)).await;
            Ok(())
        });
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(self.caller(request), inode(number)) {
            Ok(id) => reply.opened(to_handle(id), FopenFlags::empty()),
            Err(failure) => reply.error(failure.errno()),
        }
    }

    fn readdir(&self, request: &Request, _number: INodeNo, dir: FileHandle, offset: u64, reply: ReplyDirectory) {
        let fs = Arc::clone(&self.fs);
        let work = async move { fs.readdir(handle(dir), offset, false).await };
        self.dispatcher.run(self.asked(request, Class::Metadata, "readdir"), reply, work, |reply, listed| {
            answers::listing(reply, &listed)
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        _number: INodeNo,
        dir: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let fs = Arc::clone(&self.fs);
        let work = async move {
            let listed = fs.readdir(handle(dir), offset, true).await?;
            Ok((fs, listed))
        };
        self.dispatcher.run(self.asked(request, Class::Metadata, "readdirplus"), reply, work, |reply, (fs, listed)| {
            answers::listing_with_attrs(reply, &listed, &fs);
        });
    }

    fn releasedir(&self, _request: &Request, _number: INodeNo, dir: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(handle(dir));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _number: INodeNo, _dir: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Every change of a directory was on disk before it was answered.
        reply.ok();
    }

    fn statfs(&self, request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let fs = Arc::clone(&self.fs);
        let work = async move { Ok(fs.statfs().await) };
        self.dispatcher.run(self.asked(request, Class::Metadata, "statfs"), reply, work, |reply, stats| {
            answers::totals(reply, &stats)
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, number, name, value) = (self.caller(request), inode(number), bytes(name), value.to_vec());
        self.empty(request, Class::Metadata, "setxattr", reply, |fs| async move {
            fs.setxattr(&caller, number, &name, &value, flags).await
        });
    }

    fn getxattr(&self, request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (caller, number, name) = (self.caller(request), inode(number), bytes(name));
        self.sized(request, "getxattr", size, reply, |fs| async move { fs.getxattr(&caller, number, &name).await });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let (caller, number) = (self.caller(request), inode(number));
        self.sized(request, "listxattr", size, reply, |fs| async move { fs.listxattr(&caller, number).await });
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, number, name) = (self.caller(request), inode(number), bytes(name));
        self.empty(request, Class::Metadata, "removexattr", reply, |fs| async move {
            fs.removexattr(&caller, number, &name).await
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _file: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        _file: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        // The kernel makes EOPNOTSUPP of it, and asks this mount no more. It would also change attributes before each call.
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _number: INodeNo,
        _file: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // The kernel then takes every file as all data, which it is.
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _in_number: INodeNo,
        _in_file: FileHandle,
        _in_offset: u64,
        _out_number: INodeNo,
        _out_file: FileHandle,
        _out_offset: u64,
        _length: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reading and writing.
        reply.error(Errno::ENOSYS);
    }
}
