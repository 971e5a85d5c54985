//! A step that this worker holds, from its delivery until its result is in the log.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Subject;
use bytes::Bytes;
use millrace_common::RunningStep;
use tokio::task::AbortHandle;

use super::message::Origin;
use crate::Context;

/// See the module.
pub(super) struct Flight {
    pub(super) context: Context,
    /// Index of the queue through which it came.
    pub(super) queue: usize,
    pub(super) begun: Instant,
    /// Last sign of life that the server had: the delivery, or a progress answer.
    pub(super) heard: Instant,
    pub(super) phase: Phase,
    /// The record "who runs it" was written.
    pub(super) is_announced: bool,
    /// The task that runs it, to be ended when draining takes too long.
    pub(super) task: Option<AbortHandle>,
    /// Where to answer for each message that carries the step; more than one when it was dispatched again.
    replies: Vec<(Subject, u64)>,
}

pub(super) enum Phase {
    Running,
    /// The result is on its way to the log.
    Reporting {
        report: Bytes,
        attempts: u32,
    },
}

impl Flight {
    pub(super) fn new(context: Context, queue: usize, reply: Subject, origin: Origin) -> Self {
        let now = Instant::now();
        Self {
            context,
            queue,
            begun: now,
            heard: now,
            phase: Phase::Running,
            is_announced: false,
            task: None,
            replies: vec![(reply, origin.sequence)],
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// The message of the step came again: the same one (its lease ran out), or another (it was dispatched again).
    pub(super) fn answer_also(&mut self, reply: Subject, origin: Origin) {
        self.heard = Instant::now();
        match self
            .replies
            .iter_mut()
            .find(|(_, sequence)| *sequence == origin.sequence)
        {
            Some(known) => known.0 = reply,
            None => self.replies.push((reply, origin.sequence)),
        }
    }

    /// Where to answer now.
    pub(super) fn replies(&self) -> impl Iterator<Item = Subject> {
        self.replies.iter().map(|(reply, _)| reply.clone())
    }

    /// Where to answer at the end: nowhere once the server may have given the step to somebody else, because the
    /// answer would be taken for theirs.
    pub(super) fn last_replies(self, ack_wait: Duration) -> Vec<Subject> {
        let is_late = self.heard.elapsed() >= ack_wait;
        if is_late {
            Vec::new()
        } else {
            self.replies.into_iter().map(|(reply, _)| reply).collect()
        }
    }

    /// As the fleet sees it.
    pub(super) fn running_step(&self) -> RunningStep {
        let step = self.context.step();
        let since = SystemTime::now()
            .checked_sub(self.begun.elapsed())
            .unwrap_or(UNIX_EPOCH);
        RunningStep {
            step: step.id.clone(),
            function: step.function.clone(),
            since: unix_ms(since),
        }
    }
}

/// Unix milliseconds of a time after 1970.
pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
