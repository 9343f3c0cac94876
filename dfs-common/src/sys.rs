//! The operating system's calls that no safe crate offers. The only module of the product that may be unsafe.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Starts writing dirty pages of a range back to the device without waiting (sync_file_range), so that a later fsync
/// finds little to do.
///
/// # Errors
/// Of the call.
#[allow(unsafe_code)]
pub fn start_writeback(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let to_off = |value: u64| i64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    let result = unsafe {
        libc::sync_file_range(file.as_raw_fd(), to_off(offset)?, to_off(length)?, libc::SYNC_FILE_RANGE_WRITE)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes a descriptor and returns what close(2) says. Dropping throws that away, and with it the last word of a file
/// system on what was written.
///
/// # Errors
/// Of the call; the descriptor is closed all the same.
#[allow(unsafe_code)]
pub fn close(descriptor: impl Into<std::os::fd::OwnedFd>) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    let raw = descriptor.into().into_raw_fd();
    // SAFETY: the descriptor was owned, and into_raw_fd gave it up: nobody else closes or uses it.
    if unsafe { libc::close(raw) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Descriptors that this process may have open at once.
pub fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Raises that to what the system allows (the hard limit): the usual soft one of 1,024 is meant for programs that use
/// select(2), and a daemon with thousands of connections and files needs more.
///
/// # Errors
/// Of the call; the limit is then as it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Time since the machine was started, by a clock that runs on while it sleeps.
#[allow(unsafe_code)]
pub fn time_since_boot() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the timespec it is given, which lives through it.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert_eq!(result, 0, "Linux has had this clock since 2.6.39");
    std::time::Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Tells systemd that the service is ready (sd_notify), when it started us with a notification socket.
///
/// # Errors
/// When the socket named by `notify_socket` cannot be written.
pub fn notify_ready(notify_socket: Option<&std::ffi::OsStr>) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = notify_socket else { return Ok(()) };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(|_| ())
}

/// Ends the process at once, as a kill does: nothing is flushed, and no thread is waited for.
#[allow(unsafe_code)]
pub fn exit_at_once(status: i32) -> ! {
    // SAFETY: the call does not return, and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// Makes the command's process die (SIGKILL) with the thread that starts it, so that nothing outlives a killed parent.
#[allow(unsafe_code)]
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only the one system call is made; it touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}
