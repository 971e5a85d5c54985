//! The value that jaq computes with: ours, with an upper bound of its size, every operation metered.
//!
//! jaq is generic over its values, so everything that an expression can build, copy, compare or walk passes
//! through the operations in this and the neighbouring files ([`super::arithmetic`], [`super::order`],
//! [`super::update`]). Values are shared graphs: `[., .]` forty times over is small in memory and endless as a
//! tree. So each value carries an upper bound of its size as a tree, which costs nothing to keep up. Only when a
//! bound passes the limit is the value measured, and then either the bound becomes exact or the evaluation stops.
//! What comes from outside starts with the limit itself as its bound. Every value that exists is therefore
//! shallow enough to be walked recursively and small enough to be written.

use std::fmt;

use jaq_core::box_iter::BoxIter;
use jaq_core::{Error, ValR, val};
use jaq_json::{Map, Num, Rc, Val};
use millrace_common::limits;

use super::meter::{self, Fault};
use super::{number, update};
use crate::value::{self, SizeError};

const NODES_MAX: usize = limits::EXPRESSION_NODES_MAX;
const DEPTH_MAX: usize = limits::VALUE_DEPTH_MAX;

/// Bytes of a value in a message.
const EXCERPT_BYTES: usize = 48;

/// A value within bounds. See the module.
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    value: Val,
    /// At most this many nodes, as [`value::size_bounded`] counts them.
    nodes: u32,
    /// At most this deep.
    depth: u32,
}

impl Default for Bounded {
    fn default() -> Self {
        Self::scalar(Val::Null)
    }
}

impl Bounded {
    /// A value that comes from outside, of unknown size within the limits.
    pub(super) fn outside(value: Val) -> Self {
        Self::within(value, NODES_MAX, DEPTH_MAX)
    }

    /// A value with known bounds. Scalars know their size themselves.
    fn within(value: Val, nodes: usize, depth: usize) -> Self {
        match value {
            Val::Arr(_) | Val::Obj(_) => Self {
                value,
                nodes: narrow(nodes),
                depth: narrow(depth),
            },
            _ => Self::scalar(value),
        }
    }

    /// A value that is no container.
    pub(super) fn scalar(value: Val) -> Self {
        let nodes = match &value {
            Val::TStr(b) | Val::BStr(b) => value::text_nodes(b.len()),
            _ => 1,
        };
        Self {
            value,
            nodes: narrow(nodes),
            depth: 0,
        }
    }

    /// A text that was paid for.
    pub(super) fn text(text: String) -> Self {
        Self::scalar(Val::utf8_str(text))
    }

    /// A value that has just been built, whose bounds may be above the limits: then it is measured.
    pub(super) fn built(value: Val, nodes: usize, depth: usize) -> Self {
        if nodes <= NODES_MAX && depth <= DEPTH_MAX {
            return Self::within(value, nodes, depth);
        }
        let size = measured(&value);
        Self::within(value, size.nodes, size.depth)
    }

    /// A value read from this one.
    pub(super) fn part(&self, value: Val) -> Self {
        Self::within(value, self.nodes() - 1, self.depth().saturating_sub(1))
    }

    /// The value.
    pub(super) fn value(&self) -> &Val {
        &self.value
    }

    /// The value.
    pub(super) fn into_value(self) -> Val {
        self.value
    }

    /// The value and its bounds.
    pub(super) fn into_parts(self) -> (Val, usize, usize) {
        (self.value, self.nodes as usize, self.depth as usize)
    }

    /// Upper bound of the nodes.
    pub(super) fn nodes(&self) -> usize {
        self.nodes as usize
    }

    /// Upper bound of the depth.
    pub(super) fn depth(&self) -> usize {
        self.depth as usize
    }

    /// Makes the bounds exact.
    pub(super) fn tighten(&mut self) {
        let size = measured(&self.value);
        (self.nodes, self.depth) = (narrow(size.nodes), narrow(size.depth));
    }

    /// The text, if it is one. Texts are always UTF-8 (see [`jaq_std::ValT::from_utf8_bytes`] below).
    pub(super) fn as_str(&self) -> Option<&str> {
        value::as_str(&self.value)
    }

    /// The text, or an error.
    pub(super) fn try_str(&self) -> Result<&str, Error<Self>> {
        self.as_str().ok_or_else(|| Error::typ(self.clone(), "string"))
    }

    /// The items, or an error.
    pub(super) fn try_items(&self) -> Result<&Rc<Vec<Val>>, Error<Self>> {
        match &self.value {
            Val::Arr(items) => Ok(items),
            _ => Err(Error::typ(self.clone(), "array")),
        }
    }

    /// The member or item at an index, if it is there. `null` has none, and is no error.
    pub(super) fn find(&self, index: &Self) -> ValR<Option<Self>, Self> {
        meter::spend(meter::ITEM);
        let found = match (&self.value, &index.value) {
            (Val::Null, Val::TStr(_) | Val::Num(_) | Val::Null | Val::Obj(_)) => {
                meter::path_link();
                None
            }
            (Val::Obj(members), key @ Val::TStr(_)) => members.get(key).cloned(),
            (Val::Arr(items), Val::Num(n)) => number::position(n, items.len()).map(|i| items[i].clone()),
            (Val::Arr(items), Val::Arr(wanted)) => {
                meter::path_link();
                Some(super::order::positions(items, wanted))
            }
            (Val::Arr(_) | Val::TStr(_), Val::Obj(bounds)) => {
                let bound = |name| bounds.get(&value::string(name)).cloned().map(Self::scalar);
                return self
                    .slice(bound("start").as_ref(), bound("end").as_ref())
                    .map(Some);
            }
            _ => return Err(Error::index(self.clone(), index.clone())),
        };
        Ok(found.map(|v| self.part(v)))
    }

    /// The part between two positions of an array or text; of `null`, `null`.
    pub(super) fn slice(&self, from: Option<&Self>, to: Option<&Self>) -> ValR<Self> {
        meter::path_link();
        let bounds = |len| number::bounds(from.map(Self::value), to.map(Self::value), len);
        match &self.value {
            Val::Null => Ok(Self::default()),
            Val::Arr(items) => {
                let range = bounds(items.len())?;
                meter::spend_each(range.len(), meter::COPY);
                Ok(self.part_of(items[range].to_vec()))
            }
            Val::TStr(_) => {
                let text = self.try_str()?;
                meter::spend_scan(text.len());
                let range = bounds(text.chars().count())?;
                let at = |n| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
                let bytes = at(range.start)..at(range.end);
                Ok(self.cut(&text[bytes]))
            }
            _ => Err(Error::typ(self.clone(), "array or string")),
        }
    }

    /// A part of this text that shares its memory.
    pub(super) fn cut(&self, part: &str) -> Self {
        match &self.value {
            Val::TStr(all) => Self::scalar(Val::utf8_str(all.slice_ref(part.as_bytes()))),
            _ => Self::text(part.to_owned()),
        }
    }

    /// Some of the items of this array.
    fn part_of(&self, items: Vec<Val>) -> Self {
        Self::within(items.into_iter().collect(), self.nodes(), self.depth())
    }

    /// The value's JSON for a message, shortened.
    pub(super) fn excerpt(&self) -> String {
        value::excerpt(&self.value, EXCERPT_BYTES)
    }
}

/// An error that an expression can catch.
pub(super) fn fail(message: impl Into<String>) -> Error<Bounded> {
    Error::new(Bounded::text(message.into()))
}

#[expect(clippy::cast_possible_truncation, reason = "bounds are at most a million")]
fn narrow(n: usize) -> u32 {
    n as u32
}

/// The size of a value as a tree; stops the evaluation when it is above the limits.
fn measured(v: &Val) -> value::Size {
    match value::measure(v, NODES_MAX, DEPTH_MAX) {
        Ok(size) => {
            meter::spend_each(size.nodes, meter::VISIT);
            size
        }
        Err(SizeError::Nodes(_)) => meter::throw(Fault::Nodes),
        Err(SizeError::Depth(_)) => meter::throw(Fault::Depth),
    }
}

/// Collects the items of an array, with its bounds.
#[derive(Default)]
pub(super) struct Items {
    items: Vec<Val>,
    nodes: usize,
    depth: usize,
}

impl Items {
    /// Adds an item.
    pub(super) fn push(&mut self, item: Bounded) {
        meter::spend(meter::ITEM);
        let (value, nodes, depth) = item.into_parts();
        self.nodes += nodes;
        self.depth = self.depth.max(depth);
        self.items.push(value);
        if self.items.len() >= NODES_MAX {
            meter::throw(Fault::Nodes);
        }
    }

    /// The array.
    pub(super) fn finish(self) -> Bounded {
        meter::spend(meter::CONTAINER);
        Bounded::built(self.items.into_iter().collect(), 1 + self.nodes, 1 + self.depth)
    }
}

/// `type (value)`, shortened, for messages.
impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Val::Null => f.write_str("null"),
            v => write!(f, "{} ({})", value::type_name(v), self.excerpt()),
        }
    }
}

impl From<bool> for Bounded {
    fn from(b: bool) -> Self {
        Self::scalar(Val::Bool(b))
    }
}

impl From<isize> for Bounded {
    fn from(n: isize) -> Self {
        Self::scalar(Val::Num(Num::Int(n)))
    }
}

impl From<usize> for Bounded {
    fn from(n: usize) -> Self {
        Self::scalar(Val::Num(Num::from_integral(n)))
    }
}

impl From<f64> for Bounded {
    fn from(n: f64) -> Self {
        Self::scalar(value::number_f64(n))
    }
}

impl From<String> for Bounded {
    fn from(text: String) -> Self {
        meter::spend_text(text.len());
        Self::text(text)
    }
}

/// A slice as an element of a path: `{"start": …, "end": …}`.
impl From<val::Range<Self>> for Bounded {
    fn from(range: val::Range<Self>) -> Self {
        let bounds = [("start", range.start), ("end", range.end)];
        let bounds = bounds.map(|(name, at)| (value::string(name), at.unwrap_or_default().into_value()));
        Self::within(Val::obj(bounds.into_iter().collect()), 3, 1)
    }
}

impl FromIterator<Self> for Bounded {
    fn from_iter<I: IntoIterator<Item = Self>>(iter: I) -> Self {
        let mut items = Items::default();
        iter.into_iter().for_each(|item| items.push(item));
        items.finish()
    }
}

/// Values of a container, one by one, without copying it.
struct Parts {
    whole: Bounded,
    next: usize,
}

impl Iterator for Parts {
    /// Key or position, and value.
    type Item = ValR<(Bounded, Bounded), Bounded>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next;
        self.next += 1;
        let (key, part) = match self.whole.value() {
            Val::Arr(items) => (Bounded::from(at), items.get(at)?),
            Val::Obj(members) => members
                .get_index(at)
                .map(|(k, v)| (Bounded::scalar(k.clone()), v))?,
            _ if at == 0 => return Some(Err(Error::typ(self.whole.clone(), "array or object"))),
            _ => return None,
        };
        meter::spend(meter::ITEM);
        Some(Ok((key, self.whole.part(part.clone()))))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error counts as one item.
        let len = match self.whole.value() {
            Val::Arr(items) => items.len(),
            Val::Obj(members) => members.len(),
            _ => 1,
        };
        let left = len.saturating_sub(self.next);
        (left, Some(left))
    }
}

impl jaq_core::ValT for Bounded {
    fn from_num(digits: &str) -> ValR<Self> {
        number::literal(digits)
    }

    fn from_map<I: IntoIterator<Item = (Self, Self)>>(members: I) -> ValR<Self> {
        meter::spend(meter::CONTAINER);
        let (mut map, mut nodes, mut deepest) = (Map::default(), 1, 0);
        for (key, member) in members {
            if key.as_str().is_none() {
                return Err(fail(format!("object keys must be strings, not {key}")));
            }
            meter::spend(meter::ITEM);
            let (value, size, depth) = member.into_parts();
            nodes += size + value::key_nodes(key.value());
            deepest = deepest.max(depth);
            map.insert(key.into_value(), value);
        }
        Ok(Self::built(Val::obj(map), nodes, 1 + deepest))
    }

    fn key_values(self) -> BoxIter<'static, ValR<(Self, Self), Self>> {
        Box::new(Parts { whole: self, next: 0 })
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR<Self>>> {
        Box::new(Parts { whole: self, next: 0 }.map(|part| part.map(|(_, v)| v)))
    }

    fn index(self, index: &Self) -> ValR<Self> {
        self.find(index).map(Option::unwrap_or_default)
    }

    fn range(self, range: val::Range<&Self>) -> ValR<Self> {
        self.slice(range.start, range.end)
    }

    fn map_values<'a, I: Iterator<Item = jaq_core::ValX<'a, Self>>>(
        self,
        opt: jaq_core::path::Opt,
        f: impl Fn(Self) -> I,
    ) -> jaq_core::ValX<'a, Self> {
        update::values(self, opt, f)
    }

    fn map_index<'a, I: Iterator<Item = jaq_core::ValX<'a, Self>>>(
        self,
        index: &Self,
        opt: jaq_core::path::Opt,
        f: impl Fn(Self) -> I,
    ) -> jaq_core::ValX<'a, Self> {
        update::index(self, index, opt, f)
    }

    fn map_range<'a, I: Iterator<Item = jaq_core::ValX<'a, Self>>>(
        self,
        range: val::Range<&Self>,
        opt: jaq_core::path::Opt,
        f: impl Fn(Self) -> I,
    ) -> jaq_core::ValX<'a, Self> {
        update::range(self, range, opt, f)
    }

    fn as_bool(&self) -> bool {
        value::is_truthy(&self.value)
    }

    fn into_string(self) -> Self {
        match &self.value {
            Val::TStr(_) => self,
            v => Self::text(json(v)),
        }
    }
}

/// Canonical JSON of a value within bounds; stops the evaluation when it is too long.
pub(super) fn json(v: &Val) -> String {
    let mut out = String::new();
    if value::write_json(v, limits::EXPRESSION_STRING_BYTES_MAX, &mut out).is_err() {
        meter::throw(Fault::Text);
    }
    // Afterwards, because only now is it known; the bound above limits what was done on credit.
    meter::spend(out.len() as u64 * 2);
    out
}

impl jaq_std::ValT for Bounded {
    fn into_seq<S: FromIterator<Self>>(self) -> Result<S, Self> {
        match &self.value {
            Val::Arr(items) => {
                meter::spend_each(items.len(), meter::COPY);
                Ok(items.iter().map(|v| self.part(v.clone())).collect())
            }
            _ => Err(self),
        }
    }

    fn is_int(&self) -> bool {
        matches!(self.value, Val::Num(Num::Int(_) | Num::BigInt(_)))
    }

    fn as_isize(&self) -> Option<isize> {
        self.value.as_isize()
    }

    fn as_f64(&self) -> Option<f64> {
        self.value.as_f64()
    }

    fn is_utf8_str(&self) -> bool {
        matches!(self.value, Val::TStr(_))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        let text = self.as_str()?;
        meter::spend_scan(text.len());
        Some(text.as_bytes())
    }

    fn as_sub_str(&self, sub: &[u8]) -> Self {
        match std::str::from_utf8(sub) {
            Ok(part) => self.cut(part),
            Err(_) => Self::from_utf8_bytes(sub.to_vec()),
        }
    }

    fn from_utf8_bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> Self {
        Self::from(String::from_utf8_lossy(bytes.as_ref()).into_owned())
    }
}
