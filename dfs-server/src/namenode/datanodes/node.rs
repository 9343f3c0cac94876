//! One DataNode.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dfs_common::ids::BlockId;
use dfs_proto::v1;
use smallvec::SmallVec;

use super::index::{RackIndex, StorageIndex};
use super::report_sequence::ReportSequence;
use super::verifications::Verifications;
use crate::namenode::host_rules::Duty;
use crate::namenode::listening::ListeningTime;

/// Names one registration of one DataNode; never given twice, also not by the NameNode's next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegistrationId(pub u64);

/// A DataNode as the NameNode knows it.
pub(crate) struct Datanode {
    /// How others reach it; `rack` is filled in.
    pub id: v1::DatanodeId,
    pub rack: RackIndex,
    /// Where it connects from and what it calls itself, for telling who is local to it.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// None for a placeholder: it was named but never heard of.
    pub registration: Option<RegistrationId>,
    /// Registered, and not silent for too long.
    pub is_live: bool,
    pub last_heartbeat: ListeningTime,
    /// When its registration began.
    pub registered_at: ListeningTime,
    /// Data transfers it runs, as of its last heartbeat.
    pub active_transfers: u32,
    pub software_version: String,
    /// In the order of their first appearance.
    pub storages: Vec<StorageIndex>,
    /// The same in the order of their uuids, to be found by them.
    pub(super) by_uuid: Vec<StorageIndex>,
    /// Where the round over its volumes goes on.
    pub next_volume: usize,
    pub reports: ReportSequence,
    /// Copies to be ordered with its next heartbeat; bounded by the repair scheduler's limit per source.
    pub transfers: VecDeque<v1::TransferOrder>,
    /// Recoveries to be ordered with its next heartbeats; at most one per open file.
    pub recoveries: BTreeMap<BlockId, v1::RecoverOrder>,
    /// Replicas that somebody suspects.
    pub verifications: Verifications,
    /// Repair streams that it was told to send and that have not ended, in the scheduler's unit of cost.
    pub outgoing_cost: u32,
    /// What the operator wants of it.
    pub duty: Duty,
    /// Its blocks are elsewhere: decommissioned, or in maintenance.
    pub is_drained: bool,
    /// Blocks that keep it from that, as last counted.
    pub blocks_to_copy: u64,
}

/// What a registration says of its node.
pub(super) struct NewRegistration {
    pub id: v1::DatanodeId,
    pub rack: RackIndex,
    pub addresses: SmallVec<[IpAddr; 2]>,
    pub registration: RegistrationId,
    pub software_version: String,
}

impl Datanode {
    /// A node of which only the uuid is known.
    pub(super) fn placeholder(uuid: &str, rack: RackIndex, now: Instant, heard: ListeningTime) -> Self {
        Self {
            id: v1::DatanodeId { uuid: uuid.to_owned(), ..v1::DatanodeId::default() },
            rack,
            addresses: SmallVec::new(),
            registration: None,
            is_live: false,
            last_heartbeat: heard,
            registered_at: heard,
            active_transfers: 0,
            software_version: String::new(),
            storages: Vec::new(),
            by_uuid: Vec::new(),
            next_volume: 0,
            reports: ReportSequence::new(now),
            transfers: VecDeque::new(),
            recoveries: BTreeMap::new(),
            verifications: Verifications::default(),
            outgoing_cost: 0,
            duty: Duty::Serve,
            is_drained: false,
            blocks_to_copy: 0,
        }
    }

    pub(super) fn on_registered(&mut self, new: NewRegistration, now: Instant, heard: ListeningTime) {
        self.id = new.id;
        self.rack = new.rack;
        self.addresses = new.addresses;
        self.registration = Some(new.registration);
        self.is_live = true;
        self.last_heartbeat = heard;
        self.registered_at = heard;
        self.active_transfers = 0;
        self.software_version = new.software_version;
        self.reports = ReportSequence::new(now);
        // Copies it was told to make before are not made any more.
        self.transfers.clear();
        self.recoveries.clear();
        self.verifications.on_registered();
    }

    /// Time since it was last heard of.
    pub(crate) fn silent_for(&self, heard: ListeningTime) -> Duration {
        heard.since(self.last_heartbeat)
    }

    /// `host:port` of its data transfers, for people.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.id.host, self.id.data_port)
    }
}
