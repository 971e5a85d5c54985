//! Just enough of HTTP/1.1 to ask over one kept connection. A full client costs ten times the processor time, and it
//! would be taken from what is measured: the load shares the cores with the engine.

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A kept connection; one request at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back, in the connection's buffer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a str,
}

/// `POST` of JSON, as bytes to be sent as often as wanted.
pub(crate) fn post(host: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Connection {
    pub(crate) async fn open(host: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(host)
            .await
            .with_context(|| format!("cannot reach {host}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.read().await?;
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
        };
        while self.buffer.len() < head.bytes + head.body_bytes {
            self.read().await?;
        }
        Ok(Answer {
            status: head.status,
            body: std::str::from_utf8(&self.buffer[head.bytes..])?,
        })
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed in mid-answer");
        }
        Ok(())
    }
}

impl Answer<'_> {
    /// The instance that was started has completed within the wait.
    ///
    /// # Errors
    /// With the answer, when it has not.
    pub(crate) fn completed(&self) -> anyhow::Result<()> {
        if self.status == 201 && self.body.contains(r#""status":"completed""#) {
            return Ok(());
        }
        let shown: String = self.body.chars().take(500).collect();
        bail!("the instance has not completed: {} {shown}", self.status)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// `None` while it is not there in full.
    fn parse(buffer: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&buffer[..end])?;
        let status = text.get(9..12).and_then(|digits| digits.parse().ok());
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        Ok(Some(Self {
            status: status.with_context(|| format!("not an answer: {text}"))?,
            bytes: end + 4,
            body_bytes: length.with_context(|| format!("an answer without a length: {text}"))?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_gives_status_and_lengths() {
        let text = b"HTTP/1.1 201 Created\r\nLocation: x\r\nContent-Length: 12\r\n\r\n{\"a\"";
        let head = Head::parse(text).unwrap().unwrap();
        assert_eq!((head.status, head.bytes, head.body_bytes), (201, 57, 12));
        assert_eq!(Head::parse(&text[..40]).unwrap(), None);
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
