//! A program that is spoken with while it runs, such as an MCP server on its standard streams: under the same leash and
//! within the same bounds as every process of a definition.

use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::Sender;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::bounds::{Bounds, TimeLimit};
use super::leash::{Program, Running};
use super::room::Room;
use crate::{Context, Failure};

/// Time to end by itself once its input is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// When it is dropped, the program and all that it started are killed.
pub(crate) struct Talk {
    running: Running,
    /// `None` once it is closed.
    input: Option<Sender>,
    output: BufReader<ChildStdout>,
    limit: TimeLimit,
    deadline: Instant,
    _room: Room,
    _turn: OwnedSemaphorePermit,
}

impl Talk {
    /// Waits for its turn and starts a program. Its standard error is the caller's to read, without a pause: the program
    /// would wait otherwise.
    ///
    /// # Errors
    /// `timeout` when the deadline passes before its turn, `runtime` when it
    /// cannot be started.
    pub(crate) async fn open(
        ctx: &Context,
        bounds: &Bounds,
        program: Program,
    ) -> Result<(Self, ChildStderr), Failure> {
        let turn = bounds.turn(ctx).await?;
        let broken = |e: io::Error| Failure::runtime(format!("cannot start {}: {e}", program.what));
        let room = Room::new().map_err(broken)?;
        let input = pipe(&room).map_err(broken)?;
        let mut running = Running::start(&room, &program, bounds.memory_bytes_max).map_err(broken)?;
        let (output, errors) = running.streams().map_err(broken)?;
        let limit = bounds.time(ctx);
        let talk = Self {
            running,
            input: Some(input),
            output: BufReader::new(output),
            limit,
            deadline: Instant::now() + limit.length,
            _room: room,
            _turn: turn,
        };
        Ok((talk, errors))
    }

    /// Writes to its standard input. Nothing happens when it ended already: what it wrote before says more, and is read
    /// next.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(input) = &mut self.input else {
            return Err(io::Error::other("its input is closed"));
        };
        tokio::select! {
            written = input.write_all(bytes) => written,
            ended = self.running.wait() => ended,
        }
    }

    /// The next line that it writes, with its end; empty when there is none. A longer one comes in pieces of `bytes_max`.
    pub(crate) async fn line(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        (&mut self.output)
            .take(bound)
            .read_until(b'\n', &mut line)
            .await?;
        Ok(line)
    }

    /// When its time is over, and what is said then.
    pub(crate) const fn end(&self) -> (Instant, TimeLimit) {
        (self.deadline, self.limit)
    }

    /// Closes its input and waits a moment; what is left of it then is stopped, by force if need be.
    pub(crate) async fn close(mut self) {
        drop(self.input.take());
        if tokio::time::timeout(CLOSE_LIMIT, self.running.wait())
            .await
            .is_err()
        {
            self.running.stop().await;
        }
    }
}

/// The pipe that becomes standard input. It is open for both here: so neither side waits for the other to open it, and
/// it closes with this end.
fn pipe(room: &Room) -> io::Result<Sender> {
    mkfifo(&room.stdin(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    Sender::from_file(OpenOptions::new().read(true).write(true).open(room.stdin())?)
}
