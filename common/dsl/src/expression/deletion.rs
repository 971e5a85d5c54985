//! Deleting paths: `del` and `delpaths`.

use std::collections::BTreeMap;

use jaq_core::path::Opt;
use jaq_core::{Error, Exn, ValR, ValT};
use jaq_json::{Num, Val};

use super::bounded::{Bounded, Items, fail};
use super::{meter, number, update};

/// Deletes all of the paths (an array of arrays). What is not there is no error.
pub(super) fn delete(whole: Bounded, paths: Bounded) -> ValR<Bounded> {
    let mut paths: Vec<Bounded> = paths.values().collect::<Result<_, _>>()?;
    paths.sort();
    paths.dedup();
    let paths: Vec<&[Val]> = paths
        .iter()
        .map(|p| p.try_items().map(|i| &i[..]))
        .collect::<Result<_, _>>()?;
    prune(whole, &paths)
}

/// Each container is built once, however many of its parts go.
fn prune(whole: Bounded, paths: &[&[Val]]) -> ValR<Bounded> {
    if paths.iter().any(|p| p.is_empty()) || matches!(whole.value(), Val::Null) {
        return Ok(Bounded::default());
    }
    let Some(groups) = grouped(&whole, paths) else {
        // Slices, or an index that does not fit: one by one, the last ones first, so that no deletion moves what
        // another one means.
        return paths
            .iter()
            .rev()
            .try_fold(whole, |whole, path| remove(whole, path));
    };
    match whole.value() {
        Val::Obj(_) => {
            let kept = whole.clone().key_values().enumerate().map(|(at, part)| {
                let (key, part) = part?;
                Ok(remaining(part, groups.get(&at))?.map(|part| (key, part)))
            });
            let kept: Vec<_> = kept
                .filter_map(Result::transpose)
                .collect::<Result<_, Error<Bounded>>>()?;
            Bounded::from_map(kept)
        }
        _ => {
            let mut items = Items::default();
            for (at, part) in whole.clone().values().enumerate() {
                if let Some(part) = remaining(part?, groups.get(&at))? {
                    items.push(part);
                }
            }
            Ok(items.finish())
        }
    }
}

/// What is left of a part.
fn remaining(part: Bounded, paths: Option<&Vec<&[Val]>>) -> ValR<Option<Bounded>, Bounded> {
    match paths {
        None => Ok(Some(part)),
        Some(paths) if paths.iter().any(|p| p.is_empty()) => Ok(None),
        Some(paths) => prune(part, paths).map(Some),
    }
}

/// The rests of the paths by the position of the part that they start with.
fn grouped<'p>(whole: &Bounded, paths: &[&'p [Val]]) -> Option<BTreeMap<usize, Vec<&'p [Val]>>> {
    let mut groups: BTreeMap<usize, Vec<&[Val]>> = BTreeMap::new();
    for path in paths {
        meter::spend(meter::ITEM);
        let (key, rest) = path.split_first()?;
        let position = match (whole.value(), key) {
            (Val::Obj(members), Val::TStr(_)) => members.get_index_of(key),
            (Val::Arr(items), Val::Num(n)) => number::position(n, items.len()),
            _ => return None,
        };
        if let Some(at) = position {
            groups.entry(at).or_default().push(rest);
        }
    }
    Some(groups)
}

fn remove(whole: Bounded, path: &[Val]) -> ValR<Bounded> {
    let Some((key, rest)) = path.split_first() else {
        return Ok(Bounded::default());
    };
    let key = match key {
        scalar @ (Val::TStr(_) | Val::Num(Num::Int(_))) => Bounded::scalar(scalar.clone()),
        other => Bounded::outside(other.clone()),
    };
    // Looked at and let go, so that the update below need not copy it.
    let missing = whole
        .find(&key)?
        .is_none_or(|part| matches!(part.value(), Val::Null) && !rest.is_empty());
    if missing {
        return Ok(whole);
    }
    let left = |part: Bounded| match rest {
        [] => None,
        _ => Some(prune(part, &[rest]).map_err(Exn::from)),
    };
    let changed = update::index(whole, &key, Opt::Essential, |part| left(part).into_iter());
    changed.map_err(|e| e.get_err().unwrap_or_else(|_| fail("cannot delete")))
}
