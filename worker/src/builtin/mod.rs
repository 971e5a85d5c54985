//! What the stock worker can run.

pub(crate) mod authenticate;
mod demo;
pub(crate) mod http;
pub(crate) mod openapi;

use crate::Function;

/// All built-in functions and call types.
pub(crate) fn functions() -> Vec<Function> {
    vec![
        Function::new("noop:1.0.0", demo::noop).quiet(),
        Function::new("sleep:1.0.0", demo::sleep),
        Function::new("flaky:1.0.0", demo::flaky),
        Function::new("call:http", http::call),
        Function::new("call:openapi", openapi::call),
    ]
}
