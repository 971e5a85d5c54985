//! Pages of an instance's trace: entries by number.

use millrace_common::{InstanceKey, RawJson, names, partition_of};
use serde::Serialize;

use super::{Queries, QueryError};

/// Entries in one page at most.
pub const HISTORY_LIMIT_MAX: usize = 1_000;

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage {
    /// Entries in order, as the engine wrote them: `n` is the number.
    pub entries: Vec<RawJson>,
    /// `after` for the next page; absent when this one reaches the newest entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

impl Queries {
    /// Entries with a number above `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn history(
        &self,
        key: &InstanceKey,
        after: u64,
        limit: usize,
    ) -> Result<HistoryPage, QueryError> {
        let limit = limit.clamp(1, HISTORY_LIMIT_MAX);
        let first = after.saturating_add(1);
        let page = self.numbered(key, first, limit).await?;
        if page.first().is_some_and(Option::is_some) {
            return Ok(whole(first, page, limit));
        }
        // Either the end, or the oldest entries were dropped: find where it goes on.
        let mut read = redis::cmd("HKEYS");
        read.arg(self.trace_key(key));
        let numbers: Vec<u64> = self.store.query(&read).await?;
        match numbers.into_iter().filter(|n| *n >= first).min() {
            None => Ok(HistoryPage::default()),
            Some(first) => Ok(whole(first, self.numbered(key, first, limit).await?, limit)),
        }
    }

    /// `limit + 1` entries from `first`: the last tells whether there are more.
    async fn numbered(
        &self,
        key: &InstanceKey,
        first: u64,
        limit: usize,
    ) -> Result<Vec<Option<RawJson>>, QueryError> {
        let mut read = redis::cmd("HMGET");
        read.arg(self.trace_key(key));
        for number in (first..).take(limit + 1) {
            read.arg(number);
        }
        let texts: Vec<Option<Vec<u8>>> = self.store.query(&read).await?;
        Ok(texts
            .into_iter()
            .map(|text| RawJson::parse(&text?).ok())
            .collect())
    }

    fn trace_key(&self, key: &InstanceKey) -> String {
        names::trace_key(partition_of(key, self.partitions), key)
    }
}

/// Entries stand without holes: the page ends at the first one that is not there.
fn whole(first: u64, page: Vec<Option<RawJson>>, limit: usize) -> HistoryPage {
    let more = page.get(limit).is_some_and(Option::is_some);
    let entries: Vec<_> = page.into_iter().take(limit).map_while(|entry| entry).collect();
    let next_after = more.then(|| first + entries.len() as u64 - 1);
    HistoryPage { entries, next_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: u64) -> Option<RawJson> {
        Some(RawJson::parse(format!(r#"{{"n":{n}}}"#).as_bytes()).unwrap())
    }

    #[test]
    fn a_page_tells_whether_there_is_another() {
        let page = whole(5, vec![text(5), text(6), text(7)], 2);
        assert_eq!((page.entries.len(), page.next_after), (2, Some(6)));
        let last = whole(5, vec![text(5), text(6), None], 2);
        assert_eq!((last.entries.len(), last.next_after), (2, None));
        assert_eq!(
            serde_json::to_string(&last).unwrap(),
            r#"{"entries":[{"n":5},{"n":6}]}"#
        );
    }
}
