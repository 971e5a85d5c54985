//! What the tests of the command line share: running it, a stub of the API, and whole stacks.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as expected"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub(crate) const HELLO: &str = "document: {dsl: 1.0.3, namespace: default, name: hello, version: 1.0.0}\ndo:\n  - greet: {set: {greeting: hello}}\n";

/// The command, without settings of whoever runs the tests.
pub(crate) fn millrace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command
        .env_remove("MILLRACE_URL")
        .env_remove("MILLRACE_TOKEN")
        .env("NO_COLOR", "1");
    command.stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr of a command.
pub(crate) fn ran(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A directory that is removed in the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millrace-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A coordinator with one instance that is always the same. Ends with the test process.
pub(crate) fn stub(instance: Value) -> String {
    scripted(move |request| usual(request, &instance))
}

/// What a stub does about a request.
pub(crate) enum Act {
    /// Answers with a status and a body.
    Answer(u16, Value),
    /// Closes the connection without a word.
    HangUp,
}

/// A request that a stub got.
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without its query.
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl Request {
    /// Whether it starts an instance.
    pub(crate) fn is_start(&self) -> bool {
        self.method == "POST" && self.path == "/api/v1/instances"
    }
}

/// What a coordinator with one instance answers.
pub(crate) fn usual(request: &Request, instance: &Value) -> Act {
    match request.path.as_str() {
        "/api/v1/definitions" => Act::Answer(201, json!({"created": true, "warnings": []})),
        "/api/v1/instances" => Act::Answer(201, instance.clone()),
        path if path.ends_with("/history") => Act::Answer(200, json!({"entries": []})),
        _ => Act::Answer(200, instance.clone()),
    }
}

/// A coordinator that does as it is told. Ends with the test process.
pub(crate) fn scripted(mut act: impl FnMut(&Request) -> Act + Send + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read(&stream);
            if let Act::Answer(status, body) = act(&request) {
                answer(&mut stream, status, &body);
            }
        }
    });
    url
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut words = head.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    Request {
        method,
        path: target.split('?').next().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

fn answer(stream: &mut TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status} Told\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    // The command may have been ended by its time limit.
    stream.write_all(text.as_bytes()).ok();
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, limit: Duration, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    let (_never, tick) = mpsc::channel::<()>();
    while !is() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tick.recv_timeout(Duration::from_millis(20)).ok();
    }
}

/// `millrace`, which ends with the thread that starts it.
fn tied() -> Command {
    let mut command = millrace();
    let parent = std::process::id().to_string();
    command.args([
        "__exec",
        "--parent",
        &parent,
        "--",
        env!("CARGO_BIN_EXE_millrace"),
    ]);
    command
}

/// A command that runs beside its test and is tied to its thread. Its temporary files have a directory of their own.
pub(crate) struct Beside {
    pub(crate) process: std::process::Child,
    scratch: Scratch,
}

impl Beside {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        std::fs::create_dir(scratch.path().join("tmp")).unwrap();
        let mut command = tied();
        command.args(args).env("TMPDIR", scratch.path().join("tmp"));
        let stderr = std::fs::File::create(scratch.path().join("stderr")).unwrap();
        let process = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Self { process, scratch }
    }

    /// Everything on its stderr so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("stderr")).unwrap()
    }

    /// What it has in its temporary directory: the directories of its stacks.
    pub(crate) fn stacks(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.scratch.path().join("tmp")).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// `millrace dev`, tied to the thread of its test.
pub(crate) struct Dev {
    process: std::process::Child,
    pub(crate) url: String,
    stderr: PathBuf,
    _scratch: Scratch,
}

impl Dev {
    /// Starts it with more arguments and waits until it is ready.
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let stderr = scratch.path().join("stderr");
        let port = free_port();
        let mut command = tied();
        command.args(["dev", "--port", &port.to_string()]).args(args);
        let process = command
            .stderr(std::fs::File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let mut dev = Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
            stderr,
            _scratch: scratch,
        };
        eventually("dev is ready", Duration::from_secs(60), || {
            assert_eq!(dev.process.try_wait().unwrap(), None, "{}", dev.said());
            dev.said().contains("millrace is ready")
        });
        dev
    }

    /// Everything on its stderr so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// A command against it.
    pub(crate) fn millrace(&self, args: &[&str]) -> (i32, String, String) {
        ran(millrace().env("MILLRACE_URL", &self.url).args(args))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }

    /// Process ids and names of its children.
    pub(crate) fn children(&self) -> Vec<(i32, String)> {
        children_of(self.process.id())
    }

    /// Kills it without a chance to clean up.
    pub(crate) fn kill_hard(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        kill(self.pid(), Signal::SIGTERM).ok();
        self.process.wait().ok();
    }
}

/// Process ids and names of a process' children.
pub(crate) fn children_of(pid: u32) -> Vec<(i32, String)> {
    let own = pid.to_string();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stat = |e: std::fs::DirEntry| std::fs::read_to_string(e.path().join("stat")).ok();
    entries
        .filter_map(stat)
        .filter_map(|stat| {
            let (head, rest) = stat.rsplit_once(')')?;
            let (pid, name) = head.split_once(" (")?;
            let parent = rest.split_whitespace().nth(1)?;
            (parent == own).then(|| (pid.parse().unwrap(), name.to_owned()))
        })
        .collect()
}

/// Whether a process is there and not only waiting to be buried.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// An answer of the API.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Reply {
    /// `code` of a problem.
    pub(crate) fn code(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

/// One request on a connection of its own, as plain as can be.
pub(crate) fn http(url: &str, request: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let (method, path) = request.split_once(' ').unwrap();
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    // A body that is refused by its announced size may not be read to its end.
    stream.write_all(text.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_text| Value::from(body));
    Reply {
        status,
        head: head.to_ascii_lowercase(),
        body,
    }
}
