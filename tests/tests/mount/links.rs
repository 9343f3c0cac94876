//! Hard links, symbolic links, fifos, sockets and device nodes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, cases, shell};

pub(super) const CASES: [Case<Mounts>; 5] = cases![
    link_shares_content_and_attributes,
    link_of_a_directory_is_eperm_and_over_a_name_eexist,
    symlink_keeps_its_target_byte_for_byte,
    mknod_makes_fifos_sockets_and_devices,
    fifo_and_socket_carry_data,
];

fn link_shares_content_and_attributes(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("link-shares");
    fs::write(dir.join("one"), b"first").unwrap();
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
    let (one, two) = (fs::metadata(dir.join("one")).unwrap(), fs::metadata(dir.join("two")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    fs::write(dir.join("two"), b"second").unwrap();
    assert_eq!(fs::read(dir.join("one")).unwrap(), b"second");
    fs::remove_file(dir.join("one")).unwrap();
    assert_eq!(fs::read(dir.join("two")).unwrap(), b"second");
    assert_eq!(fs::metadata(dir.join("two")).unwrap().nlink(), 1);
}

fn link_of_a_directory_is_eperm_and_over_a_name_eexist(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("link-refused");
    fs::write(dir.join("file"), b"x").unwrap();
    fs::write(dir.join("taken"), b"y").unwrap();
    assert_errno(fs::hard_link(&dir, dir.join("self")), Errno::PERM);
    assert_errno(fs::hard_link(dir.join("file"), dir.join("taken")), Errno::EXIST);
    assert_errno(fs::hard_link(dir.join("missing"), dir.join("new")), Errno::NOENT);
}

fn symlink_keeps_its_target_byte_for_byte(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("symlink-target");
    let longest = "x".repeat(4095);
    for (number, target) in ["file", "/absolute/path", "../up", "with space\nand newline", &longest].iter().enumerate()
    {
        let path = dir.join(number.to_string());
        symlink(target, &path).unwrap();
        assert_eq!(fs::read_link(&path).unwrap().as_os_str(), *target);
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_symlink());
        assert_eq!(meta.len(), target.len() as u64);
    }
    assert_errno(symlink("other", dir.join("0")), Errno::EXIST);
    assert_errno(fs::read_link(&dir), Errno::INVAL);
    fs::write(dir.join("file"), b"followed").unwrap();
    assert_eq!(fs::read(mounts.other.join("symlink-target/0")).unwrap(), b"followed");
}

fn mknod_makes_fifos_sockets_and_devices(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("mknod");
    let mode = Mode::from_raw_mode(0o640);
    let device = makedev(1, 3);
    for (name, kind, rdev) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("char", FileType::CharacterDevice, device),
        ("block", FileType::BlockDevice, makedev(7, 300)),
        ("regular", FileType::RegularFile, 0),
    ] {
        mknodat(CWD, dir.join(name), kind, mode, rdev).unwrap();
        let meta = fs::symlink_metadata(mounts.other.join("mknod").join(name)).unwrap();
        assert_eq!(FileType::from_raw_mode(meta.mode()), kind, "{name}");
        assert_eq!(meta.rdev(), rdev, "{name}");
        assert_eq!(meta.mode() & 0o777, 0o640, "{name}");
    }
    assert!(fs::metadata(dir.join("char")).unwrap().file_type().is_char_device());
    assert_errno(mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).map_err(Into::into), Errno::EXIST);
}

fn fifo_and_socket_carry_data(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("fifo");
    let output = shell(&dir, "mkfifo pipe; echo through > pipe & cat pipe; wait");
    assert_eq!(output, "through\n");
    // A socket's address holds 107 bytes: reached from inside the directory.
    let path = dir.join("s");
    if path.as_os_str().len() < 100 {
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
    }
}
