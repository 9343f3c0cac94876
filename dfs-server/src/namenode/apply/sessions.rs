//! Sessions and holds: lives of clients, and inodes kept for them.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, Incarnation, InodeId};
use dfs_proto::v1::{EndSessionOp, ForgetSessionsOp, HoldOp, OpenSessionOp, ReleaseHoldOp};

use super::Context;
use crate::namenode::namespace::{Namespace, Session};
use crate::namenode::outcome::Outcome;

/// Longest name of a session, bytes: host and mount point.
const SESSION_NAME_MAX: usize = 512;

/// Sessions at once; a mount has one, a command has one while it runs.
const SESSIONS_MAX: usize = 100_000;

/// Inodes one client may hold.
const HOLDS_PER_CLIENT_MAX: usize = 65_536;

impl Namespace {
    /// A new life of a client ends the one before it.
    pub(super) fn apply_open_session(&mut self, context: &mut Context<'_>, op: &OpenSessionOp) -> Result<Outcome> {
        let client = client_id(&op.client_id)?;
        if op.name.len() > SESSION_NAME_MAX {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "the session's name is too long"));
        }
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&client) {
            return Err(DfsError::new(ErrorKind::Unavailable, "too many clients have a session; try again later"));
        }
        if let Some(before) = self.sessions.get(&client) {
            self.end_life(context, (client, before.incarnation));
        }
        let session = Session {
            // The transaction's number: never used before, even when the client's earlier lives have been forgotten.
            incarnation: Incarnation(self.counters.last_txid.0),
            name: op.name.clone(),
            last_op_ns: context.now_ns,
            ..Session::default()
        };
        let incarnation = session.incarnation;
        self.sessions.insert(client, session);
        Ok(Outcome::Session(incarnation))
    }

    pub(super) fn apply_end_session(&mut self, context: &mut Context<'_>, op: &EndSessionOp) -> Result<Outcome> {
        let client = client_id(&op.client_id)?;
        let Some(session) = self.sessions.get_mut(&client) else { return Ok(Outcome::Done) };
        if op.incarnation != 0 && session.incarnation.0 != op.incarnation {
            return Ok(Outcome::Done);
        }
        session.ended = true;
        let life = (client, session.incarnation);
        self.end_life(context, life);
        Ok(Outcome::Done)
    }

    pub(super) fn apply_forget_sessions(
        &mut self,
        context: &mut Context<'_>,
        op: &ForgetSessionsOp,
    ) -> Result<Outcome> {
        let has_claims = |client| self.leases.has_any(client) || self.holds.has_any(client);
        let idle = self.sessions();
        let idle = idle.filter(|(client, session)| session.is_idle(op.idle_since_ns) && !has_claims(*client));
        let idle: Vec<ClientId> = idle.map(|(client, _)| client).take(context.steps_left as usize).collect();
        for client in idle {
            self.sessions.remove(&client);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn apply_hold(&mut self, context: &mut Context<'_>, op: &HoldOp) -> Result<Outcome> {
        let life = context.client()?;
        let id = InodeId(op.inode);
        self.inode(id)?;
        if self.holds.count_of(life) >= HOLDS_PER_CLIENT_MAX {
            return Err(DfsError::new(ErrorKind::Unavailable, "the client holds too many files"));
        }
        self.holds.insert(id, life);
        Ok(Outcome::Done)
    }

    pub(super) fn apply_release_hold(&mut self, context: &mut Context<'_>, op: &ReleaseHoldOp) -> Result<Outcome> {
        let life = context.client()?;
        let id = InodeId(op.inode);
        if self.holds.remove(id, life) {
            self.reap(id, context.events);
        }
        Ok(Outcome::Done)
    }
}

fn client_id(bytes: &[u8]) -> Result<ClientId> {
    ClientId::from_bytes(bytes).ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "a client id has 16 bytes"))
}
