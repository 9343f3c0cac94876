use dfs_common::ids::{BlockId, CallId, Incarnation, ROOT_INODE};

use super::*;
use crate::namenode::namespace::Lease;
use crate::namenode::namespace::inode::FileBlock;
use crate::namenode::trees::tests::Place;

#[tokio::test]
async fn a_round_goes_on_where_the_one_before_has_stopped() {
    let place = Place::new().await;
    place.namesystem.leave_safe_mode().await.unwrap();
    let client = ClientId([5; 16]);
    let mut files = Vec::new();
    for half in 0..2 {
        let names: Vec<String> = (0..300).map(|number| format!("f{half}-{number}")).collect();
        let made = names.iter().map(|name| place.make(0, ROOT_INODE, name, 0o100_644));
        files.extend(futures::future::join_all(made).await);
    }
    {
        // Their last blocks have bytes, and nobody has them: recovery looks at each, and leaves it.
        let mut namespace = place.namesystem.namespace().write();
        for &id in &files {
            let block = FileBlock { id: BlockId(1 << 40 | id.0), generation_stamp: GenerationStamp(1), length: 7 };
            *namespace.inode_mut(id).unwrap().blocks_mut().unwrap() = vec![block].into();
            let lease = Lease::taken_by(client, Incarnation(1), CallId(1));
            namespace.leases.insert(id, Lease { open_block: Some(block.id), needs_recovery: true, ..lease });
        }
    }
    files.sort_unstable();
    let recovery = &place.namesystem.recovery;
    for (round, looked_at) in [(1, Some(255)), (2, Some(511)), (3, None)] {
        place.namesystem.recover_leases().await.unwrap();
        assert_eq!(recovery.attempts.lock().len(), (round * STARTED_PER_ROUND).min(files.len()));
        assert_eq!(recovery.pass.lock().last.map(|(_, id)| id), looked_at.map(|at: usize| files[at]), "round {round}");
    }
    assert!(recovery.attempts.lock().values().all(|attempt| attempt.earlier == 0), "each was looked at once");
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
    let datanode = v1::DatanodeId { uuid: "dn".into(), ..Default::default() };
    let registration = v1::RegisterDatanodeRequest { id: Some(datanode.clone()), ..Default::default() };
    let registration_id =
        place.namesystem.blocks().register_datanode(&registration, "10.0.0.1").unwrap().registration_id;
    let put = |generation_stamp, length, is_truncating| {
        let block = FileBlock { id: BlockId(7), generation_stamp: GenerationStamp(generation_stamp), length };
        let mut namespace = place.namesystem.namespace().write();
        *namespace.inode_mut(id).unwrap().blocks_mut().unwrap() = vec![block].into();
        let lease = Lease::taken_by(ClientId([5; 16]), Incarnation(1), CallId(1));
        namespace.leases.insert(id, Lease { open_block: Some(block.id), needs_recovery: true, is_truncating, ..lease });
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
