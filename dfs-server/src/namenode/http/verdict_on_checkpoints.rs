//! What the verdict says of the device of edit log and images, of the room on it, and of checkpoints.

use std::time::Duration;

use dfs_common::ids::TxId;

use super::facts::Facts;
use crate::namenode::checkpoints::Secondary;
use crate::namenode::room::{ROOM_FOR_EDITS_BYTES, Room};
use crate::pages::health::{Health, Level};
use crate::pages::text::{counted, shown, size, span};

/// Silence of a SecondaryNameNode that is worth a look: it asks every few seconds, and within a minute after a failure.
const SILENCE: Duration = Duration::from_secs(180);
/// The same while it is at work: it says nothing while it merges.
const SILENCE_AT_WORK: Duration = Duration::from_secs(3600);

pub(super) fn judge_checkpoints(facts: &Facts, health: &mut Health) {
    let known = &facts.checkpoints;
    if let Some((at, why)) = &known.own_failure {
        health.add(
            Level::Watch,
            format!("The NameNode's last checkpoint failed {} ago: {}", span(at.elapsed()), shown(why.as_bytes())),
            "Nothing is lost: image and edits are kept. But the edit log grows until a checkpoint succeeds. When its cause is \
             mended: dfs admin save-namespace.",
        );
    }
    if let Some(silence) = facts.log_silence {
        health.add(
            Level::Act,
            format!("The edit log's device does not answer for {}: nothing can be changed", span(silence)),
            "See to the device of dfs.namenode.name.dir. When it answers again, all goes on. When it will not, kill the NameNode and \
             start it with the directory on a device that works; what is not on the disk was not acknowledged.",
        );
    }
    match &known.room {
        // Said above.
        Some(_) if facts.log_silence.is_some() => {}
        Some((told, _)) if known.room_silence().is_some() => health.add(
            Level::Watch,
            format!("The NameNode's device has not said for {} how much room it has", span(told.elapsed())),
            "See whether the device works.",
        ),
        Some((_, Ok(room))) => judge_room(room, health),
        Some((_, Err(why))) => health.add(
            Level::Watch,
            format!("It is not known how much room the NameNode's device has: {}", shown(why.as_bytes())),
            "See whether the device works.",
        ),
        None => {}
    }
    match &known.secondary {
        Some(secondary) => judge_secondary(secondary, TxId(facts.txids.0), health),
        None if known.expects_secondary && facts.up > SILENCE => health.add(
            Level::Watch,
            format!("No SecondaryNameNode has asked for {}, since the start", span(facts.up)),
            "dfs.namenode.checkpoint.dir is set, so there is to be one. Without it there is no copy of the namespace on another \
             machine: start it.",
        ),
        None => {}
    }
}

fn judge_room(room: &Room, health: &mut Health) {
    let free = size(room.free);
    if room.is_short_for_edits() {
        health.add(
            Level::Act,
            format!("The NameNode's device is full: {free} are left"),
            "A NameNode that cannot write its edit log stops. Make room on the device of dfs.namenode.name.dir; nothing in that \
             directory may be removed by hand.",
        );
    } else if room.is_short_for_image() {
        health.add(
            Level::Watch,
            format!("No room for the next checkpoint: {free} are left on the NameNode's device"),
            format!(
                "The last image has {}, and {} are kept for the edit log. Make room on the device of dfs.namenode.name.dir.",
                size(room.image),
                size(ROOM_FOR_EDITS_BYTES)
            ),
        );
    }
}

fn judge_secondary(secondary: &Secondary, applied: TxId, health: &mut Health) {
    if let Some((at, why)) = &secondary.told.failure {
        health.add(
            Level::Watch,
            format!(
                "The SecondaryNameNode's last checkpoint failed {} ago: {}",
                span(at.elapsed()),
                shown(why.as_bytes())
            ),
            "It tries again within a minute. Its page and its log say more.",
        );
    }
    let silence = secondary.heard.elapsed();
    let patience = if secondary.is_at_work { SILENCE_AT_WORK } else { SILENCE };
    if silence > patience {
        health.add(
            Level::Watch,
            format!("The SecondaryNameNode is silent for {}", span(silence)),
            "See that it runs and reaches this NameNode: no newer copy of the namespace is made meanwhile.",
        );
    }
    let late =
        secondary.lag(applied).filter(|(_, since)| *since > secondary.told.period.saturating_mul(2).max(patience));
    if let Some((behind, since)) = late {
        health.add(
            Level::Act,
            format!("The SecondaryNameNode's checkpoint is {} behind, for {}", counted(behind, "change"), span(since)),
            "They would be lost with the NameNode's device: see why there is no newer checkpoint.",
        );
    }
}
