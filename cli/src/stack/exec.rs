//! Ties a child to this process: `millrace __exec` asks the kernel to be killed with its parent and then becomes the
//! real program. Std cannot ask between fork and exec without unsafe code.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::args::ExecArgs;
use crate::failure::{Exit, Failure};

/// A command that runs `program` on the leash. Arguments can be added.
pub(super) fn leashed(program: &Path) -> std::io::Result<Command> {
    if cfg!(not(target_os = "linux")) {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["__exec", "--parent", &std::process::id().to_string(), "--"])
        .arg(program);
    Ok(command)
}

/// Becomes the program; returns only when it cannot.
pub(crate) fn run(args: &ExecArgs) -> Failure {
    #[cfg(target_os = "linux")]
    if let Err(e) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
        return Failure::new(Exit::Failed, format!("cannot tie the child to its parent: {e}"));
    }
    // A parent that died before the request sends no signal any more.
    if nix::unistd::getppid().as_raw() != args.parent {
        return Failure::new(Exit::Failed, "the parent is gone");
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Failure::new(Exit::Usage, "no program given");
    };
    let error = Command::new(program).args(rest).exec();
    Failure::new(
        Exit::Failed,
        format!("cannot run {}: {error}", Path::new(program).display()),
    )
}

/// Becomes one of our own binaries, with the arguments and environment of this one.
pub(crate) fn become_binary(name: &str) -> Failure {
    match super::programs::own(name) {
        Ok(program) => {
            let error = Command::new(&program).exec();
            Failure::new(Exit::Failed, format!("cannot run {}: {error}", program.display()))
        }
        Err(failure) => failure,
    }
}
