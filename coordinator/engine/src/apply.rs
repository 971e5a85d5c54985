//! The table of (state, record).
//!
//! | record | no instance | active | suspended | quarantined | ended |
//! | --- | --- | --- | --- | --- | --- |
//! | start | creates | the same one? | the same one? | the same one? | the same one? |
//! | cancel | – | ends | ends | ends | – |
//! | suspend | – | suspends | already so | – | – |
//! | resume | – | already so | goes on | goes on | – |
//! | retry | – | – | – | – | goes on, if faulted |
//! | unquarantine | – | – | – | goes on | – |
//! | result, child ended | – | goes on | kept | – | – |
//! | result of a detached step | – | traced | traced | traced | traced |
//! | progress | – | kept | kept | – | – |
//! | timer | – | fires | remembered | – | – |
//! | event | – | consumed | kept | – | – |
//! | continue | – | goes on | – | – | – |
//! | lost | – | dispatched again | remembered | – | – |
//!
//! A quarantined instance asks again for what it missed once it is resumed, except for events: those are gone for it, as an
//! operator is told (MR-QUARANTINE).

use std::sync::Arc;

use millrace_common::{
    ChildOutcome, ControlKind, ErrorKind, InstanceKey, Problem, Record, RecordBody, Reply, ReplyBody, Start,
    StepResult, Unquarantine, wire,
};

use crate::activate::{self, Activation, Move};
use crate::data::Data;
use crate::effect::{Effect, Ignored, Outcome, Transition};
use crate::plan::{Definitions, Plan};
use crate::schedule;
use crate::state::{Ended, Identity, Instance, Part};
use crate::status::Status;
use crate::trace;

/// Folds one record into an instance. A start on `None` creates it. Total: every record on every state has a named
/// outcome. Effects can come with an ignored record too: replies, and answers to a parent that asks again.
pub fn apply(definitions: &dyn Definitions, instance: &mut Option<Instance>, record: &Record) -> Transition {
    match (&record.body, instance.as_mut()) {
        (RecordBody::Start(start), None) => match &record.instance {
            Some(key) => create(definitions, instance, key, start, record.time_ms),
            None => ignored(Ignored::NoInstance, Vec::new()),
        },
        (RecordBody::Start(start), Some(existing)) => start_again(existing, start),
        (RecordBody::Control { reply, .. }, None) => ignored(
            Ignored::NoInstance,
            answer(record.instance.as_ref(), reply.as_deref(), ReplyBody::NotFound),
        ),
        (
            RecordBody::Control {
                action,
                reason,
                reply,
            },
            Some(existing),
        ) => {
            let wish = Wish {
                action: *action,
                reason: reason.as_deref(),
                reply: reply.as_deref(),
            };
            control(definitions, existing, wish, record.time_ms)
        }
        (RecordBody::Unquarantine(wish), None) => ignored(
            Ignored::NoInstance,
            answer(
                record.instance.as_ref(),
                wish.reply.as_deref(),
                ReplyBody::NotFound,
            ),
        ),
        (RecordBody::Unquarantine(wish), Some(existing)) => {
            let lifted = lift(definitions, existing, wish, record.time_ms);
            go_over_again(definitions, instance, lifted, wish, record)
        }
        (RecordBody::Announce { .. } | RecordBody::Schedule(_), _) => {
            ignored(Ignored::NoInstance, Vec::new())
        }
        (
            RecordBody::Result(_)
            | RecordBody::Progress(_)
            | RecordBody::Timer { .. }
            | RecordBody::Continue { .. }
            | RecordBody::Lost { .. }
            | RecordBody::ChildEnded { .. }
            | RecordBody::Event { .. },
            None,
        ) => ignored(Ignored::NoInstance, Vec::new()),
        (body, Some(existing)) => event(definitions, existing, body, record.time_ms),
    }
}

/// Books a record on which [`apply`] panicked, instead of applying it: its instance is quarantined, with
/// [`Instance::quarantine`]. A start makes an instance that has not begun; resuming begins it.
pub fn set_aside(instance: &mut Option<Instance>, record: &Record, reason: &str) -> Transition {
    match (&record.body, &record.instance, instance.as_mut()) {
        (_, _, Some(existing)) => {
            existing.quarantine(reason, record.time_ms);
            Transition::default()
        }
        (RecordBody::Start(start), Some(key), None) => {
            let input = Data::parse(start.input.clone()).unwrap_or_else(|_invalid| Data::null());
            let new = Instance::new(key.clone(), identity(start, record.time_ms), input);
            let new = instance.insert(new);
            trace::status(new, "instance.started", None, record.time_ms);
            new.quarantine(reason, record.time_ms);
            Transition {
                outcome: Outcome::Applied,
                effects: answer(Some(key), start.reply.as_deref(), ReplyBody::Started),
            }
        }
        _ => ignored(Ignored::NoInstance, Vec::new()),
    }
}

fn ignored(reason: Ignored, effects: Vec<Effect>) -> Transition {
    Transition {
        outcome: Outcome::Ignored(reason),
        effects,
    }
}

fn answer(instance: Option<&InstanceKey>, to: Option<&str>, body: ReplyBody) -> Vec<Effect> {
    let reply = |(to, instance): (&str, &InstanceKey)| Effect::Reply {
        to: to.to_owned(),
        body: Reply {
            instance: instance.clone(),
            body,
        },
    };
    to.zip(instance).map(reply).into_iter().collect()
}

// ---------------------------------------------------------------- start

fn create(
    definitions: &dyn Definitions,
    slot: &mut Option<Instance>,
    key: &InstanceKey,
    start: &Start,
    now_ms: i64,
) -> Transition {
    let (input, bad_input) = match Data::parse(start.input.clone()) {
        Ok(input) => (input, None),
        Err(problem) => (Data::null(), Some(problem.at("/input"))),
    };
    let mut effects = answer(Some(key), start.reply.as_deref(), ReplyBody::Started);
    let instance = slot.insert(Instance::new(key.clone(), identity(start, now_ms), input));
    trace::status(instance, "instance.started", None, now_ms);
    match plan_of(definitions, instance) {
        Some(plan) => {
            let mut activation = Activation::new(instance, &plan, definitions, now_ms);
            let first = match bad_input {
                Some(problem) => activation.fault(problem),
                None => activation.begin_workflow(),
            };
            activation.drive(first);
            effects.append(&mut activation.effects);
        }
        None => effects.extend(fault_unplanned(instance, now_ms)),
    }
    Transition {
        outcome: Outcome::Applied,
        effects,
    }
}

fn identity(start: &Start, now_ms: i64) -> Identity {
    Identity {
        definition: start.definition.clone(),
        labels: start.labels.clone(),
        parent: start.parent.clone(),
        traceparent: start.traceparent.clone(),
        created_ms: now_ms,
    }
}

/// An instance without definition ends at once.
fn fault_unplanned(instance: &mut Instance, now_ms: i64) -> Option<Effect> {
    let text = format!("there is no definition `{}`", instance.definition());
    let problem = Problem::new(ErrorKind::Configuration, text).at("/");
    instance.header.ended = Some(Ended {
        status: Status::Faulted,
        at_ms: now_ms,
    });
    instance.error = Some(problem.clone());
    instance.touch(Part::Error);
    trace::failure(instance, "instance.faulted", &problem, now_ms);
    ended_message(instance, ChildOutcome::Faulted(problem))
}

fn ended_message(instance: &Instance, outcome: ChildOutcome) -> Option<Effect> {
    let parent = instance.parent().filter(|p| p.awaited)?;
    let body = RecordBody::ChildEnded {
        frame: parent.frame,
        child: instance.key.clone(),
        outcome: schedule::told(parent, outcome),
    };
    Some(Effect::Send {
        id: "ended".to_owned(),
        to: parent.instance.clone(),
        body: Box::new(body),
    })
}

/// A start of an instance that exists: the same one again, or another one under the same id.
fn start_again(existing: &Instance, start: &Start) -> Transition {
    let same_input = existing.input.raw() == &start.input
        || Data::parse(start.input.clone()).is_ok_and(|input| input.value() == existing.input.value());
    let same = existing.identity.definition == start.definition
        && same_input
        && parent_task(start.parent.as_ref()) == parent_task(existing.parent());
    let body = if same {
        ReplyBody::Exists
    } else {
        ReplyBody::Conflict
    };
    let mut effects = answer(Some(&existing.key), start.reply.as_deref(), body);
    match (same, &start.parent) {
        (true, Some(_)) => effects.extend(repeat_end(existing)),
        (false, Some(parent)) if parent.awaited => {
            let text = format!(
                "the id of the child, {}, is taken by another instance",
                existing.key
            );
            let outcome = ChildOutcome::Faulted(Problem::new(ErrorKind::Configuration, text));
            let body = RecordBody::ChildEnded {
                frame: parent.frame,
                child: existing.key.clone(),
                outcome,
            };
            let id = format!("refused:{}", parent.frame);
            effects.push(Effect::Send {
                id,
                to: parent.instance.clone(),
                body: Box::new(body),
            });
        }
        (true, None) | (false, _) => {}
    }
    ignored(Ignored::AlreadyStarted, effects)
}

/// The task that started an instance; the partition is not part of it.
fn parent_task(parent: Option<&millrace_common::ParentLink>) -> Option<(&InstanceKey, u32)> {
    parent.map(|p| (&p.instance, p.frame))
}

/// Tells a parent that asks again how its child ended.
fn repeat_end(existing: &Instance) -> Option<Effect> {
    let outcome = match existing.header.ended?.status {
        Status::Completed => ChildOutcome::Completed(existing.output.as_ref()?.raw().clone()),
        Status::Faulted => ChildOutcome::Faulted(existing.error.clone()?),
        Status::Cancelled => ChildOutcome::Cancelled,
        Status::Pending | Status::Running | Status::Waiting | Status::Suspended => return None,
    };
    ended_message(existing, outcome)
}

// ---------------------------------------------------------------- control

struct Wish<'a> {
    action: ControlKind,
    reason: Option<&'a str>,
    reply: Option<&'a str>,
}

/// What a wish comes to in a state.
enum Verdict {
    Do,
    /// It is so already.
    Already,
    /// It makes no sense.
    Refused,
}

fn verdict(instance: &Instance, action: ControlKind) -> Verdict {
    let ended = instance.header.ended.map(|e| e.status);
    let set_aside = instance.header.quarantine.is_some();
    let suspended = instance.header.suspended;
    match (action, ended) {
        (ControlKind::Cancel, None) => Verdict::Do,
        (ControlKind::Cancel, Some(Status::Cancelled)) => Verdict::Already,
        (ControlKind::Suspend, None) if set_aside => Verdict::Refused,
        (ControlKind::Suspend, None) if suspended => Verdict::Already,
        (ControlKind::Suspend, None) => Verdict::Do,
        (ControlKind::Resume, None) if suspended || set_aside => Verdict::Do,
        (ControlKind::Resume, None) => Verdict::Already,
        (ControlKind::Retry, Some(Status::Faulted)) => Verdict::Do,
        (ControlKind::Retry, None)
        | (ControlKind::Cancel | ControlKind::Suspend | ControlKind::Resume | ControlKind::Retry, Some(_)) => {
            Verdict::Refused
        }
    }
}

fn control(
    definitions: &dyn Definitions,
    instance: &mut Instance,
    wish: Wish<'_>,
    now_ms: i64,
) -> Transition {
    let reply = |instance: &Instance, body| answer(Some(&instance.key), wish.reply, body);
    let refused = |instance: &Instance| {
        let status = instance.status().name().to_owned();
        ignored(
            Ignored::NotAllowed,
            reply(instance, ReplyBody::NotAllowed(status)),
        )
    };
    match verdict(instance, wish.action) {
        Verdict::Refused => refused(instance),
        Verdict::Already => ignored(Ignored::NotAllowed, reply(instance, ReplyBody::Done)),
        Verdict::Do => match plan_of(definitions, instance) {
            Some(plan) => {
                let mut effects = carry_out(definitions, instance, &plan, &wish, now_ms);
                effects.extend(reply(instance, ReplyBody::Done));
                Transition {
                    outcome: Outcome::Applied,
                    effects,
                }
            }
            None => refused(instance),
        },
    }
}

/// Lifts a quarantine: the instance goes on as after a suspension.
fn lift(
    definitions: &dyn Definitions,
    instance: &mut Instance,
    wish: &Unquarantine,
    now_ms: i64,
) -> Transition {
    let resume = Wish {
        action: ControlKind::Resume,
        reason: wish.reason.as_deref(),
        reply: wish.reply.as_deref(),
    };
    match instance.header.quarantine {
        Some(_) if !instance.is_ended() => control(definitions, instance, resume, now_ms),
        _ => {
            let status = instance.status().name().to_owned();
            let refused = ReplyBody::NotAllowed(status);
            ignored(
                Ignored::NotAllowed,
                answer(Some(&instance.key), wish.reply.as_deref(), refused),
            )
        }
    }
}

/// The record that panicked, applied now. What it is by now a no-op for stays one.
fn go_over_again(
    definitions: &dyn Definitions,
    slot: &mut Option<Instance>,
    mut lifted: Transition,
    wish: &Unquarantine,
    record: &Record,
) -> Transition {
    let kept = wish.retry.as_ref().filter(|_| lifted.outcome == Outcome::Applied);
    let Some(Ok((_, body))) = kept.map(|raw| wire::decode_record(raw.text().as_bytes())) else {
        return lifted;
    };
    // One that lifts a quarantine itself is never kept as the one to be retried.
    if !matches!(body, RecordBody::Unquarantine(_)) {
        let again = Record {
            body,
            ..record.clone()
        };
        lifted.effects.extend(apply(definitions, slot, &again).effects);
    }
    lifted
}

fn carry_out(
    definitions: &dyn Definitions,
    instance: &mut Instance,
    plan: &Plan,
    wish: &Wish<'_>,
    now_ms: i64,
) -> Vec<Effect> {
    let mut activation = Activation::new(instance, plan, definitions, now_ms);
    let first = match wish.action {
        ControlKind::Cancel => {
            activation.cancel(wish.reason);
            Move::Idle
        }
        ControlKind::Suspend => {
            activation.suspend(wish.reason);
            Move::Idle
        }
        ControlKind::Resume => activation.resume(wish.reason),
        ControlKind::Retry => activation.retry_faulted(wish.reason),
    };
    activation.drive(first);
    activation.effects
}

// ---------------------------------------------------------------- events

fn event(
    definitions: &dyn Definitions,
    instance: &mut Instance,
    body: &RecordBody,
    now_ms: i64,
) -> Transition {
    if let RecordBody::Result(result) = body
        && let Some(node) = result.detached_node()
    {
        return detached_ended(definitions, instance, node, result, now_ms);
    }
    if instance.is_ended() {
        return ignored(Ignored::Ended, Vec::new());
    }
    if instance.header.quarantine.is_some() {
        return ignored(Ignored::NotAllowed, Vec::new());
    }
    let Some(plan) = plan_of(definitions, instance) else {
        let reason = format!("there is no definition `{}`", instance.definition());
        instance.quarantine(&reason, now_ms);
        return Transition::default();
    };
    let mut activation = Activation::new(instance, &plan, definitions, now_ms);
    match fold(&mut activation, body) {
        Ok(first) => {
            activation.drive(first);
            Transition {
                outcome: Outcome::Applied,
                effects: activation.effects,
            }
        }
        Err(reason) => ignored(reason, Vec::new()),
    }
}

/// A step that nobody waits for ended: told in the trace, whatever the instance does.
fn detached_ended(
    definitions: &dyn Definitions,
    instance: &mut Instance,
    node: u32,
    result: &StepResult,
    now_ms: i64,
) -> Transition {
    let told = plan_of(definitions, instance)
        .ok_or(Ignored::StaleStep)
        .and_then(|plan| activate::detached_ended(instance, &plan, node, result, now_ms));
    match told {
        Ok(()) => Transition::default(),
        Err(reason) => ignored(reason, Vec::new()),
    }
}

fn fold(activation: &mut Activation<'_>, body: &RecordBody) -> Result<Move, Ignored> {
    match body {
        RecordBody::Result(result) => activation.step_result(result),
        RecordBody::Progress(progress) => activation.step_progress(progress),
        RecordBody::Timer { timer } => activation.timer(*timer),
        RecordBody::Continue { number } => activation.go_on(*number),
        RecordBody::Lost {
            frame,
            step,
            generation,
        } => activation.step_lost(*frame, step, *generation),
        RecordBody::ChildEnded {
            frame,
            child,
            outcome,
        } => activation.child_ended(*frame, child, outcome),
        RecordBody::Event { frame, event } => activation.event(*frame, event),
        RecordBody::Announce { .. }
        | RecordBody::Start(_)
        | RecordBody::Control { .. }
        | RecordBody::Unquarantine(_)
        | RecordBody::Schedule(_) => Err(Ignored::NotAllowed),
    }
}

/// The plan of an instance, looked up once: a version of a definition never changes.
fn plan_of(definitions: &dyn Definitions, instance: &mut Instance) -> Option<Arc<Plan>> {
    if instance.plan.is_none() {
        instance.plan = definitions.plan(&instance.identity.definition);
    }
    instance.plan.clone()
}
