//! Tests of expressions as a whole: what ordinary ones yield, what is said about wrong ones, and that hostile ones
//! end in time.

mod hostile;
mod ordinary;
mod wrong;

use super::{EvalEnv, Expression, Scope};
use crate::value;

/// 2001-09-09T01:46:40.123Z.
const NOW_MS: i64 = 1_000_000_000_123;

/// The variables of the tests.
fn scope() -> Scope {
    Scope(
        ["context", "input", "secrets", "task", "workflow", "x"]
            .map(String::from)
            .to_vec(),
    )
}

/// Result as JSON, or the detail of the problem.
fn evaluate(source: &str, input: &str) -> Result<String, String> {
    let expression = Expression::compile(source, &scope()).map_err(|e| format!("{e:?}"))?;
    let mut lookup = |name: &str| match name {
        "context" => value::parse(r#"{"user":{"id":7,"name":"Ann"},"items":[1,2,3]}"#).ok(),
        "x" => Some(value::number_i64(5)),
        _ => None,
    };
    let input = value::parse(input).map_err(|p| p.to_string())?;
    let result = expression.evaluate_with(&input, &mut lookup, &EvalEnv::at(NOW_MS));
    result
        .map(|v| value::to_json_string(&v))
        .map_err(|p| p.detail.unwrap_or_default())
}
