//! What every call has in common that waits for another party: it ends at its deadline, and when it is cancelled.

use std::future::Future;
use std::time::Duration;

use millrace_common::ErrorKind;

use crate::{Context, Failure};

/// Time for a call when neither its task nor itself has a limit.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// Does the work until the task's deadline, until the call's own `limit` if it has one, or until the step is cancelled.
pub(super) async fn within<T>(
    ctx: &Context,
    name: &str,
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let limit = [ctx.remaining(), limit]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(TIMEOUT);
    tokio::select! {
        result = tokio::time::timeout(limit, work) => result.unwrap_or_else(|_elapsed| Err(late(name, limit))),
        () = ctx.cancelled() => Err(Failure::cancelled()),
    }
}

fn late(name: &str, limit: Duration) -> Failure {
    let detail = format!("{name}: no answer within {} ms", limit.as_millis());
    Failure::new(ErrorKind::Timeout, detail)
}
