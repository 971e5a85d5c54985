//! The operators `+ - * / %` on values.
//!
//! Whatever they build is paid for before it is allocated.

use std::collections::BTreeSet;
use std::ops::{Add, Div, Mul, Neg, Rem, Sub};

use jaq_core::ValR;
use jaq_json::{Map, Num, Rc, Val};

use super::bounded::{Bounded, Items, fail};
use super::{meter, number};
use crate::value;

/// Sum of the bounds of two containers that become one. Bounds that are only rough are made exact first when
/// their sum is above the limits.
fn joined(l: &mut Bounded, r: &mut Bounded) -> (usize, usize) {
    let limit = millrace_common::limits::EXPRESSION_NODES_MAX;
    if l.nodes() + r.nodes() > limit {
        r.tighten();
    }
    if l.nodes() + r.nodes() > limit {
        l.tighten();
    }
    (l.nodes() + r.nodes(), l.depth().max(r.depth()))
}

/// Items for changing, copied when they are shared.
pub(super) fn items_mut(items: &mut Rc<Vec<Val>>) -> &mut Vec<Val> {
    if Rc::get_mut(items).is_none() {
        meter::spend_each(items.len(), meter::COPY);
    }
    Rc::make_mut(items)
}

/// Members for changing, copied when they are shared.
pub(super) fn members_mut(members: &mut Rc<Map>) -> &mut Map {
    if Rc::get_mut(members).is_none() {
        meter::spend_each(members.len(), 4 * meter::COPY);
    }
    Rc::make_mut(members)
}

impl Add for Bounded {
    type Output = ValR<Self>;

    fn add(mut self, mut rhs: Self) -> ValR<Self> {
        match (self.value(), rhs.value()) {
            (Val::Null, _) => Ok(rhs),
            (_, Val::Null) => Ok(self),
            (Val::Num(l), Val::Num(r)) => number::result(l.clone() + r.clone()),
            (Val::TStr(_), Val::TStr(_)) => Ok(concatenated(self, &rhs)),
            (Val::Arr(_), Val::Arr(_)) => {
                let (nodes, depth) = joined(&mut self, &mut rhs);
                Ok(Self::built(
                    appended(self.into_value(), rhs.value()),
                    nodes,
                    depth,
                ))
            }
            (Val::Obj(_), Val::Obj(_)) => {
                let (nodes, depth) = joined(&mut self, &mut rhs);
                Ok(Self::built(
                    merged(self.into_value(), rhs.value(), false),
                    nodes,
                    depth,
                ))
            }
            _ => Err(fail(format!("{self} and {rhs} cannot be added"))),
        }
    }
}

/// In place when nobody else sees the left text, so that building a text piece by piece is linear.
fn concatenated(l: Bounded, r: &Bounded) -> Bounded {
    let (Val::TStr(l), Val::TStr(r)) = (l.into_value(), r.value()) else {
        return Bounded::default();
    };
    let len = l.len() + r.len();
    Bounded::scalar(Val::utf8_str(match l.try_into_mut() {
        Ok(mut l) => {
            meter::spend_text_grown(r.len(), len);
            l.extend_from_slice(r);
            l.freeze()
        }
        Err(l) => {
            meter::spend_text(len);
            let mut text = Vec::with_capacity(len);
            text.extend_from_slice(&l);
            text.extend_from_slice(r);
            text.into()
        }
    }))
}

fn appended(l: Val, r: &Val) -> Val {
    match (l, r) {
        (Val::Arr(mut l), Val::Arr(r)) => {
            meter::spend_each(r.len(), meter::ITEM);
            items_mut(&mut l).extend(r.iter().cloned());
            Val::Arr(l)
        }
        (l, _) => l,
    }
}

/// Members of `r` replace or follow those of `l`; with `deep`, objects under the same key are merged too.
fn merged(l: Val, r: &Val, deep: bool) -> Val {
    match (l, r) {
        (Val::Obj(mut l), Val::Obj(r)) => {
            meter::spend_each(r.len(), meter::ITEM);
            let members = members_mut(&mut l);
            for (key, new) in r.iter() {
                let old = members
                    .get_mut(key)
                    .filter(|old| deep && matches!((&**old, new), (Val::Obj(_), Val::Obj(_))));
                match old {
                    Some(old) => *old = merged(std::mem::take(old), new, true),
                    None => drop(members.insert(key.clone(), new.clone())),
                }
            }
            Val::Obj(l)
        }
        (l, _) => l,
    }
}

impl Sub for Bounded {
    type Output = ValR<Self>;

    fn sub(self, rhs: Self) -> ValR<Self> {
        match (self.value(), rhs.value()) {
            (Val::Num(l), Val::Num(r)) => number::result(l.clone() - r.clone()),
            (Val::Arr(l), Val::Arr(r)) => {
                let removed: BTreeSet<Self> = r.iter().map(|v| rhs.part(v.clone())).collect();
                let kept = l
                    .iter()
                    .map(|v| self.part(v.clone()))
                    .filter(|v| !removed.contains(v));
                Ok(kept.collect())
            }
            _ => Err(fail(format!("{self} and {rhs} cannot be subtracted"))),
        }
    }
}

impl Mul for Bounded {
    type Output = ValR<Self>;

    fn mul(mut self, mut rhs: Self) -> ValR<Self> {
        match (self.value(), rhs.value()) {
            (Val::Num(l), Val::Num(r)) => number::result(l.clone() * r.clone()),
            (Val::TStr(_), Val::Num(n)) => repeated(&self, n),
            (Val::Num(n), Val::TStr(_)) => repeated(&rhs, n),
            (Val::Obj(_), Val::Obj(_)) => {
                let (nodes, depth) = joined(&mut self, &mut rhs);
                Ok(Self::built(
                    merged(self.into_value(), rhs.value(), true),
                    nodes,
                    depth,
                ))
            }
            _ => Err(fail(format!("{self} and {rhs} cannot be multiplied"))),
        }
    }
}

/// A text n times, rounded up; `null` when n is not positive.
fn repeated(text: &Bounded, n: &Num) -> ValR<Bounded> {
    let text = text.try_str()?;
    match usize::try_from(number::whole(n, f64::ceil)) {
        Err(_) | Ok(0) => Ok(Bounded::default()),
        Ok(n) => {
            meter::spend_text(text.len().saturating_mul(n));
            Ok(Bounded::text(text.repeat(n)))
        }
    }
}

impl Div for Bounded {
    type Output = ValR<Self>;

    fn div(self, rhs: Self) -> ValR<Self> {
        match (self.value(), rhs.value()) {
            (Val::Num(_), Val::Num(r)) if number::double(r) == 0.0 => Err(by_zero(&self, &rhs)),
            (Val::Num(l), Val::Num(r)) => number::result(l.clone() / r.clone()),
            (Val::TStr(_), Val::TStr(_)) => split(&self, &rhs),
            _ => Err(fail(format!("{self} and {rhs} cannot be divided"))),
        }
    }
}

fn by_zero(l: &Bounded, r: &Bounded) -> jaq_core::Error<Bounded> {
    fail(format!(
        "{l} and {r} cannot be divided because the divisor is zero"
    ))
}

/// The pieces of a text between separators; its characters when the separator is empty.
pub(super) fn split(text: &Bounded, separator: &Bounded) -> ValR<Bounded> {
    let (all, separator) = (text.try_str()?, separator.try_str()?);
    meter::spend_scan(all.len());
    let mut items = Items::default();
    if all.is_empty() {
        return Ok(items.finish());
    }
    if separator.is_empty() {
        all.char_indices()
            .for_each(|(at, c)| items.push(text.cut(&all[at..at + c.len_utf8()])));
    } else {
        all.split(separator).for_each(|piece| items.push(text.cut(piece)));
    }
    Ok(items.finish())
}

impl Rem for Bounded {
    type Output = ValR<Self>;

    /// Of the integer parts, with the sign of the dividend.
    fn rem(self, rhs: Self) -> ValR<Self> {
        match (self.value(), rhs.value()) {
            (Val::Num(l), Val::Num(r)) => {
                let (l, r) = (truncated(l), truncated(r));
                match number::double(&r) == 0.0 {
                    true => Err(by_zero(&self, &rhs)),
                    false => number::result(l % r),
                }
            }
            _ => Err(fail(format!("{self} and {rhs} cannot be divided"))),
        }
    }
}

fn truncated(n: &Num) -> Num {
    match n {
        Num::Float(f) if f.is_finite() => match value::number_f64(f.trunc()) {
            Val::Num(n) => n,
            _ => n.clone(),
        },
        n => n.clone(),
    }
}

impl Neg for Bounded {
    type Output = ValR<Self>;

    fn neg(self) -> ValR<Self> {
        match self.value() {
            Val::Num(n) => number::result(-n.clone()),
            _ => Err(fail(format!("{self} cannot be negated"))),
        }
    }
}
