//! Where the members of a group will talk to each other. A group of one has nobody to talk to: openraft never asks for a
//! connection, and if it did, the honest answer is that the other member cannot be reached. The journal of several
//! NameNodes puts its gRPC client here.

use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};

use super::raft_types::{NodeId, TypeConfig};

type RpcResult<T, E = RaftError<NodeId>> = Result<T, RPCError<NodeId, BasicNode, E>>;

/// The network of a group of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoNetwork;

/// A member that is not there.
#[derive(Clone, Debug)]
pub(super) struct NoMember {
    address: String,
}

impl NoMember {
    fn unreachable(&self) -> Unreachable {
        let reason = format!("member {} cannot be reached: this journal is a group of one", self.address);
        Unreachable::new(&std::io::Error::new(std::io::ErrorKind::NotConnected, reason))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoNetwork {
    type Network = NoMember;

    async fn new_client(&mut self, _target: NodeId, node: &BasicNode) -> NoMember {
        NoMember { address: node.addr.clone() }
    }
}

impl RaftNetwork<TypeConfig> for NoMember {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<NodeId>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<InstallSnapshotResponse<NodeId>, RaftError<NodeId, InstallSnapshotError>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(&mut self, _rpc: VoteRequest<NodeId>, _option: RPCOption) -> RpcResult<VoteResponse<NodeId>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }
}
