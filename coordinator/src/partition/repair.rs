//! What only an operator may order for a halted partition: to take the present log as the truth, or to make the state anew
//! from the log. Called by the take-over, after the fence is taken: every write here is fenced like a commit, so of two
//! coordinators that are told the same one does it.

use millrace_common::{PartitionId, names};
use tracing::warn;

use super::batch::Batch;
use super::fence::Position;
use super::store::{Outcome, Store};
use super::{Stop, recover};
use crate::servers::Stream;

/// Keys dropped in one commit.
const DROP_MAX: usize = 500;

/// Stands before the first record of the log as it is now, keeping the state: records that were applied before are
/// no-ops. The boundaries of the old log are forgotten.
pub(super) async fn adopt(
    store: &mut Store,
    stream: &dyn Stream,
    p: PartitionId,
    position: Position,
    incarnation: &str,
) -> Result<Position, Stop> {
    let first = recover::extent(stream).await?.first;
    let adopted = Position {
        incarnation: incarnation.into(),
        sequence: first.max(1) - 1,
        fingerprint: 0,
        generation: position.generation + 1,
        ..position
    };
    let mut batch = Batch::default();
    batch.drop_key(names::marks_key(p));
    commit(store, &batch, &adopted).await?;
    warn!(partition.id = %p, log.sequence = adopted.sequence, generation = adopted.generation,
        "the present log is the truth from now on; the state is kept");
    Ok(adopted)
}

/// Whether the log still has everything that state could be made from.
pub(super) async fn check_complete(stream: &dyn Stream, p: PartitionId) -> Result<(), Stop> {
    let first = recover::extent(stream).await?.first;
    match first {
        0 | 1 => Ok(()),
        _ => Err(Stop::Halted {
            code: "REDIS-LOST",
            text: format!(
                "partition {p} cannot be rebuilt: its log starts at {first}, and what came before is in no store; \
                 restore redis from a backup that is not older than that"
            ),
        }),
    }
}

/// Drops what Redis holds of the partition, in pieces, and then stands before the first record. Until the last piece is
/// gone the stored position says that state is being made anew, so a crash in between halts again.
pub(super) async fn wipe(store: &mut Store, p: PartitionId, start: Position) -> Result<Position, Stop> {
    let unfinished = Position {
        rebuilding: true,
        ..start.clone()
    };
    let mut dropped = 0_usize;
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(names::partition_keys(p))
            .arg("COUNT")
            .arg(DROP_MAX);
        let (next, keys): (u64, Vec<String>) = store.read(&scan).await.map_err(broken)?;
        let mut batch = Batch::default();
        let held = [names::fence_key(p), names::position_key(p)];
        for key in keys.into_iter().filter(|key| !held.contains(key)) {
            dropped += 1;
            batch.drop_key(key);
        }
        commit(store, &batch, &unfinished).await?;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    commit(store, &Batch::default(), &start).await?;
    warn!(partition.id = %p, keys = dropped, "the state of the partition is made anew from its log");
    Ok(start)
}

async fn commit(store: &mut Store, batch: &Batch, position: &Position) -> Result<(), Stop> {
    match store.commit(batch, position, false).await {
        Outcome::Applied => Ok(()),
        Outcome::Refused(reason) => Err(Stop::Broken(format!("redis refuses to write: {reason}"))),
        Outcome::Lost => Err(Stop::Lost("the fence was moved by another coordinator".into())),
        Outcome::Unknown(reason) => Err(Stop::Unknown(reason)),
        Outcome::Torn(text) => Err(Stop::Halted { code: "TORN", text }),
    }
}

fn broken(e: impl std::fmt::Display) -> Stop {
    Stop::Broken(e.to_string())
}
