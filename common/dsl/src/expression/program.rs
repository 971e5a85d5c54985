//! From text to something that jaq can run.

use std::thread;

use jaq_core::compile::Undefined;
use jaq_core::load::lex::{self, Lexer};
use jaq_core::load::parse::{self, Def, Parser, Term};
use jaq_core::load::{Arena, File, Loader, span};
use jaq_core::{Compiler, Ctx, Vars};
use millrace_common::limits;

use super::bounded::{Bounded, Items};
use super::meter::{self, Fault};
use super::natives::{self, Data, Language, World};
use super::usage::Usage;
use super::{CompileError, EvalEnv, Scope, hint, prelude, rewrite};
use crate::{Value, value};

/// Name under which the expression is compiled: as a definition, because only those can be given as trees.
const MAIN: &str = "__main";

/// Longest source that is compiled on the caller's stack. jaq's parser recurses for each bracket and operator.
const INLINE_BYTES_MAX: usize = 160;

/// Stack for compiling anything longer. `limits::EXPRESSION_BYTES_MAX` brackets, minus signs or definitions need up to
/// 45 MiB in a dev build.
const COMPILE_STACK_BYTES: usize = 128 * 1024 * 1024;

/// Arguments of a call. jaq recurses over those that are filters without a step in between.
const ARGUMENTS_MAX: usize = 32;

/// Bytes of an error's message that are kept.
const MESSAGE_BYTES: usize = 1000;

/// A compiled expression.
pub(super) struct Program {
    filter: jaq_core::Filter<Language>,
    variables: Vec<String>,
    /// False when the input makes no difference.
    reads_input: bool,
}

/// Why an evaluation gave no value.
pub(super) enum Failure {
    /// The expression raised an error.
    Error(String),
    /// It was stopped.
    Fault(Fault),
}

impl Program {
    /// Compiles a source that is not too long.
    pub(super) fn compile(source: &str, scope: &Scope) -> Result<Self, CompileError> {
        if source.len() <= INLINE_BYTES_MAX {
            return compile(source, scope);
        }
        // The thread also frees the tree, which recurses too.
        let work = || compile(source, scope);
        let done = thread::scope(|s| {
            let spawned = thread::Builder::new()
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(s, work);
            spawned.map(|handle| handle.join())
        });
        match done {
            Ok(Ok(program)) => program,
            Ok(Err(_)) => Err(error(0, "the expression cannot be compiled", None)),
            Err(e) => Err(error(
                0,
                format!("cannot start a thread to compile the expression: {e}"),
                None,
            )),
        }
    }

    /// The variables used, without `$`, in the order in which [`Self::run`] takes their values.
    pub(super) fn variables(&self) -> &[String] {
        &self.variables
    }

    /// See [`super::Expression::reads_input`].
    pub(super) const fn reads_input(&self) -> bool {
        self.reads_input
    }

    /// Evaluates; no output is `null`, several are an array.
    pub(super) fn run(&self, input: &Value, vars: &[Value], env: &mut EvalEnv) -> Result<Value, Failure> {
        let now_ms = env.now_ms;
        let outcome = meter::run(&mut env.fuel, || {
            let world = World {
                now_ms,
                ..World::default()
            };
            let vars = Vars::new(vars.iter().cloned().map(Bounded::outside));
            let ctx = Ctx::<Language>::new(
                Data {
                    lut: &self.filter.lut,
                    world: &world,
                },
                vars,
            );
            collect(self.filter.id.run((ctx, Bounded::outside(input.clone()))))
        });
        outcome.map_err(Failure::Fault)?.map_err(Failure::Error)
    }
}

fn collect<'a>(mut outputs: impl Iterator<Item = jaq_core::ValX<'a, Bounded>>) -> Result<Value, String> {
    let mut next = || outputs.next().transpose().map_err(message);
    let Some(first) = next()? else {
        return Ok(Value::default());
    };
    let Some(second) = next()? else {
        return Ok(first.into_value());
    };
    let mut items = Items::default();
    items.push(first);
    items.push(second);
    while let Some(item) = next()? {
        items.push(item);
    }
    Ok(items.finish().into_value())
}

/// What the expression raised: `error("text")` is the text, any other value its JSON.
fn message(raised: jaq_core::Exn<'_, Bounded>) -> String {
    let Ok(error) = raised.get_err() else {
        return "`break` outside of its label".into();
    };
    let raised = error.into_val();
    let mut text = match raised.as_str() {
        Some(text) if text.len() <= MESSAGE_BYTES => return text.to_owned(),
        Some(text) => text[..text.floor_char_boundary(MESSAGE_BYTES)].to_owned(),
        None => return value::excerpt(raised.value(), MESSAGE_BYTES),
    };
    text.push('…');
    text
}

fn error(offset: usize, message: impl Into<String>, hint: Option<String>) -> CompileError {
    CompileError {
        offset,
        message: message.into(),
        hint,
    }
}

fn compile(source: &str, scope: &Scope) -> Result<Program, CompileError> {
    let term = parsed(source)?;
    let usage = Usage::of(&term);
    let variables = variables(source, &usage, scope)?;
    let reads_input = usage.reads_input;
    if let Some((name, _)) = usage.calls.iter().find(|(name, _)| name.starts_with("__")) {
        return Err(error(
            offset(source, name),
            format!("unknown function `{name}`"),
            None,
        ));
    }
    if let Some((name, args)) = usage.calls.iter().find(|(_, args)| *args > ARGUMENTS_MAX) {
        let message =
            format!("`{name}` is called with {args} arguments; at most {ARGUMENTS_MAX} are possible");
        return Err(error(offset(source, name), message, None));
    }
    let (mut defs, calls) = prelude::needed(&usage.calls);
    defs.push(Def {
        name: MAIN,
        args: Vec::new(),
        body: rewrite::term(term),
    });
    let globals: Vec<String> = variables.iter().map(|v| format!("${v}")).collect();
    let arena = Arena::default();
    let loaded = Loader::new(defs).load(&arena, File { code: MAIN, path: () });
    let loaded = loaded.map_err(|_unreachable| error(0, "the expression cannot be loaded", None))?;
    let needed = |name: &str| name == "__link" || calls.iter().any(|(called, _)| *called == name);
    let compiler = Compiler::<&str, Language>::default()
        .with_funs(natives::all().filter(|(name, _, _)| needed(name)))
        .with_global_vars(globals.iter().map(String::as_str));
    match compiler.compile(loaded) {
        Ok(filter) => Ok(Program {
            filter,
            variables,
            reads_input,
        }),
        Err(files) => {
            let first = files.into_iter().flat_map(|(_, errors)| errors).next();
            Err(first.map_or_else(
                || error(0, "the expression cannot be compiled", None),
                |(name, what)| undefined(source, name, &what),
            ))
        }
    }
}

fn parsed(source: &str) -> Result<Term<&str>, CompileError> {
    let tokens = Lexer::new(source)
        .lex()
        .map_err(|e| first(e, |e| unreadable(source, &e)))?;
    if tokens.is_empty() {
        return Err(error(
            0,
            "the expression is empty",
            Some("use `.` for the value itself".into()),
        ));
    }
    Parser::new(&tokens).parse(|p| p.term()).map_err(|e| {
        first(e, |(expected, found): parse::TError<'_, &str>| {
            let expected = expected.as_str();
            match found {
                Some(token) => {
                    let at = offset(source, token.as_str());
                    let found: String = token.as_str().chars().take(20).collect();
                    error(
                        at,
                        format!("expected {expected}, found `{found}`"),
                        misread(&found),
                    )
                }
                None => error(source.len(), format!("expected {expected}, found the end"), None),
            }
        })
    })
}

fn first<E>(errors: Vec<E>, f: impl FnMut(E) -> CompileError) -> CompileError {
    let first = errors.into_iter().map(f).min_by_key(|e| e.offset);
    first.unwrap_or_else(|| error(0, "the expression cannot be parsed", None))
}

fn unreadable(source: &str, (expected, found): &lex::Error<&str>) -> CompileError {
    let at = offset(source, found);
    let rest: String = found.chars().take(12).collect();
    if rest.is_empty() {
        return error(at, format!("expected {}, found the end", expected.as_str()), None);
    }
    let hint = match rest.chars().next() {
        Some('\'') => Some("texts are written in double quotes"),
        Some('&') => Some("use `and`"),
        Some('}') if source.contains("${") => {
            Some("only a whole text can be an expression; use \"… \\(.a) …\"")
        }
        Some(')' | ']' | '}') => Some("it closes nothing"),
        _ => None,
    };
    error(
        at,
        format!("expected {}, found `{rest}`", expected.as_str()),
        hint.map(Into::into),
    )
}

/// Operators of other languages.
fn misread(found: &str) -> Option<String> {
    let hint = match found {
        "||" => "use `or`",
        "===" => "use `==`",
        "!==" => "use `!=`",
        "!" => "use `… | not`",
        "?//" => "destructuring alternatives are not supported",
        "else" | "elif" | "end" | "then" => "the form is `if … then … elif … then … else … end`",
        _ => return None,
    };
    Some(hint.into())
}

/// Byte offset of a part of the source; 0 for anything else.
fn offset(source: &str, part: &str) -> usize {
    let range = source.as_ptr().addr()..=source.as_ptr().addr() + source.len();
    if range.contains(&part.as_ptr().addr()) {
        span(source, part).start
    } else {
        0
    }
}

/// The variables used, each once, in the order of the scope.
fn variables(source: &str, usage: &Usage<'_>, scope: &Scope) -> Result<Vec<String>, CompileError> {
    let bare = |v: &str| v.trim_start_matches('$').to_owned();
    if let Some(unknown) = usage.variables.iter().find(|v| !scope.0.contains(&bare(v))) {
        let legal: Vec<String> = scope.0.iter().map(|v| format!("${v}")).collect();
        let hint = hint::absent_variable(unknown).map(Into::into).or_else(|| {
            let near = hint::closest(unknown, legal.iter().map(String::as_str));
            near.map(|near| format!("did you mean `{near}`?"))
        });
        let hint = hint.unwrap_or_else(|| match legal.is_empty() {
            true => "no variables can be used here".into(),
            false => format!("here you can use {}", hint::list(&legal)),
        });
        return Err(error(
            offset(source, unknown),
            format!("unknown variable `{unknown}`"),
            Some(hint),
        ));
    }
    let used = |v: &&String| usage.variables.iter().any(|u| bare(u) == **v);
    Ok(scope.0.iter().filter(used).cloned().collect())
}

fn undefined(source: &str, name: &str, what: &Undefined) -> CompileError {
    let at = offset(source, name);
    let Undefined::Filter(arity) = what else {
        return error(at, format!("unknown {} `{name}`", what.as_str()), None);
    };
    let known = prelude::names();
    let arities = hint::arities(name, &known);
    if !arities.is_empty() {
        let takes = format!(
            "`{name}` takes {} arguments, separated by `;`",
            arities.join(" or ")
        );
        return error(
            at,
            format!("`{name}` does not take {arity} arguments"),
            Some(takes),
        );
    }
    let hint = hint::absent(name).map(Into::into).or_else(|| {
        let near = hint::closest(name, known.iter().map(|(n, _)| *n));
        near.map(|near| format!("did you mean `{near}`?"))
    });
    let hint = hint
        .or_else(|| (*arity == 0).then(|| format!("write `.{name}` for a member, `\"{name}\"` for a text")));
    error(at, format!("unknown function `{name}`"), hint)
}

/// The bound is checked by the caller.
pub(super) fn too_long(source: &str) -> Option<CompileError> {
    let max = limits::EXPRESSION_BYTES_MAX;
    (source.len() > max).then(|| {
        let hint = "compute it in steps, with `set`, or in a function of a worker";
        error(
            max,
            format!("the expression has more than {max} bytes"),
            Some(hint.into()),
        )
    })
}
