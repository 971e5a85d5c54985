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
    /// Entries in order, each as the engine wrote it.
    pub entries: Vec<Entry>,
    /// `after` for the next page; absent when this one reaches the newest entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number: rises by one from entry to entry of an instance.
    pub number: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: serde_json::Map<String, serde_json::Value>,
}




impl Queries {
    /// Entries with a number above `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn history(&self, key: &InstanceKey, after: Option<u64>, limit: usize) -> Result<HistoryPage, QueryError> {
        let limit = limit.clamp(1, HISTORY_LIMIT_MAX);
        let first = after.map_or(0, |n| n.saturating_add(1));
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
    async fn numbered(&self, key: &InstanceKey, first: u64, limit: usize) -> Result<Vec<Option<RawJson>>, QueryError> {
        let mut read = redis::cmd("HMGET");
        read.arg(self.trace_key(key));
        for number in (first..).take(limit + 1) {
            read.arg(number);
        }
        let texts: Vec<Option<Vec<u8>>> = self.store.query(&read).await?;
        Ok(texts.into_iter().map(|text| RawJson::parse(&text?).ok()).collect())
    }

    fn trace_key(&self, key: &InstanceKey) -> String {
        names::trace_key(partition_of(key, self.partitions), key)
    }
}

fn whole(first: u64, page: Vec<Option<RawJson>>, limit: usize) -> HistoryPage {
    let more = page.len() > limit && page.last().is_some_and(Option::is_some);
    let entries: Vec<_> = (first..)
        .zip(page.into_iter().take(limit))
        .filter_map(|(number, text)| Some(Entry { number, body: text?.decode().ok()? }))
        .collect();
    let next_after = entries.last().filter(|_| more).map(|e| e.number);
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
        assert_eq!(page.entries.iter().map(|e| e.number).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(page.next_after, Some(6));
        let last = whole(5, vec![text(5), text(6), None], 2);
        assert_eq!((last.entries.len(), last.next_after), (2, None));
        assert_eq!(serde_json::to_string(&last.entries[0]).unwrap(), r#"{"number":5,"n":5}"#);
    }
}
