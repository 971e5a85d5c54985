//! What no stream takes because it is larger than the server's `max_payload`, which an operator may have lowered below
//! our own bounds. To publish it again would give the same answer for ever: whoever waits for it is told instead.

use millrace_common::{
    ChildOutcome, ErrorKind, InstanceKey, Problem, RecordBody, StepOutcome, StepResult, wire,
};

use super::outbox::Detached;

/// Stands for the worker in results of steps that none was given.
const NOBODY: &str = "coordinator";

/// The result of a step that cannot be dispatched.
pub(super) fn result(
    (step, frame, generation): (&str, u32, u32),
    function: &str,
    reason: &str,
) -> RecordBody {
    let what = format!("the step for `{function}`");
    RecordBody::Result(Box::new(StepResult {
        step: step.to_owned(),
        frame,
        generation,
        worker: NOBODY.into(),
        delivery: 1,
        duration_ms: 0,
        outcome: StepOutcome::Error(problem(&what, "pass less", reason)),
        token: String::new(),
    }))
}

/// What takes the place of a message of the outbox, and for whom; `None` when nobody waits for it.
pub(super) fn instead(message: &[u8], reason: &str) -> Option<(InstanceKey, RecordBody)> {
    if let Some(detached) = Detached::decode(message) {
        let step = wire::decode_step(detached.step.text().as_bytes()).ok()?;
        let body = result((&step.id, step.frame, step.generation), &step.function, reason);
        return Some((step.instance, body));
    }
    let (to, body) = wire::decode_record(message).ok()?;
    let to = to?;
    match body {
        RecordBody::Start(start) => {
            let parent = start.parent.filter(|parent| parent.awaited)?;
            let problem = problem("the start of the workflow", "pass a smaller input", reason);
            let outcome = ChildOutcome::Faulted(problem);
            let frame = parent.frame;
            let ended = RecordBody::ChildEnded {
                frame,
                child: to,
                outcome,
            };
            Some((parent.instance, ended))
        }
        RecordBody::ChildEnded { frame, child, .. } => {
            let problem = problem("the output of the workflow", "return less", reason);
            let outcome = ChildOutcome::Faulted(problem);
            Some((
                to,
                RecordBody::ChildEnded {
                    frame,
                    child,
                    outcome,
                },
            ))
        }
        _ => None,
    }
}

fn problem(what: &str, advice: &str, reason: &str) -> Problem {
    let detail = format!(
        "{what} is larger than a message may be for NATS ({reason}): {advice}, or let the operator raise `max_payload` of \
         nats-server"
    );
    Problem::new(ErrorKind::Runtime, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> InstanceKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_parent_learns_that_its_child_cannot_tell_its_output() {
        let (parent, child) = (key("default/a:1"), key("default/b:1"));
        let large = RecordBody::ChildEnded {
            frame: 3,
            child: child.clone(),
            outcome: ChildOutcome::Completed(millrace_common::RawJson::null()),
        };
        let told = instead(&wire::encode_record(Some(&parent), &large), "65536 bytes");
        let Some((
            to,
            RecordBody::ChildEnded {
                frame,
                child: of,
                outcome: ChildOutcome::Faulted(problem),
            },
        )) = told
        else {
            panic!("{told:?}");
        };
        assert_eq!((to, frame, of), (parent, 3, child));
        let detail = problem.detail.unwrap();
        assert!(
            detail.contains("the output of the workflow") && detail.contains("65536 bytes"),
            "{detail}"
        );
    }

    #[test]
    fn nothing_takes_the_place_of_what_nobody_waits_for() {
        let record = wire::encode_record(Some(&key("default/a:1")), &RecordBody::Continue { number: 1 });
        assert_eq!(instead(&record, ""), None);
        assert_eq!(instead(b"{\"specversion\": \"1.0\"}", ""), None);
    }
}
