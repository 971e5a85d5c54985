//! Decides about a step that arrived, and runs its function.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use async_nats::{Message, Subject};
use bytes::Bytes;
use millrace_common::{AskReply, AskRequest, ErrorKind, RawJson, Step, limits, names, wire};
use millrace_runtime::metrics::Metrics;
use millrace_runtime::nats::Nats;
use millrace_runtime::telemetry::{TraceContext, Tracer};
use prometheus::{Histogram, IntCounter};

use super::flight::unix_ms;
use super::flights::{Flights, Key, Opened};
use super::message::{Origin, answer, origin};
use super::report::Reporter;
use super::scope::Scope;
use crate::context::Home;
use crate::function::Run;
use crate::{Context, Failure, Function};

/// Time for a coordinator to say whether a step is still open; without an answer it is run.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Deliveries of a step with a function that this worker does not have before it is reported as an error. Handed back
/// until then: another worker of the queue may have it.
const UNKNOWN_FUNCTION_DELIVERIES_MAX: u32 = 5;

/// Runs steps of all queues of a worker.
pub(crate) struct Runner {
    pub(crate) nats: Nats,
    pub(crate) home: Arc<Home>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) reporter: Reporter,
    pub(crate) tracer: Tracer,
    pub(crate) metrics: Metrics,
    pub(crate) functions: BTreeMap<String, Installed>,
    pub(crate) queues: Vec<Queue>,
}

/// A function and its counters.
pub(crate) struct Installed {
    pub(crate) function: Function,
    done: IntCounter,
    failed: IntCounter,
    duration: Histogram,
}

/// A queue as the runner knows it.
pub(crate) struct Queue {
    pub(crate) name: String,
    /// Milliseconds, from the queue's consumer.
    ack_wait_ms: AtomicU64,
    redelivered: IntCounter,
    schedule_to_start: Histogram,
}

impl Installed {
    pub(crate) fn new(function: Function, metrics: &Metrics) -> Self {
        let key = function.key.as_str();
        Self {
            done: metrics.worker_steps.with_label_values(&[key, "output"]),
            failed: metrics.worker_steps.with_label_values(&[key, "error"]),
            duration: metrics.worker_step_duration.with_label_values(&[key]),
            function,
        }
    }
}

impl Queue {
    pub(crate) fn new(name: &str, metrics: &Metrics) -> Self {
        Self {
            name: name.into(),
            ack_wait_ms: AtomicU64::new(30_000),
            redelivered: metrics.worker_redelivered.with_label_values(&[name]),
            schedule_to_start: metrics.schedule_to_start.with_label_values(&[name]),
        }
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait_ms.load(Ordering::Relaxed))
    }
}

/// A step as it arrived.
struct Arrival {
    queue: usize,
    step: Step,
    reply: Subject,
    origin: Origin,
    parent: Option<TraceContext>,
}

impl Runner {
    /// Notes the lease time of a queue.
    pub(crate) fn set_ack_wait(&self, queue: usize, ack_wait: Duration) {
        let ms = u64::try_from(ack_wait.as_millis()).unwrap_or(u64::MAX).max(1);
        self.queues[queue].ack_wait_ms.store(ms, Ordering::Relaxed);
        self.reporter.set_ack_wait(self.shortest_ack_wait());
    }

    /// The shortest lease of all queues: signs of life are sent for it.
    pub(crate) fn shortest_ack_wait(&self) -> Duration {
        self.queues
            .iter()
            .map(Queue::ack_wait)
            .min()
            .unwrap_or(Duration::from_secs(30))
    }

    /// Takes a message from the queue: runs its step at once, hands it to a task, or answers without running it.
    pub(crate) async fn take(self: &Arc<Self>, queue: usize, message: Message) {
        let Some((reply, origin)) = message.reply.clone().and_then(|r| origin(&r).map(|o| (r, o))) else {
            self.flights.arrived(queue);
            tracing::warn!("a message without an address for answers was ignored");
            return;
        };
        match wire::decode_step(&message.payload) {
            Ok(step) => {
                let parent = self.parent(&message);
                self.judge(Arrival {
                    queue,
                    step,
                    reply,
                    origin,
                    parent,
                })
                .await;
            }
            Err(error) => self.undecodable(queue, reply, origin, &error).await,
        }
    }

    fn parent(&self, message: &Message) -> Option<TraceContext> {
        let text = message.headers.as_ref()?.get(TraceContext::HEADER)?;
        text.as_str().parse().ok()
    }

    /// Perhaps a newer worker can read it; after enough deliveries it is removed, and the coordinator's audit reports
    /// the step as lost.
    async fn undecodable(&self, queue: usize, reply: Subject, origin: Origin, error: &wire::Error) {
        self.flights.arrived(queue);
        tracing::error!(queue = self.queues[queue].name, delivery = origin.delivered, %error, "a step cannot be decoded");
        let is_last = i64::from(origin.delivered) >= limits::STEP_DELIVERIES_MAX;
        self.answer(
            reply,
            if is_last {
                answer::ACK
            } else {
                answer::nak_after(Duration::from_secs(5))
            },
        )
        .await;
    }

    async fn judge(self: &Arc<Self>, arrival: Arrival) {
        let Some(installed) = self.functions.get(&arrival.step.function) else {
            return self.unknown_function(arrival).await;
        };
        let delivery = arrival.origin.delivered;
        let here = &self.queues[arrival.queue];
        match delivery {
            // Clocks of two machines: below zero is as good as at once.
            0 | 1 => {
                let waited = (unix_ms(SystemTime::now()) - arrival.origin.stored_ms).max(0);
                let waited = Duration::from_millis(waited.unsigned_abs());
                here.schedule_to_start.observe(waited.as_secs_f64());
            }
            _ => here.redelivered.inc(),
        }
        let most = limits::STEP_DELIVERIES_MAX;
        let most = arrival
            .step
            .max_deliveries
            .map_or(most, |n| i64::from(n).min(most));
        let problem = if i64::from(delivery) > most {
            self.metrics.worker_poisoned.inc();
            Some(poisoned(&arrival.step, delivery))
        } else {
            is_late(&arrival.step)
                .then(|| too_late(&arrival.step))
                .or_else(|| begun_too_late(&arrival.step, delivery))
        };
        let Some((context, key)) = self.open(arrival) else {
            return;
        };
        match problem {
            Some(failure) => {
                self.end(key, &context, installed, Err(failure), Duration::ZERO)
                    .await
            }
            None if delivery > 1 && !context.step().is_detached() => self.ask_first(key, context),
            None => self.begin(key, context, installed).await,
        }
    }

    /// Enters the step into the table; `None` when it is running here already.
    fn open(&self, arrival: Arrival) -> Option<(Context, Key)> {
        let context = Context::new(
            arrival.step,
            arrival.origin.delivered,
            arrival.parent,
            self.home.clone(),
        );
        match self
            .flights
            .open(arrival.queue, context.clone(), arrival.reply, arrival.origin)
        {
            Opened::New(key) => Some((context, key)),
            Opened::Held => None,
        }
    }

    async fn unknown_function(self: &Arc<Self>, arrival: Arrival) {
        let delivery = arrival.origin.delivered;
        if delivery < UNKNOWN_FUNCTION_DELIVERIES_MAX {
            self.flights.arrived(arrival.queue);
            let delay = Duration::from_millis(250) * delivery;
            return self.answer(arrival.reply, answer::nak_after(delay)).await;
        }
        let queue = &self.queues[arrival.queue].name;
        let known = self
            .functions
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let failure = Failure::new(
            ErrorKind::Configuration,
            format!(
                "no worker of queue `{queue}` offers `{}`; this one offers: {known}",
                arrival.step.function
            ),
        );
        let Some((context, key)) = self.open(arrival) else {
            return;
        };
        self.report(key, &context, Err(failure), Duration::ZERO).await;
    }

    /// An earlier delivery may have been finished: asks before the function runs again.
    fn ask_first(self: &Arc<Self>, key: Key, context: Context) {
        let runner = self.clone();
        let task = tokio::spawn(async move {
            match runner.ask(&context).await {
                Some(reply) if !reply.open => {
                    tracing::debug!(instance.id = %context.instance(), step = context.step().id, "step is done already");
                    let replies = runner.flights.close(key, runner.shortest_ack_wait());
                    for reply in replies {
                        runner.answer(reply, answer::ACK).await;
                    }
                    return;
                }
                Some(reply) => context.keep(reply.progress),
                // Nobody knows now; running a step again is allowed, losing it is not.
                None => {}
            }
            if runner.flights.announce(key) {
                runner.reporter.announce(&context).await;
            }
            let Some(installed) = runner.functions.get(&context.step().function) else {
                return;
            };
            let scope = Scope::new(&installed.function, &context, &runner.tracer);
            runner
                .run_to_end(key, &context, installed, scope, None, Instant::now())
                .await;
        });
        self.flights.runs_in(key, task.abort_handle());
    }

    async fn ask(&self, context: &Context) -> Option<AskReply> {
        let step = context.step();
        let request = AskRequest {
            instance: step.instance.clone(),
            step: step.id.clone(),
            frame: step.frame,
        };
        let payload = serde_json::to_vec(&request).ok()?;
        let asked = self.nats.client().request(names::FLEET_ASK, payload.into());
        let reply = tokio::time::timeout(ASK_TIMEOUT, asked).await.ok()?.ok()?;
        serde_json::from_slice(&reply.payload).ok()
    }

    /// Runs the function. Most steps end without waiting for anything: those never become a task.
    async fn begin(self: &Arc<Self>, key: Key, context: Context, installed: &Installed) {
        let function = &installed.function;
        let begun = Instant::now();
        let scope = Scope::new(function, &context, &self.tracer);
        let mut rest = None;
        if function.may_run_inline() {
            let (run, first) = scope.begin(function, &context);
            let time = begun.elapsed();
            function.kept_the_thread(time);
            match first {
                Poll::Ready(result) => return self.end(key, &context, installed, result, time).await,
                Poll::Pending => rest = Some(run),
            }
        }
        let runner = self.clone();
        let task = tokio::spawn(async move {
            if let Some(installed) = runner.functions.get(&context.step().function) {
                runner
                    .run_to_end(key, &context, installed, scope, rest, begun)
                    .await;
            }
        });
        self.flights.runs_in(key, task.abort_handle());
    }

    async fn run_to_end(
        &self,
        key: Key,
        context: &Context,
        installed: &Installed,
        scope: Scope,
        rest: Option<Run>,
        begun: Instant,
    ) {
        let run = scope.run(&installed.function, context, rest);
        let result = tokio::select! {
            result = run => result,
            failure = silence(context) => {
                context.cancel();
                Err(failure)
            }
        };
        self.end(key, context, installed, result, begun.elapsed()).await;
    }

    /// The function ended: counts, traces, and reports.
    async fn end(
        &self,
        key: Key,
        context: &Context,
        installed: &Installed,
        result: Result<RawJson, Failure>,
        time: Duration,
    ) {
        let counter = if result.is_ok() {
            &installed.done
        } else {
            &installed.failed
        };
        counter.inc();
        installed.duration.observe(time.as_secs_f64());
        if self.tracer.enabled() {
            let queue = self.flights.queue_of(key).map_or("", |q| &self.queues[q].name);
            self.reporter
                .trace(&self.tracer, context, queue, result.as_ref().err(), time);
        }
        self.report(key, context, result, time).await;
    }

    async fn report(&self, key: Key, context: &Context, result: Result<RawJson, Failure>, time: Duration) {
        self.reporter.report(key, context, bounded(result), time).await;
    }

    async fn answer(&self, reply: Subject, text: Bytes) {
        if let Err(error) = self.nats.client().publish(reply, text).await {
            tracing::debug!(%error, "an answer to the queue was not sent");
        }
    }
}

fn is_late(step: &Step) -> bool {
    step.deadline_ms
        .is_some_and(|deadline| deadline <= unix_ms(SystemTime::now()))
}

fn too_late(step: &Step) -> Failure {
    let function = &step.function;
    Failure::new(
        ErrorKind::Timeout,
        format!("the deadline passed before `{function}` was started"),
    )
}

/// `scheduleToStartTimeout`. A delivery that is not the first has been begun before.
fn begun_too_late(step: &Step, delivery: u32) -> Option<Failure> {
    let last = step.start_by_ms.filter(|_| delivery == 1)?;
    let late = unix_ms(SystemTime::now()).saturating_sub(last);
    (late > 0).then(|| {
        let text = format!(
            "`{}` reached a worker {late} ms after the end of its `scheduleToStartTimeout`",
            step.function
        );
        Failure::new(ErrorKind::Timeout, text)
    })
}

/// Completes when a handler with a `heartbeatTimeout` gave no sign of life for that long.
async fn silence(context: &Context) -> Failure {
    let Some(most) = context.step().heartbeat_ms.map(Duration::from_millis) else {
        return std::future::pending().await;
    };
    loop {
        let silent = context.last_beat().elapsed();
        match most.checked_sub(silent).filter(|rest| !rest.is_zero()) {
            Some(rest) => tokio::time::sleep(rest).await,
            None => {
                let text = format!(
                    "the handler of `{}` gave no sign of life for its `heartbeatTimeout` of {} ms",
                    context.step().function,
                    most.as_millis()
                );
                return Failure::new(ErrorKind::Timeout, text);
            }
        }
    }
}

fn poisoned(step: &Step, delivery: u32) -> Failure {
    Failure::runtime(format!(
        "poisoned step: `{}` was delivered {} times and no worker finished it; it may crash or hang its worker",
        step.function,
        delivery - 1,
    ))
    .title("Poisoned step")
}

/// An output that does not fit into the log becomes an error that says so; an error that does not is cut.
fn bounded(result: Result<RawJson, Failure>) -> Result<RawJson, Failure> {
    let output = result.map_err(|failure| failure.cut(limits::ERROR_DETAIL_BYTES_MAX))?;
    if output.len() > limits::PAYLOAD_BYTES_MAX {
        return Err(Failure::runtime(format!(
            "the output has {} bytes, allowed are {}; store it elsewhere and return a reference",
            output.len(),
            limits::PAYLOAD_BYTES_MAX
        ))
        .title("Output too large"));
    }
    Ok(output)
}
