//! Asynchronous writes as databases and virtual machines make them: io_submit(2), which the C library does not wrap.
//! Layouts as in the kernel's `linux/aio_abi.h`, for little-endian machines.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; used by tests alone")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const CMD_PWRITE: u16 = 1;

#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    length: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    event_descriptor: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// A queue of asynchronous calls.
#[derive(Debug)]
pub struct AsyncIo {
    context: u64,
}

impl AsyncIo {
    /// A queue for so many calls at a time.
    ///
    /// # Errors
    /// Of io_setup(2).
    pub fn new(calls: u32) -> io::Result<Self> {
        let mut context = 0_u64;
        // SAFETY: the kernel writes one word to the place given, which lives until the call returns.
        let status = unsafe { libc::syscall(libc::SYS_io_setup, calls, &raw mut context) };
        if status == 0 { Ok(Self { context }) } else { Err(io::Error::last_os_error()) }
    }

    /// Submits one write for each piece, all at once, and waits for all of them; what each has written.
    ///
    /// # Errors
    /// Of io_submit(2) or io_getevents(2), or of one of the writes.
    pub fn write_all_at_once(&mut self, file: &File, pieces: &[&[u8]], offset: u64) -> io::Result<Vec<usize>> {
        let mut at = offset;
        let mut requests = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.iter().enumerate() {
            requests.push(Request {
                data: index as u64,
                opcode: CMD_PWRITE,
                descriptor: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
                buffer: piece.as_ptr() as u64,
                length: piece.len() as u64,
                offset: at,
                ..Request::default()
            });
            at += piece.len() as u64;
        }
        let pointers: Vec<*const Request> = requests.iter().map(std::ptr::from_ref).collect();
        let mut submitted = 0;
        while submitted < pointers.len() {
            let rest = &pointers[submitted..];
            // SAFETY: requests, buffers and descriptor outlive the calls: all that was submitted is waited for below, and a
            // failure before that ends the process's test while they are still alive.
            let count = unsafe { libc::syscall(libc::SYS_io_submit, self.context, rest.len(), rest.as_ptr()) };
            submitted += usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        }
        let mut written = vec![0; pieces.len()];
        for _ in pieces {
            let mut event = Event::default();
            let none = std::ptr::null_mut::<libc::timespec>();
            // SAFETY: room for the one event asked for; no time-out is given.
            let count =
                unsafe { libc::syscall(libc::SYS_io_getevents, self.context, 1_i64, 1_i64, &raw mut event, none) };
            if count != 1 {
                return Err(io::Error::last_os_error());
            }
            let errno = i32::try_from(-event.result).unwrap_or(libc::EIO);
            written[event.data as usize] =
                usize::try_from(event.result).map_err(|_| io::Error::from_raw_os_error(errno))?;
        }
        Ok(written)
    }
}

impl Drop for AsyncIo {
    fn drop(&mut self) {
        // SAFETY: the queue is this value's own; the kernel waits for what is left in it.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
