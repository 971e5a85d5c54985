//! Every documented exit code of the command line, provoked against a stub of the API.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as expected"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::{Act, HELLO, Scratch, free_port, millrace, ran, scripted, stub, usual};

fn run_against(instance: Value, more: &[&str]) -> (i32, String, String) {
    let name = instance["status"].as_str().unwrap_or_default();
    let scratch = Scratch::new(&format!("exit-{name}"));
    let file = scratch.file("hello.yaml", HELLO);
    ran(millrace()
        .env("MILLRACE_URL", stub(instance))
        .arg("run")
        .arg(file)
        .args(more))
}

#[test]
fn completed_is_0_and_stdout_is_the_output_alone() {
    let done = json!({"id": "a", "status": "completed", "output": {"greeting": "hello", "n": [1, 2.5]}});
    let (code, stdout, _) = run_against(done, &[]);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "{\"greeting\":\"hello\",\"n\":[1,2.5]}\n")
    );
}

#[test]
fn faulted_is_1_with_the_problem_on_stderr() {
    let error = json!({"type": "https://x/errors/runtime", "status": 500, "detail": "no luck"});
    let (code, stdout, stderr) = run_against(json!({"id": "a", "status": "faulted", "error": error}), &[]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let problem = stderr
        .lines()
        .find(|line| line.starts_with('{'))
        .expect("a line of JSON");
    assert_eq!(serde_json::from_str::<Value>(problem).unwrap(), error);
    assert!(stderr.contains("error: instance a faulted"), "{stderr}");
}

#[test]
fn an_invalid_definition_is_2_with_places_and_hints() {
    let scratch = Scratch::new("exit-invalid");
    let text = HELLO.replace("set:", "sett:");
    let file = scratch.file("bad.yaml", &text);
    for command in ["run", "validate", "apply"] {
        let (code, stdout, stderr) = ran(millrace().arg(command).arg(&file));
        assert_eq!((code, stdout.as_str()), (2, ""), "{command}: {stderr}");
        assert!(
            stderr.contains(&format!("{}:3:", file.display())),
            "{command}: {stderr}"
        );
        assert!(stderr.contains(": error: "), "{command}: {stderr}");
    }
}

#[test]
fn bad_usage_is_2() {
    let scratch = Scratch::new("exit-usage");
    let file = scratch.file("hello.yaml", HELLO);
    let file = file.to_str().unwrap();
    for args in [
        &["run"][..],
        &["no-such-command"],
        &["run", "/no/such/file.yaml"],
        &["run", file, "--input", "{not json"],
        &["run", file, "--timeout", "5"],
        &["instance", "list", "-o", "xml"],
        &["agent", "list"],
        &["event", "send", "x"],
        &["--url", "ftp://x", "status"],
    ] {
        let (code, stdout, stderr) = ran(millrace().args(args));
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("error:"), "{args:?}: {stderr}");
    }
}

#[test]
fn validate_reports_every_file_and_needs_no_coordinator() {
    let scratch = Scratch::new("exit-validate");
    let good = scratch.file("good.yaml", HELLO);
    let bad = scratch.file("bad.yaml", "document: 1\n");
    let worse = scratch.file("worse.yaml", "{");
    let (code, _, stderr) = ran(millrace().arg("validate").args([&bad, &good, &worse]));
    assert_eq!(code, 2);
    for file in [&bad, &good, &worse] {
        assert!(stderr.contains(&format!("{}:", file.display())), "{stderr}");
    }
    assert!(stderr.contains("2 of 3 files are invalid"), "{stderr}");
    assert_eq!(ran(millrace().arg("validate").arg(good)).0, 0);
}

#[test]
fn cancelled_is_3() {
    let (code, stdout, stderr) = run_against(json!({"id": "a", "status": "cancelled"}), &[]);
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
}

#[test]
fn a_timeout_is_4_and_says_how_to_go_on() {
    let running = json!({"id": "a", "status": "running", "waitingFor": []});
    let (code, stdout, stderr) = run_against(running, &["--timeout", "200ms"]);
    assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
    assert!(stderr.contains("millrace instance watch a"), "{stderr}");
}

#[test]
fn an_unreachable_coordinator_is_5() {
    let scratch = Scratch::new("exit-unreachable");
    let file = scratch.file("hello.yaml", HELLO);
    let url = format!("http://127.0.0.1:{}", free_port());
    for args in [
        &["status"][..],
        &["instance", "list"],
        &["run", file.to_str().unwrap()],
    ] {
        let (code, stdout, stderr) = ran(millrace().env("MILLRACE_URL", &url).args(args));
        assert_eq!((code, stdout.as_str()), (5, ""), "{args:?}: {stderr}");
        assert!(
            stderr.contains(&url) && stderr.contains("hint:"),
            "{args:?}: {stderr}"
        );
    }
}

fn problem(status: u16, code: &str) -> Act {
    Act::Answer(
        status,
        json!({"type": format!("urn:millrace:problem:{code}"), "title": code, "status": status, "code": code,
            "detail": format!("it is {code}")}),
    )
}

#[test]
fn what_the_api_refuses_is_2_or_5_or_6_with_the_problem_as_json_when_asked_for() {
    let scratch = Scratch::new("exit-refused");
    let event = scratch.file("event.json", "{}");
    for (status, code, exit) in [
        (400, "invalidRequest", 2),
        (401, "unauthorized", 2),
        (404, "instanceNotFound", 2),
        (409, "notAllowedNow", 2),
        (413, "tooLarge", 2),
        (422, "invalidDefinition", 2),
        (429, "overloaded", 5),
        (503, "unavailable", 5),
        (500, "internal", 6),
        (418, "teapot", 6),
    ] {
        let url = scripted(move |_| problem(status, code));
        for args in [
            &["instance", "get", "a"][..],
            &["instance", "cancel", "a"],
            &["definition", "list"],
            &["schedule", "get", "a"],
            &["schedule", "list"],
            &["event", "send", event.to_str().unwrap()],
            &["status"],
            &["worker", "list"],
            &["queue", "list"],
        ] {
            let (found, stdout, stderr) = ran(millrace()
                .env("MILLRACE_URL", &url)
                .args(args)
                .args(["-o", "json"]));
            assert_eq!(
                (found, stdout.as_str()),
                (exit, ""),
                "{status} {args:?}: {stderr}"
            );
            let line = stderr.lines().find(|line| line.starts_with('{')).expect(&stderr);
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["code"], code);
            assert!(stderr.contains(&format!("error: it is {code}")), "{stderr}");
        }
        let (found, _, stderr) = ran(millrace().env("MILLRACE_URL", &url).arg("status"));
        assert!(found == exit && !stderr.contains('{'), "for people: {stderr}");
    }
}

#[test]
fn a_start_that_stays_refused_for_now_is_5_after_repeats() {
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = starts.clone();
    let url = scripted(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        problem(503, "overloaded")
    });
    let (code, stdout, stderr) = ran(millrace().env("MILLRACE_URL", &url).args(["start", "hello"]));
    assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
    assert!(stderr.contains("it is overloaded"), "{stderr}");
    assert!(starts.load(Ordering::SeqCst) > 3, "tried again");
}

#[test]
fn the_timeout_of_run_covers_applying_and_starting() {
    for stalled in ["/api/v1/definitions", "/api/v1/instances"] {
        let scratch = Scratch::new(&format!("exit-stalled-{}", stalled.len()));
        let file = scratch.file("hello.yaml", HELLO);
        let url = scripted(move |request| {
            if request.path == stalled {
                return problem(503, "unavailable");
            }
            usual(request, &json!({"id": "a", "status": "running"}))
        });
        let mut command = millrace();
        command.env("MILLRACE_URL", &url).arg("run").arg(file);
        let (code, stdout, stderr) = ran(command.args(["--timeout", "500ms"]));
        assert_eq!((code, stdout.as_str()), (4, ""), "{stalled}: {stderr}");
        assert!(stderr.contains("within 500ms"), "{stalled}: {stderr}");
    }
}

#[test]
fn a_start_whose_answer_is_lost_is_repeated_with_the_same_id() {
    let scratch = Scratch::new("exit-repeat");
    let file = scratch.file("hello.yaml", HELLO);
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = ids.clone();
    let url = scripted(move |request| {
        if !request.is_start() {
            return usual(request, &json!({"id": "a", "status": "completed", "output": 1}));
        }
        let mut ids = seen.lock().unwrap();
        ids.push(request.body["id"].as_str().unwrap().to_owned());
        match ids.len() {
            // As if the coordinator was killed in the middle of it.
            1 | 2 => Act::HangUp,
            _ => Act::Answer(200, json!({"id": "a", "status": "running"})),
        }
    });
    let (code, stdout, stderr) = ran(millrace().env("MILLRACE_URL", &url).arg("run").arg(file));
    assert_eq!((code, stdout.as_str()), (0, "1\n"), "{stderr}");
    let ids = ids.lock().unwrap();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(stderr.contains(&ids[0]), "the id is told: {stderr}");
}

#[test]
fn a_start_whose_outcome_stays_unknown_is_5_and_names_the_id() {
    let url = scripted(|_| Act::HangUp);
    let (code, stdout, stderr) = ran(millrace()
        .env("MILLRACE_URL", &url)
        .args(["start", "hello", "--id", "order-7"]));
    assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
    assert!(
        stderr.contains("whether instance order-7 was started is not known")
            && stderr.contains("millrace instance get order-7"),
        "{stderr}"
    );
}

#[test]
fn an_accepted_start_is_followed_until_it_is_there() {
    let scratch = Scratch::new("exit-accepted");
    let file = scratch.file("hello.yaml", HELLO);
    let mut looks = 0;
    let url = scripted(move |request| {
        if request.is_start() {
            return Act::Answer(202, json!({"id": "a", "status": "pending"}));
        }
        if request.method == "GET" && !request.path.ends_with("/history") {
            looks += 1;
            if looks <= 5 {
                return problem(404, "instanceNotFound");
            }
        }
        usual(request, &json!({"id": "a", "status": "completed", "output": 1}))
    });
    let (code, stdout, stderr) = ran(millrace().env("MILLRACE_URL", &url).arg("run").arg(&file));
    assert_eq!((code, stdout.as_str()), (0, "1\n"), "{stderr}");
    assert!(
        stderr.contains("waiting until its partition is served"),
        "{stderr}"
    );

    let never = scripted(move |request| {
        if request.is_start() {
            return Act::Answer(202, json!({"id": "a", "status": "pending"}));
        }
        if request.method == "GET" {
            return problem(404, "instanceNotFound");
        }
        usual(request, &Value::Null)
    });
    let mut command = millrace();
    command.env("MILLRACE_URL", &never).arg("run").arg(&file);
    let (code, _, stderr) = ran(command.args(["--timeout", "1s"]));
    assert!(code == 4 && !stderr.contains("does not exist"), "{code} {stderr}");
}

#[test]
fn a_call_that_nobody_offers_is_told_when_applied_and_while_it_waits() {
    let scratch = Scratch::new("exit-unoffered");
    let file = scratch.file("hello.yaml", HELLO);
    let url = scripted(|request| match request.path.as_str() {
        "/api/v1/definitions" => Act::Answer(
            201,
            json!({"created": true, "warnings": [{"pointer": "/do/0/a/call", "line": 3, "column": 9,
                "severity": "warning", "message": "no worker offers function `chrage:1.0.0` now",
                "hint": "did you mean `charge:1.0.0`?"}]}),
        ),
        _ => usual(
            request,
            &json!({"id": "a", "status": "running", "waitingFor": [{"kind": "step", "task": "/do/0/pay",
                "function": "chrage:1.0.0", "attempt": 1, "offered": false,
                "reason": "no worker offers chrage:1.0.0; did you mean `charge:1.0.0`?"}]}),
        ),
    });
    let mut command = millrace();
    command.env("MILLRACE_URL", &url).arg("run").arg(&file);
    let (code, _, stderr) = ran(command.args(["--timeout", "2s"]));
    assert_eq!(code, 4, "{stderr}");
    let file = file.display();
    assert!(
        stderr.contains(&format!(
            "{file}:3:9: warning: no worker offers function `chrage:1.0.0` now\n  hint: did you mean `charge:1.0.0`?"
        )),
        "{stderr}"
    );
    let waits = "pay                waits: no worker offers chrage:1.0.0; did you mean `charge:1.0.0`?";
    assert_eq!(stderr.matches(waits).count(), 1, "{stderr}");
}

#[test]
fn reads_print_json_and_yaml_on_stdout() {
    let url = stub(json!({"id": "a", "status": "running"}));
    let get = |format| {
        ran(millrace()
            .env("MILLRACE_URL", &url)
            .args(["instance", "get", "a", "-o", format]))
    };
    let (code, json, _) = get("json");
    assert_eq!(
        (
            code,
            serde_json::from_str::<Value>(&json).unwrap()["status"].as_str()
        ),
        (0, Some("running"))
    );
    assert_eq!(get("yaml").1, "id: a\nstatus: running\n");
    assert!(get("table").1.contains("status:     running"));
}

#[test]
fn without_a_command_the_choices_are_shown() {
    for (args, choice) in [
        (&[][..], "validate"),
        (&["queue"], "pause"),
        (&["instance"], "history"),
    ] {
        // A variable counts as an argument to the parser.
        let mut command = millrace();
        command.env("MILLRACE_URL", "http://127.0.0.1:1").args(args);
        let (code, stdout, stderr) = ran(&mut command);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(
            stderr.contains(&format!("  {choice} ")) && !stderr.contains("__exec"),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn completion_and_help_go_to_stdout() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = ran(millrace().args(["completion", shell]));
        assert!(code == 0 && stdout.contains("millrace"), "{shell}");
    }
    let (code, stdout, _) = ran(millrace().arg("--help"));
    assert!(
        code == 0 && stdout.contains("validate") && !stdout.contains("__exec"),
        "{stdout}"
    );
}

#[test]
fn validate_lists_what_others_would_ignore_when_asked() {
    let text = "document: {dsl: 1.0.3, namespace: default, name: a, version: 1.0.0}
do:
  - l:
      for: {in: '${ [1] }'}
      do: []
      metadata: {millrace: {for: {mode: parallel}}}
";
    let scratch = Scratch::new("portable");
    let file = scratch.file("a.yaml", text);
    let (code, _, plain) = ran(millrace().arg("validate").arg(&file));
    assert_eq!(
        (code, plain.contains("known to millrace only")),
        (0, false),
        "{plain}"
    );
    let (code, _, listed) = ran(millrace().args(["validate", "--portable"]).arg(&file));
    assert_eq!(code, 0);
    let line = listed.lines().find(|l| l.contains(":6:29:")).unwrap_or_default();
    assert!(
        line.contains("`metadata.millrace.for` is known to millrace only"),
        "{listed}"
    );
    assert!(listed.contains("one iteration after the other"), "{listed}");
}
