//! Which messages a subscription takes, and when it has enough.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_common::{ErrorKind, RawJson, limits};
use millrace_dsl::expression::{EvalEnv, Expression, Scope};
use millrace_dsl::{Value, value};
use serde::{Deserialize, Serialize};

use crate::{CheckpointError, Context, Failure};

/// At most this often messages are kept with the step.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Room of the output for what is kept beside the messages.
const MESSAGES_BYTES_MAX: usize = limits::PAYLOAD_BYTES_MAX - 256;

/// `subscription` of the call.
#[derive(Deserialize)]
pub(super) struct Subscription {
    #[serde(default)]
    filter: Option<Later>,
    consume: Lifetime,
}

#[derive(Deserialize)]
struct Lifetime {
    #[serde(default)]
    amount: Option<u64>,
    #[serde(default, rename = "for")]
    time: Option<RawJson>,
    #[serde(default, rename = "while")]
    condition: Option<Later>,
    #[serde(default)]
    until: Option<Later>,
}

/// An expression with the values of its variables, as the parser shapes those that the engine leaves alone.
#[derive(Deserialize)]
struct Later {
    expression: String,
    variables: RawJson,
}

/// A compiled [`Later`].
struct Test {
    expression: Expression,
    variables: Value,
}

/// What is kept with the step.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    attempt: u32,
    started_ms: i64,
    messages: RawJson,
}

/// See the module.
pub(super) struct Consumer {
    name: String,
    filter: Option<Test>,
    amount: Option<u64>,
    condition: Option<Test>,
    until: Option<Test>,
    time: Option<Duration>,
    started_ms: i64,
    messages: Vec<Value>,
    bytes: usize,
    /// `while` was false behind the last message.
    stopped: bool,
    kept_at: Option<tokio::time::Instant>,
}

impl Consumer {
    /// Goes on with what an earlier delivery or attempt of the step consumed. `for` begins anew with each attempt.
    pub(super) fn new(ctx: &Context, name: &str, subscription: &Subscription) -> Result<Self, Failure> {
        let consume = &subscription.consume;
        let mut consumer = Self {
            name: name.to_owned(),
            filter: subscription.filter.as_ref().map(Test::of).transpose()?,
            amount: consume.amount,
            condition: consume.condition.as_ref().map(Test::of).transpose()?,
            until: consume.until.as_ref().map(Test::of).transpose()?,
            time: consume.time.as_ref().map(time).transpose()?,
            started_ms: now_ms(),
            messages: Vec::new(),
            bytes: 2,
            stopped: false,
            kept_at: None,
        };
        if let Some(kept) = ctx.saved::<Kept>()? {
            if kept.attempt == ctx.attempt() {
                consumer.started_ms = kept.started_ms;
            }
            consumer.bytes = kept.messages.len();
            if let Value::Arr(messages) = value::from_raw(&kept.messages).map_err(Failure::from_problem)? {
                consumer.messages = messages.to_vec();
            }
        }
        Ok(consumer)
    }

    /// Until `for` is over; `None` without it.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let spent = u64::try_from(now_ms() - self.started_ms).unwrap_or(0);
        self.time.map(|t| t.saturating_sub(Duration::from_millis(spent)))
    }

    /// Whether no further message is wanted.
    pub(super) fn is_done(&self) -> Result<bool, Failure> {
        let number = u64::try_from(self.messages.len()).unwrap_or(u64::MAX);
        if self.stopped || self.amount.is_some_and(|amount| number >= amount) {
            return Ok(true);
        }
        match &self.until {
            Some(until) => until.holds(&self.array()),
            None => Ok(false),
        }
    }

    /// Takes a message if the filter lets it through.
    pub(super) async fn take(&mut self, ctx: &Context, message: Value) -> Result<(), Failure> {
        if let Some(filter) = &self.filter
            && !filter.holds(&message)?
        {
            return Ok(());
        }
        self.bytes += value::to_json_string(&message).len() + 1;
        if self.bytes > MESSAGES_BYTES_MAX {
            return Err(Failure::runtime(format!(
                "{}: {} messages are larger than {MESSAGES_BYTES_MAX} bytes, the bound of a task's output",
                self.name,
                self.messages.len() + 1,
            )));
        }
        self.messages.push(message);
        if let Some(condition) = &self.condition {
            self.stopped = !condition.holds(&self.array())?;
        }
        self.keep(ctx).await
    }

    pub(super) fn into_output(self) -> RawJson {
        value::to_raw(&self.array())
    }

    fn array(&self) -> Value {
        self.messages.iter().cloned().collect()
    }

    async fn keep(&mut self, ctx: &Context) -> Result<(), Failure> {
        let now = tokio::time::Instant::now();
        if self.stopped || self.kept_at.is_some_and(|at| now - at < KEEP_EVERY) {
            return Ok(());
        }
        self.kept_at = Some(now);
        let kept = Kept {
            attempt: ctx.attempt(),
            started_ms: self.started_ms,
            messages: value::to_raw(&self.array()),
        };
        ctx.checkpoint(&kept).await.map_err(|e| match e {
            CheckpointError::Cancelled => Failure::cancelled(),
            other => Failure::from(other),
        })
    }
}

impl Test {
    fn of(later: &Later) -> Result<Self, Failure> {
        let variables = value::from_raw(&later.variables).map_err(Failure::from_problem)?;
        let names: std::collections::BTreeMap<String, serde::de::IgnoredAny> = later.variables.decode()?;
        let scope = Scope(names.into_keys().collect());
        let expression = Expression::compile(&later.expression, &scope).map_err(|e| {
            let text = format!("`{}`: {}", later.expression, e.message);
            Failure::new(ErrorKind::Expression, text)
        })?;
        Ok(Self {
            expression,
            variables,
        })
    }

    fn holds(&self, input: &Value) -> Result<bool, Failure> {
        let mut lookup = |name: &str| value::get(&self.variables, name).cloned();
        let found = self
            .expression
            .evaluate_with(input, &mut lookup, &EvalEnv::at(now_ms()));
        found.map(|v| value::is_truthy(&v)).map_err(Failure::from_problem)
    }
}

fn time(raw: &RawJson) -> Result<Duration, Failure> {
    let length = value::from_raw(raw).map_err(Failure::from_problem)?;
    let length = millrace_dsl::duration::Duration::from_value(&length);
    let length = length.map_err(|e| Failure::new(ErrorKind::Expression, format!("`consume.for`: {e}")))?;
    Ok(Duration::from_millis(length.as_millis()))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
