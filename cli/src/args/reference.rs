//! `docs/reference/cli.md`, made from what clap knows. The test compares; with `MILLRACE_WRITE_DOCS=1` it writes.

use clap::{Arg, Command, CommandFactory};

use super::Cli;

const HEAD: &str = "# Commands\n\n<!-- Generated: MILLRACE_WRITE_DOCS=1 cargo test --workspace --bins command_reference -->\n\n\
                    What `--help` says, in one page. Arguments of every command come first.\n";

#[test]
fn the_command_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
    let wanted = render();
    if std::env::var("MILLRACE_WRITE_DOCS").is_ok_and(|set| set == "1") {
        std::fs::write(path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == wanted,
        "docs/reference/cli.md is not what the command says; run MILLRACE_WRITE_DOCS=1 cargo test --workspace --bins command_reference"
    );
}

fn render() -> String {
    let mut command = Cli::command();
    command.build();
    let mut out = HEAD.to_owned();
    let global: Vec<&Arg> = command.get_arguments().filter(|a| a.is_global_set()).collect();
    table(&global, &mut out);
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        section(sub, "millrace", &mut out);
    }
    out
}

fn section(command: &Command, parent: &str, out: &mut String) {
    let path = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let subcommands: Vec<&Command> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
        .collect();
    *out += &format!("\n## `{path}`\n{about}.\n\n`{usage}`\n");
    let own: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_global_set()).collect();
    table(&own, out);
    for sub in subcommands {
        section(sub, &path, out);
    }
}

fn table(arguments: &[&Arg], out: &mut String) {
    let shown = |a: &&&Arg| !a.is_hide_set() && !matches!(a.get_id().as_str(), "help" | "version");
    let shown: Vec<_> = arguments.iter().filter(shown).collect();
    if shown.is_empty() {
        return;
    }
    *out += "\n| argument | meaning |\n| --- | --- |\n";
    for argument in shown {
        *out += &format!("| `{}` | {} |\n", spelling(argument), meaning(argument));
    }
}

fn spelling(argument: &Arg) -> String {
    let values: Vec<String> = argument
        .get_value_names()
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    let value = match argument.get_action().takes_values() {
        true => values.join(" "),
        false => String::new(),
    };
    let names = [
        argument.get_short().map(|s| format!("-{s}")),
        argument.get_long().map(|l| format!("--{l}")),
    ];
    let names: Vec<String> = names.into_iter().flatten().collect();
    let text = format!("{} {value}", names.join(", "));
    text.trim().replace('|', "\\|")
}

fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().map(|h| format!("{h}.")).unwrap_or_default();
    let choices: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|v| !v.is_hide_set())
        .map(|v| format!("`{}`", v.get_name()))
        .collect();
    if !choices.is_empty() && argument.get_action().takes_values() {
        text += &format!(" One of {}.", choices.join(", "));
    }
    let default: Vec<_> = argument
        .get_default_values()
        .iter()
        .map(|d| d.to_string_lossy().into_owned())
        .collect();
    if !default.is_empty() && argument.get_action().takes_values() {
        text += &format!(" Default `{}`.", default.join(" "));
    }
    if let Some(variable) = argument.get_env() {
        text += &format!(" Variable `{}`.", variable.to_string_lossy());
    }
    text.trim().replace('|', "\\|").replace("..", ".")
}
