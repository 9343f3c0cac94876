//! Extended attributes.

use std::fs;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::{Case, Mounts, assert_fails, cases, shell};

pub(super) const CASES: [Case<Mounts>; 4] = cases![
    xattr_set_get_list_remove,
    xattr_flags_create_and_replace,
    xattr_sizes_and_their_limits,
    xattr_of_symlinks_and_by_tools,
];

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    let length = getxattr(path, name, &mut buffer[..])?;
    buffer.truncate(length);
    Ok(buffer)
}

fn list(path: &Path) -> Vec<String> {
    let mut buffer = vec![0; 10_000];
    let length = listxattr(path, &mut buffer[..]).unwrap();
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<String> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    names
}

fn xattr_set_get_list_remove(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("xattr");
    let file = dir.join("file");
    fs::write(&file, b"x").unwrap();
    for path in [&file, &dir] {
        setxattr(path, "user.one", b"1", XattrFlags::empty()).unwrap();
        setxattr(path, "user.empty", b"", XattrFlags::empty()).unwrap();
        setxattr(path, "trusted.two", &[0, 255, 10], XattrFlags::empty()).unwrap();
        assert_eq!(list(path), ["trusted.two", "user.empty", "user.one"]);
        assert_eq!(get(path, "trusted.two").unwrap(), [0, 255, 10]);
        assert_eq!(get(path, "user.empty").unwrap(), b"");
        removexattr(path, "user.one").unwrap();
        assert_fails(get(path, "user.one"), Errno::NODATA);
        assert_fails(removexattr(path, "user.one"), Errno::NODATA);
    }
    assert_eq!(list(&mounts.other.join("xattr/file")), ["trusted.two", "user.empty"]);
}

fn xattr_flags_create_and_replace(mounts: &Mounts) {
    let file = mounts.mount.new_dir("xattr-flags").join("file");
    fs::write(&file, b"x").unwrap();
    assert_fails(setxattr(&file, "user.a", b"1", XattrFlags::REPLACE), Errno::NODATA);
    setxattr(&file, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_fails(setxattr(&file, "user.a", b"2", XattrFlags::CREATE), Errno::EXIST);
    assert_eq!(get(&file, "user.a").unwrap(), b"1");
    setxattr(&file, "user.a", b"2", XattrFlags::REPLACE).unwrap();
    assert_eq!(get(&file, "user.a").unwrap(), b"2");
}

fn xattr_sizes_and_their_limits(mounts: &Mounts) {
    let file = mounts.mount.new_dir("xattr-sizes").join("file");
    fs::write(&file, b"x").unwrap();
    setxattr(&file, "user.big", &[7; 4000], XattrFlags::empty()).unwrap();
    assert_eq!(get(&file, "user.big").unwrap(), [7; 4000]);
    assert_fails(getxattr(&file, "user.big", &mut [0; 3999][..]), Errno::RANGE);
    assert_fails(setxattr(&file, "user.huge", &vec![0; 65_537], XattrFlags::empty()), Errno::TOOBIG);
    let long = format!("user.{}", "n".repeat(251));
    assert_fails(setxattr(&file, long.as_str(), b"", XattrFlags::empty()), Errno::RANGE);
    let longest = format!("user.{}", "n".repeat(250));
    setxattr(&file, longest.as_str(), b"v", XattrFlags::empty()).unwrap();
    assert_eq!(get(&file, &longest).unwrap(), b"v");
}

fn xattr_of_symlinks_and_by_tools(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("xattr-tools");
    fs::write(dir.join("file"), b"x").unwrap();
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    lsetxattr(dir.join("link"), "trusted.of-link", b"l", XattrFlags::empty()).unwrap();
    let mut value = [0; 8];
    assert_eq!(lgetxattr(dir.join("link"), "trusted.of-link", &mut value[..]).unwrap(), 1);
    assert_eq!(list(&dir.join("file")), Vec::<String>::new());
    let output = shell(&dir, "setfattr -n user.tool -v value file && getfattr --only-values -n user.tool file");
    assert_eq!(output, "value");
}
