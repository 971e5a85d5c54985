//! `run: script`: JavaScript with `node`, Python with `python3`, both as the worker finds them in its `PATH`.

use std::path::PathBuf;
use std::sync::Arc;

use millrace_common::RawJson;
use serde::Deserialize;

use super::bounds::Bounds;
use super::leash::{self, Program, search_path};
use super::request::{Inputs, Request, configuration};
use super::room::Room;
use crate::builtin::http;
use crate::builtin::openapi::{Resource, fetch_text};
use crate::{Context, Failure};

/// For messages.
const WHAT: &str = "the script";

/// The definition's `script`.
#[derive(Debug, Deserialize)]
pub(super) struct Script {
    language: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    source: Option<Resource>,
    #[serde(flatten)]
    inputs: Inputs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    JavaScript,
    Python,
}

/// The function.
pub(super) async fn run(
    ctx: Context,
    bounds: Arc<Bounds>,
    request: Request<Script>,
) -> Result<RawJson, Failure> {
    let script = request.process;
    let language = Language::of(&script.language)?;
    let interpreter = find(language.interpreter())?;
    let (arguments, environment) = (script.inputs.arguments()?, script.inputs.environment()?);
    let code = match (script.code, script.source) {
        (Some(code), None) => code,
        (None, Some(source)) => fetch(&ctx, &source).await?,
        _ => return Err(configuration("a script has either `code` or `source`")),
    };
    let _turn = bounds.turn(&ctx).await?;
    let room = Room::new()?;
    let file = room.path().join(language.file_name(&code));
    tokio::fs::write(&file, &code).await?;
    let program = Program {
        what: WHAT,
        path: interpreter,
        arguments: std::iter::once(file.display().to_string())
            .chain(arguments)
            .collect(),
        environment,
        stdin: script.inputs.stdin.0,
    };
    let ended = leash::run(&ctx, &bounds, &room, &program, request.output).await?;
    ended.into_output(WHAT, request.output)
}

/// The code behind a `source`, within the task's time.
async fn fetch(ctx: &Context, source: &Resource) -> Result<String, Failure> {
    let name = format!("the source of {WHAT}");
    http::within_time(ctx, &name, fetch_text(ctx, &source.endpoint, &name)).await
}

impl Language {
    fn of(name: &str) -> Result<Self, Failure> {
        match name {
            "js" | "javascript" => Ok(Self::JavaScript),
            "python" => Ok(Self::Python),
            other => Err(configuration(format!(
                "`{other}` is not a language of scripts: use js or python"
            ))),
        }
    }

    const fn interpreter(self) -> &'static str {
        match self {
            Self::JavaScript => "node",
            Self::Python => "python3",
        }
    }

    /// JavaScript is a module, as the language's standard has it, unless it uses what only CommonJS has.
    fn file_name(self, code: &str) -> &'static str {
        match self {
            Self::Python => "script.py",
            Self::JavaScript if is_common_js(code) => "script.cjs",
            Self::JavaScript => "script.mjs",
        }
    }
}

fn is_common_js(code: &str) -> bool {
    let is_module = |line: &str| {
        let line = line.trim_start();
        ["import ", "import{", "import*", "export "]
            .iter()
            .any(|word| line.starts_with(word))
    };
    let uses = ["require(", "module.exports", "__dirname", "__filename"];
    uses.iter().any(|word| code.contains(word)) && !code.lines().any(is_module)
}

/// An interpreter in the worker's `PATH`.
fn find(name: &str) -> Result<PathBuf, Failure> {
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            configuration(format!(
                "cannot find `{name}` on the worker: install it, or give the worker a PATH that holds it"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javascript_is_a_module_unless_it_uses_commonjs() {
        let name = |code| Language::JavaScript.file_name(code);
        assert_eq!(name("console.log(process.argv)"), "script.mjs");
        assert_eq!(name("import { x } from 'node:fs';"), "script.mjs");
        assert_eq!(name("const fs = require('node:fs')"), "script.cjs");
        assert_eq!(
            name(
                "  import { createRequire } from 'node:module'\nconst require = createRequire(import.meta.url)\nrequire('x')"
            ),
            "script.mjs"
        );
    }

    #[test]
    fn other_languages_and_missing_interpreters_are_named() {
        let text = Language::of("ruby").unwrap_err().to_string();
        assert!(text.starts_with("configuration error 400: `ruby`"), "{text}");
        let text = find("no-such-interpreter").unwrap_err().to_string();
        assert!(
            text.contains("cannot find `no-such-interpreter` on the worker"),
            "{text}"
        );
    }
}
