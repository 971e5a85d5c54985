//! What a worker can run: a name, a version and an async function, with its types erased.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use millrace_common::{ErrorKind, FunctionInfo, RawJson};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Failure, late};

/// A handler's run. Never panics when polled.
pub(crate) type Run = Pin<Box<dyn Future<Output = Result<RawJson, Failure>> + Send>>;

/// Longer than this before the first `await` is slow.
const SLOW_POLL: Duration = Duration::from_millis(1);
/// After as many slow polls in a row, every run of the function gets a task of its own from the start.
const SLOW_POLLS_MAX: u32 = 8;

type Start = dyn Fn(Context) -> Run + Send + Sync;

/// A function to register, with what others may want to know about it.
pub struct Function {
    /// `name:semver`, or a call type such as `call:http`.
    pub(crate) key: String,
    start: Box<Start>,
    input_schema: Option<RawJson>,
    output_schema: Option<RawJson>,
    /// How often in a row the function kept the thread for long before its first `await`.
    slow_polls: AtomicU32,
    is_quiet: bool,
}

impl Function {
    /// A function under `name:semver`, such as `charge:1.0.0`. Its input is decoded from JSON and its output encoded.
    pub fn new<F, Fut, In, Out, Err>(key: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Context, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, Err>> + Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize,
        Err: Into<Failure>,
    {
        let handler = Arc::new(handler);
        let start = move |context: Context| -> Run {
            if let Some(late) = context.step().late.clone() {
                let (handler, filled) = (handler.clone(), late::fill(context.clone(), late));
                return guarded(context.clone(), async move {
                    let input = filled.await?;
                    encode_output(
                        &handler(context, decode_input(&input)?)
                            .await
                            .map_err(Into::into)?,
                    )
                });
            }
            // Decoding and the call itself happen here, so that the future need not borrow the handler; panics of
            // both are caught with those of the future.
            let begun = std::panic::catch_unwind(AssertUnwindSafe(|| {
                decode_input(context.input()).map(|input| handler(context.clone(), input))
            }));
            match begun {
                Err(panic) => Box::pin(std::future::ready(Err(panicked(&*panic)))),
                Ok(Err(failure)) => Box::pin(std::future::ready(Err(failure))),
                Ok(Ok(run)) => guarded(
                    context,
                    async move { encode_output(&run.await.map_err(Into::into)?) },
                ),
            }
        };
        Self {
            key: key.into(),
            start: Box::new(start),
            input_schema: None,
            output_schema: None,
            slow_polls: AtomicU32::new(0),
            is_quiet: false,
        }
    }

    /// With JSON Schemas of input and output, shown in the registry.
    #[must_use]
    pub fn schemas(mut self, input: RawJson, output: RawJson) -> Self {
        self.input_schema = Some(input);
        self.output_schema = Some(output);
        self
    }

    /// Without the span that names the step in log lines: for functions that log nothing and run very often. Saves
    /// about a microsecond a run.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Begins a run.
    pub(crate) fn start(&self, context: Context) -> Run {
        (self.start)(context)
    }

    /// Whether a run may begin in the task that reads the queue. Not when the function is known to keep the thread: the
    /// queue's reader has other work.
    pub(crate) fn may_run_inline(&self) -> bool {
        self.slow_polls.load(Ordering::Relaxed) < SLOW_POLLS_MAX
    }

    /// Notes how long the function kept the thread before its first `await`. One slow time says little: the thread may
    /// have been taken away meanwhile.
    pub(crate) fn kept_the_thread(&self, time: Duration) {
        if time > SLOW_POLL {
            self.slow_polls.fetch_add(1, Ordering::Relaxed);
        } else if self.slow_polls.load(Ordering::Relaxed) > 0 {
            self.slow_polls.store(0, Ordering::Relaxed);
        }
    }

    /// What is announced; `None` for built-in call types.
    pub(crate) fn info(&self, queue: &str) -> Option<FunctionInfo> {
        let (name, version) = self.key.split_once(':').filter(|(name, _)| !is_built_in(name))?;
        Some(FunctionInfo {
            name: name.into(),
            version: version.into(),
            queue: queue.into(),
            input_schema: self.input_schema.clone(),
            output_schema: self.output_schema.clone(),
        })
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A run whose panics are errors, and that says nothing secret.
fn guarded(context: Context, run: impl Future<Output = Result<RawJson, Failure>> + Send + 'static) -> Run {
    let ended = AssertUnwindSafe(run).catch_unwind();
    Box::pin(ended.map(move |ended| {
        let result = ended.unwrap_or_else(|panic| Err(panicked(&*panic)));
        context.mask().result(result)
    }))
}

/// Call types and processes of the language have no version.
fn is_built_in(name: &str) -> bool {
    matches!(name, "call" | "run")
}

/// Checks `name:semver`, `call:type` or `run:kind`.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    let expected = || format!("invalid function `{key}`: expected `name:version`, such as `charge:1.0.0`");
    let (name, version) = key.split_once(':').ok_or_else(expected)?;
    if is_built_in(name) {
        return if millrace_common::is_label(version) {
            Ok(())
        } else {
            Err(expected())
        };
    }
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    match semver::Version::parse(version) {
        Ok(_) if is_name => Ok(()),
        Ok(_) => Err(format!(
            "{}: the name has other characters than letters, digits, `-`, `_` and `.`",
            expected()
        )),
        Err(error) => Err(format!(
            "{}: the version is not a semantic version ({error})",
            expected()
        )),
    }
}

fn decode_input<T: DeserializeOwned>(input: &RawJson) -> Result<T, Failure> {
    // The plain way first; the path is found again only for the error.
    input.decode().map_err(|_e| {
        let mut text = serde_json::Deserializer::from_str(input.text());
        match serde_path_to_error::deserialize::<_, T>(&mut text) {
            Ok(_) => Failure::new(ErrorKind::Validation, "the input does not fit the function"),
            Err(error) => Failure::new(
                ErrorKind::Validation,
                format!(
                    "the input does not fit the function: at `{}`: {}",
                    error.path(),
                    error.inner()
                ),
            ),
        }
    })
}

fn encode_output<T: Serialize>(output: &T) -> Result<RawJson, Failure> {
    RawJson::encode(output).map_err(|e| Failure::runtime(format!("cannot encode the output: {e}")))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::runtime(format!(
        "the handler panicked: {}",
        text.unwrap_or("(no message)")
    ))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Charge {
        amount: Amount,
    }

    #[derive(Debug, Deserialize)]
    struct Amount {
        cents: u32,
    }

    async fn charge(_ctx: Context, input: Charge) -> Result<u32, Failure> {
        match input.amount.cents {
            0 => Err(Failure::communication(402, "nothing to charge")),
            13 => panic!("unlucky {}", 13),
            n => Ok(n * 2),
        }
    }

    async fn run(input: &str) -> Result<RawJson, Failure> {
        let context = Context::detached("charge:1.0.0", RawJson::parse(input.as_bytes()).unwrap());
        Function::new("charge:1.0.0", charge).start(context).await
    }

    fn detail(result: Result<RawJson, Failure>) -> String {
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn types_are_decoded_and_encoded() {
        assert_eq!(run(r#"{"amount":{"cents":21}}"#).await.unwrap().text(), "42");
        assert_eq!(
            detail(run(r#"{"amount":{"cents":0}}"#).await),
            "communication error 402: nothing to charge"
        );
    }

    #[tokio::test]
    async fn unfit_input_is_a_validation_error_with_its_path() {
        let text = detail(run(r#"{"amount":{"cents":"x"}}"#).await);
        assert!(
            text.starts_with("validation error 400") && text.contains("`amount.cents`"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn panics_are_runtime_errors_that_name_them() {
        let text = detail(run(r#"{"amount":{"cents":13}}"#).await);
        assert_eq!(text, "runtime error 500: the handler panicked: unlucky 13");
        let early = Function::new(
            "f:1.0.0",
            |_ctx, _input: serde_json::Value| -> std::future::Ready<Result<(), Failure>> {
                panic!("before the first await")
            },
        );
        let context = Context::detached("f:1.0.0", RawJson::null());
        assert!(detail(early.start(context).await).contains("before the first await"));
    }

    #[test]
    fn only_a_function_that_is_always_slow_gets_its_own_task() {
        let function = Function::new("charge:1.0.0", charge);
        for _ in 0..100 {
            function.kept_the_thread(Duration::from_millis(50));
            function.kept_the_thread(Duration::from_micros(5));
        }
        assert!(function.may_run_inline());
        for _ in 0..SLOW_POLLS_MAX {
            function.kept_the_thread(Duration::from_millis(50));
        }
        assert!(!function.may_run_inline());
    }

    #[test]
    fn keys_are_name_and_version() {
        assert!(check_key("charge:1.0.0").is_ok() && check_key("call:http").is_ok());
        for bad in ["charge", "charge:1", ":1.0.0", "a b:1.0.0", "call:"] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
    }
}
