//! Waiting for a child to serve.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::child::Child;
use crate::failure::Outcome;

const LOOK: Duration = Duration::from_millis(5);
const TALK: Duration = Duration::from_secs(1);

/// Asks again and again until the answer is yes, or the time is over.
pub(super) async fn until<F: Future<Output = bool>>(
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<(), ()> {
    let end = Instant::now() + limit;
    while !ask().await {
        if Instant::now() >= end {
            return Err(());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// As [`until`]; gives up at once when the child has ended.
pub(super) async fn until_or_end<F: Future<Output = bool>>(
    limit: Duration,
    child: &mut Child,
    ask: impl FnMut() -> F,
) -> Outcome {
    let served = tokio::select! {
        served = until(limit, ask) => served.map_err(|()| "did not come up".to_owned()),
        status = child.ended() => Err(match status {
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("cannot be waited for: {error}"),
        }),
    };
    served.map_err(|why| child.not_ready(&why))
}

/// Whether a port takes connections.
pub(super) async fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
}

/// Whether what listens on a port answers `hello` with something that starts like `expected`.
pub(super) async fn greets(port: u16, hello: &'static [u8], expected: &'static [u8]) -> bool {
    timeout(TALK, talk(port, hello, expected))
        .await
        .is_ok_and(|talked| talked.unwrap_or(false))
}

async fn talk(port: u16, hello: &[u8], expected: &[u8]) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(hello).await?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == expected)
}
