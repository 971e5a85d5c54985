//! What surrounds a function while it runs: a span that names the step in the function's log lines, and the current
//! context of OpenTelemetry's API, so that spans made by libraries find their parent.

use std::task::{Context as TaskContext, Poll, Waker};

use millrace_common::RawJson;
use millrace_runtime::telemetry::{OtelContext, Tracer};
use tracing::Instrument;

use crate::function::Run;
use crate::{Context, Failure, Function};

pub(crate) struct Scope {
    span: tracing::Span,
    otel: Option<OtelContext>,
}

impl Scope {
    pub(crate) fn new(function: &Function, context: &Context, tracer: &Tracer) -> Self {
        let span = if function.is_quiet() {
            tracing::Span::none()
        } else {
            span(context)
        };
        let otel = if tracer.enabled() {
            context.trace().map(Into::into)
        } else {
            None
        };
        Self { span, otel }
    }

    /// Begins a run and polls it once. Whoever gets the run after a `Pending` polls it again at once, so no wake-up is
    /// lost.
    pub(crate) fn begin(
        &self,
        function: &Function,
        context: &Context,
    ) -> (Run, Poll<Result<RawJson, Failure>>) {
        let _otel = self.otel.clone().map(OtelContext::attach);
        self.span.in_scope(|| {
            let mut run = function.start(context.clone());
            let first = run.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
            (run, first)
        })
    }

    /// Runs to the end, from the start unless a run is given.
    pub(crate) async fn run(
        self,
        function: &Function,
        context: &Context,
        begun: Option<Run>,
    ) -> Result<RawJson, Failure> {
        let rest = async {
            match begun {
                Some(run) => run.await,
                None => function.start(context.clone()).await,
            }
        };
        let rest = rest.instrument(self.span);
        match self.otel {
            Some(otel) => otel.run(rest).await,
            None => rest.await,
        }
    }
}

fn span(context: &Context) -> tracing::Span {
    let step = context.step();
    let span = tracing::info_span!(
        "step",
        instance.id = %step.instance,
        workflow.name = step.definition,
        task.id = step.task,
        task.attempt = step.attempt,
        delivery = context.delivery(),
        trace.id = tracing::field::Empty,
    );
    if let Some(trace) = context.trace().filter(|t| t.sampled) {
        span.record("trace.id", tracing::field::display(trace.trace_id));
    }
    span
}
