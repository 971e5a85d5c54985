//! What one evaluation may spend: steps, memory, stack.
//!
//! jaq gives no way to stop an evaluation, and most of what a tenant can make it do happens where no error can be
//! returned: cloning, comparing, collecting. So the meter *throws*: it unwinds to [`run`], past every
//! `try` of the expression, without calling the panic hook. (salsa cancels queries in the same way.) The meter is
//! a thread's own, because the operators of a value have no context to find it in.
//!
//! A unit is about a nanosecond of a release build, a step is [`STEP`] units.

#[cfg(panic = "abort")]
compile_error!("an evaluation is stopped by unwinding: build with panic = \"unwind\"");

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use millrace_common::limits;

/// Units of one step: one node of the expression evaluated once.
pub(crate) const STEP: u64 = 64;
/// Units of a container that is built.
pub(crate) const CONTAINER: u64 = 128;
/// Units of an item that is put into or taken out of a container.
pub(crate) const ITEM: u64 = 16;
/// Units of an item that is copied because its container is shared.
pub(crate) const COPY: u64 = 8;
/// Units of a node that is visited: compared, counted, written.
pub(crate) const VISIT: u64 = 8;
/// Bytes of new text that cost one unit: this also bounds the memory of all texts together.
pub(crate) const TEXT_BYTES: u64 = 2;
/// Bytes of text read that cost one unit.
pub(crate) const SCAN_BYTES: u64 = 4;

/// Stack that one link of a chain may need when the chain is freed, in bytes. jaq frees some of its lists
/// recursively: paths, and closures that capture closures.
const LINK_BYTES: usize = 640;

/// Why an evaluation was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
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
    pub(crate) fn text(self) -> String {
        match self {
            Self::Fuel => "too many steps; do less at a time, or do it in a function of a worker".into(),
            Self::Stack => "recursion is too deep".into(),
            Self::Text => format!("a text exceeds {} bytes", limits::EXPRESSION_STRING_BYTES_MAX),
            Self::Nodes => format!("a value has more than {} nodes", limits::EXPRESSION_NODES_MAX),
            Self::Depth => format!("a value is nested deeper than {} levels", limits::VALUE_DEPTH_MAX),
            Self::Panic => "the evaluator failed; please report this expression".into(),
        }
    }
}

/// Stack that work may use on the caller's thread. Threads of tests and of tokio have 2 MiB.
const INLINE_STACK_BYTES: usize = 512 * 1024;

/// Stack of the thread on which work is done that recurses deeper, and what it may use there.
const DEEP_STACK_BYTES: usize = 64 * 1024 * 1024;
const DEEP_STACK_BUDGET_BYTES: usize = 48 * 1024 * 1024;

/// Does pure work within a budget and takes what it used from `fuel`. When the stack of the caller's thread is not
/// enough, the work is done once more, from the start, on a thread with more.
///
/// # Errors
/// The fault that stopped it.
pub(crate) fn run<T: Send>(fuel: &mut u64, work: impl Fn() -> T + Sync) -> Result<T, Fault> {
    let (mut outcome, mut left) = Session::run(*fuel, INLINE_STACK_BYTES, &work);
    if matches!(outcome, Err(Fault::Stack)) {
        (outcome, left) = run_deep(*fuel, &work);
    }
    *fuel = left;
    outcome
}

fn run_deep<T: Send>(fuel: u64, work: impl Fn() -> T + Sync) -> (Result<T, Fault>, u64) {
    let work = || Session::run(fuel, DEEP_STACK_BUDGET_BYTES, &work);
    thread::scope(|s| {
        match thread::Builder::new()
            .stack_size(DEEP_STACK_BYTES)
            .spawn_scoped(s, work)
        {
            Ok(handle) => handle.join().unwrap_or((Err(Fault::Panic), 0)),
            // Without a thread there is no more stack.
            Err(_) => (Err(Fault::Stack), 0),
        }
    })
}

struct Meter {
    units: Cell<u64>,
    /// Lowest address that the stack may reach (it grows downwards on every platform we run on).
    floor: Cell<usize>,
    /// Whether jaq is collecting paths.
    in_path: Cell<bool>,
}

thread_local! {
    static METER: Meter =
        const { Meter { units: Cell::new(0), floor: Cell::new(0), in_path: Cell::new(false) } };
}

/// An evaluation on this thread. Sessions nest.
struct Session;

impl Session {
    /// Runs `f` with a budget: the fault that stopped it, or its result, and the fuel that is left.
    fn run<T>(fuel: u64, stack_bytes: usize, f: impl FnOnce() -> T) -> (Result<T, Fault>, u64) {
        let floor = here().saturating_sub(stack_bytes);
        let outer = METER.with(|m| (m.units.replace(fuel.saturating_mul(STEP)), m.floor.replace(floor)));
        // What `f` leaves half done when it is stopped is dropped here and never looked at again.
        let outcome = catch_unwind(AssertUnwindSafe(f));
        let left = METER.with(|m| {
            m.floor.set(outer.1);
            m.units.replace(outer.0) / STEP
        });
        (
            outcome.map_err(|thrown| thrown.downcast_ref().copied().unwrap_or(Fault::Panic)),
            left,
        )
    }
}

/// Takes units, and checks the stack.
pub(crate) fn spend(units: u64) {
    METER.with(|m| {
        match m.units.get().checked_sub(units) {
            Some(left) => m.units.set(left),
            None => {
                m.units.set(0);
                throw(Fault::Fuel);
            }
        }
        if here() < m.floor.get() {
            throw(Fault::Stack);
        }
    });
}

/// Takes units for a number of things.
pub(crate) fn spend_each(count: usize, units: u64) {
    spend((count as u64).saturating_mul(units));
}

/// Takes the price of a new text and checks its length. To be called before the text is allocated.
pub(crate) fn spend_text(bytes: usize) {
    spend_text_grown(bytes, bytes);
}

/// As [`spend_text`], for bytes added to a text that has `len` bytes afterwards.
pub(crate) fn spend_text_grown(added: usize, len: usize) {
    if len > limits::EXPRESSION_STRING_BYTES_MAX {
        throw(Fault::Text);
    }
    spend(added as u64 / TEXT_BYTES);
}

/// Takes the price of reading a text.
pub(crate) fn spend_scan(bytes: usize) {
    spend(bytes as u64 / SCAN_BYTES);
}

/// Reserves stack for freeing one more link of a chain.
pub(crate) fn link() {
    METER.with(|m| m.floor.set(m.floor.get().saturating_add(LINK_BYTES)));
    spend(STEP);
}

/// Does work that collects paths.
pub(crate) fn in_path<T>(f: impl FnOnce() -> T) -> T {
    let outer = METER.with(|m| m.in_path.replace(true));
    let done = f();
    METER.with(|m| m.in_path.set(outer));
    done
}

/// Notes that a path got longer without getting deeper into a value, so that nothing else bounds its length.
pub(crate) fn path_link() {
    if METER.with(|m| m.in_path.get()) {
        link();
    }
}

/// Stops the evaluation.
pub(crate) fn throw(fault: Fault) -> ! {
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

    fn within<T>(fuel: u64, f: impl FnOnce() -> T) -> (Result<T, Fault>, u64) {
        Session::run(fuel, 256 * 1024, f)
    }

    fn down(n: u64) -> u64 {
        spend(1);
        if n == 0 {
            0
        } else {
            1 + down(std::hint::black_box(n - 1))
        }
    }

    #[test]
    fn spending_more_than_there_is_stops_the_session() {
        assert_eq!(within(10, || spend(3 * STEP)), (Ok(()), 7));
        assert_eq!(within(10, || spend(10 * STEP)), (Ok(()), 0));
        assert_eq!(within(10, || spend(10 * STEP + 1)), (Err(Fault::Fuel), 0));
        assert_eq!(within(1, || spend_text(usize::MAX)).0, Err(Fault::Text));
    }

    #[test]
    fn sessions_nest_and_give_back_the_outer_budget() {
        let outer = within(10, || {
            spend(4 * STEP);
            let inner = within(1, || spend(2 * STEP)).0;
            spend(6 * STEP);
            inner
        });
        assert_eq!(outer, (Ok(Err(Fault::Fuel)), 0));
    }

    #[test]
    fn work_that_needs_more_stack_gets_it() {
        let mut fuel = 1_000_000;
        assert_eq!(run(&mut fuel, || down(100_000)), Ok(100_000));
        assert_eq!(fuel, 1_000_000 - 100_001_u64.div_ceil(STEP));
        assert_eq!(run(&mut fuel, || down(50_000_000)), Err(Fault::Stack));
    }

    #[test]
    fn deep_recursion_and_long_chains_stop_before_the_stack_ends() {
        assert_eq!(within(1_000_000, || down(1_000_000)).0, Err(Fault::Stack));
        assert_eq!(
            within(1_000_000, || (0..1000).for_each(|_| link())).0,
            Err(Fault::Stack)
        );
    }

    #[test]
    fn a_panic_is_a_fault_too() {
        assert_eq!(within(1, || panic!("a defect")).0, Err::<(), _>(Fault::Panic));
    }
}
