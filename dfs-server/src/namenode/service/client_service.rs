//! ClientProtocol: the calls of `client_namenode.proto`, each turned into one call of the namesystem.

use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, Incarnation, InodeId};
use dfs_proto::convert::required;
use dfs_proto::v1::client_namenode_server::ClientNamenode;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::*;
use tonic::{Request, Response, Status};

use super::changes::{Growth, attr_response, changed, check_grants_nothing, remove_op, touched_inodes};
use super::{administration, changes, identity, peer_ip, reply, writing};
use crate::namenode::apply::client_id;
use crate::namenode::namesystem::Namesystem;
use crate::namenode::node_files::NodeFiles;

type Reply<T> = Result<Response<T>, Status>;

/// Serves clients.
pub struct ClientService {
    namesystem: Arc<Namesystem>,
    node_files: Arc<NodeFiles>,
}

impl ClientService {
    /// A service over `namesystem`; `node_files` are read again on demand.
    pub fn new(namesystem: Arc<Namesystem>, node_files: Arc<NodeFiles>) -> Self {
        Self { namesystem, node_files }
    }

    fn txid(&self) -> u64 {
        self.namesystem.txid().0
    }

    fn empty(&self) -> EmptyResponse {
        EmptyResponse { txid: self.txid(), ..EmptyResponse::default() }
    }

    async fn change(&self, header: Option<RequestHeader>, op: Op) -> Reply<EmptyResponse> {
        reply(changes::change(&self.namesystem, header, op).await)
    }

    async fn change_inode(&self, header: Option<RequestHeader>, op: Op) -> Reply<AttrResponse> {
        reply(changes::change_inode(&self.namesystem, header, op).await)
    }

    /// Refuses a pipeline of DataNodes that nobody knows. A repeated call that was applied before is not asked again.
    fn check_pipeline(&self, header: Option<&RequestHeader>, datanodes: &[String], storages: &[String]) -> Result<()> {
        match self.namesystem.recorded(header)? {
            Some(_) => Ok(()),
            None => self.namesystem.blocks().check_pipeline(datanodes, storages),
        }
    }
}

#[tonic::async_trait]
impl ClientNamenode for ClientService {
    async fn get_server_defaults(&self, _: Request<GetServerDefaultsRequest>) -> Reply<GetServerDefaultsResponse> {
        let limits = self.namesystem.limits();
        reply(Ok(GetServerDefaultsResponse {
            block_size: limits.default_block_size,
            replication: limits.default_replication,
            bytes_per_checksum: 512,
            packet_size: 64 * 1024,
            namespace: Some(self.namesystem.info().clone()),
            min_block_size: limits.min_block_size,
            max_blocks_per_file: u32::try_from(limits.max_blocks_per_file).unwrap_or(u32::MAX),
            txid: self.txid(),
        }))
    }

    async fn open_session(&self, request: Request<OpenSessionRequest>) -> Reply<OpenSessionResponse> {
        let opened = self.namesystem.open_session(request.into_inner()).await;
        reply(opened.map(|incarnation| OpenSessionResponse { incarnation: incarnation.0, txid: self.txid() }))
    }

    async fn close_session(&self, request: Request<CloseSessionRequest>) -> Reply<EmptyResponse> {
        let retry = request.into_inner().header.and_then(|header| header.retry);
        let close = async {
            let retry = required(retry, "session")?;
            if retry.incarnation == 0 {
                return Err(DfsError::new(ErrorKind::InvalidArgument, "no incarnation is numbered 0"));
            }
            self.namesystem.end_session(client_id(&retry.client_id)?, Incarnation(retry.incarnation)).await
        };
        reply(close.await.map(|()| self.empty()))
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let renewed = self.namesystem.renew_lease(&request.client_id, Incarnation(request.incarnation));
        reply(renewed.map(|()| self.empty()))
    }

    async fn settle_calls(&self, request: Request<SettleCallsRequest>) -> Reply<EmptyResponse> {
        reply(self.namesystem.settle_calls(request.into_inner()).await.map(|()| self.empty()))
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let who = identity(request.header.as_ref());
        let namespace = self.namesystem.namespace().read();
        let answer = namespace.lookup(&who, InodeId(request.parent), &request.name).and_then(|id| {
            Ok(AttrResponse {
                attr: Some((&namespace.attr(id)?).into()),
                txid: namespace.counters().last_txid.0,
                ..AttrResponse::default()
            })
        });
        reply(answer)
    }

    async fn get_file_info(&self, request: Request<InodeRequest>) -> Reply<AttrResponse> {
        reply(attr_response(&self.namesystem, InodeId(request.into_inner().inode)))
    }

    async fn get_listing(&self, request: Request<GetListingRequest>) -> Reply<GetListingResponse> {
        let request = request.into_inner();
        let who = identity(request.header.as_ref());
        let namespace = self.namesystem.namespace().read();
        let max = request.max_entries as usize;
        let page = namespace.listing(&who, InodeId(request.inode), request.cookie, max);
        reply(page.map(|page| {
            GetListingResponse {
                entries: page
                    .entries
                    .into_iter()
                    .map(|entry| DirEntry {
                        name: entry.name.as_bytes().to_vec().into(),
                        inode: entry.attr.inode.0,
                        cookie: entry.cookie,
                        file_type: entry.attr.kind as u32,
                        attr: request.with_attrs.then(|| (&entry.attr).into()),
                    })
                    .collect(),
                at_end: page.at_end,
                parent: page.parent.0,
                txid: namespace.counters().last_txid.0,
            }
        }))
    }

    async fn get_link_target(&self, request: Request<InodeRequest>) -> Reply<GetLinkTargetResponse> {
        let namespace = self.namesystem.namespace().read();
        let target = namespace.link_target(InodeId(request.into_inner().inode));
        let txid = namespace.counters().last_txid.0;
        reply(target.map(|target| GetLinkTargetResponse { target: target.to_vec().into(), txid }))
    }

    async fn get_block_locations(
        &self,
        request: Request<GetBlockLocationsRequest>,
    ) -> Reply<GetBlockLocationsResponse> {
        let reader = peer_ip(&request);
        let request = request.into_inner();
        let who = identity(request.header.as_ref());
        let range = (request.offset, request.length);
        let found = self.namesystem.block_locations(&who, InodeId(request.inode), range, reader.as_deref());
        reply(found.map(|(blocks, attr)| GetBlockLocationsResponse {
            blocks: Some(blocks),
            attr: Some((&attr).into()),
            txid: self.txid(),
        }))
    }

    async fn get_fs_stats(&self, _: Request<GetFsStatsRequest>) -> Reply<GetFsStatsResponse> {
        reply(Ok(administration::fs_stats(&self.namesystem)))
    }

    async fn get_content_summary(&self, request: Request<InodeRequest>) -> Reply<GetContentSummaryResponse> {
        let request = request.into_inner();
        let who = identity(request.header.as_ref());
        let summary = self.namesystem.content_summary(&who, InodeId(request.inode)).await;
        reply(summary.map(|summary| GetContentSummaryResponse {
            length: summary.length,
            file_count: summary.file_count,
            directory_count: summary.directory_count,
            space_consumed: summary.space_consumed,
            txid: self.txid(),
        }))
    }

    async fn get_x_attr(&self, request: Request<XAttrRequest>) -> Reply<GetXAttrResponse> {
        let request = request.into_inner();
        let who = identity(request.header.as_ref());
        let namespace = self.namesystem.namespace().read();
        let value = namespace.xattr(&who, InodeId(request.inode), &request.name);
        let txid = namespace.counters().last_txid.0;
        reply(value.map(|value| GetXAttrResponse { value: value.to_vec().into(), txid }))
    }

    async fn list_x_attrs(&self, request: Request<InodeRequest>) -> Reply<ListXAttrsResponse> {
        let request = request.into_inner();
        let who = identity(request.header.as_ref());
        let namespace = self.namesystem.namespace().read();
        let names = namespace.xattr_names(&who, InodeId(request.inode));
        let txid = namespace.counters().last_txid.0;
        reply(names.map(|names| ListXAttrsResponse { names: names.into_iter().map(Into::into).collect(), txid }))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Reply<CreateResponse> {
        let writer = peer_ip(&request);
        reply(writing::create(&self.namesystem, request.into_inner(), writer.as_deref()).await)
    }

    async fn append(&self, request: Request<AppendRequest>) -> Reply<AppendResponse> {
        let reader = peer_ip(&request);
        reply(writing::append(&self.namesystem, request.into_inner(), reader.as_deref()).await)
    }

    async fn add_block(&self, request: Request<AddBlockRequest>) -> Reply<AddBlockResponse> {
        let writer = peer_ip(&request);
        let mut request = request.into_inner();
        let header = request.header.take();
        let located = self.namesystem.add_block(header, request, writer.as_deref()).await;
        reply(located.map(|block| AddBlockResponse {
            block: Some(block),
            block_pool_id: self.namesystem.info().block_pool_id.clone(),
            txid: self.txid(),
        }))
    }

    async fn abandon_block(&self, request: Request<AbandonBlockRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = AbandonBlockOp { inode: request.inode, block: request.block };
        self.change(request.header, Op::AbandonBlock(op)).await
    }

    async fn complete(&self, request: Request<CompleteRequest>) -> Reply<CompleteResponse> {
        reply(writing::complete(&self.namesystem, request.into_inner()).await)
    }

    async fn fsync(&self, request: Request<FsyncRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = RecordLengthOp { inode: request.inode, last: request.last, modified_ns: request.modified_ns };
        self.change(request.header, Op::RecordLength(op)).await
    }

    async fn update_block_for_pipeline(
        &self,
        request: Request<UpdateBlockForPipelineRequest>,
    ) -> Reply<UpdateBlockForPipelineResponse> {
        let request = request.into_inner();
        let update = async {
            let block = Block::from(required(request.block, "block")?);
            let id = InodeId(request.inode);
            let located = self.namesystem.update_block_for_pipeline(request.header, id, block).await?;
            Ok(UpdateBlockForPipelineResponse { block: Some(located), txid: self.txid() })
        };
        reply(update.await)
    }

    async fn update_pipeline(&self, request: Request<UpdatePipelineRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let checked = self.check_pipeline(request.header.as_ref(), &request.datanode_uuids, &request.storage_uuids);
        if let Err(error) = checked {
            return reply(Err(error));
        }
        let op = UpdatePipelineOp {
            inode: request.inode,
            old_block: request.old_block,
            new_block: request.new_block,
            target_datanodes: request.datanode_uuids,
            target_storages: request.storage_uuids,
        };
        self.change(request.header, Op::UpdatePipeline(op)).await
    }

    async fn get_additional_datanode(
        &self,
        request: Request<GetAdditionalDatanodeRequest>,
    ) -> Reply<GetAdditionalDatanodeResponse> {
        let writer = peer_ip(&request);
        let found = self.namesystem.additional_datanodes(&request.into_inner(), writer.as_deref());
        reply(found.map(|block| GetAdditionalDatanodeResponse { block: Some(block), txid: self.txid() }))
    }

    async fn recover_lease(&self, request: Request<RecoverLeaseRequest>) -> Reply<RecoverLeaseResponse> {
        let request = request.into_inner();
        let inode = InodeId(request.inode);
        let left = if request.own {
            self.namesystem.give_up_lease(request.header, inode, CallId(request.call_id)).await
        } else {
            self.namesystem.recover_lease(request.header, inode).await
        };
        reply(left.map(|left| {
            let lease = left.map(|(client, Incarnation(incarnation), CallId(call_id))| LeaseName {
                client_id: client.0.to_vec().into(),
                incarnation,
                call_id,
            });
            RecoverLeaseResponse { closed: lease.is_none(), lease, txid: self.txid() }
        }))
    }

    async fn await_file(&self, request: Request<AwaitFileRequest>) -> Reply<AwaitFileResponse> {
        let request = request.into_inner();
        let (inode, patience_ms) = (InodeId(request.inode), request.patience_ms);
        let session = |id: &[u8], incarnation| Ok((client_id(id)?, Incarnation(incarnation)));
        let holder = match &request.lease {
            Some(lease) => match session(&lease.client_id, lease.incarnation) {
                Ok((client, life)) => {
                    let lease = (client, life, CallId(lease.call_id));
                    self.namesystem.await_end_of_lease(lease, inode, patience_ms).await
                }
                Err(error) => return reply(Err(error)),
            },
            None => match session(&request.client_id, request.incarnation) {
                Ok(asker) => self.namesystem.await_file(asker, inode, patience_ms).await,
                Err(error) => return reply(Err(error)),
            },
        };
        reply(Ok(AwaitFileResponse { holder: holder.into(), txid: self.txid() }))
    }

    async fn mkdir(&self, request: Request<MkdirRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let mode = dfs_common::attr::FileKind::Directory as u32 | request.mode & dfs_common::attr::PERMISSION_MASK;
        let op = MakeNodeOp { parent: request.parent, name: request.name, mode, ..MakeNodeOp::default() };
        self.change_inode(request.header, Op::MakeNode(op)).await
    }

    async fn mknod(&self, request: Request<MknodRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let (replication, block_size) = match self.namesystem.layout(0, 0) {
            Ok(layout) => layout,
            Err(error) => return reply(Err(error)),
        };
        let op = MakeNodeOp {
            parent: request.parent,
            name: request.name,
            mode: request.mode,
            rdev: request.rdev,
            target: bytes::Bytes::new(),
            replication,
            block_size,
        };
        self.change_inode(request.header, Op::MakeNode(op)).await
    }

    async fn create_symlink(&self, request: Request<CreateSymlinkRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let op = MakeNodeOp {
            parent: request.parent,
            name: request.name,
            mode: dfs_common::attr::FileKind::Symlink as u32 | 0o777,
            target: request.target,
            ..MakeNodeOp::default()
        };
        self.change_inode(request.header, Op::MakeNode(op)).await
    }

    async fn link(&self, request: Request<LinkRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let op = LinkOp { inode: request.inode, new_parent: request.new_parent, new_name: request.new_name };
        self.change_inode(request.header, Op::Link(op)).await
    }

    async fn unlink(&self, request: Request<DentryMutation>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = remove_op(request.parent, request.name, RemoveKind::RemoveUnlink);
        self.change(request.header, op).await
    }

    async fn rmdir(&self, request: Request<DentryMutation>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = remove_op(request.parent, request.name, RemoveKind::RemoveRmdir);
        self.change(request.header, op).await
    }

    async fn delete(&self, request: Request<DentryMutation>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let kind = RemoveKind::RemoveRecursive.into();
        let op = RemoveOp { parent: request.parent, name: request.name, kind, ..RemoveOp::default() };
        let parent = InodeId(op.parent);
        let removed = self.namesystem.remove_tree(request.header, op).await;
        reply(removed.map(|_| changed(&self.namesystem, None, [Some(parent), None])))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = RenameOp {
            src_parent: request.src_parent,
            src_name: request.src_name,
            dst_parent: request.dst_parent,
            dst_name: request.dst_name,
            flag: request.flag,
        };
        let logged = Op::Rename(op.clone());
        let (touched, growth) = (touched_inodes(&logged), Growth::of(request.header.as_ref(), &logged));
        let renamed = self.namesystem.rename(request.header, op).await;
        reply(renamed.map(|_| changed(&self.namesystem, growth, touched)))
    }

    async fn set_attr(&self, request: Request<SetAttrRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let now = self.namesystem.now_ns();
        let op = SetAttrOp {
            inode: request.inode,
            mode: request.mode,
            uid: request.uid,
            gid: request.gid,
            atime_ns: if request.atime_now { Some(now) } else { request.atime_ns },
            mtime_ns: if request.mtime_now { Some(now) } else { request.mtime_ns },
            explicit_times: !(request.atime_now && request.mtime_now),
            kill_privileges: request.kill_privileges,
            kill_capabilities: request.kill_capabilities,
        };
        self.change_inode(request.header, Op::SetAttr(op)).await
    }

    async fn truncate(&self, request: Request<TruncateRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        let op = TruncateOp { inode: request.inode, length: request.length };
        self.change_inode(request.header, Op::Truncate(op)).await
    }

    async fn set_replication(&self, request: Request<SetReplicationRequest>) -> Reply<AttrResponse> {
        let request = request.into_inner();
        if let Err(error) = self.namesystem.layout(request.replication, 0) {
            return reply(Err(error));
        }
        let op = SetReplicationOp { inode: request.inode, replication: request.replication };
        self.change_inode(request.header, Op::SetReplication(op)).await
    }

    async fn set_x_attr(&self, request: Request<SetXAttrRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        if let Err(error) = check_grants_nothing(request.header.as_ref(), &request.name) {
            return reply(Err(error));
        }
        let op = SetXAttrOp { inode: request.inode, flag: request.flag, name: request.name, value: request.value };
        self.change(request.header, Op::SetXattr(op)).await
    }

    async fn remove_x_attr(&self, request: Request<XAttrMutation>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = RemoveXAttrOp { inode: request.inode, name: request.name };
        self.change(request.header, Op::RemoveXattr(op)).await
    }

    async fn hold(&self, request: Request<InodeMutation>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        self.change(request.header, Op::Hold(HoldOp { inode: request.inode })).await
    }

    async fn release_hold(&self, request: Request<ReleaseHoldRequest>) -> Reply<EmptyResponse> {
        let request = request.into_inner();
        let op = ReleaseHoldOp { inode: request.inode, call_id: request.call_id };
        self.change(request.header, Op::ReleaseHold(op)).await
    }

    async fn report_bad_blocks(&self, request: Request<ReportBadBlocksRequest>) -> Reply<EmptyResponse> {
        let suspected = administration::suspect_replicas(&self.namesystem, &request.into_inner());
        reply(suspected.map(|()| self.empty()))
    }

    async fn get_datanode_report(&self, _: Request<GetDatanodeReportRequest>) -> Reply<GetDatanodeReportResponse> {
        reply(administration::datanode_report(&self.namesystem).await)
    }

    async fn set_safe_mode(&self, request: Request<SetSafeModeRequest>) -> Reply<SetSafeModeResponse> {
        reply(administration::set_safe_mode(&self.namesystem, &request.into_inner()).await)
    }

    async fn save_namespace(&self, request: Request<SaveNamespaceRequest>) -> Reply<SaveNamespaceResponse> {
        reply(administration::save_namespace(&self.namesystem, &request.into_inner()).await)
    }

    async fn check_files(&self, request: Request<CheckFilesRequest>) -> Reply<CheckFilesResponse> {
        reply(administration::check_files(&self.namesystem, request.into_inner()).await)
    }

    async fn refresh_nodes(&self, request: Request<RefreshNodesRequest>) -> Reply<RefreshNodesResponse> {
        reply(administration::refresh_nodes(&self.namesystem, &self.node_files, &request.into_inner()).await)
    }

    async fn move_replicas(&self, request: Request<MoveReplicasRequest>) -> Reply<MoveReplicasResponse> {
        reply(administration::move_replicas(&self.namesystem, &request.into_inner()))
    }
}
