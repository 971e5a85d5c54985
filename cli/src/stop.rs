//! What ends a stack: Ctrl-C, a polite kill, the terminal going away.
//!
//! Whoever owns children or a directory watches from before it has any until they are gone: a signal that nobody watches
//! ends the process at once, and one that is watched but not waited for is lost.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure, Outcome};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stop([(SignalKind, Signal); 3]);

impl Stop {
    /// Watches from now on.
    pub(crate) fn new() -> Outcome<Self> {
        let watch = |kind| match signal(kind) {
            Ok(watched) => Ok((kind, watched)),
            Err(e) => Err(Failure::new(Exit::Failed, format!("cannot watch signals: {e}"))),
        };
        Ok(Self([
            watch(SignalKind::interrupt())?,
            watch(SignalKind::terminate())?,
            watch(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one, and gives how a command that it ends fails. None is lost between two calls.
    pub(crate) async fn told(&mut self) -> Failure {
        let [interrupt, terminate, hangup] = &mut self.0;
        let kind = tokio::select! {
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
            _ = hangup.1.recv() => hangup.0,
        };
        let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
        let word = if kind == SignalKind::interrupt() {
            "interrupted"
        } else {
            "told to stop"
        };
        Failure::new(Exit::Signal(number), word)
    }
}
