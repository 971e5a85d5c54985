//! `run`: containers, scripts, shell commands and other workflows.

use std::str::FromStr;

use semver::Version;

use super::core::Parser;
use super::node::{At, Data, Entry, Node};
use super::scope::Vars;
use super::shape;
use crate::model::{Feature, Process, ProcessOutput, Run};
use crate::template::Template;
use crate::value;

const PROCESSES: [&str; 4] = ["container", "script", "shell", "workflow"];
const KEYS: [&str; 6] = ["container", "script", "shell", "workflow", "await", "return"];
const LANGUAGES: [&str; 3] = ["js", "javascript", "python"];

impl Parser<'_> {
    pub(super) fn run(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Run> {
        let fields = self.fields(node, at, "`run`", &KEYS)?;
        let awaited = fields
            .get("await")
            .and_then(|e| self.boolean(&e.node, &at.entry(e)));
        let output = fields
            .get("return")
            .and_then(|e| self.process_output(&e.node, &at.entry(e)));
        let entry = self.exactly_one(&fields, at, "`run`", &PROCESSES)?;
        if let (Some(false), Some(given)) = (awaited, fields.get("return")) {
            let fault = at
                .entry(given)
                .warning("`return` has no effect with `await: false`: the task's output is its input");
            self.report(fault);
        }
        if let ("workflow", Some(given)) = (entry.key.as_str(), fields.get("return")) {
            let fault = at
                .entry(given)
                .warning("`return` has no effect on `run: workflow`: the task's output is the workflow's");
            self.report(
                fault
                    .hint("`return` chooses among the outputs of a process; shape this one with `output.as`"),
            );
        }
        let process = self.process(entry, &at.entry(entry), vars)?;
        Some(Run {
            process,
            awaited: awaited.unwrap_or(true),
            output: output.unwrap_or_default(),
        })
    }

    fn process_output(&mut self, node: &Node, at: &At<'_>) -> Option<ProcessOutput> {
        Some(
            match self.word(node, at, &["stdout", "stderr", "code", "all", "none"])? {
                "stderr" => ProcessOutput::Stderr,
                "code" => ProcessOutput::Code,
                "all" => ProcessOutput::All,
                "none" => ProcessOutput::None,
                _ => ProcessOutput::Stdout,
            },
        )
    }

    fn process(&mut self, entry: &Entry, at: &At<'_>, vars: &Vars) -> Option<Process> {
        match entry.key.as_str() {
            "container" => {
                self.note(Feature::Container, at);
                self.check_lifetime(&entry.node, at);
                self.check_environment(&entry.node, at);
                self.shaped(&entry.node, at, &shape::CONTAINER, vars)
                    .map(Process::Container)
            }
            "script" => {
                self.note(Feature::Script, at);
                self.check_language(&entry.node, at);
                self.check_environment(&entry.node, at);
                self.shaped(&entry.node, at, &shape::SCRIPT, vars)
                    .map(Process::Script)
            }
            "shell" => {
                self.note(Feature::Shell, at);
                self.check_environment(&entry.node, at);
                self.shaped(&entry.node, at, &shape::SHELL, vars)
                    .map(Process::Shell)
            }
            _ => self.child(&entry.node, at, vars),
        }
    }

    fn check_lifetime(&mut self, container: &Node, at: &At<'_>) {
        let Some(lifetime) = container.get("lifetime") else {
            return;
        };
        let at = at.entry(lifetime);
        let cleanup = lifetime.node.get("cleanup").and_then(|e| e.node.text());
        match (cleanup, lifetime.node.get("after")) {
            (Some("eventually"), None) => {
                self.report(
                    at.error("missing key `after` in `lifetime`")
                        .hint("`eventually` needs a duration"),
                );
            }
            (Some("always" | "never"), Some(after)) => {
                let fault = at
                    .entry(after)
                    .error("`after` only goes with `cleanup: eventually`");
                self.report(fault);
            }
            _ => {}
        }
    }

    /// Names that no process can be given.
    fn check_environment(&mut self, process: &Node, at: &At<'_>) {
        let Some(environment) = process.get("environment") else {
            return;
        };
        let at = at.entry(environment);
        for entry in environment.node.entries().into_iter().flatten() {
            if entry.key.is_empty() || entry.key.contains('=') {
                let fault = at
                    .entry(entry)
                    .error(format!("`{}` cannot be the name of a variable", entry.key));
                self.report(fault.hint("a name has at least one character, and no `=`"));
            }
        }
    }

    fn check_language(&mut self, script: &Node, at: &At<'_>) {
        let Some(entry) = script.get("language") else {
            return;
        };
        if let Some(language) = entry.node.text()
            && crate::expression::strip(language).is_none()
            && !LANGUAGES.contains(&language)
        {
            let at = at.entry(entry);
            let fault = at.error_in(&entry.node, format!("unknown script language `{language}`"));
            self.report(fault.hint(super::keys::suggest(language, LANGUAGES, "languages")));
        }
    }

    fn child(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Process> {
        const WHAT: &str = "`workflow`";
        let fields = self.fields(node, at, WHAT, &["namespace", "name", "version", "input"])?;
        let mut label = |key| {
            let entry = self.required(&fields, at, WHAT, key)?;
            self.label_text(&entry.node, &at.entry(entry), key)
        };
        let (namespace, name) = (label("namespace"), label("name"));
        let version = self
            .required(&fields, at, WHAT, "version")
            .and_then(|e| self.child_version(&e.node, &at.entry(e)));
        let input = fields
            .get("input")
            .and_then(|e| self.child_input(&e.node, &at.entry(e), vars));
        let (namespace, name) = (namespace?, name?);
        if self.is_own(&namespace, &name) {
            let fault = at.warning(format!("the workflow runs itself: `{namespace}/{name}`"));
            self.report(fault.hint("make sure that some condition ends the recursion"));
        }
        Some(Process::Workflow {
            namespace,
            name,
            version: version?,
            input,
        })
    }

    fn is_own(&self, namespace: &str, name: &str) -> bool {
        let own = self.head_of_document();
        value::get(own, "namespace").and_then(value::as_str) == Some(namespace)
            && value::get(own, "name").and_then(value::as_str) == Some(name)
    }

    fn child_version(&mut self, node: &Node, at: &At<'_>) -> Option<String> {
        let text = self.constant(node, at, "a version or `latest`")?;
        if text != "latest" && Version::from_str(text).is_err() {
            let fault = at.error_in(node, format!("`{text}` is not a semantic version"));
            self.report(fault.hint("write an exact version such as `1.0.0`, or `latest`"));
            return None;
        }
        Some(text.to_owned())
    }

    fn child_input(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        match node.data {
            Data::Object(_) => Some(self.template(node, at, vars)),
            _ => {
                let hint = "write the members one by one: `name: ${ .name }`";
                self.expected_hint("an object", node, at, hint);
                None
            }
        }
    }
}
