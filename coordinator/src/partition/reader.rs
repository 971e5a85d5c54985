//! Reads the log of one partition, in order and without holes.
//!
//! It starts from the position in Redis. Sequences must be contiguous; a hole, an error or silence drops the reader, and
//! its owner checks the position again before it makes a new one.

use futures_util::{FutureExt, StreamExt};

use super::sabotage::{self, Bug};
use crate::servers::{Begin, Messages, Stored, Stream};

/// Entries asked for at a time.
const BATCH: usize = 1024;

/// A message of the log.
pub(crate) type Entry = Stored;

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The broker is not answering or has lost the consumer. Check the position, then read again.
    #[error("log reader lost: {0}")]
    Lost(String),
    /// The stream does not go on where the state stands (H3). Halt.
    #[error("log has a hole: expected sequence {expected}, found {found}")]
    Hole {
        /// Next sequence by the position.
        expected: u64,
        /// What came.
        found: u64,
    },
}

/// See the module.
pub(crate) struct Reader {
    messages: Messages,
    next: u64,
}

impl Reader {
    /// Starts after `position`.
    pub(crate) async fn start(stream: &dyn Stream, position: u64) -> Result<Self, Error> {
        let messages = stream.follow(Begin::Sequence(position + 1), BATCH).await;
        Ok(Self {
            messages: messages.map_err(|e| Error::Lost(e.0))?,
            next: position + 1,
        })
    }

    /// Waits for the next entry.
    pub(crate) async fn next(&mut self) -> Result<Entry, Error> {
        match self.messages.next().await {
            Some(Ok(entry)) => self.accept(entry),
            Some(Err(e)) => Err(Error::Lost(e.0)),
            None => Err(Error::Lost("the stream of messages ended".into())),
        }
    }

    /// The next entry if it is already here.
    pub(crate) fn ready(&mut self) -> Option<Result<Entry, Error>> {
        // Without tokio's cooperative budget, which would end a batch at 128 entries.
        tokio::task::unconstrained(self.next()).now_or_never()
    }

    fn accept(&mut self, entry: Entry) -> Result<Entry, Error> {
        if entry.sequence != self.next && !sabotage::has(Bug::HoleIgnored) {
            return Err(Error::Hole {
                expected: self.next,
                found: entry.sequence,
            });
        }
        self.next = entry.sequence + 1;
        Ok(entry)
    }
}
