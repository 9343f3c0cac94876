//! Formatting, locking, images and their retirement.

use dfs_common::storage_info::NAMENODE_LAYOUT;

use super::*;
use crate::namenode::image::format::{ImageWriter, Section};

fn formatted() -> (tempfile::TempDir, StorageInfo) {
    let dir = tempfile::tempdir().unwrap();
    let info = NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap();
    (dir, info)
}

fn add_image(dir: &NameDir, txid: u64) -> PathBuf {
    let path = dir.image_path(TxId(txid));
    let header = ImageHeader { last_txid: txid, ..dir.image_header() };
    let mut writer = ImageWriter::create(&path, &header).unwrap();
    writer.begin_section(Section::Counters).unwrap();
    writer.finish().unwrap();
    path
}

#[test]
fn format_writes_ids_that_open_reads() {
    let (dir, info) = formatted();
    assert!(info.cluster_id.starts_with("CID-") && info.block_pool_id.starts_with("BP-"));
    assert_eq!(NameDir::open(dir.path()).unwrap().info(), &info);
}

#[test]
fn format_keeps_the_given_cluster_id() {
    let dir = tempfile::tempdir().unwrap();
    let format = |id: &str| NameDir::format(dir.path(), Some(id.to_owned()), |_, _| Ok(()));
    assert_eq!(format("a\nb=c").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(format("CID-mine").unwrap().cluster_id, "CID-mine");
}

#[test]
fn format_refuses_a_formatted_directory() {
    let (dir, info) = formatted();
    let error = NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.message().contains("holds a namespace already"));
    assert_eq!(NameDir::open(dir.path()).unwrap().info(), &info);
}

#[test]
fn format_that_was_interrupted_is_done_again_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let fill = |current: &Path, _: &StorageInfo| {
        fs::write(current.join("fsimage_0000000000000000000"), "half of it").unwrap();
        Err(DfsError::new(ErrorKind::NoSpace, "full"))
    };
    assert_eq!(NameDir::format(dir.path(), None, fill).unwrap_err().kind(), ErrorKind::NoSpace);
    let error = NameDir::open(dir.path()).unwrap_err();
    assert!(error.message().contains("run `dfs-server format` first"), "{}", error.message());
    let info = NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap();
    let opened = NameDir::open(dir.path()).unwrap();
    assert_eq!((opened.info(), opened.images().unwrap()), (&info, vec![]), "nothing of the first one is left");
}

#[test]
fn directory_without_version_is_neither_formatted_nor_opened() {
    let (dir, _) = formatted();
    fs::remove_file(dir.path().join(CURRENT).join(VERSION)).unwrap();
    let formatted = NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap_err();
    let opened = NameDir::open(dir.path()).unwrap_err();
    assert_eq!((formatted.kind(), opened.kind()), (ErrorKind::AlreadyExists, ErrorKind::NotFound));
    for error in [formatted, opened] {
        assert!(error.message().contains("has no VERSION: its format was interrupted"), "{}", error.message());
    }
}

#[test]
fn format_refuses_foreign_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    assert!(NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap_err().message().contains("thesis.tex"));
    fs::remove_file(dir.path().join("thesis.tex")).unwrap();
    NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap();
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let (dir, _) = formatted();
    let first = NameDir::open(dir.path()).unwrap();
    let error = NameDir::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains(&std::process::id().to_string()), "{}", error.message());
    drop(first);
    NameDir::open(dir.path()).unwrap();
}

#[test]
fn open_refuses_what_is_not_a_namenode_directory() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(NameDir::open(dir.path()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(NameDir::open(&dir.path().join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
    let (dir, info) = formatted();
    let version = dir.path().join(CURRENT).join(VERSION);
    for (storage_type, words) in
        [(StorageType::DataNode, "DataNode"), (StorageType::SecondaryNameNode, "import-checkpoint")]
    {
        StorageInfo { storage_type, layout_version: storage_type.layout(), ..info.clone() }.store(&version).unwrap();
        let error = NameDir::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongCluster);
        assert!(error.message().contains(words), "{}", error.message());
    }
}

#[test]
fn open_removes_unfinished_files() {
    let (dir, _) = formatted();
    let leftover = dir.path().join("current/fsimage_0000000000000000007.tmp");
    fs::write(&leftover, "x").unwrap();
    let opened = NameDir::open(dir.path()).unwrap();
    assert!(!leftover.exists());
    assert_eq!(opened.images().unwrap(), vec![]);
}

#[test]
fn images_are_listed_newest_first_and_the_oldest_retired() {
    let (dir, _) = formatted();
    let dir = NameDir::open(dir.path()).unwrap();
    for txid in [0, 9, 100, 5] {
        add_image(&dir, txid);
    }
    let listed = |dir: &NameDir| dir.images().unwrap().iter().map(|image| image.txid.0).collect::<Vec<_>>();
    assert_eq!(listed(&dir), [100, 9, 5, 0]);
    dir.retire_images(3).unwrap();
    assert_eq!(listed(&dir), [100, 9, 5]);
    dir.retire_images(0).unwrap();
    assert_eq!(listed(&dir), [100]);
}

#[test]
fn retiring_that_ends_in_between_leaves_the_newer_images() {
    let (dir, _) = formatted();
    let dir = NameDir::open(dir.path()).unwrap();
    // It cannot be removed as a file is.
    fs::create_dir(dir.image_path(TxId(5))).unwrap();
    for txid in [9, 100] {
        add_image(&dir, txid);
    }
    dir.retire_images(1).unwrap_err();
    assert_eq!(dir.images().unwrap().len(), 3, "the oldest goes first");
}

#[test]
fn load_newest_passes_over_damaged_images() {
    let (dir, _) = formatted();
    let dir = NameDir::open(dir.path()).unwrap();
    assert!(dir.load_newest(|_| Ok(())).unwrap().is_none());
    add_image(&dir, 1);
    let newest = add_image(&dir, 2);
    fs::write(newest, "DFSIMAGE").unwrap();
    let (loaded, useless) = dir.load_newest(|path| Ok(path.to_owned())).unwrap().unwrap();
    assert_eq!(loaded, dir.image_path(TxId(1)));
    assert_eq!(dir.images().unwrap().len(), 2, "the edits are not known to be good yet");
    set_aside(&useless).unwrap();
    assert_eq!(dir.images().unwrap().len(), 1);
    fs::write(dir.image_path(TxId(1)), "").unwrap();
    assert_eq!(dir.load_newest(|_| Ok(())).err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn an_image_of_another_cluster_is_refused() {
    let (dir, _) = formatted();
    let dir = NameDir::open(dir.path()).unwrap();
    let header = ImageHeader { cluster_id: "CID-other".into(), last_txid: 3, ..dir.image_header() };
    ImageWriter::create(&dir.image_path(TxId(3)), &header).unwrap().finish().unwrap();
    assert_eq!(dir.load_newest(|_| Ok(())).err().unwrap().kind(), ErrorKind::WrongCluster);
}

#[test]
fn an_older_layout_is_raised_when_told_and_a_newer_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let info = NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap();
    let version = dir.path().join(CURRENT).join(VERSION);
    StorageInfo { layout_version: 1, ..info.clone() }.store(&version).unwrap();
    let layout = || StorageInfo::load(&version).unwrap().unwrap().layout_version;
    let opened = NameDir::open(dir.path()).unwrap();
    assert_eq!((opened.info(), layout()), (&info, 1));
    raise_layout(&opened.current()).unwrap();
    drop(opened);
    assert_eq!(layout(), NAMENODE_LAYOUT);
    StorageInfo { layout_version: NAMENODE_LAYOUT + 1, ..info }.store(&version).unwrap();
    let error = NameDir::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongCluster);
    assert!(error.message().contains("a newer one"), "{}", error.message());
}
