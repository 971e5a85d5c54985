//! Changing a part of a value: what `|=`, `=`, `+=` and `del` do.
//!
//! As in jq, `null` becomes the container that the path asks for, and an array grows when an index is past its end.

use jaq_core::path::Opt;
use jaq_core::{Error, Exn, ValX, val};
use jaq_json::{Map, Num, Rc, Val};
use millrace_common::limits;

use super::arithmetic::{items_mut, members_mut};
use super::bounded::{Bounded, Items, fail};
use super::meter::{self, Fault};
use super::number;
use crate::value;

/// Parts up to this many nodes are measured when they are taken out, so that the bound of the whole stays close
/// to its size over many updates.
const NEAR_NODES: usize = 64;

type Result<'a, T> = std::result::Result<T, Exn<'a, Bounded>>;

/// Replaces every value of a container by the outputs (in an array) or the first output (in an object) of `f`.
pub(super) fn values<'a, I: Iterator<Item = ValX<'a, Bounded>>>(
    whole: Bounded,
    opt: Opt,
    f: impl Fn(Bounded) -> I,
) -> ValX<'a, Bounded> {
    match whole.value() {
        Val::Arr(old) => {
            let mut items = Items::default();
            for item in old.iter() {
                for new in f(whole.part(item.clone())) {
                    items.push(new?);
                }
            }
            Ok(items.finish())
        }
        Val::Obj(old) => {
            let new =
                |(k, v): (&Val, &Val)| Some((Bounded::scalar(k.clone()), f(whole.part(v.clone())).next()?));
            let new = old.iter().filter_map(new).map(|(k, v)| Ok((k, v?)));
            let new: Vec<_> = new.collect::<Result<'_, _>>()?;
            Ok(jaq_core::ValT::from_map(new)?)
        }
        _ => opt.fail(whole, |v| Error::typ(v, "array or object").into()),
    }
}

/// Replaces the value at an index by the first output of `f`; without an output, the value is removed.
pub(super) fn index<'a, I: Iterator<Item = ValX<'a, Bounded>>>(
    whole: Bounded,
    index: &Bounded,
    opt: Opt,
    f: impl Fn(Bounded) -> I,
) -> ValX<'a, Bounded> {
    meter::spend(meter::ITEM);
    match (whole.value(), index.value()) {
        (Val::Null | Val::Arr(_) | Val::TStr(_), Val::Obj(bounds)) => {
            let bound = |name| bounds.get(&value::string(name)).cloned().map(Bounded::scalar);
            let (from, to) = (bound("start"), bound("end"));
            range(whole, from.as_ref()..to.as_ref(), opt, f)
        }
        (Val::Null | Val::Obj(_), Val::TStr(_)) => member(whole, index.value(), f),
        (Val::Null | Val::Arr(_), Val::Num(n)) => item(whole, n, opt, f),
        _ => opt.fail(whole, |v| Error::index(v, index.clone()).into()),
    }
}

fn member<'a, I: Iterator<Item = ValX<'a, Bounded>>>(
    whole: Bounded,
    key: &Val,
    f: impl Fn(Bounded) -> I,
) -> ValX<'a, Bounded> {
    let was_null = matches!(whole.value(), Val::Null);
    let (value, nodes, depth) = whole.into_parts();
    let mut members = match value {
        Val::Obj(members) => members,
        _ => Rc::new(Map::default()),
    };
    // Taken out while `f` runs: then `f` alone holds it and may change it in place.
    let old = members_mut(&mut members).get_mut(key).map(std::mem::take);
    let existed = old.is_some();
    let old = taken(old.unwrap_or_default(), nodes, depth);
    let without = nodes.saturating_sub(if existed { old.exact } else { 0 });
    match f(old.value).next().transpose()? {
        Some(new) => {
            let size = Sum {
                nodes: without + value::key_nodes(key),
                depth,
            }
            .with(new);
            members_mut(&mut members).insert(key.clone(), size.value);
            Ok(Bounded::built(Val::Obj(members), size.nodes, size.depth))
        }
        None if was_null => Ok(Bounded::default()),
        None => {
            // Keeps the order of the others, which costs a move of each.
            meter::spend_each(members.len(), meter::COPY);
            members_mut(&mut members).shift_remove(key);
            Ok(Bounded::built(Val::Obj(members), nodes, depth))
        }
    }
}

fn item<'a, I: Iterator<Item = ValX<'a, Bounded>>>(
    whole: Bounded,
    index: &Num,
    opt: Opt,
    f: impl Fn(Bounded) -> I,
) -> ValX<'a, Bounded> {
    let len = match whole.value() {
        Val::Arr(items) => items.len(),
        _ => 0,
    };
    let at = match number::whole(index, f64::floor) {
        at if at >= 0 => usize::try_from(at).ok(),
        at => len.checked_sub(at.unsigned_abs()),
    };
    let Some(at) = at else {
        return opt.fail(whole, |_| fail("out of bounds negative array index").into());
    };
    let was_null = matches!(whole.value(), Val::Null);
    let (value, nodes, depth) = whole.into_parts();
    let mut items = match value {
        Val::Arr(items) => items,
        _ => Rc::new(Vec::new()),
    };
    let old = items_mut(&mut items).get_mut(at).map(std::mem::take);
    let existed = old.is_some();
    let old = taken(old.unwrap_or_default(), nodes, depth);
    let without = nodes.saturating_sub(if existed { old.exact } else { 0 });
    match f(old.value).next().transpose()? {
        Some(new) => {
            let padding = grow(items_mut(&mut items), at);
            let size = Sum {
                nodes: without + padding,
                depth,
            }
            .with(new);
            items_mut(&mut items)[at] = size.value;
            Ok(Bounded::built(Val::Arr(items), size.nodes, size.depth))
        }
        None if was_null => Ok(Bounded::default()),
        None => {
            meter::spend_each(items.len(), meter::COPY);
            if existed {
                items_mut(&mut items).remove(at);
            }
            Ok(Bounded::built(Val::Arr(items), nodes, depth))
        }
    }
}

/// Makes room for an index; returns the number of new items.
fn grow(items: &mut Vec<Val>, at: usize) -> usize {
    if at >= limits::EXPRESSION_NODES_MAX {
        meter::throw(Fault::Nodes);
    }
    let padding = (at + 1).saturating_sub(items.len());
    meter::spend_each(padding, meter::ITEM);
    items.resize(items.len().max(at + 1), Val::Null);
    padding
}

/// Replaces a slice of an array or text by the first output of `f`.
pub(super) fn range<'a, I: Iterator<Item = ValX<'a, Bounded>>>(
    whole: Bounded,
    range: val::Range<&Bounded>,
    opt: Opt,
    f: impl Fn(Bounded) -> I,
) -> ValX<'a, Bounded> {
    let slice = match whole.slice(range.start, range.end) {
        Ok(slice) => slice,
        Err(e) => return opt.fail(whole, |_| e.into()),
    };
    let new = f(slice).next().transpose()?;
    let bounds = |len| {
        number::bounds(
            range.start.map(Bounded::value),
            range.end.map(Bounded::value),
            len,
        )
    };
    match whole.value() {
        Val::TStr(_) => {
            let chars = whole.try_str()?.chars().count();
            let cut = bounds(chars)?;
            let part = |from: usize, to: usize| {
                let number = |n: usize| Bounded::from(n);
                whole.slice(Some(&number(from)), Some(&number(to)))
            };
            let new = new.unwrap_or_default();
            Ok(((part(0, cut.start)? + new)? + part(cut.end, chars)?)?)
        }
        old => {
            let old: &[Val] = match old {
                Val::Arr(items) => items,
                _ => &[],
            };
            let cut = bounds(old.len())?;
            let new = new.unwrap_or_else(|| Items::default().finish());
            let mut items = Items::default();
            old[..cut.start]
                .iter()
                .for_each(|v| items.push(whole.part(v.clone())));
            new.try_items()?
                .iter()
                .for_each(|v| items.push(new.part(v.clone())));
            old[cut.end..]
                .iter()
                .for_each(|v| items.push(whole.part(v.clone())));
            Ok(items.finish())
        }
    }
}

/// A part taken out of a whole.
struct Taken {
    value: Bounded,
    /// Its nodes when it is small, else 1: what can safely be subtracted from the whole.
    exact: usize,
}

fn taken(part: Val, nodes: usize, depth: usize) -> Taken {
    match value::measure(&part, NEAR_NODES, limits::VALUE_DEPTH_MAX) {
        Ok(size) => {
            meter::spend_each(size.nodes, meter::VISIT);
            Taken {
                value: Bounded::built(part, size.nodes, size.depth),
                exact: size.nodes,
            }
        }
        Err(_) => Taken {
            value: Bounded::built(part, nodes, depth),
            exact: 1,
        },
    }
}

/// Bounds of a container to which a part is added.
struct Sum {
    nodes: usize,
    depth: usize,
}

struct Added {
    value: Val,
    nodes: usize,
    depth: usize,
}

impl Sum {
    fn with(self, mut part: Bounded) -> Added {
        // At least the container itself.
        let nodes = self.nodes.max(1);
        if nodes + part.nodes() > limits::EXPRESSION_NODES_MAX || part.depth() >= limits::VALUE_DEPTH_MAX {
            part.tighten();
        }
        let (value, part_nodes, depth) = part.into_parts();
        Added {
            value,
            nodes: nodes + part_nodes,
            depth: self.depth.max(depth + 1),
        }
    }
}
