//! Directories of a SecondaryNameNode imported, whole and damaged, and what the NameNode makes of them.

use dfs_common::ids::{BlockId, GenerationStamp, InodeId, TxId};
use dfs_common::storage_info::NAMENODE_LAYOUT;

use std::fs;

use super::*;
use crate::namenode::apply::tests::Fixture;
use crate::namenode::daemon;
use crate::namenode::namespace::Counters;
use crate::power_cut::{Recorder, Scenario};

struct Place {
    dir: tempfile::TempDir,
    config: Config,
}

impl Place {
    /// A SecondaryNameNode's directory without images, and settings that name it and an absent NameNode's.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.set(&format!("dfs.namenode.name.dir={}", dir.path().join("name").display())).unwrap();
        config.set(&format!("dfs.namenode.checkpoint.dir={}", dir.path().join("secondary").display())).unwrap();
        let place = Self { dir, config };
        fs::create_dir_all(place.source().join(EDITS)).unwrap();
        info().store(&place.source().join(VERSION)).unwrap();
        place
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("secondary/current")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("name/current")
    }

    /// Saves what the fixture has as an image that ends with log entry `index`, or that was never logged; gives its path.
    fn save(&self, fixture: &Fixture, index: Option<u64>) -> PathBuf {
        let info = info();
        let header = ImageHeader {
            cluster_id: info.cluster_id,
            namespace_id: info.namespace_id,
            block_pool_id: info.block_pool_id,
            last_txid: fixture.namespace.counters().last_txid.0,
            last_log: index.map(|index| LogPosition { term: 3, node: 1, index }),
            ..ImageHeader::default()
        };
        let path = image_path(&self.source(), header.txid());
        records::save(&fixture.namespace, &path, &header).unwrap();
        path
    }

    fn import(&self) -> Result<String> {
        import_checkpoint(&self.config, None)
    }

    fn imported(&self) -> (ImageHeader, Namespace) {
        let images = list_images(&self.target()).unwrap();
        assert_eq!(images.len(), 1);
        records::load(&images[0].path).unwrap()
    }
}

fn info() -> StorageInfo {
    StorageInfo {
        storage_type: StorageType::SecondaryNameNode,
        cluster_id: "CID-lost".into(),
        namespace_id: 7,
        block_pool_id: "BP-7".into(),
        layout_version: NAMENODE_LAYOUT,
        storage_uuid: None,
        datanode_uuid: None,
    }
}

#[test]
fn import_checkpoint_keeps_the_cluster_and_leaps_over_lost_ids() {
    let place = Place::new();
    let fixture = Fixture::new();
    place.save(&fixture, Some(40));
    place.import().unwrap();
    let version = StorageInfo::load(&place.target().join(VERSION)).unwrap().unwrap();
    assert_eq!(version, StorageInfo { storage_type: StorageType::NameNode, ..info() });
    let (header, namespace) = place.imported();
    let (old, new) = (fixture.namespace.counters(), namespace.counters());
    let Counters { last_txid, next_inode, next_block, next_generation_stamp, .. } = new;
    let leap = 1 << 32;
    assert!(last_txid.0 >= old.last_txid.0 + leap && last_txid < TxId(1 << 53));
    assert!(next_block >= BlockId(old.next_block.0 + leap));
    assert!(next_generation_stamp >= GenerationStamp(old.next_generation_stamp.0 + leap));
    assert!(next_inode > InodeId(old.next_inode.0 + (1 << 20)));
    let lost = &namespace.lost_ids()[0];
    assert_eq!(lost.blocks, old.next_block..next_block);
    assert_eq!(lost.generation_stamps, old.next_generation_stamp..next_generation_stamp);
    assert!(header.last_log.unwrap().term > 1 << 20);
    assert!(namespace.sessions().all(|(_, session)| session.ended));
}

#[test]
fn import_checkpoint_takes_the_newest_whole_image_and_ends_what_was_begun() {
    let place = Place::new();
    let mut fixture = Fixture::new();
    place.save(&fixture, Some(40));
    fixture.create("a");
    let newest = place.save(&fixture, Some(50));
    fs::write(&newest, "DFSIMAGE").unwrap();
    // A process died in the middle of an earlier import.
    fs::create_dir_all(place.dir.path().join("name").join(IMPORTING).join(EDITS)).unwrap();
    place.import().unwrap();
    assert_eq!(place.imported().1.counts().0, 0, "the file was in the damaged image only");
    assert!(newest.exists(), "the source is only read");
    assert!(!place.dir.path().join("name").join(IMPORTING).exists());
}

#[test]
fn import_checkpoint_takes_an_image_that_was_only_fetched_when_it_is_newer() {
    let place = Place::new();
    let mut fixture = Fixture::new();
    place.save(&fixture, Some(40));
    fixture.create("a");
    let newest = place.save(&fixture, Some(50));
    let fetched = place.source().join(FETCHED);
    fs::create_dir(&fetched).unwrap();
    fs::rename(&newest, fetched.join(newest.file_name().unwrap())).unwrap();
    place.import().unwrap();
    assert_eq!(place.imported().1.counts().0, 1);
}

#[test]
fn import_checkpoint_refuses_what_would_lose_or_mix_something() {
    let place = Place::new();
    assert_eq!(place.import().unwrap_err().kind(), ErrorKind::NotFound, "no checkpoint was made");
    let fixture = Fixture::new();
    let image = place.save(&fixture, Some(40));
    let other = StorageInfo { cluster_id: "CID-other".into(), ..info() };
    other.store(&place.source().join(VERSION)).unwrap();
    assert_eq!(place.import().unwrap_err().kind(), ErrorKind::WrongCluster);
    StorageInfo { storage_type: StorageType::NameNode, ..info() }.store(&place.source().join(VERSION)).unwrap();
    assert_eq!(place.import().unwrap_err().kind(), ErrorKind::NotFound, "not a SecondaryNameNode's");
    info().store(&place.source().join(VERSION)).unwrap();
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(place.import().unwrap_err().kind(), ErrorKind::Corrupt);
    // Reading a directory is an error, as reading a bad sector is.
    let older = place.source().join("fsimage_0000000000000000000");
    fs::write(&older, &whole).unwrap();
    fs::remove_file(&image).unwrap();
    fs::create_dir(&image).unwrap();
    let error = place.import().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "an older one would be taken for the newest");
    assert!(error.chain().contains("make the image readable"), "{}", error.chain());
    let fetched = place.source().join(FETCHED);
    fs::create_dir(&fetched).unwrap();
    let copy = fetched.join(image.file_name().unwrap());
    fs::write(&copy, &whole).unwrap();
    let current = load_newest(&place.source(), &info()).unwrap().0;
    assert_eq!(current.path, copy, "it is the same image");
    fs::remove_dir_all(&fetched).unwrap();
    fs::remove_dir(&image).unwrap();
    fs::remove_file(&older).unwrap();
    fs::write(&image, &whole).unwrap();
    let running = lock(&place.dir.path().join("secondary")).unwrap();
    assert_eq!(place.import().unwrap_err().kind(), ErrorKind::Busy);
    drop(running);
    assert!(!place.target().exists(), "nothing was made so far");
    place.import().unwrap();
    let error = place.import().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.message().contains("holds a namespace already"), "{}", error.message());
}

#[tokio::test]
async fn a_namenode_goes_on_from_an_import_once_it_is_told() {
    let place = Place::new();
    let mut fixture = Fixture::new();
    fixture.create("a");
    place.save(&fixture, None);
    place.import().unwrap();
    let at_import = place.imported().1.counters().last_txid;
    for _ in 0..2 {
        let namesystem = daemon::start(&place.config).await.unwrap();
        assert!(namesystem.blocks().is_read_only());
        assert!(namesystem.blocks().safe_mode_status().1.contains("restored"));
        namesystem.journal().shutdown().await.unwrap();
    }
    let namesystem = daemon::start(&place.config).await.unwrap();
    namesystem.leave_safe_mode().await.unwrap();
    let open = dfs_proto::v1::OpenSessionRequest { client_id: vec![9; 16].into(), ..Default::default() };
    namesystem.open_session(open).await.unwrap();
    assert_eq!(namesystem.txid(), at_import.next());
    assert_eq!(namesystem.journal().checkpoint().await.unwrap(), at_import.next());
    namesystem.journal().shutdown().await.unwrap();
    drop(namesystem);
    let namesystem = daemon::start(&place.config).await.unwrap();
    assert!(!namesystem.blocks().is_read_only());
    assert_eq!(namesystem.txid(), at_import.next());
    assert_eq!(namesystem.namespace().read().counts().0, 1);
    namesystem.journal().shutdown().await.unwrap();
}

/// A lost NameNode's directory is made anew.
pub(crate) fn power_cut_scenario() -> Scenario {
    let place = Place::new();
    place.save(&Fixture::new(), Some(40));
    let recorder = Recorder::new(place.dir.path());
    place.import().unwrap();
    let done = recorder.moment();
    Scenario::new("import", recorder, move |moment, left| {
        let current = left.join("name/current");
        if !current.exists() && moment < done {
            return Ok(());
        }
        let words = |error: DfsError| error.chain();
        let dir = crate::namenode::storage_dir::NameDir::open(&left.join("name")).map_err(words)?;
        let loaded = dir.load_newest(records::load).map_err(words)?;
        let last = loaded.and_then(|((header, _), _)| header.last_log).ok_or("there is no image")?;
        let log = journal::begun_after(&dir.edits()).map_err(words)?;
        if log != Some(last) {
            return Err(format!("the log goes on after {log:?}, the image ends with {last:?}"));
        }
        if dir.is_restored() { Ok(()) } else { Err("nobody is asked whether it may go on".into()) }
    })
}
