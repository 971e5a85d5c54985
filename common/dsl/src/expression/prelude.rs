//! The filters written in jq, and which of them an expression needs.
//!
//! Only what is needed is compiled into an expression: the whole prelude would cost a millisecond and a hundred
//! kilobytes each time.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jaq_core::load::parse::Def;

use super::natives;
use super::usage::{Call, Usage};

static SOURCE: &str = include_str!("prelude.jq");

static PRELUDE: LazyLock<Prelude> = LazyLock::new(Prelude::parse);

struct Prelude {
    /// In the order of the file: each calls only itself and earlier ones.
    defs: Vec<(Def<&'static str>, BTreeSet<Call<'static>>)>,
}

impl Prelude {
    fn parse() -> Self {
        // A test proves that the text parses.
        let defs = jaq_core::load::parse(SOURCE, |p| p.defs()).unwrap_or_default();
        let with_calls = |def: Def<&'static str>| {
            let calls = Usage::of_def(&def).calls;
            (def, calls)
        };
        Self {
            defs: defs.into_iter().map(with_calls).collect(),
        }
    }
}

/// The definitions that these calls need, directly or not, and all calls together.
pub(super) fn needed<'s>(calls: &BTreeSet<Call<'s>>) -> (Vec<Def<&'s str>>, BTreeSet<Call<'s>>) {
    let mut all = calls.clone();
    let mut defs = Vec::new();
    // Backwards, a definition is met after everything that may call it.
    for (def, calls) in PRELUDE.defs.iter().rev() {
        if all.contains(&(def.name, def.args.len())) {
            all.extend(calls);
            defs.push(def.clone());
        }
    }
    defs.reverse();
    (defs, all)
}

/// Names and numbers of arguments of all filters that an expression may call.
pub(super) fn names() -> BTreeSet<Call<'static>> {
    let natives = natives::all().map(|(name, args, _)| (name, args.len()));
    let defs = PRELUDE.defs.iter().map(|(def, _)| (def.name, def.args.len()));
    natives
        .chain(defs)
        .filter(|(name, _)| !name.starts_with("__"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prelude_parses_and_defines_each_filter_once() {
        let defs = jaq_core::load::parse(SOURCE, |p| p.defs()).unwrap();
        assert!(defs.len() > 100, "{}", defs.len());
        let mut seen: BTreeSet<_> = natives::all().map(|(name, args, _)| (name, args.len())).collect();
        for def in &defs {
            assert!(
                seen.insert((def.name, def.args.len())),
                "{}/{}",
                def.name,
                def.args.len()
            );
        }
    }

    #[test]
    fn every_call_of_the_prelude_is_to_itself_or_to_something_earlier() {
        let mut known: BTreeSet<_> = natives::all().map(|(name, args, _)| (name, args.len())).collect();
        for (def, calls) in &PRELUDE.defs {
            known.insert((def.name, def.args.len()));
            let local = |call: &&Call<'_>| ["rec", "r"].contains(&call.0) || def.args.contains(&call.0);
            let unknown: Vec<_> = calls
                .iter()
                .filter(|c| !known.contains(*c) && !local(c))
                .collect();
            assert!(unknown.is_empty(), "{} calls {unknown:?}", def.name);
        }
    }
}
