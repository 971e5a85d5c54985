//! The coordinator's side of the protocol, as little of it as the tests need.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{self};
use futures_util::StreamExt;
use millrace_common::{
    AskReply, AskRequest, Beat, InstanceKey, PartitionId, Progress, RawJson, RecordBody, Register,
    Registered, Step, StepOutcome, StepResult, names, wire,
};
use millrace_runtime::Shutdown;
use millrace_runtime::telemetry::Tracer;
use millrace_worker::Worker;
use tokio::task::JoinHandle;

use crate::servers::{LIMIT, NatsServer, Scratch};

/// Queue of all tests.
pub(crate) const QUEUE: &str = "default";

/// All that a worker needs: no stream or consumer can be created or removed with it, no other worker's replies read.
const PERMISSIONS: &str = r#"
authorization {
  users = [
    { user: admin, password: admin }
    { user: w1, password: secret, permissions: {
      publish: { allow: [
        "$JS.API.CONSUMER.INFO.MR_STEPS.q-default", "$JS.API.CONSUMER.MSG.NEXT.MR_STEPS.q-default",
        "$JS.ACK.MR_STEPS.q-default.>", "$JS.ACK.*.*.MR_STEPS.q-default.>",
        "mr.log.*.result.default", "mr.fleet.register", "mr.fleet.beat", "mr.fleet.ask"
      ] }
      subscribe: { allow: ["_INBOX_w1.>", "mr.cancel.w1", "mr.cancel.all", "mr.worker.w1"] }
    } }
  ]
}
"#;

/// What the stage heard and how it answers.
#[derive(Default)]
struct Heard {
    registers: Vec<Register>,
    beats: Vec<Beat>,
    asked: Vec<AskRequest>,
    /// Answers by step; silence for others.
    answers: BTreeMap<String, AskReply>,
}

pub(crate) struct Stage {
    pub(crate) server: NatsServer,
    worker_url: String,
    pub(crate) client: async_nats::Client,
    js: jetstream::Context,
    heard: Arc<Mutex<Heard>>,
    seen: Mutex<Vec<RecordBody>>,
    next: Mutex<u64>,
}

/// Settings of the streams.
pub(crate) struct Scene {
    pub(crate) ack_wait: Duration,
    pub(crate) log_messages_max: i64,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(30),
            log_messages_max: -1,
        }
    }
}

impl Stage {
    pub(crate) async fn open(scene: Scene) -> Option<Self> {
        let server = NatsServer::start()?;
        let client = async_nats::connect(server.url()).await.unwrap();
        let url = server.url();
        Some(Self::set(server, client, url, scene).await)
    }

    /// A server on which the worker `w1` of the queue may do what [`PERMISSIONS`] allows and nothing else.
    pub(crate) async fn open_guarded() -> Option<Self> {
        let scratch = Scratch::new();
        let config = scratch.path().join("nats.conf");
        std::fs::write(&config, PERMISSIONS).unwrap();
        let server = NatsServer::start_with(&["-c", &config.display().to_string()])?;
        let login = async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
        let client = login.connect(server.url()).await.unwrap();
        let url = server.url().replace("nats://", "nats://w1:secret@");
        Some(Self::set(server, client, url, Scene::default()).await)
    }

    async fn set(server: NatsServer, client: async_nats::Client, worker_url: String, scene: Scene) -> Self {
        let js = jetstream::new(client.clone());
        let log = Config {
            name: names::log_stream(PartitionId(0)),
            subjects: vec![names::log_subjects(PartitionId(0))],
            max_messages: scene.log_messages_max,
            discard: DiscardPolicy::New,
            ..Default::default()
        };
        js.create_stream(log).await.unwrap();
        let steps = Config {
            name: names::STEPS_STREAM.into(),
            subjects: vec![names::STEPS_SUBJECTS.into()],
            retention: RetentionPolicy::WorkQueue,
            ..Default::default()
        };
        let steps = js.create_stream(steps).await.unwrap();
        let consumer = pull::Config {
            durable_name: Some(names::queue_consumer(QUEUE)),
            filter_subject: names::queue_filter(QUEUE),
            ack_policy: AckPolicy::Explicit,
            ack_wait: scene.ack_wait,
            max_ack_pending: 10_000,
            ..Default::default()
        };
        steps.create_consumer(consumer).await.unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        listen(&client, heard.clone()).await;
        Self {
            server,
            worker_url,
            client,
            js,
            heard,
            seen: Mutex::default(),
            next: Mutex::new(1),
        }
    }

    /// Puts a step into the queue.
    pub(crate) async fn send(&self, step: &Step) {
        let subject = names::step_subject("default", QUEUE, 5);
        self.js
            .publish(subject, wire::encode_step(step))
            .await
            .unwrap()
            .await
            .unwrap();
    }

    pub(crate) async fn consumer(&self) -> PullConsumer {
        self.js
            .get_consumer_from_stream(names::queue_consumer(QUEUE), names::STEPS_STREAM)
            .await
            .unwrap()
    }

    /// Steps that the queue gave out and that are not acknowledged.
    pub(crate) async fn held(&self) -> usize {
        self.consumer().await.info().await.unwrap().num_ack_pending
    }

    /// Steps in the queue, given out or not.
    pub(crate) async fn queued(&self) -> u64 {
        self.js
            .get_stream(names::STEPS_STREAM)
            .await
            .unwrap()
            .cached_info()
            .state
            .messages
    }

    /// Everything in the log since the start, oldest first.
    pub(crate) async fn log(&self) -> Vec<RecordBody> {
        let stream = self
            .js
            .get_stream(names::log_stream(PartitionId(0)))
            .await
            .unwrap();
        let last = stream.cached_info().state.last_sequence;
        loop {
            let next = *self.next.lock().unwrap();
            if next > last {
                break;
            }
            // A purged record stays in `seen` from before, or was never read: both are fine for the tests.
            if let Ok(raw) = stream.get_raw_message(next).await {
                let (_, body) = wire::decode_record(&raw.payload).unwrap();
                self.seen.lock().unwrap().push(body);
            }
            *self.next.lock().unwrap() = next + 1;
        }
        self.seen.lock().unwrap().clone()
    }

    pub(crate) async fn purge_log(&self) {
        self.log().await;
        self.js
            .get_stream(names::log_stream(PartitionId(0)))
            .await
            .unwrap()
            .purge()
            .await
            .unwrap();
    }

    /// Waits for this many results in all.
    pub(crate) async fn results(&self, number: usize) -> Vec<StepResult> {
        eventually(&format!("{number} results"), async || {
            let results = results(self.log().await);
            (results.len() >= number).then_some(results)
        })
        .await
    }

    pub(crate) async fn result(&self, step: &str) -> StepResult {
        eventually(&format!("the result of {step}"), async || {
            results(self.log().await).into_iter().find(|r| r.step == step)
        })
        .await
    }

    /// Waits for a progress record of the step.
    pub(crate) async fn progress(&self, step: &str) -> Progress {
        eventually(&format!("progress of {step}"), async || {
            self.log().await.into_iter().find_map(|r| match r {
                RecordBody::Progress(p) if p.step == step => Some(*p),
                _ => None,
            })
        })
        .await
    }

    pub(crate) async fn all_acknowledged(&self) {
        eventually("an empty queue", async || {
            (self.queued().await == 0).then_some(())
        })
        .await;
    }

    pub(crate) fn answer(&self, step: &str, open: bool, progress: Option<RawJson>) {
        self.heard
            .lock()
            .unwrap()
            .answers
            .insert(step.into(), AskReply { open, progress });
    }

    pub(crate) fn asked(&self) -> Vec<AskRequest> {
        self.heard.lock().unwrap().asked.clone()
    }

    pub(crate) fn registers(&self) -> Vec<Register> {
        self.heard.lock().unwrap().registers.clone()
    }

    pub(crate) fn beats(&self) -> Vec<Beat> {
        self.heard.lock().unwrap().beats.clone()
    }

    /// Starts a worker in this process.
    pub(crate) fn start(
        &self,
        id: &str,
        settings: &[(&str, &str)],
        with: impl FnOnce(Worker) -> Worker,
    ) -> Running {
        let worker = with(self.worker(id, settings));
        let shutdown = Shutdown::new();
        let task = tokio::spawn(worker.run_until(shutdown.clone(), Tracer::disabled()));
        Running { shutdown, task }
    }

    /// Starts a worker with a runtime of its own, which can be taken from under it.
    pub(crate) fn start_mortal(&self, id: &str, with: impl FnOnce(Worker) -> Worker) -> Mortal {
        let worker = with(self.worker(id, &[]));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(worker.run_until(Shutdown::new(), Tracer::disabled()));
        Mortal(Some(runtime))
    }

    fn worker(&self, id: &str, settings: &[(&str, &str)]) -> Worker {
        let url = self.worker_url.clone();
        let mut source = BTreeMap::from([("MILLRACE_NATS_URL", url.as_str()), ("MILLRACE_WORKER_ID", id)]);
        source.extend(settings.iter().copied());
        Worker::from_source(&source, QUEUE).unwrap()
    }
}

/// A worker in this process.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Asks it to stop and waits until it did.
    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.ended().await;
    }

    pub(crate) async fn ended(self) {
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the worker ends in time")
            .unwrap()
            .unwrap();
    }
}

/// A worker that can die.
pub(crate) struct Mortal(Option<tokio::runtime::Runtime>);

impl Mortal {
    /// As a crash: no answer, no goodbye.
    pub(crate) fn die(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Polls until there is a value, with a deadline.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("waited in vain for {what}"),
    }
}

/// A step of attempt 1.
pub(crate) fn step(key: &str, function: &str, input: &str) -> Step {
    Step {
        id: format!("{key}.1"),
        key: key.into(),
        instance: InstanceKey::new("default", "run-1").unwrap(),
        definition: "default/test@1.0.0".into(),
        task: "/do/0/test".into(),
        function: function.into(),
        attempt: 1,
        generation: 0,
        frame: 7,
        input: RawJson::parse(input.as_bytes()).unwrap(),
        deadline_ms: None,
        start_by_ms: None,
        heartbeat_ms: None,
        max_deliveries: None,
        progress: None,
        report: names::report_subject(PartitionId(0), QUEUE),
        token: "token".into(),
        late: None,
    }
}

/// The output of a result.
pub(crate) fn output(result: &StepResult) -> serde_json::Value {
    match &result.outcome {
        StepOutcome::Output(raw) => raw.decode().unwrap(),
        other => panic!("no output: {other:?}"),
    }
}

/// The error of a result.
pub(crate) fn error(result: &StepResult) -> millrace_common::Problem {
    match &result.outcome {
        StepOutcome::Error(problem) => problem.clone(),
        other => panic!("no error: {other:?}"),
    }
}

fn results(log: Vec<RecordBody>) -> Vec<StepResult> {
    log.into_iter()
        .filter_map(|r| {
            if let RecordBody::Result(result) = r {
                Some(*result)
            } else {
                None
            }
        })
        .collect()
}

async fn listen(client: &async_nats::Client, heard: Arc<Mutex<Heard>>) {
    let mut messages = client.subscribe("mr.fleet.>").await.unwrap();
    client.flush().await.unwrap();
    let client = client.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            let reply = hear(&heard, &message);
            if let (Some(payload), Some(to)) = (reply, message.reply) {
                client.publish(to, payload.into()).await.unwrap();
            }
        }
    });
}

fn hear(heard: &Mutex<Heard>, message: &async_nats::Message) -> Option<Vec<u8>> {
    let mut heard = heard.lock().unwrap();
    match message.subject.as_str() {
        names::FLEET_REGISTER => {
            heard
                .registers
                .push(serde_json::from_slice(&message.payload).unwrap());
            Some(
                serde_json::to_vec(&Registered {
                    coordinator: "stage".into(),
                    refused: None,
                })
                .unwrap(),
            )
        }
        names::FLEET_ASK => {
            let request: AskRequest = serde_json::from_slice(&message.payload).unwrap();
            let reply = heard
                .answers
                .get(&request.step)
                .map(|r| serde_json::to_vec(r).unwrap());
            heard.asked.push(request);
            reply
        }
        names::FLEET_BEAT => {
            heard
                .beats
                .push(serde_json::from_slice(&message.payload).unwrap());
            None
        }
        other => panic!("unexpected subject {other}"),
    }
}
