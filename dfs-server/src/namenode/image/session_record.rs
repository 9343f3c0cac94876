//! Sessions as records of an image and back, with the outcomes of their calls.

use dfs_common::block::Block;
use dfs_common::error::{ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, GenerationStamp, Incarnation, InodeId};
use dfs_proto::v1::outcome_record::Outcome as WireOutcome;
use dfs_proto::v1::{
    AppendedRecord, CreatedRecord, DoneRecord, ErrorDetail, FormerLifeRecord, OutcomeRecord, SessionRecord,
};

use super::record::{client_id, corrupt};
use crate::namenode::namespace::{FormerLife, Outcomes, RecordedError, Session};
use crate::namenode::outcome::Outcome;

/// The record of a client.
pub(super) fn session_record(client: ClientId, session: &Session) -> SessionRecord {
    let former_record = |life: &FormerLife| FormerLifeRecord {
        incarnation: life.incarnation.0,
        ended_ns: life.ended_ns,
        lowest_pending_call_id: life.lowest_pending.0,
        outcomes: outcome_records(&life.outcomes),
    };
    SessionRecord {
        client_id: client.0.to_vec().into(),
        incarnation: session.incarnation.0,
        name: session.name.clone(),
        last_op_ns: session.last_op_ns,
        lowest_pending_call_id: session.lowest_pending.0,
        outcomes: outcome_records(&session.outcomes),
        ended: session.ended,
        opener: session.opener.0,
        opening: session.opener.1,
        former: session.former.iter().map(former_record).collect(),
    }
}

fn outcome_records(outcomes: &Outcomes) -> Vec<OutcomeRecord> {
    let record = |(call, outcome): (&CallId, &Result<Outcome, RecordedError>)| OutcomeRecord {
        call_id: call.0,
        outcome: Some(wire_outcome(outcome)),
    };
    outcomes.iter().map(record).collect()
}

/// A client and what is remembered of it.
///
/// # Errors
/// `Corrupt`.
pub(super) fn session_of(record: &SessionRecord) -> Result<(ClientId, Session)> {
    let former_life = |life: &FormerLifeRecord| {
        Ok(FormerLife {
            incarnation: Incarnation(life.incarnation),
            ended_ns: life.ended_ns,
            lowest_pending: CallId(life.lowest_pending_call_id),
            outcomes: domain_outcomes(&life.outcomes)?,
        })
    };
    let session = Session {
        incarnation: Incarnation(record.incarnation),
        name: record.name.clone(),
        opener: (record.opener, record.opening),
        last_op_ns: record.last_op_ns,
        lowest_pending: CallId(record.lowest_pending_call_id),
        outcomes: domain_outcomes(&record.outcomes)?,
        ended: record.ended,
        former: record.former.iter().map(former_life).collect::<Result<_>>()?,
    };
    Ok((client_id(&record.client_id)?, session))
}

fn domain_outcomes(records: &[OutcomeRecord]) -> Result<Outcomes> {
    let outcome = |record: &OutcomeRecord| {
        let recorded = record.outcome.as_ref().ok_or_else(|| corrupt("an outcome of an unknown kind"))?;
        Ok((CallId(record.call_id), domain_outcome(recorded)?))
    };
    records.iter().map(outcome).collect()
}

fn wire_outcome(outcome: &Result<Outcome, RecordedError>) -> WireOutcome {
    match outcome {
        Err(error) => WireOutcome::Error(ErrorDetail {
            kind: error.kind as u32,
            message: error.message.clone(),
            leader: String::new(),
        }),
        Ok(Outcome::Done) => WireOutcome::Done(DoneRecord {}),
        Ok(Outcome::Inode(inode)) => WireOutcome::Inode(inode.0),
        Ok(Outcome::Created { inode, created }) => {
            WireOutcome::Created(CreatedRecord { inode: inode.0, created: *created })
        }
        Ok(Outcome::Session(incarnation)) => WireOutcome::Session(incarnation.0),
        Ok(Outcome::Block(block)) => WireOutcome::Block((*block).into()),
        Ok(Outcome::GenerationStamp(stamp)) => WireOutcome::GenerationStamp(stamp.0),
        Ok(Outcome::Appended { inode, last }) => {
            WireOutcome::Appended(AppendedRecord { inode: inode.0, last: last.map(Into::into) })
        }
        Ok(Outcome::Closed(closed)) => WireOutcome::Closed(*closed),
    }
}

fn domain_outcome(outcome: &WireOutcome) -> Result<Result<Outcome, RecordedError>> {
    Ok(Ok(match outcome {
        WireOutcome::Error(error) => {
            let kind = ErrorKind::from_number(error.kind).ok_or_else(|| corrupt("an error of an unknown kind"))?;
            return Ok(Err(RecordedError { kind, message: error.message.clone() }));
        }
        WireOutcome::Done(_) => Outcome::Done,
        WireOutcome::Inode(inode) => Outcome::Inode(InodeId(*inode)),
        WireOutcome::Created(record) => Outcome::Created { inode: InodeId(record.inode), created: record.created },
        WireOutcome::Session(incarnation) => Outcome::Session(Incarnation(*incarnation)),
        WireOutcome::Block(block) => Outcome::Block(block.into()),
        WireOutcome::GenerationStamp(stamp) => Outcome::GenerationStamp(GenerationStamp(*stamp)),
        WireOutcome::Appended(record) => {
            Outcome::Appended { inode: InodeId(record.inode), last: record.last.as_ref().map(Block::from) }
        }
        WireOutcome::Closed(closed) => Outcome::Closed(*closed),
    }))
}
