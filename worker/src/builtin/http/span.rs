//! The span of one request: its id travels with the request, so that what the called service records hangs under it.

use std::time::{SystemTime, UNIX_EPOCH};

use millrace_runtime::telemetry::{Span, SpanKind, SpanStatus, TraceContext, span_id_of};
use reqwest::{Method, Url};

use crate::{Context, Failure};

/// See the module.
pub(in crate::builtin) struct CallSpan {
    context: TraceContext,
    parent: TraceContext,
    start_us: i64,
}

impl CallSpan {
    /// `None` when the run is not traced.
    pub(in crate::builtin) fn begin(ctx: &Context) -> Option<Self> {
        let parent = ctx.trace().filter(|t| t.sampled && ctx.tracer().enabled())?;
        let start_us = now_us();
        // A step may call several times (redirections): the time tells them apart.
        let span_id = span_id_of(&[&parent.span_id.to_string(), "http", &start_us.to_string()]);
        Some(Self {
            context: TraceContext { span_id, ..parent },
            parent,
            start_us,
        })
    }

    /// What the request carries.
    pub(in crate::builtin) const fn context(&self) -> TraceContext {
        self.context
    }

    /// The answer, or the failure, is here. The URL is told without credentials and query.
    pub(in crate::builtin) fn end(
        self,
        ctx: &Context,
        (method, url): (&Method, &Url),
        status: Result<u16, &Failure>,
    ) {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut attributes = vec![
            ("http.request.method", method.to_string().into()),
            ("server.address", host.into()),
            ("url.path", ctx.mask().text(url.path()).into()),
        ];
        if let Ok(status) = status {
            attributes.push(("http.response.status_code", i64::from(status).into()));
        }
        let failed = |failure: &Failure| ctx.mask().text(&failure.to_string());
        ctx.tracer().export(Span {
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            parent: Some(self.parent.span_id),
            name: method.to_string().into(),
            kind: SpanKind::Client,
            start_us: self.start_us,
            end_us: now_us(),
            attributes,
            status: match status {
                Ok(status) if status < 400 => SpanStatus::Unset,
                Ok(status) => SpanStatus::Error(status.to_string()),
                Err(failure) => SpanStatus::Error(failed(failure)),
            },
            links: Vec::new(),
        });
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
