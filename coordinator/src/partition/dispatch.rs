//! Lets effects leave after their commit: steps to the work queue, records to logs, hints to whoever waits.
//!
//! Nothing here waits for an acknowledgement: publishes are pipelined and their outcomes come back in batches. What
//! fails is kept and published again; receivers drop repeats by id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use millrace_common::{
    CloudEvent, InstanceKey, PartitionId, RawJson, RecordBody, Reply, Step, StepOutcome, StepResult, names,
    partition_of, wire,
};
use millrace_engine::{Dispatch, Instance};
use millrace_runtime::nats::{Ack, Completion, Completions, PublishError};
use millrace_runtime::telemetry::TraceContext;
use tracing::{debug, warn};

use super::Shared;
use super::outbox::{self, Detached, OpenStep, Outbox};
use super::oversize;
use super::sabotage::{self, Bug};
use crate::events;
use crate::servers::Sender;

/// Between two attempts to publish a message that is too large. Only another setting of the server helps.
const OVERSIZE_PAUSE: Duration = Duration::from_secs(60);

/// What a publish was for.
#[derive(Clone, Debug)]
enum Sent {
    Step {
        instance: InstanceKey,
        frame: u32,
        step: String,
        generation: u32,
    },
    Record {
        field: String,
    },
    /// A record that is repeated until it is folded, without the outbox.
    Note,
}

/// A step that could not leave yet.
#[derive(Clone, Debug)]
struct Held {
    instance: InstanceKey,
    frame: u32,
    /// Waits for this function to be registered; otherwise for `at`.
    function: Option<String>,
    at: Instant,
}

/// See the module.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    partition: PartitionId,
    sender: Arc<dyn Sender>,
    completions: Completions,
    pub(crate) outbox: Outbox,
    in_flight: HashMap<u64, Sent>,
    next_tag: u64,
    held: Vec<Held>,
    /// Functions that held steps wait for: each is told to the operator once.
    unregistered: HashSet<String>,
    resend: Vec<(String, Instant)>,
    /// Subject and headers of each send that is not acknowledged.
    routes: HashMap<String, (String, Option<HeaderMap>)>,
}

impl Dispatcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partition: PartitionId,
        sender: Arc<dyn Sender>,
        completions: Completions,
    ) -> Self {
        Self {
            shared,
            partition,
            sender,
            completions,
            outbox: Outbox::default(),
            in_flight: HashMap::new(),
            next_tag: 0,
            held: Vec::new(),
            unregistered: HashSet::new(),
            resend: Vec::new(),
            routes: HashMap::new(),
        }
    }

    /// Hands a step to the fleet; `suppressed` only remembers it.
    pub(crate) async fn step(&mut self, key: &InstanceKey, d: Dispatch, suppressed: bool) {
        let (frame, generation) = (d.frame, d.generation);
        let open = OpenStep {
            step: d.step.clone(),
            generation,
            sequence: None,
            since: self.shared.clock.instant(),
            function: d.function.as_str().into(),
            attempt: self.shared.trace.attempt(key, &d),
        };
        self.outbox.open(key.clone(), frame, open);
        if suppressed {
            return;
        }
        let queue = match d
            .queue
            .clone()
            .or_else(|| self.shared.functions.queue_of(&d.function))
        {
            Some(queue) => queue,
            None => {
                debug!(instance.id = %key, function = d.function, "function is not registered yet; the step waits");
                if self.unregistered.insert(d.function.clone()) {
                    warn!(instance.id = %key, function = d.function, "no worker ever offered this function; its steps wait for one that does");
                }
                self.hold(key, frame, Some(d.function));
                return;
            }
        };
        if let Err(e) = self.shared.servers.ensure_queue(&queue).await {
            warn!(queue, reason = %e, "queue has no consumer yet; the step waits");
            self.hold(key, frame, None);
            return;
        }
        let subject = names::step_subject(key.namespace(), &queue, 5);
        let headers = self.shared.trace.step_headers(key, &d);
        let step = self.message(key, d, &queue);
        self.shared
            .metrics
            .steps_dispatched
            .with_label_values(&[&queue])
            .inc();
        self.publish(
            subject,
            headers,
            wire::encode_step(&step),
            Sent::Step {
                instance: key.clone(),
                frame,
                step: step.id,
                generation,
            },
        )
        .await
    }

    fn message(&self, key: &InstanceKey, d: Dispatch, queue: &str) -> Step {
        Step {
            id: d.step,
            key: d.key,
            instance: key.clone(),
            definition: d.definition,
            task: d.task,
            function: d.function,
            attempt: d.attempt,
            generation: d.generation,
            frame: d.frame,
            input: d.input,
            deadline_ms: d.deadline_ms,
            start_by_ms: d.start_by_ms,
            heartbeat_ms: d.heartbeat_ms,
            max_deliveries: d.max_deliveries,
            progress: d.progress,
            report: names::report_subject(self.partition, queue),
            token: String::new(),
            late: d.late,
        }
    }

    /// What the outbox keeps of a detached step.
    pub(crate) fn detached(&self, key: &InstanceKey, d: &Dispatch) -> Detached {
        let queue = d
            .queue
            .clone()
            .or_else(|| self.shared.functions.queue_of(&d.function));
        // Only processes are detached, and those have a queue without any registration.
        let queue = queue.unwrap_or_else(|| names::DEFAULT_QUEUE.to_owned());
        let message = self.message(key, d.clone(), &queue);
        let step = RawJson::parse(&wire::encode_step(&message)).expect("an encoded step is JSON");
        Detached {
            queue,
            traceparent: self.shared.trace.step_context(key, d),
            step,
        }
    }

    /// Hands a detached step to the work queue, again and again until the queue has it.
    pub(crate) async fn detach(&mut self, field: String, value: Bytes, suppressed: bool) {
        self.outbox.send(field.clone(), value.clone());
        if !suppressed {
            self.publish_detached(field, &value).await;
        }
    }

    async fn publish_detached(&mut self, field: String, value: &[u8]) {
        let Some((detached, step)) = Detached::decode(value)
            .and_then(|d| wire::decode_step(d.step.text().as_bytes()).ok().map(|s| (d, s)))
        else {
            warn!(outbox = field, "a detached step cannot be read");
            return;
        };
        if let Err(e) = self.shared.servers.ensure_queue(&detached.queue).await {
            warn!(queue = detached.queue, reason = %e, "queue has no consumer yet; the step waits");
            self.resend.push((field, self.soon()));
            return;
        }
        let mut headers = HeaderMap::new();
        // The coordinator may die between the queue's confirmation and the commit that notes it.
        headers.insert("Nats-Msg-Id", step.id.as_str());
        if let Some(context) = &detached.traceparent {
            headers.insert(TraceContext::HEADER, context.as_str());
        }
        self.shared
            .metrics
            .steps_dispatched
            .with_label_values(&[&detached.queue])
            .inc();
        let subject = names::step_subject(step.instance.namespace(), &detached.queue, 5);
        let payload = Bytes::copy_from_slice(detached.step.text().as_bytes());
        self.publish(subject, Some(headers), payload, Sent::Record { field })
            .await;
    }

    /// Appends a record to the log of the receiver's partition.
    pub(crate) async fn send(
        &mut self,
        field: String,
        to: &InstanceKey,
        body: &RecordBody,
        suppressed: bool,
    ) {
        self.send_encoded(
            field,
            to,
            body.kind(),
            wire::encode_record(Some(to), body),
            suppressed,
        )
        .await
    }

    /// The same with an encoded record, as it is kept in the outbox.
    pub(crate) async fn send_encoded(
        &mut self,
        field: String,
        to: &InstanceKey,
        kind: &str,
        record: Bytes,
        suppressed: bool,
    ) {
        let subject = names::log_subject(partition_of(to, self.shared.config.partitions), kind);
        self.leave(field, (subject, None), record, suppressed).await
    }

    /// Publishes an event.
    pub(crate) async fn emit(&mut self, field: String, event: &CloudEvent, suppressed: bool) {
        let payload = event.raw.text().to_owned().into();
        self.leave(field, events::route(event), payload, suppressed).await
    }

    /// Publishes a lifecycle event.
    pub(crate) async fn tell(&mut self, field: String, event: &CloudEvent, suppressed: bool) {
        let payload = event.raw.text().to_owned().into();
        self.leave(field, events::lifecycle_route(event), payload, suppressed)
            .await
    }

    /// What is kept in the outbox until it is acknowledged.
    async fn leave(
        &mut self,
        field: String,
        route: (String, Option<HeaderMap>),
        payload: Bytes,
        suppressed: bool,
    ) {
        self.outbox.send(field.clone(), payload.clone());
        self.routes.insert(field.clone(), route.clone());
        if suppressed {
            return;
        }
        if sabotage::has(Bug::SentIsTaken) {
            self.outbox.sent(field.clone());
        }
        self.publish(route.0, route.1, payload, Sent::Record { field })
            .await
    }

    /// Appends the record of a timer that is due.
    pub(crate) async fn timer(&mut self, member: &str) {
        let Some((instance, timer)) = names::parse_timer_member(member) else {
            return;
        };
        self.note(&instance, &RecordBody::Timer { timer }).await
    }

    /// Appends a record for a key of this partition that is not kept in the outbox: whoever wants it asks again until it
    /// is folded.
    pub(crate) async fn note(&mut self, key: &InstanceKey, body: &RecordBody) {
        let record = wire::encode_record(Some(key), body);
        let subject = names::log_subject(self.partition, body.kind());
        self.publish(subject, None, record, Sent::Note).await
    }

    async fn publish(&mut self, subject: String, headers: Option<HeaderMap>, payload: Bytes, sent: Sent) {
        self.next_tag += 1;
        let tag = self.next_tag;
        self.in_flight.insert(tag, sent);
        self.sender.publish_tagged(subject, headers, payload, tag).await;
    }

    /// Waits for outcomes of publishes.
    pub(crate) async fn completed(&mut self) -> Vec<Completion> {
        match self.completions.recv().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    /// Books outcomes.
    pub(crate) fn settle(&mut self, done: Vec<Completion>) {
        for (tag, result) in done {
            self.outcome(tag, result);
        }
    }

    fn outcome(&mut self, tag: u64, result: Result<Ack, PublishError>) {
        let Some(sent) = self.in_flight.remove(&tag) else {
            return;
        };
        if let Err(e) = &result {
            let errors = &self.shared.metrics.publish_errors;
            errors.with_label_values(&[e.kind()]).inc();
        }
        match (sent, result) {
            (
                Sent::Step {
                    instance,
                    frame,
                    step,
                    generation,
                },
                Ok(ack),
            ) => {
                self.outbox
                    .acknowledged(&instance, frame, (&step, generation), ack.sequence);
            }
            (
                Sent::Step {
                    instance,
                    frame,
                    step,
                    generation,
                },
                Err(PublishError::Oversize(reason)),
            ) => {
                let open = self.outbox.step(&instance, frame);
                let function = open.map_or("", |open| &open.function);
                warn!(instance.id = %instance, function, reason, "step is too large for the work queue; its task fails");
                let body = oversize::result((&step, frame, generation), function, &reason);
                let field = outbox::send_field(&instance, &format!("oversize-{frame}-{generation}"));
                self.replace(field, &instance, &body);
            }
            (Sent::Step { instance, frame, .. }, Err(e)) => {
                warn!(instance.id = %instance, reason = %e, "step was not taken by the work queue; it is published again");
                self.hold(&instance, frame, None);
            }
            (Sent::Record { field }, Ok(_)) => {
                self.routes.remove(&field);
                self.outbox.sent(field);
            }
            (Sent::Record { field }, Err(PublishError::Oversize(reason))) => {
                let message = self.outbox.unsent(&field);
                let Some((to, body)) = message.and_then(|message| oversize::instead(message, &reason)) else {
                    // An event belongs to whoever listens, and is in the state of none: it leaves when the server lets it.
                    warn!(
                        outbox = field,
                        reason, "a message is too large for its stream; raise max_payload of nats-server"
                    );
                    let later = self.shared.clock.instant() + OVERSIZE_PAUSE;
                    return self.resend.push((field, later));
                };
                warn!(outbox = field, reason, instance.id = %to, "a message is too large for its stream; its task fails");
                self.replace(field, &to, &body);
            }
            (Sent::Record { field }, Err(e)) => {
                warn!(outbox = field, reason = %e, "a message was not taken by its stream; it is published again");
                self.resend.push((field, self.soon()));
            }
            (Sent::Note, _) => {}
        }
    }

    /// When what failed is tried again.
    fn soon(&self) -> Instant {
        self.shared.clock.instant() + Duration::from_secs(1)
    }

    /// Sends a record in place of what cannot leave.
    fn replace(&mut self, field: String, to: &InstanceKey, body: &RecordBody) {
        let subject = names::log_subject(partition_of(to, self.shared.config.partitions), body.kind());
        self.outbox
            .send(field.clone(), wire::encode_record(Some(to), body));
        self.routes.insert(field.clone(), (subject, None));
        self.resend.push((field, self.shared.clock.instant()));
    }

    fn hold(&mut self, instance: &InstanceKey, frame: u32, function: Option<String>) {
        let at = self.soon();
        self.held.push(Held {
            instance: instance.clone(),
            frame,
            function,
            at,
        });
    }

    /// Steps that may leave now. The caller rebuilds and publishes them.
    pub(crate) fn due_steps(&mut self) -> Vec<(InstanceKey, u32)> {
        let (now, functions) = (self.shared.clock.instant(), &self.shared.functions);
        let ready = |h: &Held| match &h.function {
            Some(function) => functions.queue_of(function).is_some(),
            None => h.at <= now,
        };
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(ready);
        self.held = held;
        let due: Vec<Held> = due;
        for function in due.iter().filter_map(|h| h.function.as_ref()) {
            self.unregistered.remove(function);
        }
        due.into_iter().map(|h| (h.instance, h.frame)).collect()
    }

    /// Appends records again whose append failed.
    pub(crate) async fn resend(&mut self) {
        let now = self.shared.clock.instant();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.resend)
            .into_iter()
            .partition(|(_, at)| *at <= now);
        self.resend = later;
        for (field, _) in due {
            let Some(message) = self.outbox.unsent(&field).cloned() else {
                continue;
            };
            match self.routes.get(&field).cloned() {
                Some((subject, headers)) => {
                    let sent = Sent::Record { field };
                    self.publish(subject, headers, message, sent).await;
                }
                // Only a detached step has none: its queue may change.
                None => self.publish_detached(field, &message).await,
            }
        }
    }

    /// Core NATS, best effort: asks the worker to stop a step.
    pub(crate) async fn cancel(&self, worker: Option<&str>, step: &str) {
        let subject = names::cancel_subject(worker.unwrap_or("all"));
        self.hint(subject, step.to_owned().into()).await;
    }

    /// Core NATS, best effort: answers whoever asked.
    pub(crate) async fn reply(&self, to: String, body: &Reply) {
        match serde_json::to_vec(body) {
            Ok(json) => self.hint(to, json.into()).await,
            Err(e) => warn!(reason = %e, "reply cannot be encoded"),
        }
    }

    /// A result counted. Before its step is settled: the attempt is still known.
    pub(crate) fn step_ended(&self, key: &InstanceKey, result: &StepResult) {
        let outcome = match &result.outcome {
            StepOutcome::Output(_) => "output",
            StepOutcome::Error(_) => "error",
            StepOutcome::Cancelled => "cancelled",
        };
        let Some(open) = self.outbox.step(key, result.frame) else {
            return;
        };
        self.shared
            .metrics
            .steps_ended
            .with_label_values(&[&open.function, outcome])
            .inc();
        if let Some(attempt) = &open.attempt {
            self.shared.trace.step_ended(key, attempt, result);
        }
    }

    /// A new instance is committed.
    pub(crate) fn instance_started(&self, instance: &Instance) {
        let workflow = instance.definition().name.as_str();
        self.shared
            .metrics
            .instances_started
            .with_label_values(&[workflow])
            .inc();
        self.shared.trace.run_started(instance);
    }

    /// The end of an instance is committed. Tells whoever waits, over core NATS, best effort.
    pub(crate) async fn instance_ended(&self, instance: &Instance) {
        let (key, status) = (instance.key(), instance.status());
        let labels = [instance.definition().name.as_str(), status.name()];
        self.shared
            .metrics
            .instances_ended
            .with_label_values(&labels)
            .inc();
        if let Some(ended) = instance.ended_at_ms() {
            let took = u64::try_from(ended - instance.created_at_ms()).unwrap_or(0);
            let took = Duration::from_millis(took).as_secs_f64();
            self.shared
                .metrics
                .instance_duration
                .with_label_values(&labels)
                .observe(took);
        }
        self.shared.trace.run_ended(instance);
        self.hint(
            names::ENDED_HINT.into(),
            format!("{key} {}", status.name()).into(),
        )
        .await;
    }

    async fn hint(&self, subject: String, payload: Bytes) {
        self.sender.hint(subject, payload).await;
    }

    /// Waits, not longer than `max`, until nothing is in flight.
    pub(crate) async fn drain(&mut self, max: Duration) {
        let clock = self.shared.clock.clone();
        let all = async {
            while !self.in_flight.is_empty() {
                let done = self.completed().await;
                self.settle(done);
            }
        };
        // What is still out then is published again by the next owner, unless the log shows that it arrived.
        let _ = clock.limit(max, all).await;
    }
}
