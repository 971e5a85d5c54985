//! Ties children to the test: they die with it, even when it is killed with SIGKILL and no destructor runs.
//!
//! Linux only. The kernel watches the *thread* that made the child, so all children come from one thread that lives as
//! long as the process. Between fork and exec the child must ask for the signal itself: a small program does that and
//! then becomes the real one.

use std::io;
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, mpsc};

/// First argument that makes `ledger-worker` the small program.
pub(crate) const FLAG: &str = "--leash";

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in inbox {
            // Whoever asked waits for the answer.
            let _asked = answer.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Starts a child that dies with this process.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    let (answer, child) = mpsc::sync_channel(1);
    SPAWNER
        .lock()
        .expect("sending does not panic")
        .send((command, answer))
        .expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers every order")
}

/// A command for `program` on the leash.
pub(crate) fn command(program: &std::path::Path) -> anyhow::Result<Command> {
    if cfg!(not(target_os = "linux")) {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(crate::binary("ledger-worker")?);
    command.arg(FLAG).arg(std::process::id().to_string()).arg(program);
    Ok(command)
}

/// Becomes the program named in the arguments if [`FLAG`] is the first of them; else returns.
///
/// # Panics
/// When the program cannot be run.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != FLAG) {
        return;
    }
    let parent = arguments
        .next()
        .and_then(|text| text.to_str()?.parse::<i32>().ok());
    let program = arguments.next().expect("a program follows");
    die_with(parent.expect("the parent's id follows"));
    let mut command = Command::new(program);
    command.args(arguments);
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    panic!("cannot run {command:?}: {error}");
}

#[cfg(target_os = "linux")]
fn die_with(parent: i32) {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL).expect("the signal exists");
    // The parent may have died before the kernel was asked to watch it.
    if nix::unistd::getppid().as_raw() != parent {
        std::process::exit(1);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: i32) {}
