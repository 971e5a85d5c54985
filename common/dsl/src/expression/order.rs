//! Order and equality of values, as jq defines them: null, false, true, numbers, texts, arrays, objects.

use std::cmp::Ordering;

use jaq_json::{Map, Val};

use super::bounded::Bounded;
use super::{meter, number};

/// Compares two values.
pub(crate) fn order(l: &Val, r: &Val) -> Ordering {
    meter::spend(meter::VISIT);
    match (l, r) {
        (Val::Bool(l), Val::Bool(r)) => l.cmp(r),
        (Val::Num(l), Val::Num(r)) => number::order(l, r),
        (Val::TStr(l) | Val::BStr(l), Val::TStr(r) | Val::BStr(r)) => {
            meter::spend_scan(l.len().min(r.len()));
            l.cmp(r)
        }
        (Val::Arr(l), Val::Arr(r)) => {
            let mut pairs = l.iter().zip(r.iter()).map(|(l, r)| order(l, r));
            pairs.find(|o| o.is_ne()).unwrap_or_else(|| l.len().cmp(&r.len()))
        }
        (Val::Obj(l), Val::Obj(r)) => objects(l, r),
        _ => rank(l).cmp(&rank(r)),
    }
}

/// Objects compare by their sorted keys first, then by the values in that order.
fn objects(l: &Map, r: &Map) -> Ordering {
    let (l, r) = (sorted(l), sorted(r));
    let first_difference = |part: fn(&(&Val, &Val), &(&Val, &Val)) -> Ordering| {
        l.iter()
            .zip(&r)
            .map(|(l, r)| part(l, r))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    first_difference(|l, r| order(l.0, r.0))
        .then_with(|| l.len().cmp(&r.len()))
        .then_with(|| first_difference(|l, r| order(l.1, r.1)))
}

fn sorted(members: &Map) -> Vec<(&Val, &Val)> {
    meter::spend_each(members.len(), meter::COPY);
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by(|(l, _), (r, _)| order(l, r));
    members
}

fn rank(v: &Val) -> u8 {
    match v {
        Val::Null => 0,
        Val::Bool(_) => 1,
        Val::Num(_) => 2,
        Val::TStr(_) | Val::BStr(_) => 3,
        Val::Arr(_) => 4,
        Val::Obj(_) => 5,
    }
}

/// True when both are the same data. NaN is not equal to itself, as in jq.
pub(crate) fn equal(l: &Val, r: &Val) -> bool {
    match (l, r) {
        (Val::Num(l), Val::Num(_)) if number::double(l).is_nan() => false,
        (Val::Arr(l), Val::Arr(r)) => {
            meter::spend(meter::VISIT);
            l.len() == r.len() && l.iter().zip(r.iter()).all(|(l, r)| equal(l, r))
        }
        (Val::Obj(l), Val::Obj(r)) => {
            meter::spend_each(l.len(), meter::ITEM);
            l.len() == r.len() && l.iter().all(|(k, l)| r.get(k).is_some_and(|r| equal(l, r)))
        }
        _ => order(l, r).is_eq(),
    }
}

/// Where `wanted` occurs in `items` as a run.
pub(super) fn positions(items: &[Val], wanted: &[Val]) -> Val {
    let run = |at: usize| {
        items[at..at + wanted.len()]
            .iter()
            .zip(wanted)
            .all(|(l, r)| equal(l, r))
    };
    let starts = 0..items.len().saturating_sub(wanted.len().max(1) - 1);
    meter::spend_each(starts.len(), meter::ITEM);
    let found = starts.filter(|at| !wanted.is_empty() && run(*at));
    found.map(|at| Bounded::from(at).into_value()).collect()
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        equal(self.value(), other.value())
    }
}

impl Eq for Bounded {}

impl PartialOrd for Bounded {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bounded {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.value(), other.value())
    }
}
