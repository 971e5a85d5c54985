//! `millrace demo`: runs a workflow on a stack of its own, kills the worker that runs its slow step, and checks from the
//! history what came of it. Succeeds only when everything it tells was really seen.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::apply;
use super::start::{self, Order};
use crate::args::DemoArgs;
use crate::client::Client;
use crate::entry;
use crate::failure::{Exit, Failure, Outcome};
use crate::follow::{History, Target, is_ended};
use crate::limit::Limit;
use crate::output::{print, text};
use crate::source;
use crate::stack::child::Child;
use crate::stack::{Dir, Plan, Stack, tell_processes, while_served};
use crate::stop::Stop;
use crate::terminal::Style;

/// What is run unless told otherwise: shown by its name, and here wherever the command is run.
const FILE: &str = "examples/order-flaky.yaml";
const TEXT: &str = include_str!("../../../examples/order-flaky.yaml");
/// Silence after which a step goes to another worker: short, so that nobody waits long.
const ACK_WAIT: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// The worker that was killed.
#[derive(Debug)]
struct Kill {
    worker: String,
    pid: i32,
    task: String,
    at_ms: i64,
    status: ExitStatus,
}

pub(super) async fn run(args: &DemoArgs) -> Outcome {
    let style = Style::stderr();
    let file = args.file.as_deref().unwrap_or_else(|| Path::new(FILE));
    let source = match args.file {
        Some(_) => source::read(file)?,
        None => source::checked(file, TEXT.to_owned())?,
    };
    eprintln!(
        "{}",
        style.bold("starting nats-server, redis-server, a coordinator and two workers")
    );
    let plan = Plan {
        workers: 2,
        port: None,
        ack_wait: ACK_WAIT,
        token: None,
    };
    tell_processes();
    let mut stop = Stop::new()?;
    let mut slot = None;
    let telling = async {
        let stack = slot.insert(Stack::start(&plan, Dir::temporary()?).await?);
        let client = stack.client()?;
        let telling = tell(&mut stack.workers, &client, file, &source);
        while_served(&mut stack.coordinator, telling).await
    };
    let told = tokio::select! {
        told = telling => told,
        failure = stop.told() => Err(failure),
    };
    if let Some(stack) = slot {
        stack.kill().await;
    }
    told
}

async fn tell(workers: &mut [Child], client: &Client, file: &Path, source: &source::Checked) -> Outcome {
    let (style, limit) = (Style::stderr(), Limit::after(None));
    apply::apply(client, &limit, file, source).await?;
    let order = Order {
        id: start::new_id(),
        definition: json!({"namespace": source.namespace, "name": source.name, "version": source.version}),
        input: Value::Null,
        labels: json!({}),
    };
    eprintln!("{} {}", style.bold("running"), file.display());
    let started = start::start(client, &limit, &order).await?;
    let (view, entries, kill) = watch(workers, client, &started.target).await?;
    let findings = findings(&view, &entries, kill.as_ref());
    eprintln!("{}", style.bold("what was seen"));
    for finding in &findings {
        match finding {
            Ok(seen) => eprintln!("  {} {seen}", style.green("✓")),
            Err(missing) => eprintln!("  {} {missing}", style.red("✗")),
        }
    }
    eprint!("{}", executions(&entries));
    if findings.iter().any(Result::is_err) {
        return Err(Failure::new(
            Exit::Failed,
            "the demo did not show what it promises",
        ));
    }
    eprintln!("{}", style.bold("result"));
    print(&view["output"].to_string())
}

/// Shows the history as it grows, and kills the worker of the first step that runs long.
async fn watch(
    workers: &mut [Child],
    client: &Client,
    target: &Target,
) -> Outcome<(Value, Vec<Value>, Option<Kill>)> {
    let (path, query) = target.path("");
    let path = format!("{path}{}", query.text());
    let mut history = History::new(target.clone());
    let (mut entries, mut killed) = (Vec::<Value>::new(), None);
    let end = Instant::now() + LIMIT;
    loop {
        let view = client.get(&path).await?;
        for new in history.news(client).await.map_err(|e| client.failure(e))? {
            let base = entries
                .first()
                .map_or_else(|| entry::base_ms(&new), entry::base_ms);
            eprintln!("{}", entry::line(&new, base, Style::stderr()));
            if killed.is_none() && new["type"] == "task.started" {
                killed = kill(workers, &new).await?;
            }
            entries.push(new);
        }
        if is_ended(&view) {
            return Ok((view, entries, killed));
        }
        if Instant::now() >= end {
            return Err(Failure::new(
                Exit::Failed,
                format!("the instance has not ended within {LIMIT:?}"),
            ));
        }
        sleep(LOOK).await;
    }
}

/// Kills exactly the worker that an entry names.
async fn kill(workers: &mut [Child], entry: &Value) -> Outcome<Option<Kill>> {
    let (worker, task) = (text(entry, "/worker"), text(entry, "/name"));
    let Some(child) = workers.iter_mut().find(|w| w.name() == worker) else {
        return Ok(None);
    };
    let Some(pid) = child.pid() else { return Ok(None) };
    child.kill();
    let at_ms = now_ms();
    let status = child.ended().await.map_err(anyhow::Error::from)?;
    let line = format!("kill -9 {pid}: {worker}, in the middle of {task}");
    eprintln!("{:>10} {}", "", Style::stderr().red(&format!("⚡ {line}")));
    Ok(Some(Kill {
        worker,
        pid: pid.as_raw(),
        task,
        at_ms,
        status,
    }))
}

/// Everything that the demo promises: what was seen, or what is missing.
fn findings(view: &Value, entries: &[Value], kill: Option<&Kill>) -> Vec<Result<String, String>> {
    vec![
        failed_twice(entries),
        was_killed(kill),
        taken_over(entries, kill),
        finished_once(entries, kill),
        match view["status"].as_str() {
            Some("completed") => Ok("the workflow completed".into()),
            status => Err(format!(
                "the workflow is {}, not completed",
                status.unwrap_or("unknown")
            )),
        },
    ]
}

/// One step failed on two attempts and succeeded on the third.
fn failed_twice(entries: &[Value]) -> Result<String, String> {
    let step = |e: &&Value| e["worker"].is_string();
    let of = |kind: &'static str| entries.iter().filter(move |e| e["type"] == kind).filter(step);
    let mut failures: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for failed in of("task.faulted") {
        failures
            .entry(text(failed, "/name"))
            .or_default()
            .extend(failed["attempt"].as_u64());
    }
    let third = |name: &str| of("task.completed").any(|e| e["name"] == name && e["attempt"] == 3);
    let found = failures
        .iter()
        .find(|(name, attempts)| **attempts == [1, 2] && third(name));
    found
        .map(|(name, _)| format!("{name} failed on attempts 1 and 2 and completed on attempt 3"))
        .ok_or_else(|| {
            format!("no step that failed on attempts 1 and 2 and completed on 3; failures: {failures:?}")
        })
}

fn was_killed(kill: Option<&Kill>) -> Result<String, String> {
    match kill {
        Some(k) if k.status.signal() == Some(9) => Ok(format!(
            "{} (pid {}) was killed with SIGKILL while it ran {}",
            k.worker, k.pid, k.task
        )),
        Some(k) => Err(format!("{} ended with {}, not by SIGKILL", k.worker, k.status)),
        None => Err("no step ran long enough for its worker to be killed".into()),
    }
}

fn taken_over(entries: &[Value], kill: Option<&Kill>) -> Result<String, String> {
    let k = kill.ok_or("nobody was killed, so nothing was taken over")?;
    let of = |kind: &str| entries.iter().find(|e| e["type"] == kind && e["name"] == *k.task);
    let over = of("task.takenOver").ok_or_else(|| format!("nobody took {} over", k.task))?;
    let (worker, at) = (text(over, "/worker"), over["at"].as_i64().unwrap_or_default());
    let ended = of("task.completed").ok_or_else(|| format!("{} did not complete", k.task))?;
    if worker == k.worker || text(ended, "/worker") != worker {
        return Err(format!(
            "{} was taken over by {worker} and completed on {}",
            k.task,
            text(ended, "/worker")
        ));
    }
    Ok(format!(
        "{worker} took {} over {} ms after the kill, and completed it",
        k.task,
        at - k.at_ms
    ))
}

/// Every finished task has one completion; every step but the killed one was delivered once.
fn finished_once(entries: &[Value], kill: Option<&Kill>) -> Result<String, String> {
    let mut completions: BTreeMap<String, usize> = BTreeMap::new();
    for done in entries.iter().filter(|e| e["type"] == "task.completed") {
        *completions.entry(text(done, "/task")).or_default() += 1;
    }
    if let Some((task, n)) = completions.iter().find(|(_, n)| **n != 1) {
        return Err(format!("{task} completed {n} times"));
    }
    let killed = kill.map(|k| k.task.as_str());
    let again = results(entries).find(|e| e["delivery"].as_u64() != Some(1) && e["name"].as_str() != killed);
    match again {
        Some(e) => Err(format!(
            "{} was delivered {} times",
            text(e, "/name"),
            text(e, "/delivery")
        )),
        None => Ok(format!(
            "each of {} finished tasks completed once; no step but {} was delivered twice",
            completions.len(),
            killed.unwrap_or("none")
        )),
    }
}

/// Who ran what, from the results in the history.
fn executions(entries: &[Value]) -> String {
    let mut by_worker: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for result in results(entries) {
        let attempt = match result["attempt"].as_u64() {
            Some(n) if n > 1 => format!(" (attempt {n})"),
            _ => String::new(),
        };
        let failed = if result["type"] == "task.faulted" {
            " failed"
        } else {
            ""
        };
        let what = format!("{}{attempt}{failed}", text(result, "/name"));
        by_worker.entry(text(result, "/worker")).or_default().push(what);
    }
    let line = |(worker, ran): (String, Vec<String>)| {
        format!(
            "    {worker} reported {} executions: {}\n",
            ran.len(),
            ran.join(", ")
        )
    };
    by_worker.into_iter().map(line).collect()
}

fn results(entries: &[Value]) -> impl Iterator<Item = &Value> {
    let is_result = |e: &&Value| e["type"] == "task.completed" || e["type"] == "task.faulted";
    entries
        .iter()
        .filter(is_result)
        .filter(|e| e["worker"].is_string())
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, name: &str, worker: &str, attempt: u64, delivery: u64) -> Value {
        json!({"type": kind, "at": 5_000, "task": format!("/do/0/{name}"), "name": name, "worker": worker,
            "attempt": attempt, "delivery": delivery})
    }

    fn story() -> (Vec<Value>, Kill) {
        let entries = vec![
            step("task.faulted", "charge", "w-1", 1, 1),
            step("task.faulted", "charge", "w-2", 2, 1),
            step("task.completed", "charge", "w-1", 3, 1),
            step("task.started", "pack", "w-1", 1, 1),
            step("task.takenOver", "pack", "w-2", 1, 2),
            step("task.completed", "pack", "w-2", 1, 2),
        ];
        let status = ExitStatus::from_raw(9);
        (
            entries,
            Kill {
                worker: "w-1".into(),
                pid: 1,
                task: "pack".into(),
                at_ms: 2_000,
                status,
            },
        )
    }

    fn missing(view: &Value, entries: &[Value], kill: Option<&Kill>) -> Vec<String> {
        findings(view, entries, kill)
            .into_iter()
            .filter_map(Result::err)
            .collect()
    }

    #[test]
    fn a_whole_story_has_nothing_missing() {
        let (entries, kill) = story();
        assert_eq!(
            missing(&json!({"status": "completed"}), &entries, Some(&kill)),
            Vec::<String>::new()
        );
        assert!(taken_over(&entries, Some(&kill)).unwrap().contains("3000 ms"));
    }

    #[test]
    fn whatever_was_not_seen_is_named() {
        let done = json!({"status": "completed"});
        let (entries, kill) = story();
        assert_eq!(
            missing(&done, &entries, None).len(),
            3,
            "nobody killed, nothing taken over, a delivery that nothing explains"
        );
        assert_eq!(
            missing(&json!({"status": "faulted"}), &entries, Some(&kill)).len(),
            1
        );
        assert_eq!(
            missing(&done, &entries[1..], Some(&kill)).len(),
            1,
            "only one failed attempt"
        );
        let mut twice = entries.clone();
        twice.push(entries[2].clone());
        assert_eq!(
            missing(&done, &twice, Some(&kill)),
            ["/do/0/charge completed 2 times"]
        );
        let mut redelivered = entries.clone();
        redelivered[2]["delivery"] = 2.into();
        assert_eq!(
            missing(&done, &redelivered, Some(&kill)),
            ["charge was delivered 2 times"]
        );
    }
}
