use dfs_common::ids::{BlockId, CallId, Incarnation, ROOT_INODE};

use super::*;
use crate::namenode::blocks::BlockEvent;
use crate::namenode::namespace::Lease;
use crate::namenode::namespace::inode::FileBlock;
use crate::namenode::trees::tests::Place;

const CLIENT: ClientId = ClientId([5; 16]);

/// The last block of a file waits for recovery.
fn let_wait(place: &Place, id: InodeId, block: FileBlock, is_truncating: bool) {
    let mut namespace = place.namesystem.namespace().write();
    *namespace.inode_mut(id).unwrap().blocks_mut().unwrap() = vec![block].into();
    let lease = Lease::taken_by(CLIENT, Incarnation(1), CallId(1));
    namespace.leases.insert(id, Lease { open_block: Some(block.id), needs_recovery: true, is_truncating, ..lease });
}

fn open_block(id: InodeId, length: u64) -> FileBlock {
    FileBlock { id: BlockId(1 << 40 | id.0), generation_stamp: GenerationStamp(1), length }
}

/// Registers a DataNode with a volume; gives it and the number of its registration.
fn register(place: &Place) -> (v1::DatanodeId, u64) {
    let datanode = v1::DatanodeId { uuid: "dn".into(), ..Default::default() };
    let volume = v1::StorageReport { storage_uuid: "volume".into(), ..Default::default() };
    let request =
        v1::RegisterDatanodeRequest { id: Some(datanode.clone()), storages: vec![volume], ..Default::default() };
    let answer = place.namesystem.blocks().register_datanode(&request, "10.0.0.1").unwrap();
    (datanode, answer.registration_id)
}

/// The block manager knows the block, on the DataNode if there is one.
fn allocate(place: &Place, inode: InodeId, block: FileBlock, datanode: Option<&str>) {
    let targets = datanode.map(|uuid| (uuid.to_owned(), "volume".to_owned())).into_iter().collect();
    let block = Block::from(block);
    place.namesystem.blocks().on_events([BlockEvent::Allocated { block, inode, replication: 1, targets }]);
}

async fn make_many(place: &Place, count: usize) -> Vec<InodeId> {
    let names: Vec<String> = (0..count).map(|number| format!("f{number}")).collect();
    let mut files = Vec::new();
    for names in names.chunks(300) {
        let made = names.iter().map(|name| place.make(0, ROOT_INODE, name, 0o100_644));
        files.extend(futures::future::join_all(made).await);
    }
    files.sort_unstable();
    files
}

#[tokio::test]
async fn a_round_goes_on_where_the_one_before_has_stopped() {
    let place = Place::new().await;
    place.namesystem.leave_safe_mode().await.unwrap();
    register(&place);
    let files = make_many(&place, 300).await;
    for &id in &files {
        allocate(&place, id, open_block(id, 7), Some("dn"));
        let_wait(&place, id, open_block(id, 7), false);
    }
    let recovery = &place.namesystem.recovery;
    for (round, looked_at) in [(1, Some(255)), (2, None)] {
        place.namesystem.recover_leases().await.unwrap();
        assert_eq!(recovery.attempts.lock().len(), (round * STARTED_PER_ROUND).min(files.len()));
        assert_eq!(recovery.pass.lock().last.map(|(_, id)| id), looked_at.map(|at: usize| files[at]), "round {round}");
    }
    assert!(recovery.attempts.lock().values().all(|attempt| attempt.earlier == 0), "each was looked at once");
}

/// There may be very many of them, and nothing can be done for any.
#[tokio::test]
async fn files_that_are_stuck_keep_no_round_from_its_end() {
    let place = Place::new().await;
    place.namesystem.leave_safe_mode().await.unwrap();
    let files = make_many(&place, 600).await;
    // Their last blocks have bytes, and nobody has them.
    files.iter().for_each(|&id| let_wait(&place, id, open_block(id, 7), false));
    place.namesystem.recover_leases().await.unwrap();
    let recovery = &place.namesystem.recovery;
    assert_eq!((recovery.attempts.lock().len(), recovery.pass.lock().last), (600, None));
}

/// The holder was not there when the file was looked at.
#[tokio::test]
async fn a_block_is_not_dropped_once_somebody_has_it() {
    let place = Place::new().await;
    place.namesystem.leave_safe_mode().await.unwrap();
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let_wait(&place, id, open_block(id, 0), false);
    let seen = Waiting::of(&place.namesystem.namespace().read(), id).unwrap();
    register(&place);
    allocate(&place, id, open_block(id, 0), Some("dn"));
    place.namesystem.drop_unwritten(&seen).await.unwrap();
    assert!(place.namesystem.namespace().read().lease(id).is_some_and(|lease| lease.recovery_id.is_some()));
}

#[tokio::test]
async fn a_commit_that_names_no_recovery_drops_nothing() {
    let place = Place::new().await;
    place.namesystem.leave_safe_mode().await.unwrap();
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let block = open_block(id, 0);
    allocate(&place, id, block, None);
    let_wait(&place, id, block, false);
    let request = v1::CommitBlockSynchronizationRequest {
        block: Some(Block::from(block).into()),
        delete_block: true,
        ..Default::default()
    };
    let error = place.namesystem.commit_block_synchronization(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(place.namesystem.namespace().read().lease(id).is_some());
}

#[tokio::test]
async fn recovery_is_woken_by_files_that_begin_to_wait_alone() {
    let place = Place::new().await;
    let [first, second] =
        [place.make(0, ROOT_INODE, "f", 0o100_644).await, place.make(0, ROOT_INODE, "g", 0o100_644).await];
    let is_woken = || futures::FutureExt::now_or_never(place.namesystem.recovery_wanted()).is_some();
    let mutate = async |op| place.namesystem.mutate(place.header(0), op).await.unwrap();
    let revoke = |inode| Op::RevokeLease(v1::RevokeLeaseOp { inode, ..v1::RevokeLeaseOp::default() });
    let open = |inode| Op::OpenForAppend(v1::OpenForAppendOp { inode, truncate: false });
    mutate(open(first.0)).await;
    mutate(revoke(first.0)).await;
    assert!(!is_woken(), "it had no open block");
    mutate(open(second.0)).await;
    mutate(Op::AddBlock(v1::AddBlockOp { inode: second.0, ..v1::AddBlockOp::default() })).await;
    assert!(!is_woken());
    mutate(revoke(second.0)).await;
    assert!(is_woken());
    mutate(revoke(second.0)).await;
    assert!(!is_woken());
}

/// The file was looked at while it was being cut; by the time its turn comes somebody else has written it and failed.
#[tokio::test]
async fn order_is_made_of_the_file_as_it_is_when_its_recovery_begins() {
    let place = Place::new().await;
    place.namesystem.leave_safe_mode().await.unwrap();
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let (datanode, registration_id) = register(&place);
    let put = |generation_stamp, length, is_truncating| {
        let block = FileBlock { id: BlockId(7), generation_stamp: GenerationStamp(generation_stamp), length };
        let_wait(&place, id, block, is_truncating);
    };
    put(3, 100, true);
    let seen = Waiting::of(&place.namesystem.namespace().read(), id).unwrap();
    put(9, 5000, false);
    let holders = Holders { live: vec![datanode], ..Holders::default() };
    place.namesystem.start_recovery(&seen, &holders, 0).await.unwrap();
    let heartbeat = v1::SendHeartbeatRequest { datanode_uuid: "dn".into(), registration_id, ..Default::default() };
    let orders = place.namesystem.blocks().heartbeat(&heartbeat).unwrap().orders;
    let order = orders.into_iter().find_map(|order| match order.order? {
        v1::order::Order::Recover(order) => Some(order),
        _ => None,
    });
    let order = order.expect("it waits still");
    assert_eq!((order.truncate_length, order.length_floor), (None, 5000));
    assert_eq!(order.block.unwrap().generation_stamp, 9);

    // Nor is a block dropped in the place of another.
    place.namesystem.drop_unwritten(&seen).await.unwrap();
    assert!(place.namesystem.namespace().read().lease(id).is_some());
}
