//! Every environment variable that a Millrace process reads. A variable that is not here does not exist: the typed
//! readers look their default up by name, `docs/reference/config.md` is rendered from this list, and the chart's test
//! compares with it.

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    /// Its name.
    pub name: &'static str,
    /// Text used when it is not set; empty when there is none.
    pub default: &'static str,
    /// What its text looks like.
    pub format: &'static str,
    /// Release that brought it.
    pub since: &'static str,
    /// Who reads it: coordinator, worker, cli, dev (and tests).
    pub used_by: &'static str,
    /// What it decides.
    pub doc: &'static str,
}

const fn var(
    name: &'static str,
    default: &'static str,
    format: &'static str,
    used_by: &'static str,
    doc: &'static str,
) -> Var {
    Var {
        name,
        default,
        format,
        since: "0.1.0",
        used_by,
        doc,
    }
}

const BOTH: &str = "coordinator, worker";
const COORDINATOR: &str = "coordinator";
const WORKER: &str = "worker";

/// Variables with this prefix hold secrets of workers.
const SECRET_PREFIX: &str = "MILLRACE_SECRET_";
/// Stands for all of them.
const SECRET_EXAMPLE: &str = "MILLRACE_SECRET_<NAME>";

/// All variables, grouped as in `docs/reference/config.md`.
pub const VARS: &[Var] = &[
    // Servers.
    var(
        "MILLRACE_NATS_URL",
        "nats://127.0.0.1:4222",
        "URLs, comma separated",
        BOTH,
        "NATS servers of one cluster. User and password, or a token, may stand in the URL; `tls://` asks for TLS.",
    ),
    var(
        "MILLRACE_NATS_CREDENTIALS",
        "",
        "path",
        BOTH,
        "Credentials file (JWT and seed) for NATS.",
    ),
    var(
        "MILLRACE_NATS_CA",
        "",
        "path",
        BOTH,
        "PEM file with the authority that signed the NATS servers' certificates.",
    ),
    var(
        "MILLRACE_REDIS_URL",
        "redis://127.0.0.1:6379",
        "URL",
        COORDINATOR,
        "Redis or Valkey. User and password may stand in the URL.",
    ),
    // Coordinator.
    var(
        "MILLRACE_LISTEN",
        "127.0.0.1:7400",
        "address:port",
        COORDINATOR,
        "Where the API, the UI, probes and metrics are served.",
    ),
    var(
        "MILLRACE_COORDINATOR_ID",
        "",
        "one token",
        COORDINATOR,
        "Name of this coordinator; default: the host's name and a random suffix.",
    ),
    var(
        "MILLRACE_TOKEN",
        "",
        "text",
        "coordinator, cli",
        "Bearer token that the API asks for; without it the API is open, and only on this machine.",
    ),
    var(
        "MILLRACE_ALLOW_UNAUTHENTICATED",
        "false",
        "true or false",
        COORDINATOR,
        "Lets the API without a token be reached from other machines: where something in front of it authenticates.",
    ),
    var(
        "MILLRACE_PARTITIONS",
        "2",
        "number",
        COORDINATOR,
        "Partitions of a new cluster, 1 to 1024. Fixed when a cluster is created; a different value later is refused at start.",
    ),
    var(
        "MILLRACE_LEASE_TTL",
        "2s",
        "duration",
        COORDINATOR,
        "A partition is taken over when its owner made no commit and no beat for this long. At least 200ms.",
    ),
    var(
        "MILLRACE_ACK_WAIT",
        "30s",
        "duration",
        COORDINATOR,
        "A step whose worker shows no sign of life for this long goes to another worker. At least 1s.",
    ),
    var(
        "MILLRACE_RETENTION_COMPLETED",
        "24h",
        "duration",
        COORDINATOR,
        "How long completed and cancelled instances can be read.",
    ),
    var(
        "MILLRACE_RETENTION_FAULTED",
        "24h",
        "duration",
        COORDINATOR,
        "How long faulted instances can be read and retried.",
    ),
    var(
        "MILLRACE_LOG_KEEP",
        "10m",
        "duration",
        COORDINATOR,
        "How long records stay in the logs after they were applied; less when a log is near its bound. `millrace rebuild` needs all of them.",
    ),
    var(
        "MILLRACE_LOG_BYTES_MAX",
        "1GiB",
        "size",
        COORDINATOR,
        "Bound of one partition's log. Starts are refused at 70 %, results when it is full.",
    ),
    var(
        "MILLRACE_STEPS_BYTES_MAX",
        "1GiB",
        "size",
        COORDINATOR,
        "Bound of the work queue of steps. At the bound steps wait in the outbox.",
    ),
    var(
        "MILLRACE_EVENTS_BYTES_MAX",
        "1GiB",
        "size",
        COORDINATOR,
        "Bound of the stream of events. At the bound the oldest events go. Used when the stream is created.",
    ),
    var(
        "MILLRACE_EVENTS_AGE_MAX",
        "24h",
        "duration",
        COORDINATOR,
        "How long events are kept: for coordinators that were away, and for other clients. At least 1m. Used when the stream is created.",
    ),
    var(
        "MILLRACE_LIFECYCLE_EVENTS",
        "off",
        "off, workflow or all",
        COORDINATOR,
        "Lifecycle events to publish in stream MR_LIFECYCLE: of workflows, or of tasks too. Each costs a message.",
    ),
    var(
        "MILLRACE_STREAM_REPLICAS",
        "1",
        "number",
        COORDINATOR,
        "Replicas of logs and work queue: 1, 3 or 5. Used when streams are created.",
    ),
    var(
        "MILLRACE_CACHE_BYTES",
        "256MiB",
        "size",
        COORDINATOR,
        "Memory for states of hot instances, all partitions together.",
    ),
    var(
        "MILLRACE_PUBLISH_IN_FLIGHT",
        "2048",
        "number",
        BOTH,
        "Messages sent to NATS and not yet confirmed, for each sender. At the bound the sender waits.",
    ),
    // Worker.
    var(
        "MILLRACE_WORKER_ID",
        "",
        "one token",
        WORKER,
        "Name of this worker; default: the host's name and a random suffix.",
    ),
    var(
        "MILLRACE_WORKER_LISTEN",
        "",
        "address:port",
        WORKER,
        "Where probes and metrics of the worker are served; not at all when unset.",
    ),
    var(
        "MILLRACE_WORKER_LABELS",
        "",
        "key=value, comma separated",
        WORKER,
        "Labels shown in the fleet.",
    ),
    var(
        "MILLRACE_QUEUES",
        "default",
        "names, comma separated",
        WORKER,
        "Queues the worker pulls steps from. A worker with functions of its own uses the queue named in its code when unset.",
    ),
    var(
        "MILLRACE_SLOTS",
        "64",
        "number",
        WORKER,
        "Steps run at a time, 1 to 4096. No more than these are ever taken from the queue.",
    ),
    var(
        "MILLRACE_DRAIN",
        "30s",
        "duration",
        WORKER,
        "Time for running steps to finish after SIGTERM; what is left is handed back.",
    ),
    var(
        "MILLRACE_HTTP_REDIRECTS",
        "",
        "host=URL, comma separated",
        BOTH,
        "Sends HTTP calls for a host (`host` or `host:port`) to another base URL: egress gateways and tests.",
    ),
    var(
        "MILLRACE_FILES",
        "",
        "path",
        WORKER,
        "Directory whose files definitions may name, as `file://` URIs below it; without it, none can be read.",
    ),
    var(
        "MILLRACE_SECRETS_DIR",
        "",
        "path",
        WORKER,
        "Directory of secrets: one file each, or a directory each with one file a key, as Kubernetes mounts them.",
    ),
    var(
        SECRET_EXAMPLE,
        "",
        "text, or object in JSON",
        WORKER,
        "A secret: its name in capitals, with `_` for everything but letters and digits. Wins over a file of that name.",
    ),
    var(
        "MILLRACE_PROCESSES",
        "",
        "names, comma separated",
        WORKER,
        "Processes that definitions may start on this worker: shell, script, container. None unless named: they run with the worker's own rights.",
    ),
    var(
        "MILLRACE_PROCESS_COUNT",
        "8",
        "number",
        WORKER,
        "Processes at a time, 1 to 4096; the steps of further ones wait.",
    ),
    var(
        "MILLRACE_PROCESS_TIME",
        "1h",
        "duration",
        WORKER,
        "Longest run of one process, also without a timeout of its task. At least 1s.",
    ),
    var(
        "MILLRACE_PROCESS_MEMORY",
        "1GiB",
        "size",
        WORKER,
        "Memory of one process or container; 0 for no bound. A process counts alone, without those that it starts.",
    ),
    var(
        "MILLRACE_CONTAINER_HOST",
        "",
        "kubernetes or URL",
        WORKER,
        "Where containers run: `kubernetes` (Jobs, with the pod's service account), or the API of Docker or Podman at unix:///path, http://… or https://…. Default: Kubernetes inside a cluster, else unix:///var/run/docker.sock.",
    ),
    var(
        "MILLRACE_CONTAINER_IMAGES",
        "",
        "patterns, comma separated",
        WORKER,
        "Images that may be run, with `*` for any text, such as `alpine:*`; all when unset.",
    ),
    var(
        "MILLRACE_CONTAINER_VOLUMES",
        "",
        "paths, comma separated",
        WORKER,
        "Directories of the host that containers may mount: these themselves, nothing below them, and none below another; none when unset.",
    ),
    // All processes.
    var(
        "MILLRACE_LOG",
        "info",
        "filter",
        BOTH,
        "What is logged to stderr, in the syntax of tracing's EnvFilter: `debug`, `info,millrace_worker=debug`.",
    ),
    var(
        "MILLRACE_LOG_FORMAT",
        "text",
        "text or json",
        BOTH,
        "Form of log lines.",
    ),
    // Clients and development.
    var(
        "MILLRACE_URL",
        "http://127.0.0.1:7400",
        "URL",
        "cli",
        "The coordinator that the command line talks to.",
    ),
    var(
        "MILLRACE_NATS_SERVER",
        "",
        "path",
        "dev",
        "Program `nats-server` for `millrace dev`, `millrace run --local` and tests.",
    ),
    var(
        "MILLRACE_REDIS_SERVER",
        "",
        "path",
        "dev",
        "Program `redis-server` or `valkey-server`, likewise.",
    ),
    // Standard variables of OpenTelemetry.
    var(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "URL",
        BOTH,
        "Turns traces on: OTLP over HTTP (protobuf), sent to `/v1/traces` below this URL.",
    ),
    var(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "",
        "URL",
        BOTH,
        "Turns traces on, sent to exactly this URL.",
    ),
    var(
        "OTEL_SERVICE_NAME",
        "",
        "text",
        BOTH,
        "Name of the service in traces; default: millrace-coordinator or millrace-worker.",
    ),
    var(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "65536",
        "number",
        BOTH,
        "Spans waiting to be sent; above it spans are dropped and counted. OpenTelemetry's own 2048 is too few for this engine.",
    ),
    var(
        "OTEL_TRACES_SAMPLER_ARG",
        "1",
        "0 to 1",
        COORDINATOR,
        "Share of instances that are traced; decided once, at the start of an instance.",
    ),
];

/// A registered variable.
///
/// # Panics
/// When the name is not registered: an error in this package, shown by its tests.
pub(super) fn find(name: &str) -> &'static Var {
    VARS.iter()
        .find(|v| v.name == name)
        .unwrap_or_else(|| panic!("variable {name} is not in the registry"))
}

/// The list as a table in Markdown, for `docs/reference/config.md`.
pub fn render_reference() -> String {
    let mut out = String::from(
        "| variable | default | format | read by | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for v in VARS {
        let default = if v.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", v.default)
        };
        out += &format!(
            "| `{}` | {default} | {} | {} | {} |\n",
            v.name, v.format, v.used_by, v.doc
        );
    }
    out
}

/// Names that look like ours and are not: probably misspelt, worth a warning at start.
pub fn unknown_names(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let is_ours = |n: &String| n.starts_with("MILLRACE_");
    // Tests and tools of the project use these prefixes for their own switches.
    let is_tool = |n: &String| n.starts_with("MILLRACE_TEST_") || n == "MILLRACE_SHARED";
    let is_secret = |n: &String| n.starts_with(SECRET_PREFIX);
    names
        .into_iter()
        .filter(|n| is_ours(n) && !is_tool(n) && !is_secret(n) && VARS.iter().all(|v| v.name != n))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_described() {
        for (i, v) in VARS.iter().enumerate() {
            assert!(!v.doc.is_empty() && !v.format.is_empty(), "{}", v.name);
            assert!(VARS[i + 1..].iter().all(|w| w.name != v.name), "{} twice", v.name);
            assert!(render_reference().contains(v.name));
        }
    }

    /// With `MILLRACE_WRITE_DOCS=1` it writes the page.
    #[test]
    fn the_configuration_reference_is_up_to_date() {
        const HEAD: &str = "# Configuration\n\n<!-- Generated: MILLRACE_WRITE_DOCS=1 cargo test --workspace --lib configuration_reference -->\n\n\
                            Everything is set by environment variables. A process that cannot read one names all faults at once and ends with\n\
                            exit code 64; a name that looks like one of these and is none is a warning at start.\n\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.md");
        let wanted = format!("{HEAD}{}", render_reference());
        if std::env::var("MILLRACE_WRITE_DOCS").is_ok_and(|set| set == "1") {
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(
            found == wanted,
            "docs/reference/config.md is not what the code says; run MILLRACE_WRITE_DOCS=1 cargo test --workspace --lib configuration_reference"
        );
    }

    #[test]
    fn misspelt_names_are_found() {
        let names = [
            "MILLRACE_SLOT",
            "MILLRACE_SLOTS",
            "PATH",
            "MILLRACE_TEST_RUN",
            "MILLRACE_SECRET_API_KEY",
        ]
        .map(String::from);
        assert_eq!(unknown_names(names), ["MILLRACE_SLOT"]);
    }
}
