//! Fills in what only the worker may know: expressions with secrets, right before the step's function runs.

use std::collections::{BTreeMap, HashSet};

use millrace_common::{ErrorKind, Hole, Late, RawJson};
use millrace_dsl::expression::{EvalEnv, Expression, Scope};
use millrace_dsl::{Value, value};

use crate::builtin::authenticate::{Authorization, Policy};
use crate::{Context, Failure};

const SECRETS: &str = "secrets";
const AUTHORIZATION: &str = "authorization";

/// Where built-in calls have their authentication: what `$authorization` is about.
const AUTHENTICATIONS: [&str; 4] = [
    "/authentication",
    "/service/authentication",
    "/transport/http/endpoint/authentication",
    "/server/authentication",
];

/// The input with every place filled.
///
/// # Errors
/// `authorization` when a secret is missing, `expression` when an expression fails; what fails while authenticating, for
/// expressions with `$authorization`.
pub(crate) async fn fill(ctx: Context, late: Late) -> Result<RawJson, Failure> {
    if late.holes.is_empty() {
        return Ok(ctx.step().input.clone());
    }
    let filling = Filling::new(&ctx, late)?;
    let (input, filling) = blocking(move || filling.fill_secrets()).await?;
    if filling.rest.is_empty() {
        return Ok(value::to_raw(&input));
    }
    let authorization = authorization(&ctx, &input).await?;
    let input = blocking(move || filling.fill_rest(input, authorization.as_ref())).await?;
    Ok(value::to_raw(&input))
}

/// Expressions may take a while, and secrets are read from files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::runtime(format!("cannot fill in the input: {e}")))?
}

/// `None` when the call has no authentication, or it is one that waits for a challenge.
async fn authorization(ctx: &Context, input: &Value) -> Result<Option<Authorization>, Failure> {
    let found = AUTHENTICATIONS.iter().find_map(|at| get(input, at));
    let Some(policy) = found.filter(|v| !matches!(v, Value::Null)) else {
        return Ok(None);
    };
    let policy: Policy = value::to_raw(policy).decode()?;
    match policy.authorization(ctx).await? {
        Some(authorization) => Ok(Some(authorization)),
        None => Err(Failure::new(
            ErrorKind::Configuration,
            "`$authorization` is not known before a call with `digest`: its answer depends on the server's challenge",
        )),
    }
}

struct Filling {
    ctx: Context,
    late: Late,
    /// Compiled holes that use `$authorization`; `late.holes` by number.
    rest: Vec<(usize, Expression)>,
    input: Value,
    variables: BTreeMap<String, Value>,
}

impl Filling {
    fn new(ctx: &Context, late: Late) -> Result<Self, Failure> {
        let read = |raw: &RawJson| value::from_raw(raw).map_err(Failure::from_problem);
        let variables = late
            .variables
            .iter()
            .map(|(name, raw)| Ok((name.clone(), read(raw)?)));
        Ok(Self {
            ctx: ctx.clone(),
            rest: Vec::new(),
            input: late.input.as_ref().map_or(Ok(Value::Null), read)?,
            variables: variables.collect::<Result<_, Failure>>()?,
            late,
        })
    }

    fn fill_secrets(mut self) -> Result<(Value, Self), Failure> {
        let mut filled = value::from_raw(&self.ctx.step().input).map_err(Failure::from_problem)?;
        let names = [SECRETS, AUTHORIZATION].into_iter().map(str::to_owned);
        let scope = Scope(self.variables.keys().cloned().chain(names).collect());
        for (number, hole) in self.late.holes.iter().enumerate() {
            let expression = Expression::compile(&hole.expression, &scope).map_err(|e| {
                let detail = format!(
                    "`{}` cannot be compiled by this worker: {}",
                    hole.expression, e.message
                );
                Failure::new(ErrorKind::Expression, detail)
            })?;
            if expression.variables().iter().any(|v| v == AUTHORIZATION) {
                self.rest.push((number, expression));
            } else {
                let found = self.evaluate(hole, &expression, None)?;
                filled = put(filled, &hole.at, found)?;
            }
        }
        Ok((filled, self))
    }

    fn fill_rest(self, mut filled: Value, authorization: Option<&Authorization>) -> Result<Value, Failure> {
        let authorization = authorization.map(|a| {
            value::object([
                ("scheme", value::string(a.scheme.as_str())),
                ("parameter", value::string(a.parameter.as_str())),
            ])
        });
        for (number, expression) in &self.rest {
            let hole = &self.late.holes[*number];
            if AUTHENTICATIONS.iter().any(|place| hole.at.starts_with(place)) {
                let detail = format!(
                    "`{}`: an authentication cannot use `$authorization`",
                    hole.expression
                );
                return Err(Failure::new(ErrorKind::Configuration, detail));
            }
            let found = self.evaluate(hole, expression, authorization.as_ref())?;
            filled = put(filled, &hole.at, found)?;
        }
        Ok(filled)
    }

    fn evaluate(
        &self,
        hole: &Hole,
        expression: &Expression,
        authorization: Option<&Value>,
    ) -> Result<Value, Failure> {
        let secrets = self.secrets(hole)?;
        let mut lookup = |name: &str| match name {
            SECRETS => Some(secrets.clone()),
            AUTHORIZATION => authorization.cloned(),
            name => self.variables.get(name).cloned(),
        };
        let found = expression.evaluate_with(&self.input, &mut lookup, &EvalEnv::at(self.late.now_ms));
        // jq shows values in its messages, perhaps cut: no mask would recognise those.
        let found = found.map_err(|_told| {
            let detail = format!(
                "the expression `{}` failed; its values are not shown because it uses secrets",
                hole.expression
            );
            Failure::new(ErrorKind::Expression, detail)
        })?;
        // What was made of a secret (its Base64, say) is as secret as the secret itself.
        match value::as_str(&found) {
            Some(text) => self.conceal(text),
            None => self.conceal_parts(&found, hole),
        }
        Ok(found)
    }

    fn conceal(&self, text: &str) {
        if !self.ctx.knows_as_secret(text) {
            self.ctx.conceal(text);
        }
    }

    /// The texts of an object or array, except for those that stand in the definition or its data: they are stored anyway,
    /// and hiding them would spoil outputs.
    fn conceal_parts(&self, found: &Value, hole: &Hole) {
        if !matches!(found, Value::Arr(_) | Value::Obj(_)) {
            return;
        }
        let mut stored = HashSet::new();
        std::iter::once(&self.input)
            .chain(self.variables.values())
            .for_each(|value| texts(value, &mut stored));
        let mut made = HashSet::new();
        texts(found, &mut made);
        for text in made.difference(&stored) {
            if !hole
                .expression
                .contains(&value::to_json_string(&value::string(*text)))
            {
                self.conceal(text);
            }
        }
    }

    fn secrets(&self, hole: &Hole) -> Result<Value, Failure> {
        let member = |name: &String| {
            Ok((
                value::string(name.as_str()),
                value::from_serde(self.ctx.secret(name)?),
            ))
        };
        let members = hole.secrets.iter().map(member).collect::<Result<_, Failure>>()?;
        Ok(Value::obj(members))
    }
}

/// All texts in a value, without keys.
fn texts<'v>(value: &'v Value, into: &mut HashSet<&'v str>) {
    match value {
        Value::Arr(items) => items.iter().for_each(|v| texts(v, into)),
        Value::Obj(members) => members.iter().for_each(|(_, v)| texts(v, into)),
        other => into.extend(value::as_str(other)),
    }
}

fn steps(pointer: &str) -> impl Iterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|s| s.replace("~1", "/").replace("~0", "~"))
}

fn get<'v>(root: &'v Value, pointer: &str) -> Option<&'v Value> {
    steps(pointer).try_fold(root, |value, key| value::get(value, &key))
}

/// The value with another one at a place.
fn put(root: Value, pointer: &str, found: Value) -> Result<Value, Failure> {
    let path: Vec<String> = steps(pointer).collect();
    put_at(root, &path, found).ok_or_else(|| {
        Failure::runtime(format!(
            "the step's input has no place `{pointer}` to be filled in"
        ))
    })
}

fn put_at(root: Value, path: &[String], found: Value) -> Option<Value> {
    let Some((key, rest)) = path.split_first() else {
        return Some(found);
    };
    match &root {
        Value::Obj(members) => {
            let mut members = (**members).clone();
            let key = value::string(key.as_str());
            let inner = members.get(&key).cloned();
            let filled = match inner {
                Some(inner) => put_at(inner, rest, found)?,
                None if rest.is_empty() => found,
                None => return None,
            };
            members.insert(key, filled);
            Some(Value::obj(members))
        }
        Value::Arr(items) => {
            let at: usize = key.parse().ok()?;
            let mut items: Vec<Value> = items.iter().cloned().collect();
            let inner = items.get(at)?.clone();
            items[at] = put_at(inner, rest, found)?;
            Some(items.into_iter().collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
