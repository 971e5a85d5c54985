//! `millrace validate FILE…`: every fault of every file, without a coordinator.

use crate::args::ValidateArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::input::read_text;
use crate::source;
use crate::terminal::Style;

pub(super) fn run(args: &ValidateArgs) -> Outcome {
    let mut bad = 0;
    for path in &args.files.files {
        let file = path.display().to_string();
        let text = match read_text(path) {
            Ok(text) => text,
            Err(failure) => {
                eprintln!("{} {}", Style::stderr().red("error:"), failure.message);
                bad += 1;
                continue;
            }
        };
        let (document, mut faults) = source::check(&text);
        if let Some(document) = document.as_ref().filter(|_| args.portable) {
            faults.extend(millrace_dsl::portability(document));
        }
        eprint!("{}", source::render(&file, &faults, Style::stderr()));
        match document {
            Some(d) => eprintln!("{file}: ok: {}/{}@{}", d.namespace, d.name, d.version),
            None => bad += 1,
        }
    }
    match bad {
        0 => Ok(()),
        bad => Err(Failure::new(
            Exit::Usage,
            format!("{bad} of {} files are invalid", args.files.files.len()),
        )),
    }
}
