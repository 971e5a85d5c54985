//! Real servers for the tests of this package and of the worker: child processes on free loopback ports with data of
//! their own, gone when dropped and when the test process is killed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Time for anything that a test waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("millrace-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program on a leash: a shell ends it as soon as its own input ends, which the death of this process causes too.
#[derive(Debug)]
pub(crate) struct Leashed(Child);

impl Leashed {
    pub(crate) fn start(program: &Path, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new("sh")
            .args([
                "-c",
                r#""$@" & p=$!; cat > /dev/null; kill -9 $p; wait $p"#,
                "leash",
            ])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// nats-server with JetStream.
#[derive(Debug)]
pub(crate) struct NatsServer {
    program: PathBuf,
    scratch: Scratch,
    port: u16,
    running: Option<Leashed>,
}

#[allow(dead_code, reason = "not every test stops its server")]
impl NatsServer {
    /// Starts one; `None`, with a line that says so, when there is no program.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        let program = find_nats()?;
        let scratch = Scratch::new();
        let mut server = Self {
            program,
            scratch,
            port: 0,
            running: None,
        };
        server.begin(&[&["-p", "-1"], arguments].concat());
        server.port = wait(|| port_of(server.scratch.path()));
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As `kill -9`.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Starts it again, with its data, on the same port.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.begin(&["-p", &self.port.to_string()]);
    }

    fn begin(&mut self, port: &[&str]) {
        let dir = self.scratch.path().display().to_string();
        let mut arguments = vec!["-js", "-a", "127.0.0.1", "-sd", &dir, "--ports_file_dir", &dir];
        arguments.extend(port);
        self.running = Some(Leashed::start(
            &self.program,
            &arguments,
            &self.scratch.path().join("log"),
        ));
    }
}

/// redis-server.
#[derive(Debug)]
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) struct RedisServer {
    _running: Leashed,
    _scratch: Scratch,
    port: u16,
}

#[allow(dead_code, reason = "not every test needs it")]
impl RedisServer {
    /// Starts one with these settings; `None`, with a line that says so, when there is no program.
    pub(crate) fn start(settings: &str) -> Option<Self> {
        let program = find("MILLRACE_REDIS_SERVER", &["redis-server", "valkey-server"])?;
        let scratch = Scratch::new();
        // Redis takes no "any free port": one is found by binding it, and another tried if it was taken meanwhile.
        for _ in 0..10 {
            let port = free_port();
            let config = scratch.path().join("redis.conf");
            let mut file = std::fs::File::create(&config).unwrap();
            let dir = scratch.path().display();
            writeln!(
                file,
                "port {port}\nbind 127.0.0.1\nsave \"\"\ndir {dir}\n{settings}"
            )
            .unwrap();
            let running = Leashed::start(
                &program,
                &[&config.display().to_string()],
                &scratch.path().join("log"),
            );
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(Self {
                        _running: running,
                        _scratch: scratch,
                        port,
                    });
                }
                std::thread::yield_now();
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Polls until there is a value; for what happens outside of any runtime.
fn wait<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < LIMIT, "waited in vain for a server to start");
        std::thread::yield_now();
    }
}

fn port_of(dir: &Path) -> Option<u16> {
    let file = std::fs::read_dir(dir)
        .ok()?
        .filter_map(Result::ok)
        .find(|f| f.path().extension().is_some_and(|e| e == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

fn find_nats() -> Option<PathBuf> {
    find("MILLRACE_NATS_SERVER", &["nats-server"])
}

fn find(variable: &str, names: &[&str]) -> Option<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from);
    let in_path = || names.iter().find_map(|name| on_path(name));
    let found = given
        .or_else(in_path)
        .or_else(|| names.iter().find_map(|name| in_tools(name)));
    if found.is_none() {
        // Past the capture of libtest: `tools/test` counts these lines.
        let text = format!(
            "skipped test: no {} (set {variable}, or run tools/servers)\n",
            names[0]
        );
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
    }
    found
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Where `tools/servers` puts what it brings: `.tools/<name>-<version>/<name>` below the workspace.
fn in_tools(name: &str) -> Option<PathBuf> {
    let below = |root: &Path| {
        let tools = std::fs::read_dir(root.join(".tools")).ok()?;
        tools
            .filter_map(Result::ok)
            .map(|d| d.path().join(name))
            .find(|p| p.is_file())
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find_map(below)
}
