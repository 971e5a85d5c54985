//! Changes to the syntax tree of an expression before it is compiled.
//!
//! - A definition with filter arguments announces each call to the meter: when it passes a filter on to itself, a
//!   chain of closures grows with every call, even where jaq turns the recursion into a loop, and such a chain is
//!   freed recursively.
//! - Long lists `a, b, c, …` and objects become balanced trees: jaq nests them, so that a list of a thousand
//!   constants would need a thousand levels of the stack and quadratic time.
//! - Long paths `.a.b.c…` become paths of paths: jaq recurses over the parts of one without a step in between.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Term};
use jaq_core::ops::Math;
use jaq_core::path::{Part, Path};

type Tree<'s> = Term<&'s str>;

/// Entries of an object that stay one term.
const OBJECT_ENTRIES: usize = 8;

/// Parts of a path that stay one term.
const PATH_PARTS: usize = 8;

/// The changed tree.
pub(super) fn term(t: Tree<'_>) -> Tree<'_> {
    match t {
        Term::BinOp(l, BinaryOp::Comma, r) => {
            let mut parts = Vec::new();
            flatten(Term::BinOp(l, BinaryOp::Comma, r), &mut parts);
            balanced(parts, &|| BinaryOp::Comma)
        }
        Term::BinOp(l, op, r) => Term::BinOp(boxed(*l), op, boxed(*r)),
        Term::Obj(entries) => object(entries),
        Term::Str(format, parts) => Term::Str(format, parts.into_iter().map(part).collect()),
        Term::Arr(inner) => Term::Arr(inner.map(|t| boxed(*t))),
        Term::Neg(inner) => Term::Neg(boxed(*inner)),
        Term::Label(name, inner) => Term::Label(name, boxed(*inner)),
        Term::Fold(name, source, pattern, args) => Term::Fold(
            name,
            boxed(*source),
            pattern,
            args.into_iter().map(term).collect(),
        ),
        Term::TryCatch(inner, catch) => Term::TryCatch(boxed(*inner), catch.map(|t| boxed(*t))),
        Term::IfThenElse(branches, otherwise) => {
            let branches = branches
                .into_iter()
                .map(|(condition, then)| (term(condition), term(then)));
            Term::IfThenElse(branches.collect(), otherwise.map(|t| boxed(*t)))
        }
        Term::Def(defs, inner) => Term::Def(defs.into_iter().map(definition).collect(), boxed(*inner)),
        Term::Call(name, args) => Term::Call(name, args.into_iter().map(term).collect()),
        Term::Path(inner, path) => chained(term(*inner), path),
        leaf @ (Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_)) => leaf,
    }
}

fn boxed(t: Tree<'_>) -> Box<Tree<'_>> {
    Box::new(term(t))
}

fn definition(def: Def<&str>) -> Def<&str> {
    let body = term(def.body);
    let has_filters = def.args.iter().any(|a| !a.starts_with('$'));
    let body = if has_filters {
        pipe(Term::Call("__link", Vec::new()), body)
    } else {
        body
    };
    Def {
        name: def.name,
        args: def.args,
        body,
    }
}

fn pipe<'s>(l: Tree<'s>, r: Tree<'s>) -> Tree<'s> {
    Term::BinOp(Box::new(l), BinaryOp::Pipe(None), Box::new(r))
}

fn part<'s>(part: StrPart<&'s str, Tree<'s>>) -> StrPart<&'s str, Tree<'s>> {
    match part {
        StrPart::Term(t) => StrPart::Term(term(t)),
        other => other,
    }
}

fn chained<'s>(mut inner: Tree<'s>, path: Path<Tree<'s>>) -> Tree<'s> {
    let change = |part| match part {
        Part::Index(i) => Part::Index(term(i)),
        Part::Range(from, to) => Part::Range(from.map(term), to.map(term)),
    };
    let mut parts = path
        .0
        .into_iter()
        .map(|(part, opt)| (change(part), opt))
        .peekable();
    while parts.peek().is_some() {
        inner = Term::Path(Box::new(inner), Path(parts.by_ref().take(PATH_PARTS).collect()));
    }
    inner
}

/// The parts of `a, b, c` from left to right. The operator nests to the left.
fn flatten<'s>(mut t: Tree<'s>, parts: &mut Vec<Tree<'s>>) {
    let mut rights = Vec::new();
    while let Term::BinOp(l, BinaryOp::Comma, r) = t {
        rights.push(*r);
        t = *l;
    }
    parts.push(term(t));
    parts.extend(rights.into_iter().rev().map(term));
}

/// `{a, b, …}` is the sum of its entries, which is associative.
fn object<'s>(entries: Vec<(Tree<'s>, Option<Tree<'s>>)>) -> Tree<'s> {
    let mut entries = entries
        .into_iter()
        .map(|(k, v)| (term(k), v.map(term)))
        .peekable();
    let mut parts = Vec::new();
    while entries.peek().is_some() {
        parts.push(Term::Obj(entries.by_ref().take(OBJECT_ENTRIES).collect()));
    }
    match parts.is_empty() {
        true => Term::Obj(Vec::new()),
        false => balanced(parts, &|| BinaryOp::Math(Math::Add)),
    }
}

fn balanced<'s>(mut parts: Vec<Tree<'s>>, op: &dyn Fn() -> BinaryOp<&'s str>) -> Tree<'s> {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let right = parts.split_off(parts.len().div_ceil(2));
    Term::BinOp(Box::new(balanced(parts, op)), op(), Box::new(balanced(right, op)))
}
