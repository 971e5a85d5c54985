//! gRPC over HTTP/2: messages with their length before them, and a status behind.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use millrace_common::{limits, percent};
use reqwest::header::HeaderMap;

/// Bytes before a message: a flag, and the length.
const PREFIX: usize = 5;

/// Appends a message.
pub(super) fn frame(message: &[u8], body: &mut Vec<u8>) {
    body.push(0);
    // A step's input is far smaller than what a length can say.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(message);
}

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// No compression was offered.
    #[error("the answer is compressed, which was not offered")]
    Compressed,
    /// Above the bound of one message.
    #[error("the answer holds a message of {0} bytes, at most {max} are read", max = limits::PAYLOAD_BYTES_MAX)]
    TooLarge(usize),
}

/// Cuts a body into messages.
#[derive(Debug, Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((flag, length)) = self.prefix() else {
            return Ok(None);
        };
        if length > limits::PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLarge(length));
        }
        if flag != 0 {
            return Err(FrameError::Compressed);
        }
        if self.0.len() < PREFIX + length {
            return Ok(None);
        }
        self.0.advance(PREFIX);
        Ok(Some(self.0.split_to(length).freeze()))
    }

    fn prefix(&self) -> Option<(u8, usize)> {
        let [flag, length @ ..] = self.0.first_chunk::<PREFIX>()?;
        Some((
            *flag,
            usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX),
        ))
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    code: u32,
    message: String,
}

/// Name and HTTP status of each code, from 0.
const CODES: [(&str, u16); 17] = [
    ("OK", 200),
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
];

impl Status {
    /// The status in trailers or headers, if there is one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        let message = headers
            .get("grpc-message")
            .map(|m| String::from_utf8_lossy(&percent::decoded(m.as_bytes())).into_owned());
        Some(Self {
            code,
            message: message.unwrap_or_default(),
        })
    }

    pub(super) const fn is_ok(&self) -> bool {
        self.code == 0
    }

    /// The HTTP status that means the same.
    pub(super) fn http(&self) -> u16 {
        self.known().map_or(500, |(_, status)| status)
    }

    fn known(&self) -> Option<(&'static str, u16)> {
        CODES.get(usize::try_from(self.code).ok()?).copied()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some((name, _)) => write!(f, "status {name}")?,
            None => write!(f, "status {}", self.code)?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_wherever_the_body_is() {
        let mut body = Vec::new();
        frame(b"one", &mut body);
        frame(b"", &mut body);
        frame(b"three", &mut body);
        for size in 1..body.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in body.chunks(size) {
                frames.feed(piece);
                while let Some(message) = frames.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [&b"one"[..], b"", b"three"], "in pieces of {size}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_before_it_is_there() {
        let mut frames = Frames::default();
        frames.feed(&[0, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(frames.next(), Err(FrameError::TooLarge(_))));
        let mut frames = Frames::default();
        frames.feed(&[1, 0, 0, 0, 9]);
        assert_eq!(frames.next(), Err(FrameError::Compressed));
    }

    #[test]
    fn a_status_has_name_message_and_http_status() {
        let headers = |code: &'static str, message: &'static str| {
            let pairs = [("grpc-status", code), ("grpc-message", message)];
            let map = pairs.map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
            HeaderMap::from_iter(map)
        };
        let status = Status::of(&headers("5", "no%20such%20%C3%BCser 100%")).unwrap();
        assert_eq!(
            (status.http(), status.to_string().as_str()),
            (404, "status NOT_FOUND: no such üser 100%")
        );
        let unknown = Status::of(&headers("99", "")).unwrap();
        assert_eq!((unknown.http(), unknown.to_string().as_str()), (500, "status 99"));
        assert_eq!(Status::of(&HeaderMap::new()), None);
    }
}
