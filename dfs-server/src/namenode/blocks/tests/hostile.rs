//! DataNodes and clients that send anything: nothing panics, the invariants hold, good replicas stay.

use dfs_proto::v1;
use proptest::prelude::*;

use super::super::{TargetRequest, origin_of};
use super::{Cluster, block};

/// Numbers that matter (known ids and stamps, borders) and any other.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..12, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("dn0".to_owned()),
        Just("dn1".to_owned()),
        Just("s0".to_owned()),
        Just("s1".to_owned()),
        Just(String::new()),
        ".{0,5}"
    ]
}

fn wire_block() -> impl Strategy<Value = v1::Block> {
    (number(), number(), number()).prop_map(|(id, generation_stamp, length)| v1::Block { id, generation_stamp, length })
}

/// Either a registration of the cluster (by node) or any number.
fn registration() -> impl Strategy<Value = (usize, Option<u64>)> {
    (0usize..2, prop::option::weighted(0.2, any::<u64>()))
}

#[derive(Clone, Debug)]
enum Message {
    Events { who: (usize, Option<u64>), number: u64, events: Vec<(i32, Option<v1::Block>, String)> },
    Page { who: (usize, Option<u64>), page: v1::BlockReportPage },
    Heartbeat { who: (usize, Option<u64>), storages: Vec<v1::StorageReport>, transfers: u32, failed: Vec<v1::Block> },
    Register(v1::RegisterDatanodeRequest),
    Bad(v1::Block, String, String),
    Abort(usize, u64),
    Targets { replication: u32, writer: String, names: Vec<String>, block_size: u64 },
    Second,
}

fn storage() -> impl Strategy<Value = v1::StorageReport> {
    (name(), number(), number(), number(), any::<bool>()).prop_map(
        |(storage_uuid, capacity, used, remaining, failed)| v1::StorageReport {
            storage_uuid,
            path: String::new(),
            capacity,
            used,
            remaining,
            failed,
        },
    )
}

fn page() -> impl Strategy<Value = v1::BlockReportPage> {
    let rows = prop::collection::vec((number(), number(), number()), 0..6);
    let open = prop::collection::vec((prop::option::of(wire_block()), -1i32..7), 0..3);
    let corrupt = prop::collection::vec(number(), 0..3);
    (number(), name(), rows, open, corrupt, any::<[bool; 3]>()).prop_map(
        |(report_number, storage_uuid, mut rows, open, corrupt_ids, [is_sorted, last_of_storage, last])| {
            if is_sorted {
                rows.sort_unstable();
                rows.dedup_by_key(|row| row.0);
            }
            v1::BlockReportPage {
                report_number,
                storage_uuid,
                ids: rows.iter().map(|row| row.0).collect(),
                generation_stamps: rows.iter().map(|row| row.1).collect(),
                lengths: rows.iter().map(|row| row.2).collect(),
                under_construction: open
                    .into_iter()
                    .map(|(block, state)| v1::ReplicaUnderConstruction { block, state })
                    .collect(),
                last_of_storage,
                last,
                corrupt_ids,
                ..v1::BlockReportPage::default()
            }
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let events = prop::collection::vec((-1i32..5, prop::option::of(wire_block()), name()), 0..5);
    let failed = prop::collection::vec(wire_block(), 0..3);
    prop_oneof![
        4 => (registration(), number(), events)
            .prop_map(|(who, number, events)| Message::Events { who, number, events }),
        4 => (registration(), page()).prop_map(|(who, page)| Message::Page { who, page }),
        2 => (registration(), prop::collection::vec(storage(), 0..3), any::<u32>(), failed)
            .prop_map(|(who, storages, transfers, failed)| Message::Heartbeat { who, storages, transfers, failed }),
        1 => (name(), name(), name(), prop::collection::vec(storage(), 0..3)).prop_map(
            |(uuid, host, rack, storages)| {
                let id = v1::DatanodeId { uuid, host, rack, ..v1::DatanodeId::default() };
                Message::Register(v1::RegisterDatanodeRequest { id: Some(id), namespace: None, storages })
            }
        ),
        1 => (wire_block(), name(), name()).prop_map(|(block, node, storage)| Message::Bad(block, node, storage)),
        1 => (0usize..2, number()).prop_map(|(at, number)| Message::Abort(at, number)),
        1 => (any::<u32>(), name(), prop::collection::vec(name(), 0..3), number()).prop_map(
            |(replication, writer, names, block_size)| Message::Targets { replication, writer, names, block_size }
        ),
        1 => Just(Message::Second),
    ]
}

fn send(cluster: &mut Cluster, message: Message) {
    let of = |cluster: &Cluster, (at, other): (usize, Option<u64>)| {
        let node = &cluster.nodes[at];
        (node.uuid.clone(), other.unwrap_or(node.registration))
    };
    match message {
        Message::Events { who, number, events } => {
            let (datanode_uuid, registration_id) = of(cluster, who);
            let event = |(kind, block, storage_uuid)| v1::ReplicaEvent { kind, block, storage_uuid };
            let _ = cluster.blocks.incremental_report(&v1::BlockReceivedAndDeletedRequest {
                datanode_uuid,
                registration_id,
                report_number: number,
                events: events.into_iter().map(event).collect(),
                block_pool_id: String::new(),
            });
        }
        Message::Page { who, mut page } => {
            (page.datanode_uuid, page.registration_id) = of(cluster, who);
            let _ = cluster.blocks.block_report_page(&page);
        }
        Message::Heartbeat { who, storages, transfers, failed } => {
            let (datanode_uuid, registration_id) = of(cluster, who);
            let _ = cluster.blocks.heartbeat(&v1::SendHeartbeatRequest {
                datanode_uuid,
                registration_id,
                storages,
                active_transfers: transfers,
                failed_copies: failed,
            });
        }
        Message::Register(request) => drop(cluster.blocks.register_datanode(&request, "10.0.0.9")),
        Message::Bad(block, node, storage) => {
            drop(cluster.blocks.suspect_replica((&block).into(), &node, &storage));
            let _ = cluster.blocks.report_bad_replicas(&v1::ReportBadReplicasRequest {
                registration_id: cluster.nodes[0].registration,
                datanode_uuid: node,
                good_blocks: vec![block; usize::from(block.length % 2 == 0)],
                blocks: vec![block; usize::from(block.length % 2 == 1)],
                storage_uuids: vec![storage],
            });
        }
        Message::Abort(at, number) => {
            let page = v1::BlockReportPage { report_number: number, ..cluster.page(at) };
            cluster.blocks.abort_report(origin_of(&page));
        }
        Message::Targets { replication, writer, names, block_size } => {
            let request =
                TargetRequest { replication, writer: Some(&writer), exclude: &names, chosen: &names, block_size };
            let _ = cluster.blocks.choose_targets(&request);
        }
        Message::Second => {
            cluster.pass(std::time::Duration::from_secs(1));
            cluster.blocks.tick();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_messages_leave_the_block_manager_whole(messages in prop::collection::vec(message(), 1..60)) {
        let mut cluster = Cluster::new(&["/a", "/b", "/b"]);
        for id in 1..=5 {
            cluster.write(id, 2, &[0, 1]);
        }
        cluster.allocate(6, 2, 3, &[0, 1, 2]);
        for message in messages {
            send(&mut cluster, message);
            cluster.check();
            prop_assert!(cluster.blocks.fs_stats().blocks == 6);
            cluster.blocks.datanode_report();
            for id in 0..8 {
                cluster.blocks.locate(block(id, 1, 1).id, Some("10.0.0.1"));
            }
        }
    }
}
