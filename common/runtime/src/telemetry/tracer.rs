//! Sending spans with ids of our own choice.
//!
//! The SDK's span builder no longer takes ids, so spans are built as data and given to a batch processor. The exporter is
//! OTLP over HTTP with the blocking client: the processor has a thread of its own without a Tokio runtime, and the async
//! client panics there.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor,
};

use super::{SpanId, TraceContext, TraceId};

/// Time for one request to the receiver.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What role a span has in a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside.
    #[default]
    Internal,
    /// Answers a request.
    Server,
    /// Makes a request.
    Client,
    /// Puts a message into a queue.
    Producer,
    /// Handles a message.
    Consumer,
}

/// How the work of a span ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SpanStatus {
    /// Not said.
    #[default]
    Unset,
    /// Well.
    Ok,
    /// With an error.
    Error(String),
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
    /// A truth value.
    Bool(bool),
}

impl From<&'static str> for AttributeValue {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for AttributeValue {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its own id; see [`super::span_id_of`].
    pub span_id: SpanId,
    /// The span it belongs to.
    pub parent: Option<SpanId>,
    /// Low in cardinality.
    pub name: Cow<'static, str>,
    /// Its role.
    pub kind: SpanKind,
    /// Unix microseconds.
    pub start_us: i64,
    /// Unix microseconds.
    pub end_us: i64,
    /// Details.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// How it ended.
    pub status: SpanStatus,
    /// Related spans elsewhere.
    pub links: Vec<TraceContext>,
}

/// Sends spans, or does nothing; cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Pipe>>);

struct Pipe {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    counts: Arc<Counts>,
    queue_max: usize,
}

/// Shared with the exporter's thread.
#[derive(Debug, Default)]
struct Counts {
    queued: AtomicUsize,
    dropped: AtomicU64,
    sent: AtomicU64,
}

impl Tracer {
    /// One that does nothing.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// One that sends to an OTLP receiver; disabled, with a logged error, when the exporter cannot be built.
    pub(super) fn otlp(endpoint: &str, service_name: &str, queue_max: usize) -> Self {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build();
        match exporter {
            Ok(exporter) => Self::with_exporter(exporter, service_name, queue_max),
            Err(error) => {
                tracing::error!(%error, endpoint, "traces are off: cannot build the exporter");
                Self::disabled()
            }
        }
    }

    fn with_exporter<E: SpanExporter + 'static>(exporter: E, service_name: &str, queue_max: usize) -> Self {
        let counts = Arc::new(Counts::default());
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(queue_max)
            .build();
        let exporter = CountingExporter {
            inner: exporter,
            counts: counts.clone(),
        };
        let mut processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let resource = Resource::builder()
            .with_service_name(service_name.to_owned())
            .build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("millrace")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Arc::new(Pipe {
            processor,
            scope,
            counts,
            queue_max,
        })))
    }

    /// Whether spans go anywhere. Build no [`Span`] otherwise.
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Queues a span; drops and counts it when the queue is full. Never blocks.
    pub fn export(&self, span: Span) {
        let Some(pipe) = &self.0 else { return };
        if pipe.counts.queued.load(Ordering::Relaxed) >= pipe.queue_max {
            pipe.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pipe.counts.queued.fetch_add(1, Ordering::Relaxed);
        pipe.processor.on_end(data(span, pipe.scope.clone()));
    }

    /// Spans that were not sent so far: the queue was full or the receiver failed.
    pub fn dropped(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |p| p.counts.dropped.load(Ordering::Relaxed))
    }

    /// Spans that the receiver took.
    pub fn sent(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |p| p.counts.sent.load(Ordering::Relaxed))
    }

    pub(super) fn shutdown(&self, timeout: Duration) {
        let Some(pipe) = &self.0 else { return };
        if let Err(error) = pipe.processor.shutdown_with_timeout(timeout) {
            tracing::warn!(%error, "the last spans were not sent");
        }
        if self.dropped() > 0 {
            tracing::warn!(dropped = self.dropped(), "spans were not sent");
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer")
            .field("enabled", &self.enabled())
            .field("dropped", &self.dropped())
            .finish()
    }
}

/// Counts what leaves the queue.
#[derive(Debug)]
struct CountingExporter<E> {
    inner: E,
    counts: Arc<Counts>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let number = batch.len();
        self.counts.queued.fetch_sub(number, Ordering::Relaxed);
        let result = self.inner.export(batch).await;
        let counter = if result.is_ok() {
            &self.counts.sent
        } else {
            &self.counts.dropped
        };
        counter.fetch_add(number as u64, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

fn data(span: Span, scope: InstrumentationScope) -> SpanData {
    let mut links = SpanLinks::default();
    links.links = span
        .links
        .iter()
        .map(|l| opentelemetry::trace::Link::with_context(span_context(*l, true)))
        .collect();
    let own = TraceContext {
        trace_id: span.trace_id,
        span_id: span.span_id,
        sampled: true,
    };
    SpanData {
        span_context: span_context(own, false),
        parent_span_id: opentelemetry::SpanId::from(span.parent.map_or(0, |p| p.0)),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: kind(span.kind),
        name: span.name,
        start_time: time(span.start_us),
        end_time: time(span.end_us),
        attributes: span
            .attributes
            .into_iter()
            .map(|(key, value)| KeyValue::new(key, attribute(value)))
            .collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: status(span.status),
        instrumentation_scope: scope,
    }
}

pub(super) fn span_context(c: TraceContext, is_remote: bool) -> SpanContext {
    let flags = if c.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    SpanContext::new(
        c.trace_id.0.into(),
        c.span_id.0.into(),
        flags,
        is_remote,
        TraceState::default(),
    )
}

fn kind(kind: SpanKind) -> opentelemetry::trace::SpanKind {
    match kind {
        SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
        SpanKind::Server => opentelemetry::trace::SpanKind::Server,
        SpanKind::Client => opentelemetry::trace::SpanKind::Client,
        SpanKind::Producer => opentelemetry::trace::SpanKind::Producer,
        SpanKind::Consumer => opentelemetry::trace::SpanKind::Consumer,
    }
}

fn status(status: SpanStatus) -> Status {
    match status {
        SpanStatus::Unset => Status::Unset,
        SpanStatus::Ok => Status::Ok,
        SpanStatus::Error(text) => Status::error(text),
    }
}

fn attribute(value: AttributeValue) -> opentelemetry::Value {
    match value {
        AttributeValue::Text(Cow::Borrowed(text)) => text.into(),
        AttributeValue::Text(Cow::Owned(text)) => text.into(),
        AttributeValue::Number(number) => number.into(),
        AttributeValue::Bool(truth) => truth.into(),
    }
}

fn time(unix_us: i64) -> SystemTime {
    // Times before 1970 do not occur; they would be a clock that is not set.
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(unix_us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::telemetry::{span_id_of, trace_id_of};

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn span(name: &'static str) -> Span {
        Span {
            trace_id: trace_id_of(&["t"]),
            span_id: span_id_of(&[name]),
            parent: Some(span_id_of(&["root"])),
            name: name.into(),
            kind: SpanKind::Consumer,
            start_us: 1_700_000_000_000_000,
            end_us: 1_700_000_000_500_000,
            attributes: vec![("task.attempt", 2.into())],
            status: SpanStatus::Error("boom".into()),
            links: vec![],
        }
    }

    #[test]
    fn spans_arrive_with_exact_ids_and_times() {
        let kept = Kept::default();
        let tracer = Tracer::with_exporter(kept.clone(), "test", 16);
        tracer.export(span("a"));
        tracer.shutdown(Duration::from_secs(5));
        let spans = kept.0.lock().unwrap();
        assert_eq!(spans.len(), 1);
        assert_eq!(
            spans[0].span_context.span_id().to_string(),
            span_id_of(&["a"]).to_string()
        );
        assert_eq!(
            spans[0].span_context.trace_id().to_string(),
            trace_id_of(&["t"]).to_string()
        );
        assert_eq!(
            spans[0].parent_span_id.to_string(),
            span_id_of(&["root"]).to_string()
        );
        assert_eq!(
            spans[0].end_time.duration_since(spans[0].start_time).unwrap(),
            Duration::from_millis(500)
        );
        assert_eq!((tracer.sent(), tracer.dropped()), (1, 0));
    }

    #[test]
    fn a_disabled_tracer_does_nothing() {
        let tracer = Tracer::disabled();
        assert!(!tracer.enabled());
        tracer.export(span("a"));
        assert_eq!(tracer.dropped(), 0);
    }
}
