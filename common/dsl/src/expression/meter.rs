//! What one evaluation may spend: steps, memory, stack.
//!
//! jaq gives no way to stop an evaluation, and most of what a tenant can make it do happens where no error can be
//! returned: cloning, comparing, collecting. So the meter *throws*: it unwinds to [`Session::run`], past every
//! `try` of the expression, without calling the panic hook. (salsa cancels queries in the same way.) The meter is
//! a thread's own, because the operators of a value have no context to find it in.
//!
//! A unit is about a nanosecond of a release build, a step is [`STEP`] units.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use millrace_common::limits;

/// Units of one step: one node of the expression evaluated once.
pub(super) const STEP: u64 = 64;
/// Units of a container that is built.
pub(super) const CONTAINER: u64 = 128;
/// Units of an item that is put into or taken out of a container.
pub(super) const ITEM: u64 = 16;
/// Units of an item that is copied because its container is shared.
pub(super) const COPY: u64 = 8;
/// Units of a node that is visited: compared, counted, written.
pub(super) const VISIT: u64 = 8;
/// Bytes of new text that cost one unit: this also bounds the memory of all texts together.
pub(super) const TEXT_BYTES: u64 = 2;
/// Bytes of text read that cost one unit.
pub(super) const SCAN_BYTES: u64 = 4;

/// Stack that one link of a chain may need when the chain is freed, in bytes. jaq frees some of its lists
/// recursively: paths, and closures that capture closures.
const LINK_BYTES: usize = 640;

/// Why an evaluation was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Out of steps.
    Fuel,
    /// Recursion deeper than the stack of this thread allows.
    Stack,
    /// A text above its bound.
    Text,
    /// A value with too many nodes.
    Nodes,
    /// A value nested too deeply.
    Depth,
    /// jaq panicked: a defect, ours or its.
    Panic,
}

impl Fault {
    /// What it means for the author of the expression.
    pub(super) fn text(self) -> String {
        match self {
            Self::Fuel => {
                "too many steps; do less in one expression, or do it in a function of a worker".into()
            }
            Self::Stack => "recursion is too deep".into(),
            Self::Text => format!("a text exceeds {} bytes", limits::EXPRESSION_STRING_BYTES_MAX),
            Self::Nodes => format!("a value has more than {} nodes", limits::EXPRESSION_NODES_MAX),
            Self::Depth => format!("a value is nested deeper than {} levels", limits::VALUE_DEPTH_MAX),
            Self::Panic => "the evaluator failed; please report this expression".into(),
        }
    }
}

struct Meter {
    units: Cell<u64>,
    /// Lowest address that the stack may reach (it grows downwards on every platform we run on).
    floor: Cell<usize>,
}

thread_local! {
    static METER: Meter = const { Meter { units: Cell::new(0), floor: Cell::new(0) } };
}

/// An evaluation on this thread. Sessions nest.
pub(super) struct Session;

impl Session {
    /// Runs `f` with a budget.
    ///
    /// # Errors
    /// The fault that stopped it.
    pub(super) fn run<T>(fuel: u64, stack_bytes: usize, f: impl FnOnce() -> T) -> Result<T, Fault> {
        let outer = METER.with(|m| {
            let units = m.units.replace(fuel.saturating_mul(STEP));
            (units, m.floor.replace(here().saturating_sub(stack_bytes)))
        });
        // What `f` leaves half done when it is stopped is dropped here and never looked at again.
        let outcome = catch_unwind(AssertUnwindSafe(f));
        METER.with(|m| {
            m.units.set(outer.0);
            m.floor.set(outer.1);
        });
        outcome.map_err(|thrown| thrown.downcast_ref().copied().unwrap_or(Fault::Panic))
    }
}

/// Takes units, and checks the stack.
pub(super) fn spend(units: u64) {
    METER.with(|m| {
        match m.units.get().checked_sub(units) {
            Some(left) => m.units.set(left),
            None => throw(Fault::Fuel),
        }
        if here() < m.floor.get() {
            throw(Fault::Stack);
        }
    });
}

/// Takes units for a number of things.
pub(super) fn spend_each(count: usize, units: u64) {
    spend((count as u64).saturating_mul(units));
}

/// Takes the price of a new text and checks its length. To be called before the text is allocated.
pub(super) fn spend_text(bytes: usize) {
    spend_text_grown(bytes, bytes);
}

/// As [`spend_text`], for bytes added to a text that has `len` bytes afterwards.
pub(super) fn spend_text_grown(added: usize, len: usize) {
    if len > limits::EXPRESSION_STRING_BYTES_MAX {
        throw(Fault::Text);
    }
    spend(added as u64 / TEXT_BYTES);
}

/// Takes the price of reading a text.
pub(super) fn spend_scan(bytes: usize) {
    spend(bytes as u64 / SCAN_BYTES);
}

/// Reserves stack for freeing one more link of a chain.
pub(super) fn link() {
    METER.with(|m| m.floor.set(m.floor.get().saturating_add(LINK_BYTES)));
    spend(STEP);
}

/// Stops the evaluation.
pub(super) fn throw(fault: Fault) -> ! {
    resume_unwind(Box::new(fault))
}

/// About where the stack is now.
fn here() -> usize {
    let marker = 0_u8;
    std::ptr::from_ref(&marker).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: usize = 256 * 1024;

    #[test]
    fn spending_more_than_there_is_stops_the_session() {
        assert_eq!(Session::run(10, STACK, || spend(10 * STEP)), Ok(()));
        assert_eq!(Session::run(10, STACK, || spend(10 * STEP + 1)), Err(Fault::Fuel));
        assert_eq!(
            Session::run(1, STACK, || spend_text(usize::MAX)),
            Err(Fault::Text)
        );
    }

    #[test]
    fn sessions_nest_and_give_back_the_outer_budget() {
        let outer = Session::run(10, STACK, || {
            spend(4 * STEP);
            let inner = Session::run(1, STACK, || spend(2 * STEP));
            spend(6 * STEP);
            inner
        });
        assert_eq!(outer, Ok(Err(Fault::Fuel)));
    }

    #[test]
    fn deep_recursion_and_long_chains_stop_before_the_stack_ends() {
        fn down(n: u64) -> u64 {
            spend(1);
            if n == 0 {
                0
            } else {
                1 + down(std::hint::black_box(n - 1))
            }
        }
        assert_eq!(
            Session::run(1_000_000, STACK, || down(1_000_000)),
            Err(Fault::Stack)
        );
        assert_eq!(
            Session::run(1_000_000, STACK, || (0..1000).for_each(|_| link())),
            Err(Fault::Stack)
        );
    }

    #[test]
    fn a_panic_is_a_fault_too() {
        assert_eq!(
            Session::run(1, STACK, || panic!("a defect")),
            Err::<(), _>(Fault::Panic)
        );
    }
}
