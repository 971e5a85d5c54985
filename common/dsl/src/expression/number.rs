//! Numbers of expressions: exact integers up to the range of a double, and doubles.

use std::cmp::Ordering;
use std::ops::Range;

use jaq_core::{Error, ValR};
use jaq_json::{Num, Val};
use jaq_std::ValT;

use super::bounded::{Bounded, fail};
use crate::value;

/// Bits of the largest integer: all that a double can reach. Without a bound, twenty squarings make an integer of
/// a million digits.
const INTEGER_BITS_MAX: u64 = 1024;

/// The result of a calculation, in canonical form.
pub(super) fn result(n: Num) -> ValR<Bounded> {
    match n {
        Num::BigInt(i) if i.bits() > INTEGER_BITS_MAX => Err(fail("the number is out of range")),
        Num::BigInt(i) => Ok(Bounded::scalar(Val::Num(
            isize::try_from(&*i).map_or(Num::BigInt(i), Num::Int),
        ))),
        Num::Float(f) => Ok(Bounded::from(f)),
        Num::Int(i) => Ok(Bounded::from(i)),
        Num::Dec(_) => Ok(Bounded::from(double(&n))),
    }
}

/// A number as it is written in an expression or in JSON.
pub(super) fn literal(digits: &str) -> ValR<Bounded> {
    let integer = digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 310;
    match integer.then(|| Num::from_str_radix(digits, 10)).flatten() {
        Some(n) => result(n),
        None => digits
            .parse::<f64>()
            .map(Bounded::from)
            .map_err(|e| fail(format!("`{digits}`: {e}"))),
    }
}

/// The nearest double.
pub(super) fn double(n: &Num) -> f64 {
    Val::Num(n.clone()).as_f64().unwrap_or(f64::NAN)
}

/// Where an index points into `len` items: it is rounded down, a negative one counts from the end.
pub(super) fn position(index: &Num, len: usize) -> Option<usize> {
    match whole(index, f64::floor) {
        i if i < 0 => len.checked_sub(i.unsigned_abs()),
        i => usize::try_from(i).ok().filter(|i| *i < len),
    }
}

/// The range between two bounds, clipped to `len` items.
pub(super) fn bounds(
    from: Option<&Val>,
    to: Option<&Val>,
    len: usize,
) -> Result<Range<usize>, Error<Bounded>> {
    let from = bound(from, f64::floor, len)?.unwrap_or(0);
    let to = bound(to, f64::ceil, len)?.unwrap_or(len);
    Ok(from..to.max(from))
}

fn bound(at: Option<&Val>, round: fn(f64) -> f64, len: usize) -> Result<Option<usize>, Error<Bounded>> {
    match at {
        None | Some(Val::Null) => Ok(None),
        Some(Val::Num(n)) => Ok(Some(match whole(n, round) {
            i if i < 0 => len.saturating_sub(i.unsigned_abs()),
            i => usize::try_from(i).unwrap_or(len).min(len),
        })),
        Some(other) => {
            let name = value::type_name(other);
            Err(fail(format!("the bounds of a slice must be numbers, not {name}")))
        }
    }
}

/// A machine integer, saturating.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, which is what is wanted"
)]
pub(super) fn whole(n: &Num, round: fn(f64) -> f64) -> isize {
    match n {
        Num::Int(i) => *i,
        other => round(double(other)) as isize,
    }
}

/// A total order by value; NaN is equal to itself and below all others. Exact between integers and doubles,
/// because sorting wants an order that is really one.
pub(super) fn order(l: &Num, r: &Num) -> Ordering {
    match (l, r) {
        (Num::Int(l), Num::Int(r)) => l.cmp(r),
        (Num::Int(l), Num::Float(r)) => int_and_double(*l, *r),
        (Num::Float(l), Num::Int(r)) => int_and_double(*r, *l).reverse(),
        (Num::Float(l), Num::Float(r)) => doubles(*l, *r),
        (Num::Int(_) | Num::BigInt(_), Num::Int(_) | Num::BigInt(_)) => l.cmp(r),
        // One is an integer beyond 64 bits.
        _ => doubles(double(l), double(r)).then_with(|| exact(l).cmp(&exact(r))),
    }
}

/// A large double as the integer that it is.
fn exact(n: &Num) -> Num {
    let digits = || Num::from_str_radix(&format!("{:.0}", double(n)), 10);
    if matches!(n, Num::Float(_)) {
        digits().unwrap_or(Num::Int(0))
    } else {
        n.clone()
    }
}

fn doubles(l: f64, r: f64) -> Ordering {
    l.partial_cmp(&r).unwrap_or_else(|| r.is_nan().cmp(&l.is_nan()))
}

#[expect(clippy::cast_possible_truncation, reason = "guarded by the range check")]
fn int_and_double(i: isize, f: f64) -> Ordering {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    if f.is_nan() || f < -EDGE {
        Ordering::Greater
    } else if f >= EDGE {
        Ordering::Less
    } else {
        i.cmp(&(f.trunc() as isize))
            .then_with(|| 0.0_f64.partial_cmp(&f.fract()).unwrap_or(Ordering::Equal))
    }
}
