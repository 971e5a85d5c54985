//! What the stock worker can run.

mod a2a;
mod asyncapi;
pub(crate) mod authenticate;
mod deadline;
mod demo;
mod exchange;
mod grpc;
pub(crate) mod http;
mod json_rpc;
mod mcp;
pub(crate) mod openapi;
mod resource;
mod sse;
#[cfg(test)]
pub(crate) mod testing;

use crate::Function;

/// All built-in functions and call types.
pub(crate) fn functions() -> Vec<Function> {
    vec![
        Function::new("noop:1.0.0", demo::noop).quiet(),
        Function::new("sleep:1.0.0", demo::sleep),
        Function::new("flaky:1.0.0", demo::flaky),
        Function::new("call:http", http::call),
        Function::new("call:openapi", openapi::call),
        Function::new("call:grpc", grpc::call),
        Function::new("call:asyncapi", asyncapi::call),
        Function::new("call:mcp", mcp::call),
        Function::new("call:a2a", a2a::call),
    ]
}
