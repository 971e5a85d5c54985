//! What an expression mentions: the filters it calls and the variables that it does not bind itself.

use std::collections::BTreeSet;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::path::Part;

/// Name and number of arguments.
pub(super) type Call<'s> = (&'s str, usize);

/// See the module.
#[derive(Default)]
pub(super) struct Usage<'s> {
    /// Filters, those defined in the expression itself included.
    pub(super) calls: BTreeSet<Call<'s>>,
    /// Free variables with their `$`, each where it occurs in the source.
    pub(super) variables: Vec<&'s str>,
    /// It may look at its input.
    pub(super) reads_input: bool,
    /// Variables that are bound where the walk is.
    bound: Vec<&'s str>,
}

impl<'s> Usage<'s> {
    /// Of a term.
    pub(super) fn of(term: &Term<&'s str>) -> Self {
        let mut usage = Self::default();
        usage.term(term);
        usage
    }

    /// Of a definition.
    pub(super) fn of_def(def: &Def<&'s str>) -> Self {
        let mut usage = Self::default();
        usage.def(def);
        usage
    }

    fn term(&mut self, term: &Term<&'s str>) {
        match term {
            Term::Id | Term::Recurse => self.reads_input = true,
            Term::Num(_) | Term::Break(_) | Term::Arr(None) => {}
            Term::Str(format, parts) => {
                self.reads_input |= format.is_some();
                self.calls.extend(format.map(|f| (f, 0)));
                self.parts(parts);
            }
            Term::Arr(Some(t)) | Term::Neg(t) | Term::Label(_, t) => self.term(t),
            Term::Obj(entries) => entries.iter().for_each(|(k, v)| {
                self.term(k);
                v.iter().for_each(|v| self.term(v));
            }),
            Term::BinOp(l, BinaryOp::Pipe(Some(pattern)), r) => {
                self.term(l);
                self.within(pattern, |u| u.term(r));
            }
            Term::BinOp(l, _, r) => {
                self.term(l);
                self.term(r);
            }
            Term::Fold(_, source, pattern, args) => {
                self.term(source);
                args.iter().take(1).for_each(|init| self.term(init));
                self.within(pattern, |u| args.iter().skip(1).for_each(|t| u.term(t)));
            }
            Term::TryCatch(t, catch) => {
                self.term(t);
                catch.iter().for_each(|c| self.term(c));
            }
            Term::IfThenElse(branches, otherwise) => {
                branches.iter().for_each(|(condition, then)| {
                    self.term(condition);
                    self.term(then);
                });
                otherwise.iter().for_each(|t| self.term(t));
            }
            Term::Def(defs, t) => {
                defs.iter().for_each(|d| self.def(d));
                self.term(t);
            }
            Term::Call(name, args) => {
                self.reads_input = true;
                self.calls.insert((name, args.len()));
                args.iter().for_each(|t| self.term(t));
            }
            Term::Var(name) => {
                if !self.bound.contains(name) {
                    self.variables.push(name);
                }
            }
            Term::Path(t, path) => {
                self.term(t);
                path.0.iter().for_each(|(part, _)| match part {
                    Part::Index(i) => self.term(i),
                    Part::Range(from, to) => from.iter().chain(to).for_each(|t| self.term(t)),
                });
            }
        }
    }

    fn parts(&mut self, parts: &[StrPart<&'s str, Term<&'s str>>]) {
        for part in parts {
            if let StrPart::Term(t) = part {
                self.term(t);
            }
        }
    }

    fn def(&mut self, def: &Def<&'s str>) {
        let outer = self.bound.len();
        self.bound.extend(def.args.iter().filter(|a| a.starts_with('$')));
        self.term(&def.body);
        self.bound.truncate(outer);
    }

    fn within(&mut self, pattern: &Pattern<&'s str>, f: impl FnOnce(&mut Self)) {
        let outer = self.bound.len();
        self.pattern(pattern);
        f(self);
        self.bound.truncate(outer);
    }

    fn pattern(&mut self, pattern: &Pattern<&'s str>) {
        match pattern {
            Pattern::Var(name) => self.bound.push(name),
            Pattern::Arr(items) => items.iter().for_each(|p| self.pattern(p)),
            Pattern::Obj(entries) => entries.iter().for_each(|(key, p)| {
                self.term(key);
                self.pattern(p);
            }),
        }
    }
}
