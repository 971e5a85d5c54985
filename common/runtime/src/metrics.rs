//! The instruments of both binaries, in one registry per process.
//!
//! `prometheus` directly, not through OpenTelemetry: an increment is one atomic addition, and the text is what is
//! scraped. Labels are only queue, workflow, function, outcome, kind and route: never an instance, step or worker.
//! On a hot path, take the labelled child once and keep it.

use std::ops::Deref;
use std::sync::Arc;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Bounds of histograms in seconds: 1 ms to 10 min.
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0,
];
/// Bounds of histograms of counts.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// All instruments; cheap to clone, dereferences to [`Instruments`].
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

macro_rules! instruments {
    ($($(#[doc = $doc:literal])+ $field:ident : $kind:ty = $name:literal $([$($label:literal),+])? $(in $bounds:ident)?;)*) => {
        /// One field per instrument; the first line of its documentation is its help text.
        pub struct Instruments {
            registry: Registry,
            $($(#[doc = $doc])+ pub $field: $kind,)*
        }

        impl Instruments {
            fn new() -> Self {
                let registry = Registry::new();
                Self {
                    $($field: <$kind as Instrument>::register(
                        &registry,
                        &Shape {
                            name: $name,
                            help: [$($doc),+][0].trim(),
                            labels: &[$($($label),+)?],
                            bounds: instruments!(@bounds $($bounds)?),
                        },
                    ),)*
                    registry,
                }
            }
        }
    };
    (@bounds) => { SECONDS };
    (@bounds $bounds:ident) => { $bounds };
}

instruments! {
    // Instances.
    /// Instances started.
    instances_started: IntCounterVec = "millrace_instances_started_total" ["workflow"];
    /// Instances that ended.
    instances_ended: IntCounterVec = "millrace_instances_ended_total" ["workflow", "outcome"];
    /// Time from start to end of an instance.
    instance_duration: HistogramVec = "millrace_instance_duration_seconds" ["workflow", "outcome"];
    /// Instances that have not ended, in the partitions of this process.
    instances_active: IntGauge = "millrace_instances_active";
    /// Instances set aside because applying a record panicked.
    instances_quarantined: IntCounter = "millrace_instances_quarantined_total";

    // Steps, as the coordinator sees them.
    /// Steps handed to the queue.
    steps_dispatched: IntCounterVec = "millrace_steps_dispatched_total" ["queue"];
    /// Results applied.
    steps_ended: IntCounterVec = "millrace_steps_ended_total" ["function", "outcome"];
    /// Retries begun by the language's retry policies.
    steps_retried: IntCounterVec = "millrace_steps_retried_total" ["function"];
    /// Steps dispatched again because the queue lost them; each is a symptom.
    steps_lost: IntCounter = "millrace_steps_lost_total";
    /// Time from dispatch to the arrival at a worker, by the worker's clock; the handler may start later than that.
    schedule_to_start: HistogramVec = "millrace_step_schedule_to_start_seconds" ["queue"];
    /// Steps waiting in a queue.
    queue_lag: IntGaugeVec = "millrace_queue_lag" ["queue"];
    /// Age of the oldest waiting step in seconds.
    queue_oldest_age: IntGaugeVec = "millrace_queue_oldest_age_seconds" ["queue"];

    // Commits and records.
    /// Time of one commit.
    commit_duration: HistogramVec = "millrace_commit_duration_seconds" ["op"];
    /// Records in one commit.
    commit_records: Histogram = "millrace_commit_records" in COUNTS;
    /// Commits by outcome: applied, aborted, refused, unknown.
    commits: IntCounterVec = "millrace_commits_total" ["outcome"];
    /// Records read from the logs.
    records: IntCounterVec = "millrace_records_total" ["kind"];
    /// Records that changed nothing: repeats and late arrivals.
    records_ignored: IntCounterVec = "millrace_records_ignored_total" ["reason"];
    /// Records set aside because they could not be decoded or applied.
    records_dead: IntCounter = "millrace_records_dead_total";
    /// Records in the logs of this process' partitions that are not applied yet.
    log_backlog: IntGauge = "millrace_log_backlog";

    // Events.
    /// Events that the partitions of this process looked at.
    events_read: IntCounter = "millrace_events_read_total";
    /// Filters evaluated in full, because a look-up did not decide.
    events_evaluations: IntCounter = "millrace_events_evaluations_total";
    /// Events folded into instances that listen.
    events_delivered: IntCounter = "millrace_events_delivered_total";

    // Timers.
    /// Time from due to fired.
    timer_lag: Histogram = "millrace_timer_lag_seconds";
    /// Timers that wait, in the partitions of this process.
    timers_pending: IntGauge = "millrace_timers_pending";

    // Ownership.
    /// Partitions owned.
    partitions_owned: IntGauge = "millrace_partitions_owned";
    /// Time from acquiring a partition to serving it.
    handover_duration: Histogram = "millrace_handover_duration_seconds";
    /// Partitions taken over, by reason: released, silent.
    takeovers: IntCounterVec = "millrace_takeovers_total" ["reason"];
    /// Beats of a lease that failed.
    lease_failures: IntCounter = "millrace_lease_renew_failures_total";
    /// Commits refused because another coordinator owns the partition.
    fenced_writes: IntCounter = "millrace_fenced_writes_total";

    // Dispatch.
    /// Effects committed and not yet confirmed.
    outbox_backlog: IntGauge = "millrace_outbox_backlog";
    /// Messages that were not confirmed, by kind of error.
    publish_errors: IntCounterVec = "millrace_publish_errors_total" ["kind"];
    /// Connections made to NATS: one at the start, one more for each time it was lost.
    nats_connects: IntGauge = "millrace_nats_connects";

    // Fleet and API.
    /// Workers with a recent beat.
    workers_connected: IntGauge = "millrace_workers_connected";
    /// Time of an HTTP request.
    http_duration: HistogramVec = "millrace_http_request_duration_seconds" ["method", "route", "status"];

    // Schedules.
    /// Schedules in force in the partitions of this process.
    schedules: IntGauge = "millrace_schedules";
    /// When the earliest of them is due, in Unix seconds; 0 when none is.
    schedule_next_due: IntGauge = "millrace_schedule_next_due_seconds";
    /// Due times by what came of them: started, skipped, missed. Runs asked for by hand count as started.
    schedule_due: IntCounterVec = "millrace_schedule_due_total" ["outcome"];

    // Worker.
    /// Slots that run a step.
    worker_slots_used: IntGauge = "millrace_worker_slots_used";
    /// Slots in all.
    worker_slots_limit: IntGauge = "millrace_worker_slots_limit";
    /// Steps run by this worker.
    worker_steps: IntCounterVec = "millrace_worker_steps_total" ["function", "outcome"];
    /// Run time of handlers.
    worker_step_duration: HistogramVec = "millrace_worker_step_duration_seconds" ["function"];
    /// Steps delivered more than once to the fleet.
    worker_redelivered: IntCounterVec = "millrace_worker_redelivered_total" ["queue"];
    /// Steps given up after too many deliveries.
    worker_poisoned: IntCounter = "millrace_worker_poisoned_total";
    /// Results that had to be sent again.
    worker_report_retries: IntCounter = "millrace_worker_report_retries_total";

    // Telemetry.
    /// Spans that were not sent: the queue was full or the receiver failed.
    spans_dropped: IntCounter = "millrace_spans_dropped_total";
}

impl Metrics {
    /// All instruments at zero.
    pub fn new() -> Self {
        Self(Arc::new(Instruments::new()))
    }

    /// The registry: for instruments that only one process has.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing into memory cannot fail; a family without children is left out by gather().
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::warn!(%error, "cannot render metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Metrics {
    type Target = Instruments;
    fn deref(&self) -> &Instruments {
        &self.0
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Instruments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

struct Shape {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
}

trait Instrument: Sized + prometheus::core::Collector + Clone + 'static {
    fn create(shape: &Shape) -> prometheus::Result<Self>;

    fn register(registry: &Registry, shape: &Shape) -> Self {
        let registered = Self::create(shape).and_then(|i| registry.register(Box::new(i.clone())).map(|()| i));
        registered.expect("names are valid and unique; a test creates all of them")
    }
}

macro_rules! instrument {
    ($($kind:ty => |$shape:ident| $make:expr;)*) => {$(
        impl Instrument for $kind {
            fn create($shape: &Shape) -> prometheus::Result<Self> {
                $make
            }
        }
    )*};
}

instrument! {
    IntCounter => |s| Self::new(s.name, s.help);
    IntCounterVec => |s| Self::new(Opts::new(s.name, s.help), s.labels);
    IntGauge => |s| Self::new(s.name, s.help);
    IntGaugeVec => |s| Self::new(Opts::new(s.name, s.help), s.labels);
    Histogram => |s| Self::with_opts(HistogramOpts::new(s.name, s.help).buckets(s.bounds.to_vec()));
    HistogramVec => |s| Self::new(HistogramOpts::new(s.name, s.help).buckets(s.bounds.to_vec()), s.labels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instrument_has_a_name_a_help_and_a_line() {
        let m = Metrics::new();
        m.steps_ended.with_label_values(&["noop:1.0.0", "output"]).inc();
        m.commit_records.observe(3.0);
        let text = m.render();
        assert!(
            text.contains("# HELP millrace_steps_ended_total Results applied."),
            "{text}"
        );
        assert!(
            text.contains(r#"millrace_steps_ended_total{function="noop:1.0.0",outcome="output"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"millrace_commit_records_bucket{le="4"} 1"#),
            "{text}"
        );
        assert!(text.contains("millrace_outbox_backlog 0"), "{text}");
    }
}
