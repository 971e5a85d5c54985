//! Configuration of the processes: environment variables only, read once at start, all faults reported together.

mod processes;
mod redirects;
mod registry;
mod source;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use processes::ProcessConfig;
pub use redirects::Redirects;
pub use registry::{VARS, Var, render_reference, unknown_names};
pub use source::{EXIT_CODE, Environment, Fault, Faults, Source};

use source::Reader;
use value::{Bytes, List, Pairs};

/// How to reach NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// Servers of one cluster.
    pub urls: Vec<String>,
    /// Credentials file (JWT and seed).
    pub credentials: Option<PathBuf>,
    /// PEM file of the authority that signed the servers' certificates.
    pub ca: Option<PathBuf>,
}

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://[user:password@]host:port[/db]`.
    pub url: String,
}

/// Logs and traces.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryConfig {
    /// What is logged, as an EnvFilter.
    pub filter: String,
    /// Form of log lines.
    pub format: LogFormat,
    /// URL that takes spans; `None` turns traces off.
    pub traces_endpoint: Option<String>,
    /// Overrides the service name given by the process.
    pub service_name: Option<String>,
    /// Spans that may wait to be sent.
    pub span_queue_max: usize,
    /// Share of instances that are traced, 0 to 1.
    pub sampled_share: f64,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which lifecycle events are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// None.
    Off,
    /// Of workflows.
    Workflow,
    /// Of workflows and tasks.
    All,
}

/// The coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// NATS.
    pub nats: NatsConfig,
    /// Redis.
    pub redis: RedisConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Where the API is served.
    pub listen: SocketAddr,
    /// Name of this coordinator, one subject token.
    pub id: String,
    /// Bearer token of the API; `None`: open.
    pub token: Option<String>,
    /// Whether the API may be open to other machines.
    pub allow_unauthenticated: bool,
    /// Partitions of a new cluster.
    pub partitions: u16,
    /// Silence after which an owner is replaced.
    pub lease_ttl: Duration,
    /// Silence after which a step goes to another worker.
    pub ack_wait: Duration,
    /// How long completed and cancelled instances are kept.
    pub retention_completed: Duration,
    /// How long faulted instances are kept.
    pub retention_faulted: Duration,
    /// How long records stay in the logs after they were applied.
    pub log_keep: Duration,
    /// Bound of one partition's log in bytes.
    pub log_bytes_max: u64,
    /// Bound of the work queue in bytes.
    pub steps_bytes_max: u64,
    /// Bound of the stream of events in bytes.
    pub events_bytes_max: u64,
    /// How long events are kept.
    pub events_age_max: Duration,
    /// Which lifecycle events are published.
    pub lifecycle: Lifecycle,
    /// Replicas of new streams.
    pub stream_replicas: usize,
    /// Memory for hot states in bytes.
    pub cache_bytes: u64,
    /// Where documents that definitions refer to are really fetched from.
    pub redirects: Redirects,
    /// Unconfirmed messages of one sender.
    pub publish_in_flight: usize,
}

/// The worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    /// NATS.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Name of this worker, one subject token.
    pub id: String,
    /// The machine's name.
    pub host: String,
    /// Where probes and metrics are served.
    pub listen: Option<SocketAddr>,
    /// Shown in the fleet.
    pub labels: BTreeMap<String, String>,
    /// Queues to pull from.
    pub queues: Vec<String>,
    /// Steps at a time.
    pub slots: usize,
    /// Time for running steps after SIGTERM.
    pub drain: Duration,
    /// Where HTTP calls really go.
    pub redirects: Redirects,
    /// Directory of secrets, one file or directory each.
    pub secrets_dir: Option<PathBuf>,
    /// Directory whose files definitions may name.
    pub files: Option<PathBuf>,
    /// Processes that definitions may start.
    pub processes: ProcessConfig,
    /// Unconfirmed messages of one sender.
    pub publish_in_flight: usize,
}

impl CoordinatorConfig {
    /// Reads every variable of the coordinator.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(source: &dyn Source) -> Result<Self, Faults> {
        let mut r = Reader::new(source);
        let config = Self {
            nats: nats(&mut r),
            redis: redis(&mut r),
            telemetry: telemetry(&mut r),
            listen: r.get("MILLRACE_LISTEN"),
            id: process_id(&mut r, "MILLRACE_COORDINATOR_ID"),
            token: r.optional("MILLRACE_TOKEN"),
            allow_unauthenticated: r.get("MILLRACE_ALLOW_UNAUTHENTICATED"),
            partitions: r.bounded("MILLRACE_PARTITIONS", "1 to 1024", |n| (1..=1024).contains(n)),
            lease_ttl: r.bounded("MILLRACE_LEASE_TTL", "at least 200ms", |d| {
                *d >= Duration::from_millis(200)
            }),
            ack_wait: r.bounded("MILLRACE_ACK_WAIT", "at least 1s", |d| {
                *d >= Duration::from_secs(1)
            }),
            retention_completed: r.get("MILLRACE_RETENTION_COMPLETED"),
            retention_faulted: r.get("MILLRACE_RETENTION_FAULTED"),
            log_keep: r.get("MILLRACE_LOG_KEEP"),
            log_bytes_max: r
                .bounded("MILLRACE_LOG_BYTES_MAX", "at least 1MiB", at_least_1mib)
                .0,
            steps_bytes_max: r
                .bounded("MILLRACE_STEPS_BYTES_MAX", "at least 1MiB", at_least_1mib)
                .0,
            events_bytes_max: r
                .bounded("MILLRACE_EVENTS_BYTES_MAX", "at least 1MiB", at_least_1mib)
                .0,
            events_age_max: r.bounded("MILLRACE_EVENTS_AGE_MAX", "at least 1m", |d| {
                *d >= Duration::from_secs(60)
            }),
            lifecycle: r.get("MILLRACE_LIFECYCLE_EVENTS"),
            stream_replicas: r.bounded("MILLRACE_STREAM_REPLICAS", "1, 3 or 5", |n| [1, 3, 5].contains(n)),
            cache_bytes: r.get::<Bytes>("MILLRACE_CACHE_BYTES").0,
            redirects: r.optional("MILLRACE_HTTP_REDIRECTS").unwrap_or_default(),
            publish_in_flight: publish_in_flight(&mut r),
        };
        r.finish(config)
    }
}

impl WorkerConfig {
    /// Reads every variable of a worker. `queue` is the queue named in the worker's code: used when
    /// `MILLRACE_QUEUES` is not set.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(source: &dyn Source, queue: &str) -> Result<Self, Faults> {
        let mut r = Reader::new(source);
        let config = Self {
            nats: nats(&mut r),
            telemetry: telemetry(&mut r),
            id: process_id(&mut r, "MILLRACE_WORKER_ID"),
            host: host_name(),
            listen: r.optional("MILLRACE_WORKER_LISTEN"),
            labels: r
                .optional("MILLRACE_WORKER_LABELS")
                .map_or_else(BTreeMap::new, |p: Pairs| p.0.into_iter().collect()),
            queues: queues(&mut r, queue),
            slots: r.bounded("MILLRACE_SLOTS", "1 to 4096", |n| (1..=4096).contains(n)),
            drain: r.get("MILLRACE_DRAIN"),
            redirects: r.optional("MILLRACE_HTTP_REDIRECTS").unwrap_or_default(),
            secrets_dir: r.optional("MILLRACE_SECRETS_DIR"),
            files: r.optional("MILLRACE_FILES"),
            processes: ProcessConfig::read(&mut r),
            publish_in_flight: publish_in_flight(&mut r),
        };
        // Each kind of process has a queue of its own.
        let queues = config.queues.len() + config.processes.kinds().count();
        if config.slots < queues {
            // Each queue always keeps a slot, else a busy one could starve the others.
            r.fault(
                "MILLRACE_SLOTS",
                format!(
                    "{} slots are too few for {queues} queues: at least one for each",
                    config.slots
                ),
            );
        }
        r.finish(config)
    }
}

impl TelemetryConfig {
    /// Reads only what logs and traces need: for processes that are neither coordinator nor worker.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(source: &dyn Source) -> Result<Self, Faults> {
        let mut r = Reader::new(source);
        let config = telemetry(&mut r);
        r.finish(config)
    }
}

fn nats(r: &mut Reader<'_>) -> NatsConfig {
    NatsConfig {
        urls: r.get::<List>("MILLRACE_NATS_URL").0,
        credentials: r.optional("MILLRACE_NATS_CREDENTIALS"),
        ca: r.optional("MILLRACE_NATS_CA"),
    }
}

fn redis(r: &mut Reader<'_>) -> RedisConfig {
    RedisConfig {
        url: r.get("MILLRACE_REDIS_URL"),
    }
}

fn telemetry(r: &mut Reader<'_>) -> TelemetryConfig {
    let exact = r.optional("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let base: Option<String> = r.optional("OTEL_EXPORTER_OTLP_ENDPOINT");
    TelemetryConfig {
        filter: log_filter(r),
        format: r.get("MILLRACE_LOG_FORMAT"),
        // The specification of OTLP appends the path to the general variable only.
        traces_endpoint: exact.or_else(|| base.map(|b| format!("{}/v1/traces", b.trim_end_matches('/')))),
        service_name: r.optional("OTEL_SERVICE_NAME"),
        span_queue_max: r.bounded("OTEL_BSP_MAX_QUEUE_SIZE", "at least 1", |n| *n >= 1),
        sampled_share: r.get::<Share>("OTEL_TRACES_SAMPLER_ARG").0,
    }
}

fn log_filter(r: &mut Reader<'_>) -> String {
    let text: String = r.get("MILLRACE_LOG");
    if let Err(reason) = tracing_subscriber::EnvFilter::builder().parse(&text) {
        r.fault("MILLRACE_LOG", format!("`{text}` is not a log filter: {reason}"));
    }
    text
}

#[derive(Clone, Copy)]
struct Share(f64);

impl value::Value for Share {
    fn parse(text: &str) -> Result<Self, String> {
        let share = text.parse().ok().filter(|n| (0.0..=1.0).contains(n));
        share
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))
    }
}

impl value::Value for Lifecycle {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "workflow" => Ok(Self::Workflow),
            "all" => Ok(Self::All),
            _ => Err(format!("`{text}` is none of off, workflow, all")),
        }
    }
}

impl value::Value for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is neither text nor json")),
        }
    }
}

fn at_least_1mib(n: &Bytes) -> bool {
    n.0 >= 1 << 20
}

fn publish_in_flight(r: &mut Reader<'_>) -> usize {
    r.bounded("MILLRACE_PUBLISH_IN_FLIGHT", "1 to 65536", |n| {
        (1..=65_536).contains(n)
    })
}

fn queues(r: &mut Reader<'_>, default: &str) -> Vec<String> {
    const NAME: &str = "MILLRACE_QUEUES";
    let queues = r
        .optional(NAME)
        .map_or_else(|| vec![default.to_owned()], |l: List| l.0);
    for queue in &queues {
        if !millrace_common::is_label(queue) {
            r.fault(
                NAME,
                format!("`{queue}` is not a queue name: use 1 to 63 of a-z, 0-9 and -"),
            );
        }
    }
    queues
}

fn process_id(r: &mut Reader<'_>, name: &'static str) -> String {
    let id = r
        .optional(name)
        .unwrap_or_else(|| format!("{}-{}", host_name(), crate::random::nonce()));
    if id == millrace_common::EVERY_WORKER {
        r.fault(
            name,
            format!("`{id}` stands for every worker: choose another name"),
        );
    }
    if !is_token(&id) {
        r.fault(
            name,
            format!("`{id}` cannot be part of a subject: use 1 to 128 of A-Z, a-z, 0-9, _ and -"),
        );
    }
    id
}

fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// The machine's name with everything that cannot stand in a subject replaced by `-`.
pub fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_e| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    let name: String = text
        .trim()
        .chars()
        .take(63)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    if name.is_empty() { "host".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_parses() {
        let nothing: BTreeMap<String, String> = BTreeMap::new();
        let c = CoordinatorConfig::read(&nothing).unwrap();
        assert_eq!(
            (c.partitions, c.lease_ttl, c.log_bytes_max),
            (2, Duration::from_secs(2), 1 << 30)
        );
        assert_eq!(c.telemetry.traces_endpoint, None);
        let w = WorkerConfig::read(&nothing, "orders").unwrap();
        assert_eq!(
            (w.queues.as_slice(), w.slots),
            (["orders".to_owned()].as_slice(), 64)
        );
        assert!(is_token(&w.id), "{}", w.id);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let source = BTreeMap::from([
            ("MILLRACE_PARTITIONS", "0"),
            ("MILLRACE_LEASE_TTL", "2"),
            ("MILLRACE_LISTEN", "nowhere"),
            ("MILLRACE_LOG_FORMAT", "xml"),
            ("MILLRACE_COORDINATOR_ID", "a.b"),
            ("MILLRACE_STREAM_REPLICAS", "2"),
        ]);
        let faults = CoordinatorConfig::read(&source).unwrap_err();
        let names: Vec<_> = faults.0.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), 6, "{faults}");
        for name in source.keys() {
            assert!(names.contains(name), "{name} missing in {faults}");
        }
        assert!(
            faults
                .to_string()
                .starts_with("invalid configuration\n  MILLRACE_")
        );
    }

    #[test]
    fn the_general_endpoint_gets_the_path_and_the_exact_one_does_not() {
        let general = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318/")]);
        let read = |s: &dyn Source| TelemetryConfig::read(s).unwrap().traces_endpoint.unwrap();
        assert_eq!(read(&general), "http://otel:4318/v1/traces");
        let exact = BTreeMap::from([("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://otel:4318/x")]);
        assert_eq!(read(&exact), "http://otel:4318/x");
    }

    #[test]
    fn no_worker_is_named_like_all_of_them() {
        let source = BTreeMap::from([("MILLRACE_WORKER_ID", "all")]);
        assert!(WorkerConfig::read(&source, "default").is_err());
    }

    #[test]
    fn more_queues_than_slots_are_refused() {
        let source = BTreeMap::from([("MILLRACE_QUEUES", "a,b,c"), ("MILLRACE_SLOTS", "2")]);
        let faults = WorkerConfig::read(&source, "default").unwrap_err();
        assert_eq!(faults.0[0].name, "MILLRACE_SLOTS");
    }

    #[test]
    fn no_process_is_allowed_unless_named() {
        let nothing: BTreeMap<String, String> = BTreeMap::new();
        let none = WorkerConfig::read(&nothing, "default").unwrap().processes;
        assert_eq!(none.kinds().count(), 0);
        let source = BTreeMap::from([("MILLRACE_PROCESSES", "script, shell")]);
        let some = WorkerConfig::read(&source, "default").unwrap().processes;
        assert_eq!(some.kinds().collect::<Vec<_>>(), ["shell", "script"]);
        let source = BTreeMap::from([
            ("MILLRACE_PROCESSES", "bash"),
            ("MILLRACE_PROCESS_COUNT", "0"),
            ("MILLRACE_PROCESS_MEMORY", "1KiB"),
            ("MILLRACE_CONTAINER_HOST", "docker"),
            ("MILLRACE_CONTAINER_VOLUMES", "data"),
        ]);
        let faults = WorkerConfig::read(&source, "default").unwrap_err();
        assert_eq!(faults.0.len(), source.len(), "{faults}");
        let source = BTreeMap::from([("MILLRACE_PROCESSES", "shell,script"), ("MILLRACE_SLOTS", "2")]);
        let faults = WorkerConfig::read(&source, "default").unwrap_err();
        assert_eq!(faults.0[0].name, "MILLRACE_SLOTS");
    }

    #[test]
    fn empty_texts_count_as_not_set() {
        let source = BTreeMap::from([("MILLRACE_QUEUES", " "), ("MILLRACE_WORKER_ID", "")]);
        assert_eq!(
            WorkerConfig::read(&source, "default").unwrap().queues,
            ["default"]
        );
    }
}
