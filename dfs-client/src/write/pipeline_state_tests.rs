use dfs_proto::data_transfer::{DataChecksum, Reply, SlowNode};
use proptest::prelude::*;

use super::super::packet::{PacketBuilder, PacketKind};
use super::*;

fn ack(seqno: i64, statuses: &[Status]) -> PipelineAck {
    let replies = statuses.iter().map(|status| Reply::new(*status)).collect();
    PipelineAck { seqno, replies, downstream_ack_time_nanos: 0 }
}

fn failed_at(place: usize, status: Status) -> AckOutcome {
    AckOutcome::NodeFailed { place, status, is_full: false }
}

const OK: [Status; 2] = [Status::Success; 2];

fn push(state: &mut PipelineState, offset: u64, data: &[u8]) {
    let mut builder = PacketBuilder::new(offset, data.len(), state.take_spare());
    builder.push(data);
    state.enqueue(builder.seal(state.next_seqno(), false, DataChecksum::DEFAULT));
}

fn send_all(state: &mut PipelineState) -> Vec<u8> {
    let mut wire = Vec::new();
    while !state.is_all_sent() {
        let mut slices = Vec::new();
        state.unsent(&mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        state.on_sent(bytes.len());
        wire.extend(bytes);
    }
    wire
}

#[test]
fn packets_are_kept_until_acknowledged_in_order() {
    let mut state = PipelineState::new(0);
    push(&mut state, 0, &[1; 700]);
    push(&mut state, 700, &[2; 300]);
    assert_eq!(state.on_ack(&ack(0, &OK), 2), AckOutcome::OutOfStep, "nothing was sent yet");
    send_all(&mut state);
    assert_eq!(state.on_ack(&ack(1, &OK), 2), AckOutcome::OutOfStep, "the first one comes first");
    assert_eq!(state.on_ack(&ack(HEARTBEAT_SEQNO, &OK), 2), AckOutcome::Alive(None));
    assert_eq!(state.on_ack(&ack(0, &OK), 2), AckOutcome::Acknowledged);
    assert_eq!((state.acked(), state.is_all_acked()), (700, false));
    assert_eq!(state.on_ack(&ack(1, &OK[..1]), 2), AckOutcome::OutOfStep, "one node did not answer");
    assert_eq!(state.on_ack(&ack(1, &OK), 2), AckOutcome::Acknowledged);
    assert_eq!((state.acked(), state.is_all_acked()), (1000, true));
    assert_eq!(state.on_ack(&ack(2, &OK), 2), AckOutcome::OutOfStep);
}

#[test]
fn on_ack_names_the_first_node_that_failed() {
    let mut state = PipelineState::new(0);
    push(&mut state, 0, &[1; 10]);
    send_all(&mut state);
    let failed = ack(0, &[Status::Success, Status::ErrorChecksum]);
    assert_eq!(state.on_ack(&failed, 2), failed_at(1, Status::ErrorChecksum));
    let longer = ack(0, &[Status::Success, Status::Success, Status::Error]);
    assert_eq!(state.on_ack(&longer, 2), failed_at(1, Status::Error), "never outside the pipeline");
    assert!(!state.is_all_acked());
}

#[test]
fn has_room_is_bounded_by_bytes_and_by_packets() {
    let mut state = PipelineState::new(0);
    assert!(state.has_room(0), "one packet always may go");
    push(&mut state, 0, &[1; 100]);
    assert!(state.has_room(101) && !state.has_room(100));
    for offset in 100..99 + PACKETS_MAX as u64 {
        push(&mut state, offset, &[1]);
    }
    assert!(!state.has_room(usize::MAX));
}

#[test]
fn rewind_sends_the_same_bytes_again() {
    let mut state = PipelineState::new(0);
    push(&mut state, 0, &[1; 700]);
    push(&mut state, 700, &[2; 300]);
    let first = send_all(&mut state);
    state.rewind();
    assert!(!state.is_all_sent());
    assert_eq!(send_all(&mut state), first);
    assert_eq!(state.into_unacked().len(), 2);
}

#[test]
fn on_ack_tells_full_and_slow_nodes() {
    let mut state = PipelineState::new(0);
    push(&mut state, 0, &[1; 10]);
    send_all(&mut state);
    let mut slow = ack(HEARTBEAT_SEQNO, &OK);
    slow.replies[1].slow = SlowNode::Slow;
    assert_eq!(state.on_ack(&slow, 2), AckOutcome::Alive(Some(1)));
    assert_eq!(state.on_ack(&slow, 1), AckOutcome::Alive(None), "never outside the pipeline");
    let mut full = ack(0, &[Status::Success, Status::Error]);
    full.replies[1].full = true;
    assert_eq!(state.on_ack(&full, 2), AckOutcome::NodeFailed { place: 1, status: Status::Error, is_full: true });
}

#[test]
fn end_of_a_block_is_told_from_its_data() {
    let mut state = PipelineState::new(0);
    push(&mut state, 0, &[1; 10]);
    state.enqueue(Packet::empty(10, 1, PacketKind { sync_block: false, last_in_block: true }));
    assert_eq!((state.is_ending(), state.lacks_only_end(), state.end()), (true, false, 10));
    send_all(&mut state);
    state.on_ack(&ack(0, &OK), 2);
    assert!(state.lacks_only_end());
    state.drop_end();
    assert_eq!((state.is_all_acked(), state.is_all_sent(), state.acked()), (true, true, 10));
}

proptest! {
    /// However the socket cuts it, the wire carries the packets' bytes in order, once.
    #[test]
    fn on_sent_any_cuts_give_the_same_wire(
        lens in proptest::collection::vec(0usize..2000, 1..20),
        cuts in proptest::collection::vec(1usize..3000, 1..50),
    ) {
        let mut state = PipelineState::new(0);
        let mut expected = Vec::new();
        let mut offset = 0;
        for (index, len) in lens.iter().enumerate() {
            if *len == 0 {
                state.enqueue(Packet::empty(offset, index as i64, PacketKind::default()));
            } else {
                push(&mut state, offset, &vec![index as u8; *len]);
            }
            offset += *len as u64;
        }
        for packet in &state.kept {
            expected.extend_from_slice(&packet.head);
            expected.extend_from_slice(&packet.data);
        }
        let mut wire = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        while !state.is_all_sent() {
            let mut slices = Vec::new();
            state.unsent(&mut slices);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let len = bytes.len().min(cuts.next().unwrap());
            wire.extend_from_slice(&bytes[..len]);
            state.on_sent(len);
        }
        prop_assert_eq!(wire, expected);
        prop_assert_eq!(state.partly_sent, 0);
    }
}
