//! Lists of instances, newest first: the indexes of all partitions merged. A cursor is the place of the last instance
//! seen, so that pages stay right while new instances come.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_common::{DefinitionRef, InstanceKey, PartitionId, names};
use millrace_engine::view::SUMMARY_FIELDS;
use millrace_engine::{InstanceView, Status};
use serde::Serialize;

use super::{Queries, QueryError, SummaryFields, summary};

/// Instances in one page at most.
pub const LIST_LIMIT_MAX: usize = 500;
/// Instances looked at for one page. A page may be short, even empty, when a filter matches few; its cursor goes on.
const LOOKED_AT_MAX: usize = 5_000;
/// Instances whose summaries are read in one round trip.
const CHUNK: usize = 200;

/// Which instances are wanted; everything given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this namespace.
    pub namespace: Option<String>,
    /// In one of these phases; empty: in any.
    pub status: Vec<Status>,
    /// Of a definition of this name.
    pub definition: Option<String>,
    /// In exactly this version.
    pub version: Option<String>,
    /// With these labels; a key without value asks for the key only.
    pub labels: Vec<(String, Option<String>)>,
}

/// A place in the order: creation time descending, then `namespace/id` descending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    created_ms: i64,
    key: String,
}

/// One page.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstancePage {
    /// Newest first, without payloads.
    pub items: Vec<InstanceView>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Cursor {
    /// Opaque text.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("1 {} {}", self.created_ms, self.key))
    }

    /// Reads [`Self::encode`]; `None` when it is not one.
    pub fn decode(text: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (created_ms, key) = text.strip_prefix("1 ")?.split_once(' ')?;
        Some(Self {
            created_ms: created_ms.parse().ok()?,
            key: key.parse::<InstanceKey>().ok()?.as_str().into(),
        })
    }

    fn place(&self) -> (i64, &str) {
        (self.created_ms, &self.key)
    }
}

impl Filter {
    fn wants_key(&self, key: &InstanceKey) -> bool {
        self.namespace.as_ref().is_none_or(|ns| key.namespace() == ns)
    }

    fn wants(&self, view: &InstanceView) -> bool {
        let DefinitionRef { name, version, .. } = &view.definition;
        (self.status.is_empty() || self.status.contains(&view.status))
            && self.definition.as_ref().is_none_or(|d| d == name)
            && self.version.as_ref().is_none_or(|v| v == version)
            && self
                .labels
                .iter()
                .all(|(key, value)| match (view.labels.get(key), value) {
                    (Some(found), Some(value)) => found == value,
                    (found, None) => found.is_some(),
                    (None, Some(_)) => false,
                })
    }

    /// True when only instances that have not ended can match: then the smaller index will do.
    fn open_only(&self) -> bool {
        !self.status.is_empty() && self.status.iter().all(|s| !s.is_ended())
    }
}

impl Queries {
    /// A page of instances after `cursor`, at most `limit`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn list(
        &self,
        filter: &Filter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<InstancePage, QueryError> {
        let limit = limit.clamp(1, LIST_LIMIT_MAX);
        let mut merge = Merge::new(self, filter.open_only(), cursor);
        let (mut items, mut looked_at) = (Vec::new(), 0);
        while looked_at < LOOKED_AT_MAX {
            let chunk = merge.take(CHUNK.min(limit + 1)).await?;
            if chunk.is_empty() {
                return Ok(InstancePage {
                    items,
                    next_cursor: None,
                });
            }
            looked_at += chunk.len();
            for (place, view) in self.summaries(chunk, filter).await? {
                merge.seen = Some(place);
                let Some(view) = view.filter(|v| filter.wants(v)) else {
                    continue;
                };
                items.push(view);
                if items.len() == limit {
                    return Ok(InstancePage {
                        items,
                        next_cursor: merge.seen.map(|c| c.encode()),
                    });
                }
            }
        }
        Ok(InstancePage {
            items,
            next_cursor: merge.seen.map(|c| c.encode()),
        })
    }

    async fn summaries(
        &self,
        places: Vec<Cursor>,
        filter: &Filter,
    ) -> Result<Vec<(Cursor, Option<InstanceView>)>, QueryError> {
        let keys: Vec<Option<InstanceKey>> = places
            .iter()
            .map(|c| c.key.parse().ok().filter(|k| filter.wants_key(k)))
            .collect();
        let wanted: Vec<&InstanceKey> = keys.iter().flatten().collect();
        let mut found = VecDeque::new();
        if !wanted.is_empty() {
            let mut reads = redis::pipe();
            for key in &wanted {
                reads
                    .cmd("HMGET")
                    .arg(self.instance_key(key))
                    .arg(&SUMMARY_FIELDS[..]);
            }
            found = self.store.pipe::<Vec<SummaryFields>>(&reads).await?.into();
        }
        let mut views = Vec::with_capacity(places.len());
        for (place, key) in places.into_iter().zip(keys) {
            let fields = key.as_ref().and_then(|_wanted| found.pop_front());
            let view = match (&key, fields) {
                (Some(key), Some(fields)) => summary(key, &fields)?,
                _ => None,
            };
            views.push((place, view));
        }
        Ok(views)
    }
}

/// The indexes of all partitions as one descending sequence.
struct Merge<'a> {
    queries: &'a Queries,
    lanes: Vec<Lane>,
    /// Everything up to here was given out.
    seen: Option<Cursor>,
}

struct Lane {
    key: String,
    buffer: VecDeque<Cursor>,
    /// Highest score that is not read yet, and how many of it are.
    from: Option<i64>,
    skip: usize,
    done: bool,
}

impl<'a> Merge<'a> {
    fn new(queries: &'a Queries, open_only: bool, seen: Option<Cursor>) -> Self {
        let key = |p: PartitionId| {
            if open_only {
                names::open_key(p)
            } else {
                names::index_key(p)
            }
        };
        let from = seen.as_ref().map(|c| c.created_ms);
        let lane = |p| Lane {
            key: key(p),
            buffer: VecDeque::new(),
            from,
            skip: 0,
            done: false,
        };
        Self {
            queries,
            lanes: queries.partitions().map(lane).collect(),
            seen,
        }
    }

    /// The next `count`, fewer only at the end.
    async fn take(&mut self, count: usize) -> Result<Vec<Cursor>, QueryError> {
        let mut taken: Vec<Cursor> = Vec::new();
        while taken.len() < count {
            self.fill(count).await?;
            let Some(lane) = self
                .lanes
                .iter_mut()
                .filter(|l| !l.buffer.is_empty())
                .max_by(|a, b| {
                    a.buffer
                        .front()
                        .map(Cursor::place)
                        .cmp(&b.buffer.front().map(Cursor::place))
                })
            else {
                break;
            };
            let next = lane
                .buffer
                .pop_front()
                .expect("the lane was chosen for having one");
            if self.seen.as_ref().is_none_or(|seen| next.place() < seen.place()) {
                taken.push(next);
            }
        }
        Ok(taken)
    }

    /// Reads on in every lane that has run empty: one round trip for all.
    async fn fill(&mut self, count: usize) -> Result<(), QueryError> {
        let mut reads = redis::pipe();
        let empty: Vec<_> = self
            .lanes
            .iter_mut()
            .filter(|l| l.buffer.is_empty() && !l.done)
            .collect();
        if empty.is_empty() {
            return Ok(());
        }
        for lane in &empty {
            let from = lane.from.map_or_else(|| "+inf".into(), |t| t.to_string());
            reads
                .cmd("ZRANGE")
                .arg(&lane.key)
                .arg(from)
                .arg("-inf")
                .arg("BYSCORE")
                .arg("REV");
            reads.arg("LIMIT").arg(lane.skip).arg(count).arg("WITHSCORES");
        }
        let found: Vec<Vec<(String, i64)>> = self.queries.store.pipe(&reads).await?;
        for (lane, members) in empty.into_iter().zip(found) {
            lane.add(members, count);
        }
        Ok(())
    }
}

impl Lane {
    fn add(&mut self, members: Vec<(String, i64)>, count: usize) {
        self.done = members.len() < count;
        for (key, created_ms) in members {
            if self.from == Some(created_ms) {
                self.skip += 1;
            } else {
                (self.from, self.skip) = (Some(created_ms), 1);
            }
            self.buffer.push_back(Cursor { created_ms, key });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_refuse_nonsense() {
        let cursor = Cursor {
            created_ms: 1_700_000_000_123,
            key: "default/a:b".into(),
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        for bad in ["", "x", "MSAx", "💥"] {
            assert_eq!(Cursor::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_lane_reads_on_within_one_millisecond() {
        let mut lane = Lane {
            key: String::new(),
            buffer: VecDeque::new(),
            from: None,
            skip: 0,
            done: false,
        };
        lane.add(vec![("n/c".into(), 9), ("n/b".into(), 7), ("n/a".into(), 7)], 3);
        assert_eq!((lane.from, lane.skip, lane.done), (Some(7), 2, false));
        lane.add(vec![("n/Z".into(), 7)], 3);
        assert_eq!((lane.from, lane.skip, lane.done), (Some(7), 3, true));
    }

    #[test]
    fn only_open_phases_use_the_open_index() {
        let of = |status: &[Status]| {
            Filter {
                status: status.into(),
                ..Filter::default()
            }
            .open_only()
        };
        assert!(!of(&[]));
        assert!(of(&[Status::Running, Status::Waiting]));
        assert!(!of(&[Status::Running, Status::Completed]));
    }
}
