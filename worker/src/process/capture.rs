//! Reads what a process writes, within a bound.

use std::io;

use millrace_common::limits;
use tokio::io::{AsyncRead, AsyncReadExt};

const CHUNK: usize = 8 * 1024;

/// How much of a stream is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All of it; more than the bound is an error.
    Whole,
    /// Its end, for messages.
    End,
}

impl Keep {
    /// All of a stream that is returned.
    pub(super) const fn of(is_returned: bool) -> Self {
        if is_returned { Self::Whole } else { Self::End }
    }
}

/// Why there is nothing to return.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    /// The process writes too much.
    #[error(
        "it wrote more than {} bytes to a stream that is returned",
        limits::PROCESS_OUTPUT_BYTES_MAX
    )]
    TooMuch,
    /// The stream broke.
    #[error("cannot read what it writes: {0}")]
    Io(#[from] io::Error),
}

/// Bytes of one stream, collected.
#[derive(Debug)]
pub(super) struct Captured {
    keep: Keep,
    bytes: Vec<u8>,
}

impl Captured {
    pub(super) const fn new(keep: Keep) -> Self {
        Self {
            keep,
            bytes: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, chunk: &[u8]) -> Result<(), CaptureError> {
        self.bytes.extend_from_slice(chunk);
        self.check()
    }

    /// What is kept.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        if self.keep == Keep::End {
            self.cut(limits::PROCESS_DETAIL_BYTES_MAX);
        }
        self.bytes
    }

    fn check(&mut self) -> Result<(), CaptureError> {
        match self.keep {
            Keep::Whole if self.bytes.len() > limits::PROCESS_OUTPUT_BYTES_MAX => Err(CaptureError::TooMuch),
            Keep::Whole => Ok(()),
            Keep::End => {
                if self.bytes.len() > 2 * limits::PROCESS_DETAIL_BYTES_MAX + CHUNK {
                    self.cut(limits::PROCESS_DETAIL_BYTES_MAX);
                }
                Ok(())
            }
        }
    }

    fn cut(&mut self, max: usize) {
        let surplus = self.bytes.len().saturating_sub(max);
        self.bytes.drain(..surplus);
    }
}

/// Reads a stream to its end.
pub(super) async fn capture(mut stream: impl AsyncRead + Unpin, keep: Keep) -> Result<Vec<u8>, CaptureError> {
    let mut captured = Captured::new(keep);
    loop {
        captured.bytes.reserve(CHUNK);
        if stream.read_buf(&mut captured.bytes).await? == 0 {
            return Ok(captured.into_bytes());
        }
        captured.check()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_returned_stream_is_whole_or_an_error() {
        let text = vec![b'x'; limits::PROCESS_OUTPUT_BYTES_MAX];
        assert_eq!(capture(&text[..], Keep::Whole).await.unwrap(), text);
        let more = vec![b'x'; limits::PROCESS_OUTPUT_BYTES_MAX + 1];
        let error = capture(&more[..], Keep::Whole).await.unwrap_err();
        assert!(matches!(error, CaptureError::TooMuch), "{error}");
        assert!(error.to_string().contains("524288"), "{error}");
    }

    #[tokio::test]
    async fn of_another_stream_the_end_is_kept() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"last words");
        let end = capture(&text[..], Keep::End).await.unwrap();
        assert_eq!(end.len(), limits::PROCESS_DETAIL_BYTES_MAX);
        assert!(end.ends_with(b"xlast words"));
    }
}
