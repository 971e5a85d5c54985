//! History for humans: one entry for what ended, one for what takes long or went wrong.
//!
//! An entry is a JSON object: `n` its number from 1, `at` Unix ms, `type`, and of the task (if it is about one) `task`
//! its pointer, `name`, `start` the how-manieth task of the instance it was, `startedAt` Unix ms; of a step `attempt`,
//! `worker`, `delivery`, `durationMs` the handler's run time; `detail` a text, `error` a problem.

use millrace_common::{Problem, StepResult, limits};
use serde::Serialize;

use crate::activate::{Run, shorten};
use crate::frame::{Body, FrameId};
use crate::plan::{Node, Plan};
use crate::state::{Changes, Header, Instance, Part};

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    n: u64,
    at: i64,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Problem>,
}

/// What happened to a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) kind: &'static str,
    pub(crate) detail: Option<&'a str>,
    pub(crate) error: Option<&'a Problem>,
}

impl<'a> Event<'a> {
    pub(crate) const fn new(kind: &'static str) -> Self {
        Self {
            kind,
            detail: None,
            error: None,
        }
    }

    pub(crate) const fn detail(kind: &'static str, detail: &'a str) -> Self {
        Self {
            kind,
            detail: Some(detail),
            error: None,
        }
    }

    pub(crate) const fn error(kind: &'static str, error: &'a Problem) -> Self {
        Self {
            kind,
            detail: None,
            error: Some(error),
        }
    }
}

/// An entry about the instance itself.
pub(crate) fn status(instance: &mut Instance, kind: &'static str, detail: Option<&str>, now_ms: i64) {
    instance.touch(Part::Header);
    let entry = Entry {
        at: now_ms,
        kind,
        detail,
        ..Entry::default()
    };
    push(&mut instance.header, &mut instance.changes, entry);
}

/// An entry about the end of an instance by an error.
pub(crate) fn failure(instance: &mut Instance, kind: &'static str, error: &Problem, now_ms: i64) {
    instance.touch(Part::Header);
    let entry = Entry {
        at: now_ms,
        kind,
        error: Some(error),
        ..Entry::default()
    };
    push(&mut instance.header, &mut instance.changes, entry);
}

/// An entry about a task, with what is known of its step if it is one.
pub(crate) fn task(
    instance: &mut Instance,
    plan: &Plan,
    run: &Run,
    own: Option<FrameId>,
    event: Event<'_>,
    now_ms: i64,
) {
    instance.touch(Part::Header);
    let node = plan.node(run.node);
    let step = own.and_then(|id| instance.frames.get(&id)).and_then(|frame| {
        let Body::Step(step) = &frame.body else {
            return None;
        };
        Some(step)
    });
    let entry = Entry {
        n: 0,
        at: now_ms,
        kind: event.kind,
        task: node.map(|n| &*n.pointer),
        name: node.map(|n| n.name.as_str()),
        start: Some(run.ordinal),
        started_at: Some(run.started_ms),
        attempt: step.map(|_| run.attempt),
        worker: step.and_then(|s| s.worker.as_deref()),
        delivery: step.map(|s| s.delivery).filter(|d| *d > 0),
        duration_ms: step.and_then(|s| s.duration_ms),
        detail: event.detail,
        error: event.error,
    };
    push(&mut instance.header, &mut instance.changes, entry);
}

/// An entry about the end of a step that nobody waited for.
pub(crate) fn detached(
    instance: &mut Instance,
    node: &Node,
    result: &StepResult,
    event: Event<'_>,
    now_ms: i64,
) {
    instance.touch(Part::Header);
    let error = event.error.map(|problem| shorten(problem.clone()));
    let entry = Entry {
        at: now_ms,
        kind: event.kind,
        task: Some(&*node.pointer),
        name: Some(&node.name),
        worker: Some(&result.worker),
        delivery: Some(result.delivery),
        duration_ms: Some(result.duration_ms),
        detail: event.detail,
        error: error.as_ref(),
        ..Entry::default()
    };
    push(&mut instance.header, &mut instance.changes, entry);
}

fn push(header: &mut Header, changes: &mut Changes, mut entry: Entry<'_>) {
    header.traced = header.traced.saturating_add(1);
    entry.n = header.traced;
    match serde_json::to_vec(&entry) {
        Ok(bytes) => changes.trace.push((entry.n, bytes.into())),
        Err(e) => unreachable!("entries have text keys and no failing serialiser: {e}"),
    }
    if let Some(oldest) = entry.n.checked_sub(limits::TRACE_ENTRIES_MAX).filter(|n| *n > 0) {
        changes.trace_deleted.push(oldest);
    }
}
