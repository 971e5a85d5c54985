//! Every documented exit code of the command line, provoked against a stub of the API.

mod support;

use serde_json::{Value, json};
use support::{HELLO, Scratch, free_port, millrace, ran, stub};

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
