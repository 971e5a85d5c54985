//! From an instance to what changed of its fields.

use bytes::Bytes;
use millrace_common::RawJson;
use millrace_dsl::model::Flow;
use millrace_dsl::{Value, value};
use serde::Serialize;

use super::row::{
    BodyRow, ConsumedRow, CursorRow, DetachedRow, FixedRow, FlowRow, FrameRow, HeaderRow, HeldRow,
    IdentityRow, PhaseRow, RoundsRow, StepRow, TimerRow,
};
use super::{INLINE_BYTES_MAX, VERSION};
use crate::data::Data;
use crate::effect::Writes;
use crate::entries::Write;
use crate::frame::{
    self, Body, Cursor, Frame, FrameId, HeldStep, ListenState, Phase, StepState, Timer, TryState,
};
use crate::state::{Change, Changes, Identity, Instance, Part};

pub(crate) fn take_writes(instance: &mut Instance) -> Writes {
    let mut writes = Writes {
        set: Vec::with_capacity(4),
        ..Writes::default()
    };
    let parts = std::mem::take(&mut instance.changes.parts);
    for part in Part::ALL {
        match parts[part as usize] {
            Some(Change::Set) => {
                if let Some(bytes) = encode_part(instance, part) {
                    instance.changes.stored[part as usize] = true;
                    writes.set.push((part.field().to_owned(), bytes));
                }
            }
            Some(Change::Delete) if std::mem::take(&mut instance.changes.stored[part as usize]) => {
                writes.delete.push(part.field().to_owned());
            }
            Some(Change::Delete) | None => {}
        }
    }
    let mut frames = std::mem::take(&mut instance.changes.frames);
    frames.sort_unstable();
    frames.dedup();
    for id in frames {
        if let Some(frame) = instance.frames.get_mut(&id) {
            write_frame(id, frame, &mut writes, &mut instance.changes.frame_bytes);
        }
    }
    writes.delete.append(&mut instance.changes.deleted);
    writes.trace = std::mem::take(&mut instance.changes.trace);
    writes.trace_delete = std::mem::take(&mut instance.changes.trace_deleted);
    writes
}

/// Notes the fields of a frame that is gone.
pub(crate) fn delete(changes: &mut Changes, id: FrameId, frame: &Frame) {
    for part in frame::Part::ALL {
        if frame.stored[part as usize] > 0 {
            changes.deleted.push(format!("{}{id}", part.letter()));
        }
    }
    changes.frame_bytes = changes.frame_bytes.saturating_sub(frame.stored.iter().sum());
    delete_entries(changes, id, frame);
}

/// Notes the fields of a frame's entries that are gone.
pub(crate) fn delete_entries(changes: &mut Changes, id: FrameId, frame: &Frame) {
    frame.entries.deleted(|w| match w {
        Write::DeleteValue(n) => changes.deleted.push(format!("e{id}.{n}")),
        Write::DeletePage(page) => changes.deleted.push(format!("p{id}.{page}")),
        Write::Value(..) | Write::Page(..) => {}
    });
    changes.frame_bytes = changes.frame_bytes.saturating_sub(frame.entries.bytes());
}

fn write_entries(id: FrameId, frame: &mut Frame, writes: &mut Writes) {
    let paged = matches!(frame.body, Body::Each(_));
    frame.entries.take(paged, |w| match w {
        Write::Value(n, v) => writes.set.push((format!("e{id}.{n}"), text(&value::to_raw(v)))),
        Write::Page(page, values) => {
            let page_value: Value = values.into_iter().cloned().collect();
            writes
                .set
                .push((format!("p{id}.{page}"), text(&value::to_raw(&page_value))));
        }
        Write::DeleteValue(n) => writes.delete.push(format!("e{id}.{n}")),
        Write::DeletePage(page) => writes.delete.push(format!("p{id}.{page}")),
    });
}

fn encode_part(instance: &Instance, part: Part) -> Option<Bytes> {
    match part {
        Part::Identity => Some(json(&identity_row(&instance.identity))),
        Part::Header => Some(json(&header_row(instance))),
        Part::Input => Some(text(instance.input.raw())),
        Part::Context => Some(text(instance.context.raw())),
        Part::Output => instance.output.as_ref().map(|o| text(o.raw())),
        Part::Error => instance.error.as_ref().map(json),
        Part::Rounds => Some(json(&RoundsRow {
            v: VERSION,
            rounds: instance.rounds.clone(),
        })),
        Part::Detached => Some(json(&DetachedRow {
            v: VERSION,
            steps: instance.detached.clone(),
        })),
    }
}

fn write_frame(id: FrameId, frame: &mut Frame, writes: &mut Writes, total: &mut usize) {
    let dirty = std::mem::take(&mut frame.dirty);
    write_entries(id, frame, writes);
    for part in frame::Part::ALL {
        if !dirty.has(part) {
            continue;
        }
        let bytes = encode_frame(frame, part);
        let (before, now) = (frame.stored[part as usize], bytes.as_ref().map_or(0, Bytes::len));
        frame.stored[part as usize] = now;
        *total = total.saturating_sub(before) + now;
        match bytes {
            Some(bytes) => writes.set.push((format!("{}{id}", part.letter()), bytes)),
            None if before > 0 => writes.delete.push(format!("{}{id}", part.letter())),
            None => {}
        }
    }
}

fn encode_frame(frame: &Frame, part: frame::Part) -> Option<Bytes> {
    match part {
        frame::Part::State => Some(json(&frame_row(frame))),
        frame::Part::Fixed => fixed_row(frame).map(|row| json(&row)),
        frame::Part::Data => match &frame.body {
            Body::Listen(state) => item_data(state).map(|d| text(d.raw())),
            _ => large_data(frame).map(|d| text(d.raw())),
        },
        frame::Part::Context => frame.context.as_ref().map(|c| text(c.raw())),
        frame::Part::Consumed => match &frame.body {
            Body::Listen(state) => consumed_row(state).map(|row| json(&row)),
            _ => None,
        },
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes.into(),
        Err(e) => unreachable!("rows have text keys and no failing serialiser: {e}"),
    }
}

fn text(raw: &RawJson) -> Bytes {
    Bytes::copy_from_slice(raw.text().as_bytes())
}

fn identity_row(identity: &Identity) -> IdentityRow {
    IdentityRow {
        v: VERSION,
        definition: identity.definition.clone(),
        labels: identity.labels.clone(),
        parent: identity.parent.clone(),
        traceparent: identity.traceparent.clone(),
        created_ms: identity.created_ms,
    }
}

pub(crate) fn header_row(instance: &Instance) -> HeaderRow {
    let h = &instance.header;
    HeaderRow {
        v: VERSION,
        status: instance.status(),
        started_ms: h.started_ms,
        ended_ms: h.ended.map(|e| e.at_ms),
        suspended: h.suspended,
        quarantine: h.quarantine.as_ref().map(|q| (q.reason.clone(), q.since_ms)),
        next_frame: h.next_frame,
        next_timer: h.next_timer,
        traced: h.traced,
        ordinal: h.ordinal,
        continuation: h.continuation,
        continuing: h.continuing,
        recorded: h.recorded,
        rounds: h.rounds,
        undone: h.undone,
        undo_failed: h.undo_failed,
        ready: h.ready.clone(),
    }
}

fn timer_row(timer: Timer) -> TimerRow {
    match timer.fired {
        false => TimerRow::Armed(timer.number, timer.due_ms),
        true => TimerRow::Fired(timer.number, timer.due_ms, true),
    }
}

/// The input, unless it is inherited.
fn own_input(frame: &Frame) -> Option<&Data> {
    (!frame.input.is(&frame.raw)).then_some(&frame.input)
}

/// Arguments of a call, unless they are its input; the items of a `for`; the output of a task with extensions.
fn own_arguments(frame: &Frame) -> Option<&Data> {
    match &frame.body {
        Body::For(f) => Some(&f.items),
        Body::Each(f) => Some(&f.items),
        Body::Undo(undo) => Some(&undo.arguments),
        Body::Inline(arguments) => Some(arguments),
        Body::Extended(e) => e.output.as_ref(),
        Body::Step(step) => Some(&step.arguments),
        Body::Child(child) => Some(&child.arguments),
        Body::List(_)
        | Body::Item(_)
        | Body::Fork(_)
        | Body::Try(_)
        | Body::Wait(_)
        | Body::Listen(_)
        | Body::Done(_)
        | Body::Failed(_) => None,
    }
    .filter(|d| !d.is(&frame.input))
}

fn is_small(data: &Data) -> bool {
    data.raw().len() <= INLINE_BYTES_MAX
}

fn small(data: &Data) -> Option<RawJson> {
    is_small(data).then(|| data.raw().clone())
}

/// Items are written once however small they are: the frame is written again for every iteration.
fn fixed_row(frame: &Frame) -> Option<FixedRow> {
    let apart = |data: &&Data| matches!(frame.body, Body::For(_) | Body::Each(_)) || !is_small(data);
    let arguments = own_arguments(frame).filter(apart).map(|d| d.raw().clone());
    let row = FixedRow {
        input: own_input(frame).filter(|d| !is_small(d)).map(|d| d.raw().clone()),
        arguments: arguments.or_else(|| interest(frame)),
        late: match &frame.body {
            Body::Step(step) => step.late.as_deref().cloned(),
            _ => None,
        },
    };
    (row.input.is_some() || row.arguments.is_some() || row.late.is_some()).then_some(row)
}

/// What a `listen` wants.
fn interest(frame: &Frame) -> Option<RawJson> {
    let Body::Listen(state) = &frame.body else {
        return None;
    };
    match RawJson::encode(&*state.interest) {
        Ok(raw) => Some(raw),
        Err(e) => unreachable!("interests have text keys and no failing serialiser: {e}"),
    }
}

/// `None` before the first event.
fn consumed_row(state: &ListenState) -> Option<ConsumedRow> {
    if state.seen.is_empty() {
        return None;
    }
    let raws = |list: &mut dyn Iterator<Item = &Data>| list.map(|d| d.raw().clone()).collect();
    Some(ConsumedRow {
        seen: state.seen.clone(),
        queue: raws(&mut state.queue.iter()),
        output: raws(&mut state.output.iter()),
        item: state.item.as_ref().map(|d| d.raw().clone()),
        data: None,
    })
}

/// Data of the list of `foreach`, unless it is the item.
fn item_data(state: &ListenState) -> Option<&Data> {
    let data = &state.cursor.data;
    state.item.as_ref().filter(|item| !item.is(data)).map(|_| data)
}

fn large_data(frame: &Frame) -> Option<&Data> {
    frame
        .cursor()
        .map(|c| &c.data)
        .filter(|d| !d.is(&frame.input) && !is_small(d))
}

pub(crate) fn frame_row(frame: &Frame) -> FrameRow {
    FrameRow {
        v: VERSION,
        node: frame.node,
        pointer: frame.pointer.clone(),
        parent: frame.parent,
        branch: frame.branch,
        path: frame.path.0,
        ordinal: frame.ordinal,
        started_ms: frame.started_ms,
        attempt: frame.attempt,
        peak: (frame.peak != frame.attempt).then_some(frame.peak),
        input: own_input(frame).and_then(small),
        timeout: frame.timeout.map(timer_row),
        kept: frame.kept.clone(),
        round: frame.round,
        body: body_row(frame),
    }
}

fn cursor_row(frame: &Frame, cursor: &Cursor) -> CursorRow {
    let own = (!cursor.data.is(&frame.input)).then_some(&cursor.data);
    CursorRow {
        index: cursor.index,
        ordinal: cursor.ordinal,
        data: own.and_then(small),
    }
}

fn body_row(frame: &Frame) -> BodyRow {
    let arguments = || own_arguments(frame).and_then(small);
    match &frame.body {
        Body::List(cursor) => BodyRow::List(cursor_row(frame, cursor)),
        Body::For(f) => BodyRow::For {
            cursor: cursor_row(frame, &f.cursor),
            index: f.index,
            entered: f.entered,
        },
        Body::Each(f) => BodyRow::Each { next: f.next },
        Body::Item(cursor) => BodyRow::Item(cursor_row(frame, cursor)),
        Body::Undo(undo) => BodyRow::Undo {
            entry: undo.entry,
            task: undo.task,
            function: undo.function,
            arguments: arguments(),
            problem: Box::new(undo.failed.problem.clone()),
            is_final: undo.failed.is_final,
            then: undo.then,
        },
        Body::Fork(f) => BodyRow::Fork {
            next: f.next,
            again: f.again.clone(),
            done: f.done,
            failed: f.failed,
        },
        Body::Try(t) => try_row(frame, t),
        Body::Inline(_) => BodyRow::Inline {
            arguments: arguments(),
        },
        Body::Extended(e) => BodyRow::Extended {
            matched: e.matched.clone(),
            position: e.position,
            cursor: cursor_row(frame, &e.cursor),
            arguments: arguments(),
            through: e.output.is_some(),
            flow: e.flow.map(flow_row),
            told: e.told,
        },
        Body::Step(step) => BodyRow::Step(step_row(step, arguments())),
        Body::Wait(timer) => BodyRow::Wait(timer_row(*timer)),
        Body::Child(c) => BodyRow::Child {
            child: c.child.clone(),
            version: c.version.clone(),
            arguments: arguments(),
            held: c.held.as_ref().map(|h| match h {
                Ok(data) => HeldRow::Output(data.raw().clone()),
                Err(problem) => HeldRow::Error(problem.clone()),
            }),
        },
        Body::Listen(l) => BodyRow::Listen {
            closed: l.closed.clone(),
            keys: l.keys.clone(),
            done: l.done,
            failed: l.failed.clone(),
            index: l.cursor.index,
            ordinal: l.cursor.ordinal,
        },
        Body::Done(output) => BodyRow::Done {
            output: (!output.is(&frame.raw)).then(|| output.raw().clone()),
        },
        Body::Failed(failed) => {
            let problem = Box::new(failed.problem.clone());
            match failed.is_final {
                true => BodyRow::FailedFinally(problem),
                false => BodyRow::Failed(problem),
            }
        }
    }
}

const fn flow_row(flow: Flow) -> FlowRow {
    match flow {
        Flow::Continue => FlowRow::Continue,
        Flow::Exit => FlowRow::Exit,
        Flow::End => FlowRow::End,
        Flow::Task(index) => FlowRow::Task(index),
    }
}

fn try_row(frame: &Frame, t: &TryState) -> BodyRow {
    BodyRow::Try {
        phase: match t.phase {
            Phase::Body => PhaseRow::Body,
            Phase::Delay => PhaseRow::Delay,
            Phase::Handler => PhaseRow::Handler,
        },
        cursor: cursor_row(frame, &t.cursor),
        retries: t.retries,
        since_ms: t.since_ms,
        error: t.error.as_ref().map(|e| e.raw().clone()),
        attempt_ms: t.attempt_ms,
        attempt_timer: t.attempt_timer.map(timer_row),
        delay: t.delay.map(timer_row),
    }
}

fn step_row(step: &StepState, arguments: Option<RawJson>) -> StepRow {
    StepRow {
        function: step.function.clone(),
        arguments,
        generation: step.generation,
        deadline_ms: step.deadline_ms,
        key: step.key.clone(),
        start: step.start.map(timer_row),
        worker: step.worker.clone(),
        delivery: step.delivery,
        duration_ms: step.duration_ms,
        progress: step.progress.clone(),
        held: step.held.as_ref().map(|h| match h {
            HeldStep::Output(data) => HeldRow::Output(data.raw().clone()),
            HeldStep::Error(problem) => HeldRow::Error(problem.clone()),
            HeldStep::Lost => HeldRow::Lost,
        }),
    }
}
