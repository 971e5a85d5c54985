//! Stacks that the command line starts: real servers and binaries, as `cargo build --workspace --bins` made them.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as expected"
)]

mod support;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Beside, Dev, HELLO, Scratch, children_of, eventually, free_port, is_alive, millrace, ran};

const SOON: Duration = Duration::from_secs(2);
const PATIENT: Duration = Duration::from_secs(20);

#[test]
fn run_local_prints_the_output_alone_and_leaves_nothing() {
    let scratch = Scratch::new("local");
    let file = scratch.file("hello.yaml", HELLO);
    let temp = scratch.path().join("tmp");
    std::fs::create_dir(&temp).unwrap();
    let (code, stdout, stderr) = ran(millrace().env("TMPDIR", &temp).args(["run", "--local"]).arg(file));
    assert_eq!(
        (code, stdout.as_str()),
        (0, "{\"greeting\":\"hello\"}\n"),
        "{stderr}"
    );
    assert_eq!(
        std::fs::read_dir(temp).unwrap().count(),
        0,
        "the temporary directory is empty again"
    );
}

/// What is there when a signal comes.
type Phase = (&'static str, fn(&Beside) -> bool);

const LONG: &str = "document: {dsl: 1.0.3, namespace: default, name: long, version: 1.0.0}\ndo:\n  - nap: {wait: {minutes: 10}}\n";
const PHASES: [Phase; 5] = [
    ("a directory", |run| !run.stacks().is_empty()),
    ("nats-server", |run| has_log(run, "nats-server")),
    ("a coordinator", |run| has_log(run, "coordinator")),
    ("a worker", |run| has_log(run, "worker-1")),
    ("an instance", |run| run.said().contains("starting ")),
];

fn has_log(run: &Beside, name: &str) -> bool {
    let log = format!("logs/{name}.log");
    run.stacks().iter().any(|stack| stack.join(&log).exists())
}

/// Sends a signal as soon as there is what the phase says, and looks at what is left.
fn stopped(name: &str, args: &[&str], signal: Signal, (what, is_there): Phase) {
    let mut run = Beside::start(name, args);
    eventually(what, PATIENT, || is_there(&run));
    let children = children_of(run.process.id());
    kill(Pid::from_raw(i32::try_from(run.process.id()).unwrap()), signal).unwrap();
    let mut status = None;
    eventually("it ends", PATIENT, || {
        status = run.process.try_wait().unwrap();
        status.is_some()
    });
    let code = status.and_then(|status| status.code());
    assert_eq!(
        code,
        Some(128 + signal as i32),
        "{signal} with {what}: {}",
        run.said()
    );
    assert_eq!(
        run.stacks(),
        Vec::<std::path::PathBuf>::new(),
        "{signal} with {what}"
    );
    let left: Vec<_> = children.iter().filter(|(pid, _)| is_alive(*pid)).collect();
    assert!(left.is_empty(), "{signal} with {what}: {left:?}");
}

#[test]
fn a_signal_at_any_phase_of_a_local_run_leaves_nothing() {
    let scratch = Scratch::new("signals");
    let file = scratch.file("long.yaml", LONG);
    let args = ["run", "--local", file.to_str().unwrap()];
    for (n, phase) in PHASES.into_iter().enumerate() {
        stopped(&format!("signals-{n}"), &args, Signal::SIGTERM, phase);
    }
    stopped("signals-hup", &args, Signal::SIGHUP, PHASES[3]);
    stopped("signals-int", &args, Signal::SIGINT, PHASES[4]);
}

#[test]
fn a_signal_at_any_phase_of_the_demo_leaves_nothing() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/order-flaky.yaml");
    for (n, phase) in PHASES.into_iter().enumerate() {
        stopped(
            &format!("demo-{n}"),
            &["demo", "--file", file],
            Signal::SIGTERM,
            phase,
        );
    }
}

#[test]
fn the_demo_runs_in_any_directory() {
    let scratch = Scratch::new("demo-elsewhere");
    let (code, stdout, stderr) = ran(millrace().current_dir(scratch.path()).arg("demo"));
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(
        stderr.contains("running examples/order-flaky.yaml") && stdout.starts_with('{'),
        "{stdout}{stderr}"
    );
}

#[test]
fn a_stack_whose_own_coordinator_ends_says_so() {
    let scratch = Scratch::new("own");
    let file = scratch.file("long.yaml", LONG);
    let file = file.to_str().unwrap();
    for (name, args) in [
        ("own-run", ["run", "--local", file]),
        ("own-demo", ["demo", "--file", file]),
    ] {
        let mut run = Beside::start(name, &args);
        let is_running = || run.said().contains("starting ") && run.said().contains("nap ");
        eventually("an instance runs", PATIENT, is_running);
        let children = children_of(run.process.id());
        let is_coordinator = |(_, name): &&(i32, String)| name.starts_with("millrace-coordi");
        let (pid, _) = children.iter().find(is_coordinator).unwrap();
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        let mut status = None;
        eventually("it ends", PATIENT, || {
            status = run.process.try_wait().unwrap();
            status.is_some()
        });
        let said = run.said();
        assert_eq!(status.and_then(|s| s.code()), Some(5), "{name}: {said}");
        assert!(
            said.contains("this command's own coordinator ended with signal: 9")
                && !said.contains("MILLRACE_URL"),
            "{name}: {said}"
        );
    }
}

#[test]
fn children_die_with_a_killed_dev() {
    let mut dev = Dev::start("killed", &["--ephemeral", "--workers", "2"]);
    let children = dev.children();
    assert_eq!(
        children.len(),
        5,
        "nats, redis, coordinator, two workers: {children:?}"
    );
    dev.kill_hard();
    eventually("all children are gone", SOON, || {
        !children.iter().any(|(pid, _)| is_alive(*pid))
    });
}

#[test]
fn the_next_stack_removes_the_directory_of_a_killed_one() {
    let scratch = Scratch::new("swept");
    let file = scratch.file("hello.yaml", HELLO);
    let mut run = Beside::start(
        "swept-1",
        &[
            "run",
            "--local",
            scratch.file("long.yaml", LONG).to_str().unwrap(),
        ],
    );
    eventually("an instance runs", PATIENT, || run.said().contains("starting "));
    let (left, children) = (run.stacks(), children_of(run.process.id()));
    run.process.kill().unwrap();
    run.process.wait().unwrap();
    eventually("all children are gone", SOON, || {
        !children.iter().any(|(pid, _)| is_alive(*pid))
    });
    assert!(
        !left.is_empty() && left.iter().all(|dir| dir.is_dir()),
        "{left:?}"
    );
    let temp = left[0].parent().unwrap();
    let (code, _, stderr) = ran(millrace().env("TMPDIR", temp).args(["run", "--local"]).arg(file));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("left by a stack that was killed"), "{stderr}");
    assert!(run.stacks().is_empty(), "{:?}", run.stacks());
}

#[test]
fn a_polite_stop_leaves_nothing_and_data_stays() {
    let scratch = Scratch::new("kept");
    let dir = scratch.path().join("data");
    let dir = dir.to_str().unwrap();
    let file = scratch.file("hello.yaml", HELLO);
    let dev = Dev::start("kept-1", &["--dir", dir]);
    let (code, stdout, stderr) = dev.millrace(&["run", file.to_str().unwrap()]);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "{\"greeting\":\"hello\"}\n"),
        "{stderr}"
    );
    let port = free_port().to_string();
    let (code, _, stderr) = ran(millrace().args(["dev", "--dir", dir, "--port", &port]));
    assert!(
        code == 6 && stderr.contains("another stack is running"),
        "{code} {stderr}"
    );
    let children = dev.children();
    drop(dev);
    assert!(
        !children.iter().any(|(pid, _)| is_alive(*pid)),
        "all children ended before dev did"
    );

    let again = Dev::start("kept-2", &["--dir", dir]);
    let (_, stdout, stderr) = again.millrace(&["instance", "list", "--status", "completed", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
    assert_eq!(
        list["items"].as_array().map(Vec::len),
        Some(1),
        "the instance survived the restart: {list}"
    );
}

#[test]
fn dev_starts_a_child_again_that_ended() {
    let dev = Dev::start("restart", &["--ephemeral"]);
    let worker = |dev: &Dev| {
        dev.children()
            .into_iter()
            .find(|(_, name)| name.contains("worker"))
            .map(|(pid, _)| pid)
    };
    let first = worker(&dev).unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("another worker runs", PATIENT, || {
        worker(&dev).is_some_and(|pid| pid != first)
    });
    assert!(
        dev.said().contains("worker-1 ended with signal: 9"),
        "{}",
        dev.said()
    );
}

#[test]
fn saved_definitions_are_applied_again() {
    let scratch = Scratch::new("workflows");
    scratch.file("hello.yaml", HELLO);
    let dev = Dev::start(
        "watching",
        &["--ephemeral", "--workflows", scratch.path().to_str().unwrap()],
    );
    eventually("the definition is applied", PATIENT, || {
        dev.said().contains("hello 1.0.0")
    });
    scratch.file("hello.yaml", &HELLO.replace("hello}", "changed}"));
    eventually("the conflict is told", PATIENT, || {
        dev.said().contains("bump document.version")
    });
    scratch.file(
        "hello.yaml",
        &HELLO.replace("hello}", "changed}").replace("1.0.0}", "1.1.0}"),
    );
    eventually("the new version is applied", PATIENT, || {
        dev.said().contains("hello 1.1.0")
    });
    scratch.file("broken.yaml", "do: [\n");
    eventually("the fault is told", PATIENT, || {
        dev.said().contains("broken.yaml:2:")
    });
    assert_eq!(
        dev.millrace(&["start", "hello", "--wait"]).1,
        "{\"greeting\":\"changed\"}\n"
    );
}

#[test]
fn a_missing_server_is_named_with_what_to_install() {
    let scratch = Scratch::new("missing");
    let file = scratch.file("hello.yaml", HELLO);
    let mut command = millrace();
    command
        .env("MILLRACE_REDIS_SERVER", "/no/such/redis-server")
        .args(["run", "--local"])
        .arg(file);
    let (code, stdout, stderr) = ran(&mut command);
    assert_eq!((code, stdout.as_str()), (6, ""), "{stderr}");
    assert!(
        stderr.contains("/no/such/redis-server") && stderr.contains("hint: install redis-server"),
        "{stderr}"
    );
}
