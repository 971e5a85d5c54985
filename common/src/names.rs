//! Every stream, subject, consumer and Redis key. Nothing else in the workspace spells one.
//!
//! All Redis keys of partition `p` share the hash tag `{mr:p}`, those of the registry `{mr:reg}`, so that each
//! transaction stays in one slot of a Redis Cluster. The instance id is never part of a subject: subject
//! cardinality costs the broker memory.

use crate::{DefinitionRef, InstanceKey, PartitionId, TimerId};

/// The work queue of steps.
pub const STEPS_STREAM: &str = "MR_STEPS";
/// All subjects of [`STEPS_STREAM`].
pub const STEPS_SUBJECTS: &str = "mr.steps.>";
/// The durable copy of every definition's source, keyed by subject; Redis holds the index.
pub const DEFINITIONS_STREAM: &str = "MR_DEFINITIONS";
/// All subjects of [`DEFINITIONS_STREAM`].
pub const DEFINITIONS_SUBJECTS: &str = "mr.definition.>";
/// Events (CloudEvents in structured JSON mode) of everybody: read by the correlators, open to any client.
pub const EVENTS_STREAM: &str = "MR_EVENTS";
/// All subjects of [`EVENTS_STREAM`].
pub const EVENTS_SUBJECTS: &str = "mr.events.>";
/// Lifecycle events of workflows and tasks, where they are turned on.
pub const LIFECYCLE_STREAM: &str = "MR_LIFECYCLE";
/// All subjects of [`LIFECYCLE_STREAM`].
pub const LIFECYCLE_SUBJECTS: &str = "mr.lifecycle.>";
/// Core NATS: hints that an instance changed its status. Payload: `namespace/id status`.
pub const ENDED_HINT: &str = "mr.hint.ended";
/// Core NATS: hint that the registry (definitions, functions, workers) changed.
pub const REGISTRY_HINT: &str = "mr.hint.registry";
/// Core NATS request: a worker announces itself and its functions.
pub const FLEET_REGISTER: &str = "mr.fleet.register";
/// Core NATS: a worker's heartbeat.
pub const FLEET_BEAT: &str = "mr.fleet.beat";
/// Core NATS request: is this step still open, and what progress was saved?
pub const FLEET_ASK: &str = "mr.fleet.ask";
/// The queue that steps use unless the function or the task says otherwise.
pub const DEFAULT_QUEUE: &str = "default";

/// Queue of the processes of a kind (`shell`, `script`, `container`). Apart from the default one, so that only workers
/// that may run them ever see them, and the steps wait while there is none.
pub fn process_queue(kind: &str) -> String {
    format!("run-{kind}")
}

/// Stream that is the log of a partition.
pub fn log_stream(p: PartitionId) -> String {
    format!("MR_LOG_{p}")
}

/// All subjects of a partition's log.
pub fn log_subjects(p: PartitionId) -> String {
    format!("mr.log.{p}.>")
}

/// Subject of a record of the given kind.
pub fn log_subject(p: PartitionId, kind: &str) -> String {
    format!("mr.log.{p}.{kind}")
}

/// Subject to which a worker of `queue` reports results and progress.
pub fn report_subject(p: PartitionId, queue: &str) -> String {
    format!("mr.log.{p}.result.{queue}")
}

/// Subject of a step.
pub fn step_subject(namespace: &str, queue: &str, priority: u8) -> String {
    format!("mr.steps.{namespace}.{queue}.{priority}")
}

/// Filter of a queue's consumer: every namespace and priority.
pub fn queue_filter(queue: &str) -> String {
    format!("mr.steps.*.{queue}.*")
}

/// Durable consumer of a queue.
pub fn queue_consumer(queue: &str) -> String {
    format!("q-{queue}")
}

/// Core NATS: asks whoever runs a step of this instance to stop it. Payload: step ids, one a line.
pub fn cancel_subject(worker: &str) -> String {
    format!("mr.cancel.{worker}")
}

/// Core NATS: commands to one worker (`drain`).
pub fn worker_subject(worker: &str) -> String {
    format!("mr.worker.{worker}")
}

/// Subject of a definition's durable source. Version dots become `_`.
pub fn definition_subject(d: &DefinitionRef) -> String {
    format!(
        "mr.definition.{}.{}.{}",
        d.namespace,
        d.name,
        d.version.replace(['.', '+'], "_")
    )
}

/// Subject of an event: its type, with what cannot stand in a subject as `_`. Filtering by it is a help for other
/// clients; nothing here depends on it.
pub fn event_subject(kind: &str) -> String {
    typed_subject("mr.events", kind)
}

/// Subject of a lifecycle event, likewise.
pub fn lifecycle_subject(kind: &str) -> String {
    typed_subject("mr.lifecycle", kind)
}

fn typed_subject(prefix: &str, kind: &str) -> String {
    const BYTES_MAX: usize = 200;
    let legal = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
        _ => '_',
    };
    let tokens = kind.split('.').map(|token| match token {
        "" => "_".to_owned(),
        token => token.chars().map(legal).collect(),
    });
    let mut subject = format!("{prefix}.{}", tokens.collect::<Vec<String>>().join("."));
    subject.truncate(BYTES_MAX);
    if subject.ends_with('.') {
        subject.push('_');
    }
    subject
}

/// Redis: pattern of all keys of a partition.
pub fn partition_keys(p: PartitionId) -> String {
    format!("{{mr:{p}}}:*")
}

/// Redis: the fence of a partition (STRING, no TTL).
pub fn fence_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:fence")
}

/// Redis: the position of a partition (STRING).
pub fn position_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:pos")
}

/// Redis: recent batch boundaries (HASH, slot -> `sequence fingerprint`), see `limits::POSITION_MARKS`.
pub fn marks_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:marks")
}

/// Redis: timers of a partition (ZSET, score = due in Unix ms, member = [`timer_member`]).
pub fn timers_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:timers")
}

/// Redis: effects that must leave, and steps that are out (HASH).
pub fn outbox_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:outbox")
}

/// Redis: what instances listen for (HASH, `namespace/id|frame` -> JSON).
pub fn listeners_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:listeners")
}

/// Field of [`listeners_key`].
pub fn listener_field(i: &InstanceKey, frame: u32) -> String {
    format!("{i}|{frame}")
}

/// Reads a [`listener_field`] back; `None` when it is not one.
pub fn parse_listener_field(text: &str) -> Option<(InstanceKey, u32)> {
    let (instance, frame) = text.split_once('|')?;
    Some((instance.parse().ok()?, frame.parse().ok()?))
}

/// Redis: all instances by time of creation (ZSET, score = created in Unix ms, member = `namespace/id`).
pub fn index_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:index")
}

/// Redis: instances that have not ended (ZSET, as [`index_key`]).
pub fn open_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:open")
}

/// Redis: ended instances by the time their retention ends (ZSET, Unix ms).
pub fn expire_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:expire")
}

/// Redis: records that could not be decoded or applied (HASH, sequence -> reason and raw record).
pub fn dead_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:dead")
}

/// Redis: the durable watermark of a partition: log below it may be trimmed (STRING).
pub fn watermark_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:watermark")
}

/// Redis: schedules of a partition (HASH, `namespace/name` -> JSON).
pub fn schedules_key(p: PartitionId) -> String {
    format!("{{mr:{p}}}:schedules")
}

/// Redis: state of one instance (HASH, engine's fields).
pub fn instance_key(p: PartitionId, i: &InstanceKey) -> String {
    format!("{{mr:{p}}}:i:{i}")
}

/// Redis: trace of one instance (HASH, entry number -> JSON).
pub fn trace_key(p: PartitionId, i: &InstanceKey) -> String {
    format!("{{mr:{p}}}:t:{i}")
}

/// Member of [`timers_key`].
pub fn timer_member(i: &InstanceKey, t: TimerId) -> String {
    format!("{i}|{}|{}", t.frame, t.number)
}

/// Reads a [`timer_member`] back; `None` when it is not one.
pub fn parse_timer_member(text: &str) -> Option<(InstanceKey, TimerId)> {
    let mut parts = text.split('|');
    let instance = parts.next()?.parse().ok()?;
    let frame = parts.next()?.parse().ok()?;
    let number = parts.next()?.parse().ok()?;
    parts
        .next()
        .is_none()
        .then_some((instance, TimerId { frame, number }))
}

/// Redis: cluster facts fixed at creation: partition count, layout version, stream incarnations (HASH).
pub const CLUSTER_KEY: &str = "{mr:reg}:cluster";
/// Redis: every definition (ZSET, score 0, member `namespace/name`).
pub const DEFINITIONS_KEY: &str = "{mr:reg}:definitions";
/// Redis: definitions of which some version has a schedule (SET, `namespace/name`).
pub const SCHEDULED_KEY: &str = "{mr:reg}:scheduled";
/// Redis: functions of the fleet (HASH, `name:version` -> JSON).
pub const FUNCTIONS_KEY: &str = "{mr:reg}:functions";
/// Redis: workers (HASH, worker id -> JSON).
pub const WORKERS_KEY: &str = "{mr:reg}:workers";
/// Redis: coordinators alive (HASH, id -> JSON).
pub const COORDINATORS_KEY: &str = "{mr:reg}:coordinators";
/// Redis: state of queues that differs from the default (HASH, queue -> JSON).
pub const QUEUES_KEY: &str = "{mr:reg}:queues";

/// Redis: versions of one definition (HASH, version -> JSON with source and digest).
pub fn definition_key(namespace: &str, name: &str) -> String {
    format!("{{mr:reg}}:definition:{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_members_round_trip() {
        let i: InstanceKey = "default/a:b.c".parse().unwrap();
        let t = TimerId { frame: 7, number: 3 };
        assert_eq!(parse_timer_member(&timer_member(&i, t)), Some((i, t)));
        assert_eq!(parse_timer_member("default/a|1"), None);
    }

    #[test]
    fn subjects_of_events_are_legal() {
        for (kind, subject) in [
            ("com.example.order", "mr.events.com.example.order"),
            ("a b*>/c", "mr.events.a_b___c"),
            (".x..y.", "mr.events._.x._.y._"),
            ("ü", "mr.events._"),
        ] {
            assert_eq!(event_subject(kind), subject);
        }
        assert!(event_subject(&"x.".repeat(500)).len() <= 201);
    }

    #[test]
    fn keys_of_a_partition_share_one_slot() {
        let i: InstanceKey = "default/a".parse().unwrap();
        let p = PartitionId(3);
        for key in [
            fence_key(p),
            position_key(p),
            timers_key(p),
            outbox_key(p),
            schedules_key(p),
            instance_key(p, &i),
            trace_key(p, &i),
        ] {
            assert!(key.starts_with("{mr:3}:"), "{key}");
        }
    }
}
