//! What was measured, against the targets.

use serde::Serialize;
use serde_json::json;

use crate::ceiling;
use crate::engine::{Memory, Sequence, Servers};
use crate::load::Latency;
use crate::machine::{Cpu, Machine};

const STEPS_PER_S_MIN: f64 = 10_000.0;
const OF_CEILING_MIN: f64 = 0.30;
const UNLOADED_MS_MAX: f64 = 10.0;
const FORK_S_MAX: f64 = 0.25;
const FORK_GROWTH_MAX: f64 = 12.0;
const COORDINATOR_MB_MAX: f64 = 150.0;
const IDLE_PERCENT_MAX: f64 = 2.0;
/// Share of a core taken by other programs above which a figure is not to be published.
const OTHERS_MAX: f64 = 0.15;

/// Where the report goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table on standard output.
    Text,
    /// JSON on standard output, the table on standard error.
    Json,
}

/// Everything measured; a list has one item a round.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    quick: bool,
    machine: Machine,
    pub(crate) servers: Option<Servers>,
    pub(crate) ceiling: Vec<ceiling::Figures>,
    pub(crate) sequence: Vec<Sequence>,
    pub(crate) unloaded: Vec<Latency>,
    /// Seconds.
    pub(crate) fork_small: Vec<f64>,
    /// Seconds.
    pub(crate) fork_large: Vec<f64>,
    pub(crate) memory: Option<Memory>,
    pub(crate) idle: Option<Cpu>,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Target {
    what: &'static str,
    figure: String,
    value: f64,
    target: String,
    holds: bool,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        Self {
            quick,
            machine: Machine::look(),
            servers: None,
            ceiling: Vec::new(),
            sequence: Vec::new(),
            unloaded: Vec::new(),
            fork_small: Vec::new(),
            fork_large: Vec::new(),
            memory: None,
            idle: None,
        }
    }

    /// Prints it; true when every target holds.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<bool> {
        let targets = self.targets();
        let holds = targets.iter().all(|t| t.holds);
        let table = self.table(&targets);
        match format {
            Format::Text => print!("{table}"),
            Format::Json => {
                eprint!("{table}");
                let all = json!({"holds": holds, "targets": targets, "measured": self});
                println!("{}", serde_json::to_string_pretty(&all)?);
            }
        }
        Ok(holds)
    }

    fn targets(&self) -> Vec<Target> {
        let steps = median(self.sequence.iter().map(|s| s.steps_per_s));
        let fork = median(self.fork_small.iter().copied());
        let growth = median(self.fork_large.iter().copied()) / fork;
        let p50 = median(self.unloaded.iter().map(|l| l.p50_ms));
        let p99 = median(self.unloaded.iter().map(|l| l.p99_ms));
        let memory = self.memory.as_ref();
        let megabytes = memory.map_or(f64::NAN, |m| m.coordinator_bytes as f64 / 1e6);
        let instances = memory.map_or(0, |m| m.instances);
        let failed = self.sequence.iter().map(|s| s.failed).sum::<u64>() + memory.map_or(0, |m| m.failed);
        vec![
            at_least(
                "ten-step sequence",
                steps,
                format!("{steps:.0} steps/s"),
                STEPS_PER_S_MIN,
            ),
            at_least(
                "of the ceiling",
                self.of_ceiling(),
                format!("{:.2}", self.of_ceiling()),
                OF_CEILING_MIN,
            ),
            at_most(
                "unloaded instance, p50",
                p50,
                format!("{p50:.1} ms (p99 {p99:.1})"),
                UNLOADED_MS_MAX,
            ),
            at_most("fork of 1,000", fork, format!("{fork:.3} s"), FORK_S_MAX),
            at_most(
                "fork of 10,000 / of 1,000",
                growth,
                format!("{growth:.1} times"),
                FORK_GROWTH_MAX,
            ),
            at_most(
                "coordinator's memory",
                megabytes,
                format!("{megabytes:.0} MB after {instances} instances"),
                COORDINATOR_MB_MAX,
            ),
            self.idlest(),
            at_most("failed requests", failed as f64, failed.to_string(), 0.0),
        ]
    }

    /// Of each round, then the median: rounds differ more than their halves.
    fn of_ceiling(&self) -> f64 {
        let rounds = self.sequence.iter().zip(&self.ceiling);
        median(rounds.map(|(engine, ceiling)| engine.steps_per_s / ceiling.steps_per_s))
    }

    fn idlest(&self) -> Target {
        let processes = self
            .idle
            .iter()
            .flat_map(|cpu| &cpu.processes)
            .filter(|p| p.0 != "bench");
        let most = processes.max_by(|a, b| a.1.total_cmp(&b.1));
        let (name, share) = most.map_or(("nothing", f64::NAN), |(name, share)| (name.as_str(), *share));
        let percent = share * 100.0;
        Target {
            what: "idle, busiest process",
            figure: format!("{percent:.1} % of a core ({name})"),
            value: percent,
            target: format!("< {IDLE_PERCENT_MAX}"),
            holds: percent < IDLE_PERCENT_MAX,
        }
    }

    fn table(&self, targets: &[Target]) -> String {
        let mut lines = vec![String::new(), self.machine.line()];
        lines.extend(self.servers.as_ref().map(Servers::line));
        lines.push(String::new());
        for t in targets {
            let verdict = if t.holds { "pass" } else { "FAIL" };
            lines.push(format!(
                "{:<28} {:<34} {:<12} {verdict}",
                t.what, t.figure, t.target
            ));
        }
        lines.push(String::new());
        lines.extend(self.rounds());
        lines.extend(self.once());
        lines.extend(self.warnings());
        lines.join("\n") + "\n"
    }

    fn rounds(&self) -> Vec<String> {
        let engine = self.sequence.iter().zip(&self.unloaded);
        let rounds = self.ceiling.iter().zip(engine).enumerate();
        rounds
            .flat_map(|(number, (ceiling, (sequence, unloaded)))| {
                [
                    format!(
                        "round {}: ceiling {:.0} steps/s; one step unloaded {:.2} ms (p99 {:.2})",
                        number + 1,
                        ceiling.steps_per_s,
                        ceiling.unloaded.p50_ms,
                        ceiling.unloaded.p99_ms,
                    ),
                    format!("         CPU a step: {}", ceiling.cpu.line(ceiling.steps_per_s)),
                    format!(
                        "         engine {:.0} steps/s; instance under load {:.0} ms (p99 {:.0}), unloaded {:.1} ms (p99 {:.1})",
                        sequence.steps_per_s,
                        sequence.latency.p50_ms,
                        sequence.latency.p99_ms,
                        unloaded.p50_ms,
                        unloaded.p99_ms,
                    ),
                    format!("         CPU a step: {}", sequence.cpu.line(sequence.steps_per_s)),
                ]
            })
            .collect()
    }

    fn once(&self) -> Vec<String> {
        let seconds = |all: &[f64]| {
            let all: Vec<_> = all.iter().map(|s| format!("{s:.3}")).collect();
            all.join(", ")
        };
        let mut lines = vec![format!(
            "forks:   of 1,000: {} s; of 10,000: {} s",
            seconds(&self.fork_small),
            seconds(&self.fork_large)
        )];
        lines.extend(self.memory.as_ref().map(|m| {
            let others: Vec<_> = m
                .others
                .iter()
                .map(|(name, bytes)| format!("{name} {:.0}", *bytes as f64 / 1e6))
                .collect();
            let most = m.coordinator_bytes_max as f64 / 1e6;
            format!(
                "memory:  coordinator {most:.0} MB at its highest; others in MB: {}",
                others.join(", ")
            )
        }));
        lines.extend(self.idle.as_ref().map(|cpu| {
            let all: Vec<_> = cpu
                .processes
                .iter()
                .map(|(name, share)| format!("{name} {:.1}", share * 100.0))
                .collect();
            format!("idle:    % of a core: {}", all.join(", "))
        }));
        lines
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let windows = self
            .ceiling
            .iter()
            .map(|c| &c.cpu)
            .chain(self.sequence.iter().map(|s| &s.cpu));
        let others = windows.map(|cpu| cpu.others).fold(0.0, f64::max);
        if others > OTHERS_MAX {
            warnings.push(format!(
                "warning: other programs took up to {:.0} % of a core meanwhile: do not publish these figures",
                others * 100.0
            ));
        }
        if cfg!(debug_assertions) {
            warnings.push("warning: not a release build".into());
        }
        if self.quick {
            warnings.push(
                "note:    quick: one round, and memory after fewer instances than the target says".into(),
            );
        }
        warnings
    }
}

fn at_least(what: &'static str, value: f64, figure: String, min: f64) -> Target {
    Target {
        what,
        figure,
        value,
        target: format!(">= {min}"),
        holds: value >= min,
    }
}

/// What is not a number does not hold.
fn at_most(what: &'static str, value: f64, figure: String, max: f64) -> Target {
    Target {
        what,
        figure,
        value,
        target: format!("<= {max}"),
        holds: value <= max,
    }
}

/// The middle one (the upper of two); not a number when there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_one() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let report = Report::new(true);
        let holds: Vec<_> = report.targets().iter().map(|t| t.holds).collect();
        // Only that no request failed.
        assert_eq!(holds, [false, false, false, false, false, false, false, true]);
    }
}
