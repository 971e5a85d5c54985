//! Functions for demos, benchmarks and tests.

use std::time::Duration;

use millrace_common::RawJson;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Context, Failure};

/// `noop:1.0.0`: returns its input.
pub(super) async fn noop(_ctx: Context, input: RawJson) -> Result<RawJson, Failure> {
    Ok(input)
}

/// Input of `sleep:1.0.0`.
#[derive(Debug, Deserialize)]
pub(super) struct Sleep {
    #[serde(alias = "sleep", deserialize_with = "span_of_time")]
    duration: Duration,
}

/// Output of `sleep:1.0.0`.
#[derive(Debug, Serialize)]
pub(super) struct Slept {
    worker: String,
    delivery: u32,
}

/// `sleep:1.0.0`: waits, then tells who waited.
pub(super) async fn sleep(ctx: Context, input: Sleep) -> Result<Slept, Failure> {
    pause(&ctx, input.duration).await?;
    Ok(Slept {
        worker: ctx.worker().into(),
        delivery: ctx.delivery(),
    })
}

/// Input of `flaky:1.0.0`.
#[derive(Debug, Deserialize)]
pub(super) struct Flaky {
    /// Attempts that fail.
    #[serde(default)]
    failures: u32,
    /// Waits this long before it fails or returns.
    #[serde(default, deserialize_with = "span_of_time")]
    sleep: Duration,
    /// Kind of the error: communication (503, the default) or runtime.
    #[serde(default)]
    error: FlakyError,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FlakyError {
    #[default]
    Communication,
    Runtime,
}

/// Output of `flaky:1.0.0`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tried {
    attempts: u32,
    delivery: u32,
    worker: String,
    idempotency_key: String,
}

/// `flaky:1.0.0`: fails on the first `failures` attempts, then tells how it went.
pub(super) async fn flaky(ctx: Context, input: Flaky) -> Result<Tried, Failure> {
    pause(&ctx, input.sleep).await?;
    if ctx.attempt() <= input.failures {
        let detail = format!(
            "attempt {} of {} failures asked for",
            ctx.attempt(),
            input.failures
        );
        return Err(match input.error {
            FlakyError::Communication => Failure::communication(503, detail),
            FlakyError::Runtime => Failure::runtime(detail),
        });
    }
    Ok(Tried {
        attempts: ctx.attempt(),
        delivery: ctx.delivery(),
        worker: ctx.worker().into(),
        idempotency_key: ctx.idempotency_key().into(),
    })
}

async fn pause(ctx: &Context, time: Duration) -> Result<(), Failure> {
    if time.is_zero() {
        return Ok(());
    }
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = ctx.cancelled() => Err(Failure::cancelled()),
    }
}

/// Milliseconds as a number, an ISO 8601 text, or the language's object of parts.
fn span_of_time<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    use serde::de::Error;
    let value = serde_json::Value::deserialize(d)?;
    let ms = match &value {
        serde_json::Value::Number(n) => n
            .as_u64()
            .ok_or_else(|| D::Error::custom("expected whole milliseconds"))?,
        other => {
            let value = millrace_dsl::value::from_serde(other.clone());
            millrace_dsl::duration::Duration::from_value(&value)
                .map_err(D::Error::custom)?
                .as_millis()
        }
    };
    Ok(Duration::from_millis(ms))
}
