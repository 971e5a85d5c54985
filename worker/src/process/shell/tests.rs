//! Real processes of this machine.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_runtime::config::WorkerConfig;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::*;

/// Far above what any of these takes.
const LIMIT: Duration = Duration::from_secs(30);

fn bounds(settings: &[(&str, &str)]) -> Arc<Bounds> {
    let source: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
    Arc::new(Bounds::new(
        &WorkerConfig::read(&source, "default").unwrap().processes,
    ))
}

fn context(deadline: Option<Duration>) -> Context {
    let mut step = Context::detached("run:shell", RawJson::null()).step().clone();
    step.deadline_ms = deadline.map(|time| {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
        i64::try_from(at.as_millis()).unwrap()
    });
    Context::for_step(step)
}

async fn run_with(ctx: &Context, bounds: &Arc<Bounds>, request: Value) -> Result<Value, String> {
    let request = serde_json::from_value(request).unwrap();
    let ran = tokio::time::timeout(LIMIT, run(ctx.clone(), bounds.clone(), request));
    let output = ran.await.expect("the process ends in time");
    output.map(|o| o.decode().unwrap()).map_err(|f| f.to_string())
}

async fn shell(command: &str) -> Result<Value, String> {
    let request = json!({"process": {"command": command}});
    run_with(&context(None), &bounds(&[]), request).await
}

/// A file outside of the private directory, for what a process has to say after its end.
struct Note(PathBuf);

impl Note {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("millrace-note-{}", millrace_runtime::random::nonce())))
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }

    /// The number in it, once there is one.
    async fn pid(&self) -> Pid {
        let read = || std::fs::read_to_string(&self.0).ok()?.trim().parse().ok();
        eventually(read, |pid| pid.map(Pid::from_raw)).await
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

async fn eventually<T, R>(mut look: impl FnMut() -> T, found: impl Fn(T) -> Option<R>) -> R {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = found(look()) {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Gone, or a zombie that nobody has asked about yet.
fn is_gone(pid: Pid) -> bool {
    if kill(pid, None).is_err() {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_none_or(|rest| rest.trim_start().starts_with('Z'))
}

async fn gone(pid: Pid) {
    eventually(|| is_gone(pid), |gone| gone.then_some(())).await;
}

#[tokio::test]
async fn command_arguments_stdin_and_environment_reach_the_shell() {
    let request = json!({
        "process": {
            "command": "input=$(cat)\necho \"STDIN was: $input\"\necho \"ARGS are $1 $2, $#\"; echo \"$GREETING $N\"",
            "stdin": "Hello World",
            "arguments": ["Foo", "two words", {"a": 1}],
            "environment": {"GREETING": "hi", "N": 7},
        },
    });
    let output = run_with(&context(None), &bounds(&[]), request).await;
    assert_eq!(
        output.unwrap(),
        "STDIN was: Hello World\nARGS are Foo two words, 3\nhi 7\n"
    );
}

#[tokio::test]
async fn the_environment_is_cleared_and_the_directory_private_and_gone() {
    let output = shell("env | cut -d= -f1 | sort | tr '\\n' ' '; pwd; ls -ld .. | cut -c1-10; touch x")
        .await
        .unwrap();
    let lines: Vec<&str> = output.as_str().unwrap().lines().collect();
    let (names, dir) = lines[0].split_once('/').unwrap();
    let unexpected: Vec<_> = names
        .split_whitespace()
        .filter(|n| !["HOME", "LANG", "OLDPWD", "PATH", "PWD", "SHLVL", "TMPDIR", "_"].contains(n))
        .collect();
    assert_eq!(unexpected, [""; 0]);
    assert_eq!(lines[1], "drwx------");
    let dir = PathBuf::from(format!("/{dir}"));
    assert!(dir.ends_with("work") && !dir.exists(), "{}", dir.display());
}

#[tokio::test]
async fn another_exit_code_is_an_error_with_the_end_of_stderr() {
    let error = shell("echo out; echo 'no such thing' >&2; exit 3")
        .await
        .unwrap_err();
    assert_eq!(
        error,
        "runtime error 500: the shell command ended with exit code 3: no such thing"
    );
    let error = shell("kill -9 $$").await.unwrap_err();
    assert!(error.contains("exit code 137 (ended by signal 9)"), "{error}");
    for (output, expected) in [
        ("code", json!(3)),
        ("all", json!({"code": 3, "stdout": "o", "stderr": "e"})),
    ] {
        let request = json!({"process": {"command": "printf o; printf e >&2; exit 3"}, "return": output});
        let got = run_with(&context(None), &bounds(&[]), request).await;
        assert_eq!(got.unwrap(), expected);
    }
}

#[tokio::test]
async fn what_a_command_leaves_in_the_background_ends_with_it() {
    let note = Note::new();
    let output = shell(&format!("sleep 1000 & echo $! > {}; echo done", note.text())).await;
    assert_eq!(output.unwrap(), "done\n");
    gone(note.pid().await).await;
}

#[tokio::test]
async fn a_cancelled_process_is_asked_to_end_with_its_group() {
    let (ctx, bounds, child, told) = (context(None), bounds(&[]), Note::new(), Note::new());
    let command = format!(
        "trap 'echo 1 > {}; exit 0' TERM; sleep 1000 & echo $! > {}; wait",
        told.text(),
        child.text()
    );
    let running = run_with(&ctx, &bounds, json!({"process": {"command": command}}));
    let cancel = async {
        let pid = child.pid().await;
        ctx.cancel();
        pid
    };
    let (result, pid) = tokio::join!(running, cancel);
    assert_eq!(result.unwrap_err(), "cancelled");
    told.pid().await;
    gone(pid).await;
}

#[tokio::test]
async fn a_process_that_ignores_the_request_is_killed_at_its_deadline() {
    let (ctx, child) = (context(Some(Duration::from_millis(500))), Note::new());
    let command = format!(
        "trap '' TERM; echo $$ > {}; while :; do sleep 1; done",
        child.text()
    );
    let error = run_with(&ctx, &bounds(&[]), json!({"process": {"command": command}}))
        .await
        .unwrap_err();
    assert!(
        error.starts_with("timeout error 408: the shell command did not end"),
        "{error}"
    );
    assert!(error.contains("until its task's deadline"), "{error}");
    gone(child.pid().await).await;
}

#[tokio::test]
async fn without_a_deadline_the_workers_bound_counts() {
    let bounds = bounds(&[("MILLRACE_PROCESS_TIME", "1s")]);
    let error = run_with(
        &context(None),
        &bounds,
        json!({"process": {"command": "sleep 1000"}}),
    )
    .await;
    let error = error.unwrap_err();
    assert!(
        error.contains("within 1000 ms") && error.contains("MILLRACE_PROCESS_TIME"),
        "{error}"
    );
}

#[tokio::test]
async fn too_much_output_is_an_error_and_ends_the_process() {
    let error = shell("yes | head -c 600000; sleep 1000").await.unwrap_err();
    assert!(error.contains("wrote more than 524288 bytes"), "{error}");
    // Of a stream that is not returned, any amount may be written.
    let output = shell("yes | head -c 3000000 >&2; echo fine").await;
    assert_eq!(output.unwrap(), "fine\n");
}

#[tokio::test]
async fn memory_is_bounded() {
    let request = || {
        let command = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}";
        json!({"process": {"command": command}})
    };
    let small = bounds(&[("MILLRACE_PROCESS_MEMORY", "32MiB")]);
    let error = run_with(&context(None), &small, request()).await.unwrap_err();
    assert!(error.starts_with("runtime error 500"), "{error}");
    let unbounded = bounds(&[("MILLRACE_PROCESS_MEMORY", "0")]);
    let output = run_with(&context(None), &unbounded, request()).await;
    assert_eq!(output.unwrap(), "100000000\n");
}

#[tokio::test]
async fn no_more_processes_run_than_the_worker_allows() {
    let bounds = bounds(&[("MILLRACE_PROCESS_COUNT", "1")]);
    let note = Note::new();
    let command = format!(
        "test ! -e {0} && touch {0} && sleep 0.1 && rm {0} && echo alone",
        note.text()
    );
    let request = || json!({"process": {"command": command}});
    let contexts = [context(None), context(None), context(None)];
    let runs = contexts.iter().map(|ctx| run_with(ctx, &bounds, request()));
    for output in futures_util::future::join_all(runs).await {
        assert_eq!(output.unwrap(), "alone\n");
    }
    let late = context(Some(Duration::from_millis(50)));
    let held = bounds.turn(&late).await.unwrap();
    let error = run_with(&late, &bounds, request()).await.unwrap_err();
    assert!(error.contains("MILLRACE_PROCESS_COUNT"), "{error}");
    drop(held);
}

#[tokio::test]
async fn names_and_values_that_no_process_can_have_are_refused() {
    for process in [
        json!({"command": "true", "environment": {"A=B": 1}}),
        json!({"command": "true", "environment": {"A": "x\u{0}"}}),
        json!({"command": "true", "arguments": ["x\u{0}"]}),
        json!({"command": "true\u{0}"}),
    ] {
        let error = run_with(&context(None), &bounds(&[]), json!({"process": process}))
            .await
            .unwrap_err();
        assert!(error.starts_with("configuration error 400"), "{error}");
    }
}

#[tokio::test]
async fn a_dropped_run_leaves_no_process() {
    let (ctx, bounds, child) = (context(None), bounds(&[]), Note::new());
    let command = format!("sleep 1000 & echo $! > {}; wait", child.text());
    let running =
        tokio::spawn(async move { run_with(&ctx, &bounds, json!({"process": {"command": command}})).await });
    let pid = child.pid().await;
    running.abort();
    gone(pid).await;
}
