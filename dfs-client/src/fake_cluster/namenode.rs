//! The NameNode: it knows one directory's worth of files.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind};
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::client_namenode_server::ClientNamenode;
use tonic::{Request, Response, Status};

use super::unsupported::unsupported;
use super::world::{FakeFile, POOL, Shared, World};

/// Serves clients.
pub(super) struct FakeNamenode(pub(super) Shared);

impl FakeNamenode {
    fn call(&self, name: &'static str) -> parking_lot::MutexGuard<'_, World> {
        let mut world = self.0.lock();
        *world.calls.entry(name).or_default() += 1;
        world
    }

    /// As `call`, for one that changes something.
    fn mutate(
        &self,
        name: &'static str,
        header: Option<&v1::RequestHeader>,
    ) -> Result<parking_lot::MutexGuard<'_, World>, Status> {
        let mut world = self.call(name);
        let retry = header.and_then(|header| header.retry.as_ref()).expect("a retry id");
        world.seen_call_ids.insert(retry.call_id);
        if world.unavailable_answers > 0 {
            world.unavailable_answers -= 1;
            return Err(to_status(&DfsError::new(ErrorKind::Unavailable, "starting up")));
        }
        if world.is_session_dead || retry.incarnation != world.incarnation {
            let kind = if world.has_forgotten { ErrorKind::OutcomeUnknown } else { ErrorKind::LeaseLost };
            return Err(to_status(&DfsError::new(kind, "the session has ended")));
        }
        // The oldest call is let through, and one that makes room.
        let (call, lowest) = (retry.call_id, retry.lowest_pending_call_id);
        let is_full = world.outcomes_max.is_some_and(|max| world.outcomes.len() >= max);
        if is_full && call != lowest && world.outcomes.range(..lowest).next().is_none() {
            return Err(to_status(&DfsError::new(ErrorKind::Unavailable, "too many unanswered calls")));
        }
        world.outcomes.retain(|id| *id >= lowest);
        world.outcomes.insert(call);
        Ok(world)
    }

    /// Gives the answer to a call that was made, unless nobody is to hear of it.
    async fn answer<T>(&self, name: &'static str, answer: T) -> Result<Response<T>, Status> {
        if self.0.lock().unanswered.contains(name) {
            std::future::pending::<()>().await;
        }
        while self.0.lock().held_back.contains(name) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Response::new(answer))
    }
}

fn call_id(header: Option<&v1::RequestHeader>) -> u64 {
    header.and_then(|header| header.retry.as_ref()).map_or(0, |retry| retry.call_id)
}

impl FakeNamenode {
    fn make_file(&self, request: &v1::CreateRequest) -> Result<v1::CreateResponse, Status> {
        let mut world = self.mutate("create", request.header.as_ref())?;
        if let Some(&there) = world.existing.get(&request.name[..]) {
            return Ok(v1::CreateResponse { attr: Some(world.attr(there)?), ..v1::CreateResponse::default() });
        }
        let inode = 20_000 + world.files.len() as u64;
        let block_size = if request.block_size == 0 { 16_384 } else { request.block_size };
        world.files.insert(inode, FakeFile { is_open: request.open_for_write, block_size, ..FakeFile::default() });
        world.leases.insert(call_id(request.header.as_ref()), inode);
        let first_block = if world.allocates_at_creation { world.allocate(inode, &[]) } else { None };
        Ok(v1::CreateResponse {
            attr: Some(world.attr(inode)?),
            created: true,
            first_block,
            block_pool_id: POOL.into(),
            ..v1::CreateResponse::default()
        })
    }

    fn open_for_append(&self, request: &v1::AppendRequest) -> Result<v1::AppendResponse, Status> {
        let mut world = self.mutate("append", request.header.as_ref())?;
        let file = world.files.get_mut(&request.inode).unwrap();
        if std::mem::replace(&mut file.is_open, true) {
            return Err(to_status(&DfsError::new(ErrorKind::Busy, "another client writes it")));
        }
        if request.truncate {
            file.blocks.clear();
        }
        let block_size = file.block_size;
        let last = file.blocks.last().filter(|last| last.length < block_size).copied();
        world.leases.insert(call_id(request.header.as_ref()), request.inode);
        let attr = world.attr(request.inode)?;
        let last_block = last.map(|last| world.located(&last, attr.length - last.length, false));
        let block_pool_id = POOL.into();
        Ok(v1::AppendResponse { attr: Some(attr), last_block, block_pool_id, ..v1::AppendResponse::default() })
    }

    fn next_block(&self, request: &v1::AddBlockRequest) -> Result<v1::AddBlockResponse, Status> {
        let mut world = self.mutate("add_block", request.header.as_ref())?;
        world.commit(request.inode, request.previous.as_ref());
        assert_eq!(world.attr(request.inode)?.length, request.offset, "the new block follows");
        let Some(mut located) = world.allocate(request.inode, &request.exclude) else {
            return Err(to_status(&DfsError::new(ErrorKind::NoSpace, "no DataNode")));
        };
        located.offset = request.offset;
        Ok(v1::AddBlockResponse { block: Some(located), block_pool_id: POOL.into(), txid: 0 })
    }
}

#[tonic::async_trait]
impl ClientNamenode for FakeNamenode {
    async fn get_server_defaults(
        &self,
        _: Request<v1::GetServerDefaultsRequest>,
    ) -> Result<Response<v1::GetServerDefaultsResponse>, Status> {
        let namespace = v1::NamespaceInfo { block_pool_id: POOL.into(), ..Default::default() };
        Ok(Response::new(v1::GetServerDefaultsResponse {
            block_size: 16_384,
            replication: 3,
            bytes_per_checksum: 512,
            packet_size: 65_536,
            namespace: Some(namespace),
            ..Default::default()
        }))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let incarnation = {
            let mut world = self.call("open_session");
            let opening = (request.opener, request.opening);
            if std::mem::replace(&mut world.last_opening, opening) != opening {
                world.incarnation += 1;
                world.is_session_dead = false;
                world.awaited = request.awaited;
            }
            world.incarnation
        };
        self.answer("open_session", v1::OpenSessionResponse { incarnation, txid: 0 }).await
    }

    async fn settle_calls(
        &self,
        request: Request<v1::SettleCallsRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        {
            let mut world = self.call("settle_calls");
            for id in request.into_inner().call_ids {
                world.settled.push(id);
                if let Some(inode) = world.leases.remove(&id) {
                    world.files.get_mut(&inode).unwrap().is_open = false;
                }
            }
        }
        self.answer("settle_calls", v1::EmptyResponse::default()).await
    }

    async fn recover_lease(
        &self,
        request: Request<v1::RecoverLeaseRequest>,
    ) -> Result<Response<v1::RecoverLeaseResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("recover_lease", request.header.as_ref())?;
        assert!(request.own);
        if world.leases.remove(&request.call_id) == Some(request.inode) {
            world.files.get_mut(&request.inode).unwrap().is_open = false;
        }
        Ok(Response::new(v1::RecoverLeaseResponse { closed: true, lease: None, txid: 0 }))
    }

    async fn await_file(
        &self,
        request: Request<v1::AwaitFileRequest>,
    ) -> Result<Response<v1::AwaitFileResponse>, Status> {
        drop(self.call("await_file"));
        self.answer("await_file", ()).await?;
        let world = self.0.lock();
        let is_open = world.files.get(&request.into_inner().inode).is_some_and(|file| file.is_open);
        let holder = if is_open { v1::FileHolder::Other } else { v1::FileHolder::None };
        Ok(Response::new(v1::AwaitFileResponse { holder: holder.into(), txid: 0 }))
    }

    async fn hold(&self, request: Request<v1::InodeMutation>) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let call = call_id(request.header.as_ref());
        self.mutate("hold", request.header.as_ref())?.holds.insert(request.inode, call);
        self.answer("hold", v1::EmptyResponse::default()).await
    }

    async fn release_hold(
        &self,
        request: Request<v1::ReleaseHoldRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("release_hold", request.header.as_ref())?;
        assert_eq!(world.holds.remove(&request.inode), Some(request.call_id), "a hold is ended by its name, once");
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let world = self.call("renew_lease");
        if world.is_session_dead || request.into_inner().incarnation != world.incarnation {
            return Err(to_status(&DfsError::new(ErrorKind::LeaseLost, "the session has ended")));
        }
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn close_session(&self, _: Request<v1::CloseSessionRequest>) -> Result<Response<v1::EmptyResponse>, Status> {
        self.call("close_session").is_session_dead = true;
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn get_file_info(&self, request: Request<v1::InodeRequest>) -> Result<Response<v1::AttrResponse>, Status> {
        let attr = {
            let world = self.call("get_file_info");
            if world.refused.contains("get_file_info") {
                return Err(to_status(&DfsError::new(ErrorKind::PermissionDenied, "refused")));
            }
            world.attr(request.into_inner().inode)?
        };
        self.answer("get_file_info", v1::AttrResponse { attr: Some(attr), ..v1::AttrResponse::default() }).await
    }

    async fn get_fs_stats(
        &self,
        _: Request<v1::GetFsStatsRequest>,
    ) -> Result<Response<v1::GetFsStatsResponse>, Status> {
        drop(self.call("get_fs_stats"));
        Ok(Response::new(v1::GetFsStatsResponse::default()))
    }

    async fn get_listing(
        &self,
        request: Request<v1::GetListingRequest>,
    ) -> Result<Response<v1::GetListingResponse>, Status> {
        let request = request.into_inner();
        let answer = {
            let mut world = self.call("get_listing");
            let caller = request.header.as_ref().and_then(|header| header.caller.as_ref());
            if world.refused.contains("get_listing") && !caller.is_some_and(|caller| caller.is_authorised) {
                return Err(to_status(&DfsError::new(ErrorKind::PermissionDenied, "refused")));
            }
            world.listings_asked.push(request.max_entries);
            world.listing(&request)
        };
        self.answer("get_listing", answer).await
    }

    async fn unlink(&self, request: Request<v1::DentryMutation>) -> Result<Response<v1::EmptyResponse>, Status> {
        let is_refused = self.mutate("unlink", request.into_inner().header.as_ref())?.refused.contains("unlink");
        if is_refused {
            return Err(to_status(&DfsError::new(ErrorKind::ReadOnly, "refused")));
        }
        self.answer("unlink", v1::EmptyResponse::default()).await
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Result<Response<v1::CreateResponse>, Status> {
        let request = request.into_inner();
        let answer = self.make_file(&request)?;
        self.answer("create", answer).await
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let request = request.into_inner();
        let answer = self.open_for_append(&request)?;
        self.answer("append", answer).await
    }

    async fn add_block(&self, request: Request<v1::AddBlockRequest>) -> Result<Response<v1::AddBlockResponse>, Status> {
        let request = request.into_inner();
        let answer = self.next_block(&request)?;
        self.answer("add_block", answer).await
    }

    async fn abandon_block(
        &self,
        request: Request<v1::AbandonBlockRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("abandon_block", request.header.as_ref())?;
        let popped = world.files.get_mut(&request.inode).unwrap().blocks.pop().unwrap();
        assert_eq!(popped.id, request.block.unwrap().id);
        world.replicas.retain(|(_, id), _| *id != popped.id);
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Result<Response<v1::CompleteResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("complete", request.header.as_ref())?;
        if world.revoked.contains(&request.inode) {
            return Err(to_status(&DfsError::new(ErrorKind::LeaseLost, "another client writes it")));
        }
        world.commit(request.inode, request.last.as_ref());
        world.files.get_mut(&request.inode).unwrap().is_open = false;
        world.leases.retain(|_, leased| *leased != request.inode);
        Ok(Response::new(v1::CompleteResponse { done: true, attr: Some(world.attr(request.inode)?), txid: 0 }))
    }

    async fn fsync(&self, request: Request<v1::FsyncRequest>) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("fsync", request.header.as_ref())?;
        world.commit(request.inode, request.last.as_ref());
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn update_block_for_pipeline(
        &self,
        request: Request<v1::UpdateBlockForPipelineRequest>,
    ) -> Result<Response<v1::UpdateBlockForPipelineResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("update_block_for_pipeline", request.header.as_ref())?;
        world.next_stamp += 1;
        let block = v1::Block { generation_stamp: world.next_stamp, ..request.block.unwrap() };
        let block = Some(v1::LocatedBlock { block: Some(block), ..Default::default() });
        Ok(Response::new(v1::UpdateBlockForPipelineResponse { block, txid: 0 }))
    }

    async fn update_pipeline(
        &self,
        request: Request<v1::UpdatePipelineRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("update_pipeline", request.header.as_ref())?;
        let last = world.files.get_mut(&request.inode).unwrap().blocks.last_mut().unwrap();
        let old = request.old_block.unwrap();
        assert_eq!((last.id, last.generation_stamp), (old.id, old.generation_stamp));
        assert!(old.length >= last.length, "what was recorded was acknowledged");
        *last = request.new_block.unwrap();
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn get_additional_datanode(
        &self,
        request: Request<v1::GetAdditionalDatanodeRequest>,
    ) -> Result<Response<v1::GetAdditionalDatanodeResponse>, Status> {
        let request = request.into_inner();
        let world = self.call("get_additional_datanode");
        let is_free =
            |node: &&v1::DatanodeId| ![&request.existing, &request.exclude].iter().any(|of| of.contains(&node.uuid));
        let spares = world.nodes.iter().skip(world.nodes.len() - world.spares);
        let locations: Vec<_> = spares.filter(is_free).cloned().collect();
        if locations.is_empty() {
            return Err(to_status(&DfsError::new(ErrorKind::NoSpace, "no DataNode")));
        }
        let block = v1::LocatedBlock { block: request.block, locations, ..Default::default() };
        Ok(Response::new(v1::GetAdditionalDatanodeResponse { block: Some(block), txid: 0 }))
    }

    async fn get_block_locations(
        &self,
        request: Request<v1::GetBlockLocationsRequest>,
    ) -> Result<Response<v1::GetBlockLocationsResponse>, Status> {
        let request = request.into_inner();
        let world = self.call("get_block_locations");
        let attr = world.attr(request.inode)?;
        let file = &world.files[&request.inode];
        let (mut at, end) = (0, request.offset.saturating_add(request.length));
        let mut blocks = Vec::new();
        for (index, block) in file.blocks.iter().enumerate() {
            let open = file.is_open && index + 1 == file.blocks.len();
            if at < end && (at + block.length > request.offset || open) {
                blocks.push(world.located(block, at, open));
            }
            at += block.length;
        }
        let blocks = v1::LocatedBlocks {
            file_length: attr.length,
            blocks,
            under_construction: file.is_open,
            block_pool_id: POOL.into(),
        };
        Ok(Response::new(v1::GetBlockLocationsResponse { blocks: Some(blocks), attr: Some(attr), txid: 0 }))
    }

    async fn report_bad_blocks(
        &self,
        request: Request<v1::ReportBadBlocksRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let who = request.header.and_then(|header| header.caller).map_or(0, |caller| caller.uid);
        let reported = request.replicas.into_iter().map(|replica| (replica.datanode_uuid, who));
        self.call("report_bad_blocks").bad_replicas.extend(reported);
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    unsupported! {
        lookup(v1::LookupRequest) -> v1::AttrResponse;
        get_link_target(v1::InodeRequest) -> v1::GetLinkTargetResponse;
        get_content_summary(v1::InodeRequest) -> v1::GetContentSummaryResponse;
        get_x_attr(v1::XAttrRequest) -> v1::GetXAttrResponse;
        list_x_attrs(v1::InodeRequest) -> v1::ListXAttrsResponse;
        mkdir(v1::MkdirRequest) -> v1::AttrResponse;
        mknod(v1::MknodRequest) -> v1::AttrResponse;
        create_symlink(v1::CreateSymlinkRequest) -> v1::AttrResponse;
        link(v1::LinkRequest) -> v1::AttrResponse;
        rmdir(v1::DentryMutation) -> v1::EmptyResponse;
        delete(v1::DentryMutation) -> v1::EmptyResponse;
        rename(v1::RenameRequest) -> v1::EmptyResponse;
        set_attr(v1::SetAttrRequest) -> v1::AttrResponse;
        truncate(v1::TruncateRequest) -> v1::AttrResponse;
        set_replication(v1::SetReplicationRequest) -> v1::AttrResponse;
        set_x_attr(v1::SetXAttrRequest) -> v1::EmptyResponse;
        remove_x_attr(v1::XAttrMutation) -> v1::EmptyResponse;
        get_datanode_report(v1::GetDatanodeReportRequest) -> v1::GetDatanodeReportResponse;
        set_safe_mode(v1::SetSafeModeRequest) -> v1::SetSafeModeResponse;
        save_namespace(v1::SaveNamespaceRequest) -> v1::SaveNamespaceResponse;
        check_files(v1::CheckFilesRequest) -> v1::CheckFilesResponse;
        refresh_nodes(v1::RefreshNodesRequest) -> v1::RefreshNodesResponse;
        move_replicas(v1::MoveReplicasRequest) -> v1::MoveReplicasResponse;
    }
}
