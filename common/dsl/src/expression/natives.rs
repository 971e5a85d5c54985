//! The native filters: an allow-list. Nothing here reads a clock, the environment, an input or a file.
//!
//! A name that starts with `__` is for the prelude alone.

use jaq_core::box_iter::box_once;
use jaq_core::data::{DataT, HasLut};
use jaq_core::native::{self, Fun, bome, v};
use jaq_core::{Bind, Cv, Error, Exn, Lut, Native, ValR, ValT, ValXs};
use jaq_json::{Num, Val};

use super::bounded::{Bounded, Items, fail, json};
use super::pattern::Patterns;
use super::{deletion, meter, order, text};
use crate::value;

/// Filters of jaq that are used as they are, and under which name. They are linear in their input, which they
/// reach through the metered operations of [`Bounded`].
const FROM_JAQ: &[(&str, &str)] = &[
    ("first", "first"),
    ("last", "last"),
    ("limit", "limit"),
    ("skip", "skip"),
    ("keys_unsorted", "keys_unsorted"),
    ("key_values", "__key_values"),
    ("floor", "floor"),
    ("round", "round"),
    ("ceil", "ceil"),
    ("utf8bytelength", "utf8bytelength"),
    ("explode", "explode"),
    ("implode", "implode"),
    ("ascii_downcase", "ascii_downcase"),
    ("ascii_upcase", "ascii_upcase"),
    ("reverse", "__reverse"),
    ("sort", "sort"),
    ("sort_by", "sort_by"),
    ("group_by", "group_by"),
    ("min_by_or_empty", "__min_by"),
    ("max_by_or_empty", "__max_by"),
    ("startswith", "startswith"),
    ("endswith", "endswith"),
    ("trim", "trim"),
    ("ltrim", "ltrim"),
    ("rtrim", "rtrim"),
    ("encode_base64", "__encode_base64"),
    ("decode_base64", "__decode_base64"),
    ("decode_uri", "__decode_uri"),
    ("fromdateiso8601", "fromdateiso8601"),
    ("todateiso8601", "todateiso8601"),
    ("strftime", "__strftime"),
    ("strptime", "__strptime"),
    ("gmtime", "gmtime"),
    ("mktime", "mktime"),
    ("acos", "acos"),
    ("acosh", "acosh"),
    ("asin", "asin"),
    ("asinh", "asinh"),
    ("atan", "atan"),
    ("atanh", "atanh"),
    ("atan2", "atan2"),
    ("cbrt", "cbrt"),
    ("copysign", "copysign"),
    ("cos", "cos"),
    ("cosh", "cosh"),
    ("exp", "exp"),
    ("exp10", "exp10"),
    ("exp2", "exp2"),
    ("expm1", "expm1"),
    ("fabs", "fabs"),
    ("fdim", "fdim"),
    ("fma", "fma"),
    ("fmax", "fmax"),
    ("fmin", "fmin"),
    ("fmod", "fmod"),
    ("frexp", "frexp"),
    ("hypot", "hypot"),
    ("ilogb", "__ilogb"),
    ("ldexp", "ldexp"),
    ("lgamma", "lgamma"),
    ("log", "log"),
    ("log10", "log10"),
    ("log1p", "log1p"),
    ("log2", "log2"),
    ("modf", "modf"),
    ("nearbyint", "nearbyint"),
    ("nextafter", "nextafter"),
    ("pow", "pow"),
    ("remainder", "remainder"),
    ("rint", "rint"),
    ("scalbln", "scalbln"),
    ("sin", "sin"),
    ("sinh", "sinh"),
    ("sqrt", "sqrt"),
    ("tan", "tan"),
    ("tanh", "tanh"),
    ("tgamma", "tgamma"),
    ("trunc", "trunc"),
];

/// The types that jaq runs on.
pub(super) struct Language;

impl DataT for Language {
    type V<'a> = Bounded;
    type Data<'a> = Data<'a>;
}

/// What filters can see beside their input.
#[derive(Clone, Copy)]
pub(super) struct Data<'a> {
    pub(super) lut: &'a Lut<Language>,
    pub(super) world: &'a World,
}

/// What an evaluation knows.
#[derive(Default)]
pub(super) struct World {
    /// Unix milliseconds.
    pub(super) now_ms: i64,
    /// Compiled patterns.
    pub(super) patterns: Patterns,
}

impl<'a> HasLut<'a, Language> for Data<'a> {
    /// jaq looks up each node of the expression here when it evaluates it: this is the step that fuel counts.
    fn lut(&self) -> &'a Lut<Language> {
        meter::spend(meter::STEP);
        self.lut
    }
}

type Out<'a> = ValXs<'a, Bounded>;
type Args<'a> = Cv<'a, Language>;

/// All native filters: name, arguments, implementation.
pub(super) fn all() -> impl Iterator<Item = Fun<Language>> {
    let renamed = |(name, args, run): Fun<Language>| {
        let (_, ours) = FROM_JAQ.iter().find(|(theirs, _)| *theirs == name)?;
        Some((*ours, args, run))
    };
    let theirs = jaq_core::funs::<Language>()
        .chain(jaq_std::funs::<Language>())
        .filter_map(renamed);
    let ours = [constants(), lists(), objects(), texts(), paths()]
        .into_iter()
        .flatten();
    theirs
        .chain(ours.map(|(name, args, run)| native::run::<Language>((name, args, run))))
        .chain([empty()])
}

type Filter = (&'static str, Box<[Bind]>, jaq_core::RunPtr<Language>);

fn constants() -> Vec<Filter> {
    vec![
        ("null", v(0), |_| bome(Ok(Bounded::default()))),
        ("true", v(0), |_| bome(Ok(true.into()))),
        ("false", v(0), |_| bome(Ok(false.into()))),
        ("nan", v(0), |_| bome(Ok(f64::NAN.into()))),
        ("infinite", v(0), |_| bome(Ok(f64::INFINITY.into()))),
        ("now", v(0), |cv| bome(Ok(seconds(cv.0.data().world.now_ms)))),
        ("type", v(0), |cv| {
            bome(Ok(Bounded::text(value::type_name(cv.1.value()).into())))
        }),
        ("__error", v(0), |cv| box_once(Err(Exn::from(Error::new(cv.1))))),
        // Closures that capture closures form a chain; see `rewrite`.
        ("__link", v(0), |cv| {
            meter::link();
            bome(Ok(cv.1))
        }),
    ]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are far below 2^53"
)]
fn seconds(ms: i64) -> Bounded {
    (ms as f64 / 1000.0).into()
}

/// `empty` is native because it is legal on the left of an assignment.
fn empty() -> Fun<Language> {
    let run = Native::new(|_| Box::new(std::iter::empty()));
    (
        "empty",
        v(0),
        run.with_paths(|_| Box::new(std::iter::empty()))
            .with_update(|cv, _| bome(Ok(cv.1))),
    )
}

fn lists() -> Vec<Filter> {
    vec![
        ("range", v(3), |mut cv| {
            let (by, to, from) = (cv.0.pop_var(), cv.0.pop_var(), cv.0.pop_var());
            range(from, to, by)
        }),
        ("add", v(0), |cv| bome(sum(cv.1))),
        ("flatten", v(1), |cv| one(cv, |list, depth| flatten(&list, depth))),
        ("length", v(0), |cv| bome(text::length(cv.1))),
        ("has", v(1), |cv| one(cv, |whole, key| whole.has(&key))),
        ("contains", v(1), |cv| {
            one(cv, |l, r| contains(l.value(), r.value()).map(Bounded::from))
        }),
        ("indices", v(1), |cv| {
            one(cv, |whole, part| indices(&whole, &part))
        }),
        ("bsearch", v(1), |cv| {
            one(cv, |list, wanted| search(&list, &wanted))
        }),
        ("delpaths", v(1), |cv| one(cv, deletion::delete)),
    ]
}

fn objects() -> Vec<Filter> {
    vec![("tojson", v(0), |cv| bome(Ok(Bounded::text(json(cv.1.value())))))]
}

fn texts() -> Vec<Filter> {
    vec![
        ("fromjson", v(0), |cv| bome(text::from_json(&cv.1))),
        ("tonumber", v(0), |cv| bome(text::to_number(cv.1))),
        ("join", v(1), |cv| {
            one(cv, |list, separator| text::join(&list, &separator))
        }),
        ("ltrimstr", v(1), |cv| {
            one(cv, |v, fix| Ok(text::trimmed(v, &fix, text::without_prefix)))
        }),
        ("rtrimstr", v(1), |cv| {
            one(cv, |v, fix| Ok(text::trimmed(v, &fix, text::without_suffix)))
        }),
        ("__csv", v(0), |cv| bome(text::csv(&cv.1))),
        ("__tsv", v(0), |cv| bome(text::tsv(&cv.1))),
        ("__sh", v(0), |cv| bome(text::shell(&cv.1))),
        ("__html", v(0), |cv| bome(text::html(&cv.1))),
        ("__uri", v(0), |cv| bome(text::uri(&cv.1))),
        ("__padded", v(0), |cv| bome(text::padded(&cv.1))),
        ("__time_format", v(0), |cv| bome(text::time_format(cv.1))),
        ("test", v(2), |cv| pattern(cv, Patterns::test)),
        ("__matches", v(2), |cv| pattern(cv, Patterns::matches)),
        ("__pieces", v(2), |cv| pattern(cv, Patterns::pieces)),
    ]
}

fn paths() -> Vec<Filter> {
    vec![("path", [Bind::Fun(())].into(), |mut cv| {
        let (f, ctx) = cv.0.pop_fun();
        let mut found = meter::in_path(|| f.paths((ctx, (cv.1, Default::default()))));
        Box::new(std::iter::from_fn(move || {
            meter::in_path(|| found.next()).map(|found| {
                let (_, path) = found?;
                let mut keys: Vec<Bounded> = path.iter().cloned().collect();
                keys.reverse();
                Ok(keys.into_iter().collect())
            })
        }))
    })]
}

/// Applies a function of the input and one argument.
fn one<'a>(mut cv: Args<'a>, f: fn(Bounded, Bounded) -> ValR<Bounded>) -> Out<'a> {
    let argument = cv.0.pop_var();
    bome(f(cv.1, argument))
}

type Search = fn(&Patterns, &Bounded, &Bounded, &Bounded) -> ValR<Bounded>;

fn pattern<'a>(mut cv: Args<'a>, search: Search) -> Out<'a> {
    let (flags, pattern) = (cv.0.pop_var(), cv.0.pop_var());
    bome(search(&cv.0.data().world.patterns, &cv.1, &pattern, &flags))
}

fn range<'a>(from: Bounded, to: Bounded, by: Bounded) -> Out<'a> {
    let numbers = [&from, &to, &by].iter().all(|v| matches!(v.value(), Val::Num(_)));
    if !numbers {
        return box_once(Err(fail("range needs numbers").into()));
    }
    let direction = by.cmp(&0_isize.into());
    let mut next = Some(from);
    Box::new(std::iter::from_fn(move || {
        meter::spend(meter::ITEM);
        let at = next.take()?;
        // A step of zero never ends, as in jq; the meter ends it.
        let ended = if direction.is_lt() { at <= to } else { at >= to };
        if ended {
            return None;
        }
        match at.clone() + by.clone() {
            Ok(following) => next = Some(following),
            Err(e) => return Some(Err(e.into())),
        }
        Some(Ok(at))
    }))
}

fn sum(list: Bounded) -> ValR<Bounded> {
    list.values()
        .try_fold(Bounded::default(), |sum, item| sum + item?)
}

fn flatten(list: &Bounded, depth: Bounded) -> ValR<Bounded> {
    let depth = match depth.value() {
        Val::Num(n) => super::number::whole(n, f64::floor),
        _ => return Err(Error::typ(depth, "number")),
    };
    if depth < 0 {
        return Err(fail("flatten depth must not be negative"));
    }
    let mut items = Items::default();
    flatten_into(list, depth, &mut items)?;
    Ok(items.finish())
}

fn flatten_into(list: &Bounded, depth: isize, items: &mut Items) -> Result<(), Error<Bounded>> {
    for item in list.clone().values() {
        let item = item?;
        match item.value() {
            Val::Arr(_) if depth > 0 => flatten_into(&item, depth - 1, items)?,
            _ => items.push(item),
        }
    }
    Ok(())
}

impl Bounded {
    fn has(&self, key: &Self) -> ValR<Self> {
        match (self.value(), key.value()) {
            (Val::Obj(_), Val::TStr(_)) => self.find(key).map(|found| found.is_some().into()),
            (Val::Arr(items), Val::Num(Num::Int(at))) => {
                Ok(usize::try_from(*at).is_ok_and(|at| at < items.len()).into())
            }
            (Val::Arr(_), Val::Num(_)) => self.find(key).map(|found| found.is_some().into()),
            _ => Err(fail(format!("cannot check whether {self} has a key {key}"))),
        }
    }
}

fn contains(l: &Val, r: &Val) -> Result<bool, Error<Bounded>> {
    meter::spend(meter::VISIT);
    let shown = |v: &Val| Bounded::outside(v.clone());
    match (l, r) {
        (Val::Obj(l), Val::Obj(r)) => {
            for (key, r) in r.iter() {
                match l.get(key) {
                    Some(l) if contains(l, r)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Val::Arr(l), Val::Arr(r)) => {
            for r in r.iter() {
                if !contains_any(l, r)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Val::TStr(text), Val::TStr(_)) => {
            meter::spend_scan(text.len());
            let (l, r) = (value::as_str(l), value::as_str(r));
            Ok(l.zip(r).is_some_and(|(l, r)| l.contains(r)))
        }
        _ if value::type_name(l) == value::type_name(r) => Ok(order::equal(l, r)),
        _ => Err(fail(format!(
            "{} and {} cannot have their containment checked",
            shown(l),
            shown(r)
        ))),
    }
}

fn contains_any(l: &[Val], r: &Val) -> Result<bool, Error<Bounded>> {
    for l in l {
        if value::type_name(l) == value::type_name(r) && contains(l, r)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn indices(whole: &Bounded, part: &Bounded) -> ValR<Bounded> {
    match (whole.value(), part.value()) {
        (Val::Null, _) => Ok(Bounded::default()),
        (Val::TStr(_), Val::TStr(_)) => {
            let (whole, part) = (whole.try_str()?, part.try_str()?);
            let mut found = Items::default();
            for (position, (at, _)) in whole.char_indices().enumerate() {
                meter::spend(1);
                if !part.is_empty() && whole[at..].starts_with(part) {
                    // All of it was compared.
                    meter::spend_scan(part.len());
                    found.push(position.into());
                }
            }
            Ok(found.finish())
        }
        (Val::Arr(items), Val::Arr(wanted)) => Ok(Bounded::built(
            order::positions(items, wanted),
            1 + items.len(),
            1,
        )),
        (Val::Arr(items), wanted) => {
            let found = items
                .iter()
                .enumerate()
                .filter(|(_, item)| order::equal(item, wanted));
            Ok(found.map(|(at, _)| Bounded::from(at)).collect())
        }
        _ => Err(Error::index(whole.clone(), part.clone())),
    }
}

/// The position of an item in a sorted array, or `-1 - position` where it would be.
fn search(list: &Bounded, wanted: &Bounded) -> ValR<Bounded> {
    let found = list
        .try_items()?
        .binary_search_by(|item| order::order(item, wanted.value()));
    match found {
        Ok(at) => Ok(at.into()),
        Err(at) => Bounded::from(-1_isize) - at.into(),
    }
}
