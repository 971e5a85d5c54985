//! Lifecycle events of workflows and tasks, derived from what a commit adds to the history. Off unless configured: each
//! is a message and an entry of the outbox.
//!
//! They have a stream of their own (`MR_LIFECYCLE`), so that a workflow that listens to every event does not hear itself.
//! At least once: an id is the same whenever the same change is told again, and the stream drops repeats for a while.
//! `created` and `started` of a task come with the first entry about it: when it begins to wait, when a worker is heard
//! of, or when it ends.

use millrace_common::event::CloudEvent;
use millrace_common::{DefinitionRef, InstanceKey, RawJson};
use millrace_runtime::config::Lifecycle;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const WORKFLOW: &str = "io.serverlessworkflow.workflow";
const TASK: &str = "io.serverlessworkflow.task";

/// An entry of the history, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    n: u64,
    at: i64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    start: Option<u64>,
    #[serde(default)]
    started_at: Option<i64>,
    #[serde(default)]
    error: Option<Value>,
}

/// Whose events they are.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The instance.
    pub instance: &'a InstanceKey,
    /// What it runs.
    pub definition: &'a DefinitionRef,
}

impl Subject<'_> {
    /// The events of an entry of the history, each with an id that is unique in the instance.
    pub fn of_entry(self, entry: &[u8], wanted: Lifecycle) -> Vec<(String, CloudEvent)> {
        if wanted == Lifecycle::Off {
            return Vec::new();
        }
        let Ok(entry) = serde_json::from_slice::<Entry>(entry) else {
            return Vec::new();
        };
        let found = match (entry.kind.split_once('.'), wanted) {
            (Some(("instance", verb)), _) => self.of_workflow(&entry, verb),
            (Some(("task", verb)), Lifecycle::All) => self.of_task(&entry, verb),
            _ => Vec::new(),
        };
        found.into_iter().flatten().collect()
    }

    /// A task begins to listen, or ends it.
    pub fn of_correlation(self, frame: u32, is_start: bool, at_ms: i64) -> Option<(String, CloudEvent)> {
        let (verb, when) = match is_start {
            true => ("correlation-started", "startedAt"),
            false => ("correlation-completed", "completedAt"),
        };
        let data = json!({"name": self.name(), when: rfc3339(at_ms)});
        self.event(WORKFLOW, verb, format!("{verb}.{frame}"), at_ms, data)
    }

    fn of_workflow(self, entry: &Entry, verb: &str) -> Vec<Option<(String, CloudEvent)>> {
        let verb = match verb {
            "started" | "suspended" | "resumed" | "cancelled" | "faulted" | "completed" => verb,
            "quarantined" => "suspended",
            "retried" => "resumed",
            _ => return Vec::new(),
        };
        let mut data = Map::new();
        data.insert("name".into(), self.name().into());
        data.insert(format!("{verb}At"), rfc3339(entry.at).into());
        match verb {
            "started" => {
                let d = self.definition;
                let reference = json!({"name": d.name, "namespace": d.namespace, "version": d.version});
                data.insert("definition".into(), reference);
            }
            "faulted" => {
                data.insert("error".into(), entry.error.clone().unwrap_or_default());
            }
            "completed" => {
                let (id, namespace) = (self.instance.id(), self.instance.namespace());
                data.insert(
                    "outputUri".into(),
                    format!("/api/v1/instances/{id}?namespace={namespace}").into(),
                );
            }
            _ => {}
        }
        let id = format!("{}.{verb}", entry.n);
        vec![self.event(WORKFLOW, verb, id, entry.at, data.into())]
    }

    fn of_task(self, entry: &Entry, verb: &str) -> Vec<Option<(String, CloudEvent)>> {
        let (Some(task), Some(start)) = (&entry.task, entry.start) else {
            return Vec::new();
        };
        if verb == "skipped" {
            return Vec::new();
        }
        let one = |verb: &str, at: i64, id: String| {
            let mut data = Map::new();
            data.insert("workflow".into(), self.name().into());
            data.insert("task".into(), task.as_str().into());
            data.insert(format!("{verb}At"), rfc3339(at).into());
            if verb == "faulted" {
                data.insert("error".into(), entry.error.clone().unwrap_or_default());
            }
            self.event(TASK, verb, id, at, data.into())
        };
        let began = entry.started_at.unwrap_or(entry.at);
        let mut found = vec![
            one("created", began, format!("t{start}.created")),
            one("started", began, format!("t{start}.started")),
        ];
        match verb {
            "completed" | "faulted" | "cancelled" | "retried" => {
                found.push(one(verb, entry.at, format!("{}.{verb}", entry.n)));
            }
            _ => {}
        }
        found
    }

    /// `{workflow}-{id}.{namespace}`.
    fn name(self) -> String {
        let (name, id) = (&self.definition.name, self.instance.id());
        format!("{name}-{id}.{}", self.instance.namespace())
    }

    fn event(
        self,
        prefix: &str,
        verb: &str,
        id: String,
        at_ms: i64,
        data: Value,
    ) -> Option<(String, CloudEvent)> {
        let d = self.definition;
        let event = json!({
            "specversion": "1.0",
            "id": format!("{}.{id}", self.instance),
            "source": format!("/millrace/{}/{}", d.namespace, d.name),
            "type": format!("{prefix}.{verb}.v1"),
            "time": rfc3339(at_ms),
            "datacontenttype": "application/json",
            "data": data,
        });
        let event = RawJson::encode(&event)
            .ok()
            .and_then(|raw| CloudEvent::from_raw(raw).ok())?;
        Some((id, event))
    }
}

fn rfc3339(ms: i64) -> String {
    millrace_engine::view::rfc3339(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(entry: &Value, wanted: Lifecycle) -> Vec<(String, Value)> {
        let instance: InstanceKey = "samples/ix7".parse().unwrap();
        let definition: DefinitionRef = "samples/order@1.0.0".parse().unwrap();
        let subject = Subject {
            instance: &instance,
            definition: &definition,
        };
        let found = subject.of_entry(entry.to_string().as_bytes(), wanted);
        let mut ids: Vec<_> = found.iter().map(|(_, e)| e.id.clone()).collect();
        ids.dedup();
        assert_eq!(ids.len(), found.len());
        found
            .into_iter()
            .map(|(_, e)| (e.kind.clone(), e.raw.decode::<Value>().unwrap()["data"].clone()))
            .collect()
    }

    #[test]
    fn entries_of_the_workflow_have_the_shapes_of_the_specification() {
        let at = 1_767_225_600_000_i64;
        let started = json!({"n": 1, "at": at, "type": "instance.started"});
        let found = kinds(&started, Lifecycle::Workflow);
        assert_eq!(
            found,
            [(
                "io.serverlessworkflow.workflow.started.v1".to_owned(),
                json!({"name": "order-ix7.samples", "startedAt": "2026-01-01T00:00:00.000Z",
                "definition": {"name": "order", "namespace": "samples", "version": "1.0.0"}})
            )]
        );
        let faulted =
            json!({"n": 4, "at": at, "type": "instance.faulted", "error": {"type": "x", "status": 500}});
        assert_eq!(kinds(&faulted, Lifecycle::All)[0].1["error"]["status"], 500);
        let completed = json!({"n": 5, "at": at, "type": "instance.completed"});
        assert_eq!(
            kinds(&completed, Lifecycle::All)[0].1["outputUri"],
            "/api/v1/instances/ix7?namespace=samples"
        );
        assert!(kinds(&completed, Lifecycle::Off).is_empty());
    }

    #[test]
    fn entries_of_a_task_tell_that_it_began_and_how_it_ended() {
        let entry = json!({"n": 2, "at": 5, "type": "task.completed", "task": "/do/0/a", "name": "a", "start": 1, "startedAt": 3});
        assert!(kinds(&entry, Lifecycle::Workflow).is_empty());
        let found = kinds(&entry, Lifecycle::All);
        let names: Vec<_> = found
            .iter()
            .map(|(k, _)| k.rsplit('.').nth(1).unwrap().to_owned())
            .collect();
        assert_eq!(names, ["created", "started", "completed"]);
        assert_eq!(
            found[2].1,
            json!({"workflow": "order-ix7.samples", "task": "/do/0/a", "completedAt": "1970-01-01T00:00:00.005Z"})
        );
    }
}
