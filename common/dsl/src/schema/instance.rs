//! Our values as the validator sees them: every access is metered.

use std::borrow::Cow;

use jaq_json::{Map, Num, Val};
use jsonschema::JsonType;
use jsonschema::json::{Array, Json, JsonNumber, Node, NodeIdentity, Object};
use serde_json::Value as Serde;

use crate::expression::{meter, order};
use crate::{Value, value};

/// Units of one access.
const ACCESS: u64 = 16;

/// Nodes of a value that a message shows as it is; of larger ones it shows the beginning as a text.
const SHOWN_NODES: usize = 32;
const SHOWN_BYTES: usize = 80;

/// The representation: jaq's values, metered.
#[derive(Debug)]
pub(super) struct Metered;

/// Units of reading a byte, above those of any access: what the patterns of a schema cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prices {
    /// Of a text.
    pub(super) text_byte: u32,
    /// Of a member's name.
    pub(super) name_byte: u32,
}

/// A value being validated.
#[derive(Debug)]
pub(super) struct Instance<'a> {
    value: &'a Val,
    prices: Prices,
}

impl<'a> Instance<'a> {
    pub(super) fn new(value: &'a Value, prices: Prices) -> Self {
        Self { value, prices }
    }
}

impl Clone for Instance<'_> {
    /// Metered too: it is all that some keywords do.
    fn clone(&self) -> Self {
        meter::spend(ACCESS);
        Self {
            value: self.value,
            prices: self.prices,
        }
    }
}

impl Json for Metered {
    type Node<'a> = Instance<'a>;
    type PreparedKey = Val;
    type StringBuffer = ();

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> Val {
        value::string(key)
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(Instance<'_>) -> T) -> T {
        // The name was paid for when it was listed.
        f(Instance::new(&value::string(string), Prices::default()))
    }
}

impl<'a> Node<'a, Metered> for Instance<'a> {
    type Object = Members<'a>;
    type Array = Items<'a>;
    type Number = Number<'a>;

    fn as_object(&self) -> Option<Members<'a>> {
        meter::spend(ACCESS);
        match self.value {
            Val::Obj(members) => Some(Members {
                members,
                prices: self.prices,
            }),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<Items<'a>> {
        meter::spend(ACCESS);
        match self.value {
            Val::Arr(items) => Some(Items {
                items,
                prices: self.prices,
            }),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = value::as_str(self.value)?;
        meter::spend(ACCESS + (text.len() as u64).saturating_mul(1 + u64::from(self.prices.text_byte)));
        Some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<Number<'a>> {
        meter::spend(ACCESS);
        match self.value {
            Val::Num(n) => Some(Number(n)),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self.value {
            Val::Bool(b) => Some(*b),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.value, Val::Null)
    }

    fn json_type(&self) -> JsonType {
        meter::spend(ACCESS);
        match self.value {
            Val::Null => JsonType::Null,
            Val::Bool(_) => JsonType::Boolean,
            Val::Num(_) => JsonType::Number,
            Val::BStr(_) | Val::TStr(_) => JsonType::String,
            Val::Arr(_) => JsonType::Array,
            Val::Obj(_) => JsonType::Object,
        }
    }

    fn string_length(&self) -> Option<u64> {
        let text = value::as_str(self.value)?;
        meter::spend_scan(text.len());
        Some(text.chars().count() as u64)
    }

    fn equals_value(&self, expected: &Serde) -> bool {
        equals(self.value, expected)
    }

    fn to_value(&self) -> Cow<'a, Serde> {
        meter::spend(meter::CONTAINER);
        Cow::Owned(match value::size_bounded(self.value, SHOWN_NODES, SHOWN_NODES) {
            Ok(_) => value::to_serde(self.value),
            Err(_) => Serde::String(value::excerpt(self.value, SHOWN_BYTES)),
        })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        meter::spend(ACCESS);
        // Parts that are shared in memory are the same data, so it does no harm that they are taken for one node.
        Some(NodeIdentity::new(std::ptr::from_ref(self.value).addr()))
    }
}

/// Equality as JSON Schema defines it: numbers by value, members in any order.
fn equals(v: &Val, expected: &Serde) -> bool {
    meter::spend(ACCESS);
    match (v, expected) {
        (Val::Null, Serde::Null) => true,
        (Val::Bool(l), Serde::Bool(r)) => l == r,
        (Val::Num(_), Serde::Number(_)) => order::equal(v, &value::from_serde(expected.clone())),
        (Val::TStr(l), Serde::String(r)) => **l == *r.as_bytes(),
        (Val::Arr(l), Serde::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| equals(l, r)),
        (Val::Obj(l), Serde::Object(r)) => {
            l.len() == r.len()
                && r.iter()
                    .all(|(k, r)| l.get(&value::string(k)).is_some_and(|l| equals(l, r)))
        }
        _ => false,
    }
}

/// An object being validated.
pub(super) struct Members<'a> {
    members: &'a Map,
    prices: Prices,
}

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Instance<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.members.len()
    }

    fn get(&self, key: &Val) -> Option<Instance<'a>> {
        meter::spend(ACCESS);
        self.members
            .get(key)
            .map(|value| Instance::new(value, self.prices))
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter {
            members: self.members.iter(),
            prices: self.prices,
        }
    }
}

/// Iterates over an object.
pub(super) struct MembersIter<'a> {
    members: <&'a Map as IntoIterator>::IntoIter,
    prices: Prices,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Instance<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.members.next()?;
        let name = value::as_str(key).unwrap_or_default();
        meter::spend(ACCESS + (name.len() as u64).saturating_mul(u64::from(self.prices.name_byte)));
        Some((name, Instance::new(value, self.prices)))
    }
}

/// An array being validated.
pub(super) struct Items<'a> {
    items: &'a [Val],
    prices: Prices,
}

impl<'a> Array<'a, Metered> for Items<'a> {
    type Node = Instance<'a>;
    type ElementsIter = ItemsIter<'a>;

    fn len(&self) -> usize {
        self.items.len()
    }

    fn elements(&self) -> ItemsIter<'a> {
        ItemsIter {
            items: self.items.iter(),
            prices: self.prices,
        }
    }

    fn is_unique(&self) -> bool {
        let mut items: Vec<&Val> = self.items.iter().collect();
        items.sort_by(|l, r| order::order(l, r));
        !items
            .windows(2)
            .any(|pair| order::order(pair[0], pair[1]).is_eq())
    }
}

/// Iterates over an array.
pub(super) struct ItemsIter<'a> {
    items: std::slice::Iter<'a, Val>,
    prices: Prices,
}

impl<'a> Iterator for ItemsIter<'a> {
    type Item = Instance<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        meter::spend(ACCESS);
        self.items.next().map(|value| Instance::new(value, self.prices))
    }
}

/// A number being validated.
pub(super) struct Number<'a>(&'a Num);

impl Number<'_> {
    fn to_serde(&self) -> Serde {
        value::to_serde(&Val::Num(self.0.clone()))
    }
}

impl JsonNumber for Number<'_> {
    fn as_u64(&self) -> Option<u64> {
        self.to_serde().as_u64()
    }

    fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Num::Int(i) => i64::try_from(*i).ok(),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        self.to_serde().as_f64()
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Owned(value::to_json_string(&Val::Num(self.0.clone())))
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        match self.to_serde() {
            Serde::Number(n) => Cow::Owned(n),
            // NaN and the infinities, which JSON does not have.
            _ => Cow::Owned(serde_json::Number::from(0)),
        }
    }

    fn is_integer(&self) -> bool {
        match self.0 {
            Num::Int(_) | Num::BigInt(_) => true,
            Num::Float(f) => f.fract() == 0.0,
            Num::Dec(_) => false,
        }
    }

    fn is_written_as_integer(&self) -> bool {
        self.is_integer()
    }
}
