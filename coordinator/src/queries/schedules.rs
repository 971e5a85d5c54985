//! Schedules as their partitions have committed them.

use std::collections::HashMap;

use millrace_common::{InstanceKey, names, partition_of};
use millrace_engine::{Schedule, ScheduleView};

use super::{Queries, QueryError};

impl Queries {
    /// One schedule; `None` when the newest version of the definition has none, or there is no such definition.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn schedule(&self, key: &InstanceKey) -> Result<Option<ScheduleView>, QueryError> {
        let mut read = redis::cmd("HGET");
        read.arg(names::schedules_key(partition_of(key, self.partitions)))
            .arg(key.as_str());
        let json: Option<Vec<u8>> = self.store.query(&read).await?;
        json.map_or(Ok(None), |json| view(key, &json))
    }

    /// All schedules in force, by namespace and name.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, QueryError> {
        let mut reads = redis::pipe();
        for p in self.partitions() {
            reads.hgetall(names::schedules_key(p));
        }
        let rows: Vec<HashMap<String, Vec<u8>>> = self.store.pipe(&reads).await?;
        let mut found = Vec::new();
        for (field, json) in rows.into_iter().flatten() {
            if let Ok(key) = field.parse::<InstanceKey>() {
                found.extend(view(&key, &json)?);
            }
        }
        found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(found)
    }
}

fn view(key: &InstanceKey, json: &[u8]) -> Result<Option<ScheduleView>, QueryError> {
    let schedule = Schedule::decode(json).map_err(|e| QueryError::Schedule(key.clone(), e.to_string()))?;
    Ok(schedule.is_in_force().then(|| schedule.view(key)))
}
