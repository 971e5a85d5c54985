//! Regular expressions: `test`, `match`, `capture`, `scan`, `split`, `sub`, …
//!
//! The engine (regex-bites, which jaq uses too) simulates the automaton, so no pattern is catastrophic: a search
//! costs at most states times bytes. That product is charged before each search. The number of states is not
//! public, so a pattern is compiled with growing size limits until one suffices.

use std::cell::RefCell;
use std::rc::Rc;

use jaq_core::{Error, ValR, ValT};
use regex_bites::{Captures, Regex, RegexBuilder};

use super::bounded::{Bounded, Items, fail};
use super::meter;

/// Bytes of one pattern.
const PATTERN_BYTES_MAX: usize = 2048;

/// Compiled sizes to try, in bytes: this one, doubled until it suffices or is the last one.
const SIZE_BYTES_MIN: usize = 128;
const SIZE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a state of the automaton, about.
const STATE_BYTES: usize = 32;

/// Units of searching a byte, and of following three states at a byte.
const SEARCHED_BYTE: u64 = 4;
const STATES_PER_UNIT: u64 = 3;

/// Compiled patterns kept by one evaluation.
const CACHE_PATTERNS: usize = 16;

/// The patterns of one evaluation.
#[derive(Default)]
pub(super) struct Patterns(RefCell<Vec<Rc<Pattern>>>);

struct Pattern {
    source: String,
    flags: String,
    regex: Regex,
    /// Units of searching a byte.
    byte_price: u64,
    global: bool,
    /// Flag `n`: empty matches do not count.
    no_empty: bool,
}

impl Patterns {
    /// A pattern from the arguments of a filter: flags may be `null`, and the pattern may be `[pattern, flags]`.
    fn get(&self, pattern: &Bounded, flags: &Bounded) -> Result<Rc<Pattern>, Error<Bounded>> {
        if let Ok(pair) = pattern.try_items() {
            let part = |at: usize| pair.get(at).cloned().map(Bounded::scalar).unwrap_or_default();
            return self.get(&part(0), &part(1));
        }
        let flags = if *flags == Bounded::default() {
            ""
        } else {
            flags.try_str()?
        };
        let source = pattern.try_str()?;
        let mut kept = self.0.borrow_mut();
        if let Some(found) = kept.iter().find(|p| p.source == source && p.flags == flags) {
            return Ok(Rc::clone(found));
        }
        let new = Rc::new(compile(source, flags)?);
        if kept.len() == CACHE_PATTERNS {
            kept.remove(0);
        }
        kept.push(Rc::clone(&new));
        Ok(new)
    }

    /// `test`.
    pub(super) fn test(&self, text: &Bounded, pattern: &Bounded, flags: &Bounded) -> ValR<Bounded> {
        let pattern = self.get(pattern, flags)?;
        let text = text.try_str()?;
        if pattern.no_empty {
            let mut found = false;
            pattern.search(text, false, |_| found = true);
            return Ok(found.into());
        }
        pattern.pay(text.len());
        Ok(pattern.regex.is_match(text).into())
    }

    /// `[match]`: an array of match objects.
    pub(super) fn matches(&self, text: &Bounded, pattern: &Bounded, flags: &Bounded) -> ValR<Bounded> {
        let pattern = self.get(pattern, flags)?;
        let mut chars = Chars::new(text.try_str()?);
        let (mut items, mut error) = (Items::default(), None);
        pattern.search(text.try_str()?, pattern.global, |found| {
            match pattern.object(text, &mut chars, found) {
                Ok(object) => items.push(object),
                Err(e) => error = Some(e),
            }
        });
        error.map_or_else(|| Ok(items.finish()), Err)
    }

    /// The text cut at the matches: texts and, between them, what [`Self::matches`] gives.
    pub(super) fn pieces(&self, text: &Bounded, pattern: &Bounded, flags: &Bounded) -> ValR<Bounded> {
        let pattern = self.get(pattern, flags)?;
        let all = text.try_str()?;
        let mut chars = Chars::new(all);
        let (mut items, mut error, mut end) = (Items::default(), None, 0);
        pattern.search(all, pattern.global, |found| {
            let whole = found.get(0).map_or(end..end, |m| m.range());
            items.push(text.cut(&all[end..whole.start]));
            end = whole.end;
            match pattern.object(text, &mut chars, found) {
                Ok(object) => items.push(object),
                Err(e) => error = Some(e),
            }
        });
        items.push(text.cut(&all[end..]));
        error.map_or_else(|| Ok(items.finish()), Err)
    }
}

fn compile(source: &str, flags: &str) -> Result<Pattern, Error<Bounded>> {
    if source.len() > PATTERN_BYTES_MAX {
        return Err(fail(format!(
            "a regular expression may have at most {PATTERN_BYTES_MAX} bytes"
        )));
    }
    let mut builder = RegexBuilder::new(source);
    let (mut global, mut no_empty) = (false, false);
    for flag in flags.chars() {
        match flag {
            'g' => global = true,
            'n' => no_empty = true,
            'i' => drop(builder.case_insensitive(true)),
            's' => drop(builder.dot_matches_new_line(true)),
            'x' => drop(builder.ignore_whitespace(true)),
            // jq's `p` is both of the modes that Perl calls s and m; `l` asks for longest matches.
            'p' => drop(builder.dot_matches_new_line(true).multi_line(true)),
            'l' => {}
            other => return Err(fail(format!("`{other}` is not a flag of regular expressions"))),
        }
    }
    let mut size = SIZE_BYTES_MIN;
    let regex = loop {
        meter::spend(meter::STEP + source.len() as u64 * 4 + size as u64 / 8);
        match builder.size_limit(size).build() {
            Ok(regex) => break regex,
            Err(_) if size < SIZE_BYTES_MAX => size *= 2,
            Err(e) => {
                return Err(fail(format!(
                    "`{source}` is not a usable regular expression: {e}"
                )));
            }
        }
    };
    let byte_price = SEARCHED_BYTE + (size / STATE_BYTES) as u64 / STATES_PER_UNIT;
    Ok(Pattern {
        source: source.to_owned(),
        flags: flags.to_owned(),
        regex,
        byte_price,
        global,
        no_empty,
    })
}

impl Pattern {
    /// Takes the price of one search over so many bytes.
    fn pay(&self, bytes: usize) {
        meter::spend(meter::STEP + (bytes as u64).saturating_mul(self.byte_price));
    }

    fn search(&self, text: &str, global: bool, mut found: impl FnMut(&Captures<'_>)) {
        let mut searches = self.regex.captures_iter(text);
        let mut from = 0;
        loop {
            self.pay(text.len() - from);
            let Some(captures) = searches.next() else { return };
            let Some(whole) = captures.get(0) else { return };
            from = whole.end();
            if self.no_empty && whole.is_empty() {
                continue;
            }
            found(&captures);
            if !global {
                return;
            }
        }
    }

    /// jq's match object.
    fn object(&self, text: &Bounded, chars: &mut Chars<'_>, found: &Captures<'_>) -> ValR<Bounded> {
        let part = |m: regex_bites::Match<'_>, offset: usize| {
            let length = m.as_str().chars().count();
            [
                ("offset", offset.into()),
                ("length", length.into()),
                ("string", text.cut(m.as_str())),
            ]
        };
        let Some(whole) = found.get(0) else {
            return Ok(Bounded::default());
        };
        let offset = chars.until(whole.start());
        let mut captures = Items::default();
        for (group, name) in found.iter().zip(self.regex.capture_names()).skip(1) {
            let fields = match group {
                Some(m) => part(
                    m,
                    offset + whole.as_str()[..m.start() - whole.start()].chars().count(),
                ),
                None => [
                    ("offset", (-1_isize).into()),
                    ("length", 0_usize.into()),
                    ("string", Bounded::default()),
                ],
            };
            let name = name.map(|n| Bounded::text(n.to_owned())).unwrap_or_default();
            captures.push(object(fields.into_iter().chain([("name", name)]))?);
        }
        object(
            part(whole, offset)
                .into_iter()
                .chain([("captures", captures.finish())]),
        )
    }
}

fn object(fields: impl Iterator<Item = (&'static str, Bounded)>) -> ValR<Bounded> {
    Bounded::from_map(fields.map(|(name, value)| (Bounded::text(name.to_owned()), value)))
}

/// Counts characters up to byte offsets that never go back.
struct Chars<'a> {
    text: &'a str,
    byte: usize,
    count: usize,
}

impl<'a> Chars<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            byte: 0,
            count: 0,
        }
    }

    fn until(&mut self, byte: usize) -> usize {
        self.count += self.text[self.byte..byte].chars().count();
        self.byte = byte;
        self.count
    }
}
