//! The namespace as records of an image and back: the two directions side by side, section by section.
//!
//! Reading trusts nothing that would make `apply` fail: an image is refused in which an id was never given out or stands twice,
//! an entry leads nowhere, names and links do not agree, or a lease has no file. What is not looked for, because it would take
//! as much again: how many subdirectories a directory's links count, directories in a ring, one block in two files.

use std::path::Path;

use dfs_common::attr::FileKind;
use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{
    BlockId, CallId, FIRST_INODE, GenerationStamp, INODE_LIMIT, Incarnation, InodeId, ROOT_INODE, TxId,
};
use dfs_common::name::Name;
use dfs_proto::v1::{
    CountersRecord, DentryRecord, FileEntry, HoldRecord, InodeRecord, LeaseRecord, LostIdsRecord, XAttrRecord,
    file_entry,
};

use super::format::{ImageHeader, ImageReader, ImageWriter, Section};
use super::record::{client_id, corrupt, decode};
use super::session_record::{session_of, session_record};
use crate::namenode::namespace::directory::{Dentry, Directory, HashKey};
use crate::namenode::namespace::inode::{BlockList, Content, FileBlock, Inode, XAttrs};
use crate::namenode::namespace::lost_ids::LostIds;
use crate::namenode::namespace::state_digest::StateDigest;
use crate::namenode::namespace::{Counters, Lease, Namespace};
use crate::start_progress::StartProgress;

/// Writes the whole namespace to a new image file, durably. The header's digest is the namespace's.
///
/// # Errors
/// Of writing.
pub fn save(namespace: &Namespace, path: &Path, header: &ImageHeader) -> Result<()> {
    let header = ImageHeader { state_digest: namespace.counters().digest.0, ..header.clone() };
    let mut image = ImageWriter::create(path, &header)?;
    image.begin_section(Section::Counters)?;
    image.record(&counters_record(namespace))?;
    image.begin_section(Section::Sessions)?;
    for (client, session) in namespace.sessions() {
        image.record(&session_record(client, session))?;
    }
    image.begin_section(Section::Inodes)?;
    for (id, inode) in namespace.all_inodes() {
        image.record(&inode_record(id, inode))?;
    }
    image.begin_section(Section::Dentries)?;
    for (id, inode) in namespace.all_inodes() {
        let Some(directory) = inode.directory() else { continue };
        for (cookie, dentry) in directory.after(0) {
            let name = dentry.name.as_bytes().to_vec().into();
            image.record(&DentryRecord { parent: id.0, cookie, name, inode: dentry.inode.0 })?;
        }
    }
    image.begin_section(Section::Leases)?;
    for (id, lease) in namespace.leases() {
        image.record(&lease_record(id, lease))?;
    }
    image.begin_section(Section::Holds)?;
    for (id, (client, incarnation), call) in namespace.holds.iter() {
        let client_id = client.0.to_vec().into();
        image.record(&HoldRecord { inode: id.0, client_id, incarnation: incarnation.0, call_id: call.0 })?;
    }
    image.finish()?;
    Ok(())
}

/// Reads an image into a namespace.
///
/// # Errors
/// `Corrupt` naming the file and what is wrong in it; `Unsupported` when it has what only a newer version understands.
pub fn load(path: &Path) -> Result<(ImageHeader, Namespace)> {
    load_telling(path, &StartProgress::default())
}

/// As [`load`], and tells how far it is.
///
/// # Errors
/// As of `load`.
pub fn load_telling(path: &Path, progress: &StartProgress) -> Result<(ImageHeader, Namespace)> {
    let mut image = ImageReader::open(path)?;
    progress.begin_counted("loading the image", "bytes", image.progress().0);
    let header = image.header().clone();
    let bad = |error: DfsError| {
        let kind = if error.kind() == ErrorKind::Unsupported { error.kind() } else { ErrorKind::Corrupt };
        DfsError::new(kind, format!("image {} cannot be used", path.display())).with_source(error)
    };
    let mut namespace = Namespace::new(HashKey(0, 0), 0);
    while let Some((section, bytes)) = image.next_record()? {
        load_record(&mut namespace, section, &bytes).map_err(bad)?;
        progress.advance_to(image.progress().1);
    }
    progress.begin("checking the image");
    namespace.counters.digest = StateDigest(header.state_digest);
    namespace.find_leftovers();
    verify(&namespace, &header).map_err(bad)?;
    Ok((header, namespace))
}

fn load_record(namespace: &mut Namespace, section: Section, bytes: &[u8]) -> Result<()> {
    match section {
        Section::Counters => load_counters(namespace, &decode(bytes)?),
        Section::Sessions => {
            let (client, session) = session_of(&decode(bytes)?)?;
            namespace.sessions.insert(client, session);
            Ok(())
        }
        Section::Inodes => load_inode(namespace, &decode(bytes)?),
        Section::Dentries => load_dentry(namespace, &decode(bytes)?),
        Section::XAttrs | Section::None => {
            Err(DfsError::new(ErrorKind::Unsupported, "it has a section of a later version"))
        }
        Section::Leases => load_lease(namespace, &decode(bytes)?),
        Section::Holds => load_hold(namespace, &decode(bytes)?),
    }
}

/// What `apply` relies on and single records cannot show.
fn verify(namespace: &Namespace, header: &ImageHeader) -> Result<()> {
    if namespace.counters.last_txid != header.txid() {
        return Err(corrupt("its counters and its header name different transactions"));
    }
    let mut names = std::collections::HashMap::new();
    for (id, inode) in namespace.all_inodes() {
        let Some(directory) = inode.directory() else { continue };
        for (_, dentry) in directory.after(0) {
            *names.entry(dentry.inode).or_insert(0_u32) += 1;
            if namespace.inode(dentry.inode)?.directory().is_some_and(|child| child.parent != id) {
                return Err(corrupt(format!("directory {} is not where its parent says", dentry.inode)));
            }
        }
    }
    for (id, inode) in namespace.all_inodes() {
        let named = names.get(&id).copied().unwrap_or(0);
        let is_right = match inode.directory() {
            // A removed directory has no names and no links; the root has no name.
            Some(_) if id == ROOT_INODE => named == 0,
            Some(_) if inode.nlink == 0 => named == 0,
            Some(_) => named == 1,
            None => inode.nlink == named,
        };
        if !is_right {
            return Err(corrupt(format!("inode {id} has {} links and {named} names", inode.nlink)));
        }
    }
    for (id, lease) in namespace.leases() {
        let blocks = namespace.inode(id)?.blocks().ok_or_else(|| corrupt(format!("{id} is leased and no file")))?;
        if lease.open_block.is_some() && blocks.last().map(|block| block.id) != lease.open_block {
            return Err(corrupt(format!("the open block of inode {id} is not its last")));
        }
    }
    Ok(())
}

fn counters_record(namespace: &Namespace) -> CountersRecord {
    let counters = namespace.counters();
    CountersRecord {
        last_txid: counters.last_txid.0,
        next_inode: counters.next_inode.0,
        next_block: counters.next_block.0,
        next_generation_stamp: counters.next_generation_stamp.0,
        hash_key_0: namespace.hash_key.0,
        hash_key_1: namespace.hash_key.1,
        lost: namespace.lost.iter().map(lost_record).collect(),
    }
}

fn lost_record(lost: &LostIds) -> LostIdsRecord {
    LostIdsRecord {
        first_block: lost.blocks.start.0,
        end_block: lost.blocks.end.0,
        first_generation_stamp: lost.generation_stamps.start.0,
        end_generation_stamp: lost.generation_stamps.end.0,
    }
}

fn lost_ids(record: &LostIdsRecord) -> LostIds {
    LostIds {
        blocks: BlockId(record.first_block)..BlockId(record.end_block),
        generation_stamps: GenerationStamp(record.first_generation_stamp)..GenerationStamp(record.end_generation_stamp),
    }
}

fn load_counters(namespace: &mut Namespace, record: &CountersRecord) -> Result<()> {
    namespace.counters = Counters {
        last_txid: TxId(record.last_txid),
        next_inode: InodeId(record.next_inode),
        next_block: BlockId(record.next_block),
        next_generation_stamp: GenerationStamp(record.next_generation_stamp),
        // Stands in the header.
        digest: StateDigest::default(),
    };
    if !(FIRST_INODE.0..=INODE_LIMIT).contains(&record.next_inode) {
        return Err(corrupt(format!("inode counter {} is out of range", record.next_inode)));
    }
    namespace.lost = record.lost.iter().map(lost_ids).collect();
    namespace.hash_key = HashKey(record.hash_key_0, record.hash_key_1);
    Ok(())
}

fn inode_record(id: InodeId, inode: &Inode) -> InodeRecord {
    let mut record = InodeRecord {
        id: id.0,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink,
        atime_ns: inode.atime_ns,
        mtime_ns: inode.mtime_ns,
        ctime_ns: inode.ctime_ns,
        ..InodeRecord::default()
    };
    match &inode.content {
        Content::Directory(directory) => record.parent = directory.parent.0,
        Content::File { blocks, block_size_sectors, replication } => {
            record.replication = u32::from(*replication);
            record.block_size = u64::from(*block_size_sectors) * 512;
            let whole = |block: &FileBlock| file_entry::Entry::WholeBlock(Block::from(*block).into());
            record.entries = blocks.as_slice().iter().map(|block| FileEntry { entry: Some(whole(block)) }).collect();
        }
        Content::Symlink(target) => record.target = target.to_vec().into(),
        Content::Special { rdev } => record.rdev = *rdev,
    }
    for (name, value) in inode.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        record.xattrs.push(XAttrRecord { name: name.to_vec().into(), value: value.to_vec().into() });
    }
    record
}

fn load_inode(namespace: &mut Namespace, record: &InodeRecord) -> Result<()> {
    let id = InodeId(record.id);
    let kind = FileKind::from_mode(record.mode).ok_or_else(|| corrupt(format!("inode {id} has no type")))?;
    let content = match kind {
        FileKind::Directory => Content::Directory(Box::new(Directory::new(InodeId(record.parent)))),
        FileKind::File => load_file(namespace, id, record)?,
        FileKind::Symlink => Content::Symlink(record.target.to_vec().into()),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Content::Special { rdev: record.rdev }
        }
    };
    let xattrs: XAttrs =
        record.xattrs.iter().map(|xattr| (xattr.name.to_vec().into(), xattr.value.to_vec().into())).collect();
    let inode = Inode {
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        atime_ns: record.atime_ns,
        mtime_ns: record.mtime_ns,
        ctime_ns: record.ctime_ns,
        content,
        xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
    };
    if id == ROOT_INODE {
        if kind != FileKind::Directory {
            return Err(corrupt("the root is not a directory"));
        }
        namespace.root = inode;
        return Ok(());
    }
    if id < FIRST_INODE || id >= namespace.counters.next_inode {
        return Err(corrupt(format!("inode {id} was never given out")));
    }
    match kind {
        FileKind::Directory => namespace.directory_count += 1,
        _ => namespace.file_count += 1,
    }
    match namespace.inodes.insert(id.0, inode) {
        None => Ok(()),
        Some(_) => Err(corrupt(format!("inode {id} stands twice"))),
    }
}

fn load_file(namespace: &mut Namespace, id: InodeId, record: &InodeRecord) -> Result<Content> {
    let out_of_range = |_| corrupt(format!("file {id} has an impossible layout"));
    let mut blocks = BlockList::default();
    for entry in &record.entries {
        let Some(file_entry::Entry::WholeBlock(block)) = &entry.entry else {
            return Err(corrupt(format!("file {id} has an entry of an unknown kind")));
        };
        let block = Block::from(block);
        if block.id >= namespace.counters.next_block {
            return Err(corrupt(format!("{block} of file {id} was never given out")));
        }
        blocks.push(FileBlock { id: block.id, generation_stamp: block.generation_stamp, length: block.length });
        namespace.block_count += 1;
    }
    Ok(Content::File {
        blocks,
        block_size_sectors: u32::try_from(record.block_size / 512).map_err(out_of_range)?,
        replication: u16::try_from(record.replication).map_err(out_of_range)?,
    })
}

fn load_dentry(namespace: &mut Namespace, record: &DentryRecord) -> Result<()> {
    let name = Name::new(&record.name)?;
    let inode = InodeId(record.inode);
    namespace.inode(inode)?;
    let directory = namespace.directory_mut(InodeId(record.parent))?;
    if directory.restore(record.cookie, Dentry { name, inode }) {
        Ok(())
    } else {
        Err(corrupt(format!("cookie {} stands twice in directory {}", record.cookie, record.parent)))
    }
}

fn lease_record(id: InodeId, lease: &Lease) -> LeaseRecord {
    LeaseRecord {
        inode: id.0,
        client_id: lease.client.0.to_vec().into(),
        incarnation: lease.incarnation.0,
        open_block: lease.open_block.map_or(0, |block| block.0),
        needs_recovery: lease.needs_recovery,
        recovery_id: lease.recovery_id.map_or(0, |id| id.0),
        is_truncating: lease.is_truncating,
        call_id: lease.call.0,
    }
}

fn load_lease(namespace: &mut Namespace, record: &LeaseRecord) -> Result<()> {
    let lease = Lease {
        client: client_id(&record.client_id)?,
        incarnation: Incarnation(record.incarnation),
        call: CallId(record.call_id),
        open_block: (record.open_block != 0).then_some(BlockId(record.open_block)),
        targets: Vec::new(),
        needs_recovery: record.needs_recovery,
        recovery_id: (record.recovery_id != 0).then_some(GenerationStamp(record.recovery_id)),
        is_truncating: record.is_truncating,
    };
    namespace.inode(InodeId(record.inode))?;
    namespace.leases.insert(InodeId(record.inode), lease);
    Ok(())
}

fn load_hold(namespace: &mut Namespace, record: &HoldRecord) -> Result<()> {
    let id = InodeId(record.inode);
    namespace.inode(id)?;
    let client = client_id(&record.client_id)?;
    let noted = Some(Incarnation(record.incarnation)).filter(|incarnation| incarnation.0 != 0);
    let present = || namespace.session(client).map(|session| session.incarnation);
    namespace.holds.insert(id, (client, noted.or_else(present).unwrap_or_default()), CallId(record.call_id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::namenode::apply::tests::{Fixture, any_op, dump, run_random};

    fn header(namespace: &Namespace) -> ImageHeader {
        ImageHeader { last_txid: namespace.counters().last_txid.0, ..ImageHeader::default() }
    }

    #[test]
    fn load_refuses_a_dentry_of_an_unknown_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut image = ImageWriter::create(&path, &ImageHeader::default()).unwrap();
        image.begin_section(Section::Dentries).unwrap();
        let name = bytes::Bytes::from_static(b"a");
        image.record(&DentryRecord { parent: 1, cookie: 5, name, inode: 99_999 }).unwrap();
        image.finish().unwrap();
        assert_eq!(load(&path).err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
    }

    /// A record of a version to come: DentryRecord with a field more.
    #[derive(Clone, PartialEq, Message)]
    struct LaterDentry {
        #[prost(uint64, tag = "1")]
        parent: u64,
        #[prost(uint64, tag = "90")]
        more: u64,
    }

    #[test]
    fn load_refuses_records_with_fields_it_does_not_know_as_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut image = ImageWriter::create(&path, &ImageHeader::default()).unwrap();
        image.begin_section(Section::Dentries).unwrap();
        image.record(&LaterDentry { parent: 1, more: 7 }).unwrap();
        image.finish().unwrap();
        // Not `Corrupt`: the image would be set aside, and an older one taken.
        assert_eq!(load(&path).err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
    }

    #[test]
    fn sessions_leases_and_holds_are_loaded_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let namespace = Fixture::with_unanswered_calls().namespace;
        save(&namespace, &path, &header(&namespace)).unwrap();
        let (_, loaded) = load(&path).unwrap();
        assert_eq!(format!("{:?}", loaded.sessions), format!("{:?}", namespace.sessions));
        let untargeted = |lease: &Lease| Lease { targets: Vec::new(), ..lease.clone() };
        let leases =
            |namespace: &Namespace| namespace.leases().map(|(id, lease)| (id, untargeted(lease))).collect::<Vec<_>>();
        assert_eq!(leases(&loaded), leases(&namespace));
        assert_eq!(loaded.holds, namespace.holds);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn image_plus_later_edits_equals_live(
            before in proptest::collection::vec(any_op(), 1..80),
            after in proptest::collection::vec(any_op(), 0..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            let mut fixture = Fixture::new();
            for op in before {
                run_random(&mut fixture, op);
            }
            save(&fixture.namespace, &path, &header(&fixture.namespace)).unwrap();
            let saved_ops = fixture.log.len();
            for op in after {
                run_random(&mut fixture, op);
            }
            let (_, mut loaded) = load(&path).unwrap();
            for op in &fixture.log[saved_ops..] {
                let _ = loaded.apply(op, &mut Vec::new());
            }
            prop_assert_eq!(dump(&loaded), dump(&fixture.namespace));
            prop_assert_eq!(loaded.counters(), fixture.namespace.counters());
            prop_assert_eq!(loaded.counts(), fixture.namespace.counts());
            prop_assert_eq!(format!("{:?}", loaded.sessions), format!("{:?}", fixture.namespace.sessions));
            // Told to those who wait, and no part of the state.
            let _ = (loaded.take_lease_changes(), fixture.namespace.take_lease_changes());
            prop_assert_eq!(format!("{:?}", loaded.leases), format!("{:?}", fixture.namespace.leases));
            prop_assert_eq!(&loaded.condemned, &fixture.namespace.condemned);
            prop_assert_eq!(&loaded.over, &fixture.namespace.over);
            prop_assert_eq!(&loaded.holds, &fixture.namespace.holds);
        }
    }
}
