//! Ties children to the test: they die with it, even when it is killed with SIGKILL and no destructor runs.
//!
//! Linux only. The kernel watches the *thread* that made the child, so all children come from one thread that lives as
//! long as the process. Between fork and exec the child must ask for the signal itself: `millrace __exec` does that and
//! then becomes the real program.

use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, mpsc};

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
pub(crate) fn command(program: &Path) -> anyhow::Result<Command> {
    if cfg!(not(target_os = "linux")) {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(crate::binary("millrace")?);
    let parent = std::process::id().to_string();
    command.args(["__exec", "--parent", &parent, "--"]).arg(program);
    Ok(command)
}
