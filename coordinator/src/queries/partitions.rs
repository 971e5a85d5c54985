//! What Redis holds of each partition: who owns it, how far it has read, how much is under way, and what waits for a
//! person.

use millrace_common::{InstanceKey, PartitionId, names, wire};
use millrace_engine::view::SUMMARY_FIELDS;
use redis::FromRedisValue;
use serde::Serialize;

use super::{Queries, QueryError, SummaryFields, summary};
use crate::partition::{Fence, Position};
use crate::registry::StoreError;

/// Open instances looked at for a quarantine; more are not, and the answer says so.
const LOOKED_MAX: usize = 10_000;
/// Instances or records shown.
const SHOWN_MAX: usize = 100;
/// Read at a time.
const PAGE: usize = 500;

/// A partition in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Who took it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Raised by every take-over.
    pub epoch: u64,
    /// The owner left on purpose, and nobody followed yet.
    pub released: bool,
    /// Last sequence of the log that is applied; absent when Redis has no position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Raised when the log lost a tail or was adopted.
    pub generation: u32,
    /// Which log the position is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Last sequence of the stream of events that is dealt with; absent while nothing listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// A rebuild began and has not ended.
    pub rebuilding: bool,
    /// Open effects.
    pub outbox: u64,
    /// Armed timers.
    pub timers: u64,
    /// Tasks that listen.
    pub listening: u64,
    /// Schedules.
    pub schedules: u64,
    /// Instances that can be read.
    pub instances: u64,
    /// Those that have not ended.
    pub open: u64,
    /// Records kept because they could not be applied.
    pub dead: u64,
}

/// Instances that are set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// At most 100 of them.
    pub items: Vec<SetAside>,
    /// Open instances that were looked at.
    pub looked_at: u64,
}

/// An instance that is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// `namespace/id`.
    pub instance: InstanceKey,
    /// Why.
    pub reason: String,
    /// RFC 3339.
    pub since: String,
}

/// A record that is kept because it could not be decoded or applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadRecord {
    /// Its sequence in the log; of an event: in the stream of events, with the highest bit set.
    pub sequence: u64,
    /// Its kind; absent when it cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceKey>,
    /// Its size.
    pub bytes: usize,
    /// As it was encoded.
    #[serde(skip)]
    pub raw: Vec<u8>,
}

impl Queries {
    /// Of every partition, in order.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn checkpoints(&self) -> Result<Vec<Checkpoint>, QueryError> {
        let all: Vec<PartitionId> = self.partitions().collect();
        self.checkpoints_of(&all).await
    }

    /// Of these partitions.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn checkpoints_of(&self, partitions: &[PartitionId]) -> Result<Vec<Checkpoint>, QueryError> {
        let mut reads = redis::pipe();
        for p in partitions {
            reads.get(names::fence_key(*p)).get(names::position_key(*p));
            reads.hlen(names::outbox_key(*p)).zcard(names::timers_key(*p));
            reads.hlen(names::listeners_key(*p));
            reads.hlen(names::schedules_key(*p));
            reads.zcard(names::index_key(*p)).zcard(names::open_key(*p));
            reads.hlen(names::dead_key(*p));
        }
        let values: Vec<redis::Value> = self.store.pipe(&reads).await?;
        let of = |(p, values): (&PartitionId, &[redis::Value])| checkpoint(*p, values);
        Ok(partitions
            .iter()
            .zip(values.chunks(9))
            .map(of)
            .collect::<Result<_, _>>()?)
    }

    /// Instances of a partition that are set aside, the oldest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn quarantined(&self, p: PartitionId) -> Result<Quarantined, QueryError> {
        let mut found = Quarantined::default();
        for from in (0..LOOKED_MAX).step_by(PAGE) {
            let mut range = redis::cmd("ZRANGE");
            range.arg(names::open_key(p)).arg(from).arg(from + PAGE - 1);
            let members: Vec<String> = self.store.query(&range).await?;
            let keys: Vec<InstanceKey> = members.iter().filter_map(|m| m.parse().ok()).collect();
            let mut reads = redis::pipe();
            for key in &keys {
                let read = reads.cmd("HMGET").arg(names::instance_key(p, key));
                read.arg(&SUMMARY_FIELDS[..]);
            }
            let rows: Vec<SummaryFields> = match keys.is_empty() {
                true => Vec::new(),
                false => self.store.pipe(&reads).await?,
            };
            for (key, fields) in keys.iter().zip(&rows) {
                found.looked_at += 1;
                if found.items.len() < SHOWN_MAX {
                    found.items.extend(set_aside(key, fields)?);
                }
            }
            if members.len() < PAGE {
                break;
            }
        }
        Ok(found)
    }

    /// Records that a partition keeps because they could not be applied, by sequence; `of`: only of this instance.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn dead(
        &self,
        p: PartitionId,
        of: Option<&InstanceKey>,
    ) -> Result<Vec<DeadRecord>, QueryError> {
        let (mut found, mut cursor) = (Vec::new(), 0_u64);
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(names::dead_key(p)).arg(cursor).arg("COUNT").arg(PAGE);
            let (next, rows): (u64, Vec<(u64, Vec<u8>)>) = self.store.query(&scan).await?;
            let records = rows.into_iter().map(|(sequence, raw)| dead_record(sequence, raw));
            found.extend(records.filter(|r| of.is_none_or(|key| r.instance.as_ref() == Some(key))));
            cursor = next;
            if cursor == 0 || found.len() >= SHOWN_MAX {
                break;
            }
        }
        found.sort_by_key(|r: &DeadRecord| r.sequence);
        found.truncate(SHOWN_MAX);
        Ok(found)
    }
}

fn checkpoint(p: PartitionId, values: &[redis::Value]) -> Result<Checkpoint, StoreError> {
    let [fence, position, counts @ ..] = values else {
        let key = names::fence_key(p);
        return Err(StoreError::Unreadable(key, "redis gave fewer answers".into()));
    };
    let fence: Option<Fence> = json(&names::fence_key(p), fence)?;
    let position: Option<Position> = json(&names::position_key(p), position)?;
    let count = |at: usize| -> Result<u64, StoreError> {
        let value = counts.get(at).cloned().unwrap_or(redis::Value::Nil);
        u64::from_redis_value(value)
            .map_err(|e| StoreError::Unreadable(format!("counts of partition {p}"), e.to_string()))
    };
    Ok(Checkpoint {
        epoch: fence.as_ref().map_or(0, |f| f.counter),
        released: fence.as_ref().is_some_and(|f| f.released),
        owner: fence.map(|f| f.owner),
        generation: position.as_ref().map_or(0, |x| x.generation),
        events: position.as_ref().and_then(|x| x.events).map(|mark| mark.sequence),
        rebuilding: position.as_ref().is_some_and(|x| x.rebuilding),
        applied: position.as_ref().map(|x| x.sequence),
        log: position.map(|x| x.incarnation),
        outbox: count(0)?,
        timers: count(1)?,
        listening: count(2)?,
        schedules: count(3)?,
        instances: count(4)?,
        open: count(5)?,
        dead: count(6)?,
    })
}

fn json<T: serde::de::DeserializeOwned>(key: &str, value: &redis::Value) -> Result<Option<T>, StoreError> {
    let unreadable = |reason: String| StoreError::Unreadable(key.into(), reason);
    match value {
        redis::Value::Nil => Ok(None),
        redis::Value::BulkString(text) => serde_json::from_slice(text)
            .map(Some)
            .map_err(|e| unreadable(e.to_string())),
        other => Err(unreadable(format!("{other:?}"))),
    }
}

fn set_aside(key: &InstanceKey, fields: &SummaryFields) -> Result<Option<SetAside>, QueryError> {
    let Some(view) = summary(key, fields)? else {
        return Ok(None);
    };
    Ok(view.quarantine.map(|(reason, since)| SetAside {
        instance: key.clone(),
        reason,
        since,
    }))
}

fn dead_record(sequence: u64, raw: Vec<u8>) -> DeadRecord {
    let decoded = wire::decode_record(&raw).ok();
    DeadRecord {
        sequence,
        kind: decoded.as_ref().map(|(_, body)| body.kind()),
        instance: decoded.and_then(|(instance, _)| instance),
        bytes: raw.len(),
        raw,
    }
}
