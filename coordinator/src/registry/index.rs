//! Definitions in Redis: a hash of versions per definition, and one ordered set of all definitions whose scores are
//! revisions, so that one small read tells what changed since.

use std::collections::BTreeMap;

use millrace_common::{DefinitionRef, names};
use redis::{FromRedisValue, Value};

use super::StoredDefinition;
use super::store::{Decision, Store, StoreError};

/// Clonable handle.
#[derive(Clone, Debug)]
pub(super) struct Index {
    store: Store,
}

impl Index {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// All or nothing: the version in its hash, and its definition under a new revision. Gives what was there before;
    /// then nothing is written. `scheduled`: this version has a schedule.
    pub(super) async fn enter(
        &self,
        key: &DefinitionRef,
        stored: &StoredDefinition,
        scheduled: bool,
    ) -> Result<Option<StoredDefinition>, StoreError> {
        let hash = names::definition_key(&key.namespace, &key.name);
        let member = format!("{}/{}", key.namespace, key.name);
        let text = serde_json::to_string(stored).expect("a definition has string keys");
        let mut reads = redis::pipe();
        reads.hget(&hash, &key.version).add_command(newest());
        let watched = [hash.as_str(), names::DEFINITIONS_KEY];
        let before = self.store.transact(&watched, &reads, |seen| {
            let (earlier, newest): (Option<String>, Vec<(String, i64)>) =
                FromRedisValue::from_redis_value(Value::Array(seen))?;
            if earlier.is_some() {
                return Ok(Decision::Leave(earlier));
            }
            let mut commands = redis::pipe();
            commands.hset(&hash, &key.version, &text).ignore();
            if scheduled {
                commands.sadd(names::SCHEDULED_KEY, &member).ignore();
            }
            commands
                .zadd(names::DEFINITIONS_KEY, &member, revision(&newest) + 1)
                .ignore();
            Ok(Decision::Commit(commands, None))
        });
        before.await?.map(|text| read(key, &text)).transpose()
    }

    /// One version.
    pub(super) async fn fetch(&self, key: &DefinitionRef) -> Result<Option<StoredDefinition>, StoreError> {
        let hash = names::definition_key(&key.namespace, &key.name);
        let text: Option<String> = self
            .store
            .query(redis::cmd("HGET").arg(hash).arg(&key.version))
            .await?;
        text.map(|text| read(key, &text)).transpose()
    }

    /// The newest revision; 0 when there is no definition.
    pub(super) async fn revision(&self) -> Result<i64, StoreError> {
        self.store
            .query(&newest())
            .await
            .map(|top: Vec<(String, i64)>| revision(&top))
    }

    /// Definitions of which some version has a schedule: (namespace, name).
    pub(super) async fn scheduled(&self) -> Result<Vec<(String, String)>, StoreError> {
        let members: Vec<String> = self
            .store
            .query(redis::cmd("SMEMBERS").arg(names::SCHEDULED_KEY))
            .await?;
        Ok(members.iter().filter_map(|m| split(m)).collect())
    }

    /// Definitions that changed after a revision, with all their versions, and the newest revision among them.
    pub(super) async fn since(&self, after: i64) -> Result<Changes, StoreError> {
        let mut range = redis::cmd("ZRANGE");
        range
            .arg(names::DEFINITIONS_KEY)
            .arg(format!("({after}"))
            .arg("+inf")
            .arg("BYSCORE")
            .arg("WITHSCORES");
        let changed: Vec<(String, i64)> = self.store.query(&range).await?;
        let keys: Vec<(String, String)> = changed.iter().filter_map(|(member, _)| split(member)).collect();
        let mut reads = redis::pipe();
        for (namespace, name) in &keys {
            reads.hkeys(names::definition_key(namespace, name));
        }
        let versions: Vec<Vec<String>> = match keys.is_empty() {
            true => Vec::new(),
            false => self.store.pipe(&reads).await?,
        };
        let revision = changed.iter().map(|(_, score)| *score).max().unwrap_or(after);
        Ok(Changes {
            versions: keys.into_iter().zip(versions).collect(),
            revision,
        })
    }
}

/// See [`Index::since`].
pub(super) struct Changes {
    /// (namespace, name) -> versions.
    pub versions: BTreeMap<(String, String), Vec<String>>,
    /// Newest revision seen.
    pub revision: i64,
}

fn newest() -> redis::Cmd {
    let mut command = redis::cmd("ZRANGE");
    command
        .arg(names::DEFINITIONS_KEY)
        .arg(0)
        .arg(0)
        .arg("REV")
        .arg("WITHSCORES");
    command
}

fn revision(newest: &[(String, i64)]) -> i64 {
    newest.first().map_or(0, |(_, score)| *score)
}

fn split(member: &str) -> Option<(String, String)> {
    member
        .split_once('/')
        .map(|(namespace, name)| (namespace.into(), name.into()))
}

fn read(key: &DefinitionRef, text: &str) -> Result<StoredDefinition, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Unreadable(key.to_string(), e.to_string()))
}
