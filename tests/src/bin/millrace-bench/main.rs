//! Measures the engine as shipped against the targets of docs/benchmarks.md, on one machine and in one run: servers,
//! coordinator, workers and the load all share its cores. What no engine could beat, the ceiling, is measured in turn
//! with it, so that the ratio means something on any machine.
//!
//! `make bench` builds and runs this. Exit code 0 only when every target holds.

#![allow(clippy::print_stdout, reason = "the report goes to standard output")]

mod ceiling;
mod engine;
mod http;
mod load;
mod machine;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use engine::Engine;
use report::{Format, Report};

const USAGE: &str = "\
usage: millrace-bench [--quick] [-o text|json]

  --quick     one round and 20,000 instances instead of three and 100,000: 40 s instead of 2 minutes
  -o FORMAT   text (default): a table on stdout; json: JSON on stdout, the table on stderr
";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Of ceiling and engine, in turn.
    rounds: usize,
    /// Under load before the window in which is counted.
    warm_up: Duration,
    /// In which is counted.
    window: Duration,
    /// Instances one after the other, in each round.
    unloaded: usize,
    /// Large forks, and three small ones with each.
    forks: usize,
    /// Finished before the coordinator's memory is read.
    instances: u64,
    /// In which the CPU of the idle stack is counted.
    idle: Duration,
}

/// What was asked for.
struct Arguments {
    plan: Plan,
    quick: bool,
    format: Format,
}

const FULL: Plan = Plan {
    rounds: 3,
    warm_up: Duration::from_secs(1),
    window: Duration::from_secs(6),
    unloaded: 300,
    forks: 3,
    instances: 100_000,
    idle: Duration::from_secs(10),
};

const QUICK: Plan = Plan {
    rounds: 1,
    window: Duration::from_secs(5),
    instances: 20_000,
    ..FULL
};

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let done = match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [ceiling::WORKER, url] => runtime.block_on(ceiling::work(url)).map(|()| true),
        _ => match arguments(&given) {
            Ok(Some(arguments)) => runtime.block_on(unless_interrupted(measure(&arguments))),
            Ok(None) => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            Err(fault) => {
                eprint!("error: {fault}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(given: &[String]) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        plan: FULL,
        quick: false,
        format: Format::Text,
    };
    let mut given = given.iter().map(String::as_str);
    while let Some(argument) = given.next() {
        match argument {
            "--quick" => (arguments.plan, arguments.quick) = (QUICK, true),
            "-o" | "--output" => {
                arguments.format = match given.next() {
                    Some("text") => Format::Text,
                    Some("json") => Format::Json,
                    other => return Err(format!("`-o {}` is not text or json", other.unwrap_or_default())),
                }
            }
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("`{other}` is not an argument")),
        }
    }
    Ok(Some(arguments))
}

/// Ctrl-C drops what runs, so that servers and their data are gone before this process is.
async fn unless_interrupted(measured: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    tokio::select! {
        done = measured => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}

/// Measures everything and reports it. True when every target holds.
async fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let plan = &arguments.plan;
    let mut report = Report::new(arguments.quick);
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}: ceiling", plan.rounds);
        report.ceiling.push(ceiling::run(plan).await?);
        eprintln!("round {round} of {}: engine", plan.rounds);
        let mut engine = Engine::start().await?;
        report.unloaded.push(engine.unloaded(plan.unloaded).await?);
        report.sequence.push(engine.sequence(plan).await?);
        if round == plan.rounds {
            finish(&mut engine, plan, &mut report).await?;
        }
    }
    report.print(arguments.format)
}

/// What is measured once, on the stack of the last round.
async fn finish(engine: &mut Engine, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    report.servers = Some(engine.servers().await?);
    eprintln!("more instances, until {} have finished", plan.instances);
    report.memory = Some(engine.memory_after(plan.instances).await?);
    eprintln!("forks");
    engine.quiet().await?;
    // In turn, so that both sizes meet the same machine; the short ones are more easily disturbed.
    for _ in 0..plan.forks {
        let small = engine.forks(engine::FORK_SMALL, 3).await?;
        report.fork_small.extend(small);
        report
            .fork_large
            .extend(engine.forks(engine::FORK_LARGE, 1).await?);
    }
    eprintln!("idle stack with two workers");
    report.idle = engine.idle(plan.idle).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Arguments>, String> {
        let given: Vec<String> = text.split_whitespace().map(Into::into).collect();
        arguments(&given)
    }

    #[test]
    fn arguments_are_read_or_named() {
        let quick = parse("--quick -o json").unwrap().unwrap();
        assert_eq!((quick.plan.rounds, quick.format), (1, Format::Json));
        assert_eq!(parse("").unwrap().unwrap().plan.instances, 100_000);
        assert!(parse("-h").unwrap().is_none());
        assert!(parse("-o xml").err().unwrap().contains("xml"));
        assert!(parse("--fast").err().unwrap().contains("--fast"));
    }
}
