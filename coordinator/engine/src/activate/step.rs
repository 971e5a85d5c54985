//! Steps: handed to the fleet, heard of, and settled by their first result.

use std::sync::Arc;

use millrace_common::{ErrorKind, Late, Problem, Progress, RawJson, StepOutcome, StepResult, limits};

use crate::data::Data;
use crate::dispatch;
use crate::effect::{Effect, Ignored};
use crate::frame::{Body, Frame, FrameId, HeldStep, Parts, StepState};
use crate::ids;
use crate::scope::as_text;
use crate::settings;
use crate::trace::Event;

use super::try_::same_kind;
use super::{Activation, Move, Run};

/// How far the clock of a worker may be ahead of the log's.
const CLOCK_SKEW_MS: i64 = 2_000;

impl Activation<'_> {
    /// Hands a step to the fleet; the worker fills in what is `late`.
    pub(crate) fn dispatch(
        &mut self,
        run: &Run,
        input: &Data,
        function: Arc<str>,
        arguments: Data,
        late: Option<Late>,
    ) -> Result<Move, Problem> {
        let key = self.own_key(run, input)?;
        let state = StepState {
            key,
            start: None,
            function,
            arguments,
            late: late.map(Arc::new),
            generation: 0,
            deadline_ms: None,
            worker: None,
            delivery: 0,
            duration_ms: None,
            progress: None,
            held: None,
        };
        check_late(&state)?;
        let progress = self
            .take_progress(run.parent, run.path)
            .filter(|p| fits(&state, p));
        let state = StepState { progress, ..state };
        let id = self.enter(run, input, Body::Step(state))?;
        if let Some(deadline) = self.deadline(id) {
            self.edit_step(id, |step| step.deadline_ms = Some(deadline));
        }
        self.arm_start(id);
        self.announce(id);
        Ok(Move::Idle)
    }

    /// The idempotency key that the definition gives, seen from the call that says so.
    fn own_key(&self, run: &Run, input: &Data) -> Result<Option<String>, Problem> {
        let Some((expression, at)) =
            settings::of_task(self.instance, self.plan, run.node, Some(run.parent), |s| {
                s.idempotency_key.as_ref()
            })
        else {
            return Ok(None);
        };
        let called = at
            .and_then(|id| self.instance.frame(id))
            .and_then(|f| Some((Run::of(f)?, &f.input)));
        let (run, input) = called.as_ref().map_or((run, input), |(run, input)| (run, *input));
        let found = self
            .scope(run, None, Some(input), None)
            .expression(expression, input.value())?;
        let mut key = as_text(&found, "`idempotencyKey`")?;
        let round = self.round_around(run.parent);
        if round > 0 {
            // What was done under the key alone has been undone.
            key = format!("{key}~{round}");
        }
        let max = limits::IDEMPOTENCY_KEY_BYTES_MAX;
        let fits = (1..=max).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        fits.then_some(Some(key.clone())).ok_or_else(|| {
            let text = format!(
                "`idempotencyKey` must give 1 to {max} visible ASCII characters, the expression gave {} bytes: `{}`",
                key.len(),
                key.chars().take(80).collect::<String>()
            );
            Problem::new(ErrorKind::Expression, text)
        })
    }

    /// `scheduleToStartTimeout`: a worker refuses to begin later, and then has a little time to say that it began before.
    fn arm_start(&mut self, id: FrameId) {
        let length = self.instance.frame(id).and_then(|frame| {
            settings::of_frame(self.instance, self.plan, frame, |s| s.schedule_to_start.as_ref())
        });
        let Some((length, _)) = length else { return };
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let timer = self.arm(id, length.saturating_add(limits::START_REPORT_MS));
        self.edit_step(id, |step| step.start = Some(timer));
    }

    fn disarm_start(&mut self, id: FrameId) {
        let Some(timer) = self.edit_step(id, |step| step.start.take()).flatten() else {
            return;
        };
        if !timer.fired {
            self.effects.push(Effect::CancelTimer { timer: timer.id(id) });
        }
    }

    /// No worker began with the step in time, as far as anybody heard.
    pub(crate) fn time_out_start(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let Body::Step(step) = &frame.body else {
            return Move::Idle;
        };
        let length = step
            .start
            .map_or(0, |t| t.due_ms - limits::START_REPORT_MS - frame.started_ms);
        if step.worker.is_some() || matches!(step.held, Some(HeldStep::Output(_) | HeldStep::Error(_))) {
            self.disarm_start(id);
            return Move::Idle;
        }
        let text =
            format!("no worker began with the step within its `scheduleToStartTimeout` of {length} ms");
        self.fail_frame(id, Problem::new(ErrorKind::Timeout, text))
    }

    /// True when the settings of a task say that this error of it is not retried.
    pub(crate) fn is_non_retryable(&self, run: &Run, problem: &Problem) -> bool {
        let types = settings::of_task(self.instance, self.plan, run.node, Some(run.parent), |s| {
            s.non_retryable.as_ref()
        });
        types.is_some_and(|(types, _)| types.iter().any(|t| same_kind(t, problem)))
    }

    fn announce(&mut self, id: FrameId) {
        if let Some(frame) = self.instance.frame(id)
            && let Body::Step(step) = &frame.body
        {
            let message = dispatch::message(self.instance, self.plan, id, frame, step);
            self.effects.push(Effect::Dispatch(Box::new(message)));
        }
    }

    /// A worker finished. The first result of an attempt counts, also when the step was dispatched again meanwhile.
    pub(crate) fn step_result(&mut self, result: &StepResult) -> Result<Move, Ignored> {
        let step = self.open_step(result.frame, &result.step)?;
        if result.generation > step.generation {
            return Err(Ignored::StaleStep);
        }
        let outcome = outcome(&result.outcome);
        let hold = self.instance.header.suspended || self.is_out_of_time(step, &result.outcome);
        self.effects.push(Effect::Settle { frame: result.frame });
        self.edit_step(result.frame, |step| {
            step.worker = Some(result.worker.clone());
            step.delivery = result.delivery;
            step.duration_ms = Some(result.duration_ms);
            step.held = Some(outcome);
        });
        match hold {
            true => Ok(Move::Idle),
            false => Ok(self.take_held_step(result.frame)),
        }
    }

    /// The worker gave up because the deadline passed there. The timer that the deadline comes from is due here, too, and
    /// it alone knows which task took too long: it may be one around this one.
    fn is_out_of_time(&self, step: &StepState, outcome: &StepOutcome) -> bool {
        let gave_up = match outcome {
            StepOutcome::Cancelled => true,
            StepOutcome::Error(problem) => problem.standard() == Some(ErrorKind::Timeout),
            StepOutcome::Output(_) => false,
        };
        let is_due = |deadline: i64| self.now_ms.saturating_add(CLOCK_SKEW_MS) >= deadline;
        gave_up && step.deadline_ms.is_some_and(is_due)
    }

    /// Goes on with what a step came back with.
    pub(crate) fn take_held_step(&mut self, id: FrameId) -> Move {
        let Some(Body::Step(step)) = self.instance.frame(id).map(|f| &f.body) else {
            return Move::Idle;
        };
        match &step.held {
            Some(HeldStep::Output(output)) => Move::Finish {
                frame: id,
                output: output.clone(),
                flow: None,
            },
            Some(HeldStep::Error(problem)) => {
                let problem = (**problem).clone();
                self.fail_frame(id, problem)
            }
            Some(HeldStep::Lost) => {
                self.edit_step(id, |step| step.held = None);
                self.dispatch_again(id);
                Move::Idle
            }
            None => Move::Idle,
        }
    }

    /// A sign of life, maybe with a value to be kept.
    pub(crate) fn step_progress(&mut self, progress: &Progress) -> Result<Move, Ignored> {
        let step = self.open_step(progress.frame, &progress.step)?;
        if progress.delivery < step.delivery {
            return Err(Ignored::StaleStep);
        }
        let changed = step.worker.as_deref() != Some(&progress.worker) || step.delivery != progress.delivery;
        let event = match &step.worker {
            None => ("task.started", format!("runs on {}", progress.worker)),
            Some(before) => (
                "task.takenOver",
                format!("taken over by {} from {before}", progress.worker),
            ),
        };
        if !changed && progress.value.is_none() {
            return Ok(Move::Idle);
        }
        let refused = progress
            .value
            .as_ref()
            .filter(|v| !fits(step, v))
            .map(RawJson::len);
        self.disarm_start(progress.frame);
        self.edit_step(progress.frame, |step| {
            step.worker = Some(progress.worker.clone());
            step.delivery = progress.delivery;
            if progress.value.is_some() && refused.is_none() {
                step.progress.clone_from(&progress.value);
            }
        });
        if changed {
            self.trace_step(progress.frame, event.0, &event.1);
        }
        if let Some(bytes) = refused {
            let max = limits::PAYLOAD_BYTES_MAX;
            let text =
                format!("progress of {bytes} bytes not kept: with the input, at most {max} are allowed");
            self.trace_step(progress.frame, "task.progressRefused", &text);
        }
        Ok(Move::Idle)
    }

    /// The queue lost the step: dispatch it again, as another generation.
    pub(crate) fn step_lost(&mut self, frame: FrameId, step: &str, generation: u32) -> Result<Move, Ignored> {
        let open = self.open_step(frame, step)?;
        if open.generation != generation || open.held.is_some() {
            return Err(Ignored::StaleStep);
        }
        match self.instance.header.suspended {
            true => {
                self.edit_step(frame, |step| step.held = Some(HeldStep::Lost));
            }
            false => self.dispatch_again(frame),
        }
        Ok(Move::Idle)
    }

    fn dispatch_again(&mut self, id: FrameId) {
        let generation = self.edit_step(id, |step| {
            step.generation = step.generation.saturating_add(1);
            (step.worker, step.delivery) = (None, 0);
            step.generation
        });
        let text = format!(
            "lost by the queue, dispatched again as generation {}",
            generation.unwrap_or_default()
        );
        self.trace_step(id, "task.redispatched", &text);
        self.announce(id);
    }

    fn trace_step(&mut self, id: FrameId, kind: &'static str, detail: &str) {
        if let Some(run) = self.instance.frame(id).and_then(Run::of) {
            self.trace(&run, Some(id), Event::detail(kind, detail));
        }
    }

    /// The step of a frame, if it is this one and has no result yet.
    fn open_step(&self, id: FrameId, name: &str) -> Result<&StepState, Ignored> {
        let frame = self.instance.frame(id).ok_or(Ignored::StaleStep)?;
        let Body::Step(step) = &frame.body else {
            return Err(Ignored::StaleStep);
        };
        let has_result = matches!(step.held, Some(HeldStep::Output(_) | HeldStep::Error(_)));
        match !has_result && self.step_name(frame) == name {
            true => Ok(step),
            false => Err(Ignored::StaleStep),
        }
    }

    fn step_name(&self, frame: &Frame) -> String {
        ids::step(&frame.path.key(&self.instance.key), frame.attempt)
    }

    fn edit_step<T>(&mut self, id: FrameId, change: impl FnOnce(&mut StepState) -> T) -> Option<T> {
        let Body::Step(step) = &mut self.instance.edit(id, Parts::STATE)?.body else {
            return None;
        };
        Some(change(step))
    }
}

/// Input and progress travel in one message.
fn fits(step: &StepState, progress: &RawJson) -> bool {
    step.input_bytes() + progress.len() <= limits::PAYLOAD_BYTES_MAX
}

/// The arguments were checked; with what a worker needs to fill in the rest they must fit too.
fn check_late(step: &StepState) -> Result<(), Problem> {
    let (bytes, max) = (step.input_bytes(), limits::PAYLOAD_BYTES_MAX);
    if step.late.is_none() || bytes <= max {
        return Ok(());
    }
    let text = format!(
        "the input of the call is too large: with the values that its secret expressions use it has {bytes} bytes, at \
         most {max} are allowed"
    );
    Err(Problem::new(ErrorKind::Runtime, text))
}

fn outcome(outcome: &StepOutcome) -> HeldStep {
    let failed = |text: String| HeldStep::Error(Box::new(Problem::new(ErrorKind::Runtime, text)));
    match outcome {
        StepOutcome::Output(raw) if raw.len() > limits::PAYLOAD_BYTES_MAX => {
            let max = limits::PAYLOAD_BYTES_MAX;
            failed(format!(
                "the step's output is too large: {} bytes of JSON, at most {max} are allowed",
                raw.len()
            ))
        }
        StepOutcome::Output(raw) => match Data::parse(raw.clone()) {
            Ok(data) => HeldStep::Output(data),
            Err(e) => failed(format!(
                "the step's output cannot be used: {}",
                e.detail.unwrap_or_default()
            )),
        },
        StepOutcome::Error(problem) => HeldStep::Error(Box::new(Problem {
            instance: None,
            ..problem.clone()
        })),
        StepOutcome::Cancelled => {
            failed("the handler stopped as cancelled, but nobody had asked for it".to_owned())
        }
    }
}
