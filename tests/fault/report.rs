//! Figures of all runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{STEP_TAKE_OVER_MAX, TAKE_OVER_MAX};

/// Classes of faults after which a take-over of partitions is measured.
const MEASURED: [&str; 3] = ["coordinator", "coordinator, back soon", "coordinator stopped"];

/// Times in ms, shown by percentile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<u64>);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) seeds: Vec<u64>,
    pub(crate) instances: usize,
    pub(crate) executions: usize,
    pub(crate) extra: usize,
    /// Faults by class.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Faults whose take-over was not measured: the stack had not recovered from the one before.
    pub(crate) unmeasured: u64,
    /// From the kill (or stop) of a coordinator until all its partitions are served, by class.
    pub(crate) take_over: BTreeMap<String, Times>,
    /// From the kill of a worker until another runs the step that it had begun.
    pub(crate) step_take_over: Times,
    /// Answers to starts by status; 0 for none.
    pub(crate) answers: BTreeMap<u16, u64>,
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// Nearest rank; 0 when there is none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        Duration::from_millis(sorted.get(rank - 1).copied().unwrap_or(0))
    }
}

impl Figures {
    pub(crate) fn fault(&mut self, class: String) {
        *self.faults.entry(class).or_default() += 1;
    }

    pub(crate) fn taken_over(&mut self, class: String, time: Duration) {
        self.take_over.entry(class).or_default().add(time);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.seeds.extend(other.seeds);
        self.instances += other.instances;
        self.executions += other.executions;
        self.extra += other.extra;
        self.unmeasured += other.unmeasured;
        for (class, count) in other.faults {
            *self.faults.entry(class).or_default() += count;
        }
        for (class, times) in &other.take_over {
            self.take_over.entry(class.clone()).or_default().extend(times);
        }
        self.step_take_over.extend(&other.step_take_over);
        for (status, count) in other.answers {
            *self.answers.entry(status).or_default() += count;
        }
    }

    /// Times above their bounds, and classes that were never measured: no figures are no proof.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.unproven().into_iter().chain(self.slow()).collect()
    }

    fn unproven(&self) -> Vec<String> {
        let runs = self.seeds.len();
        let mut found: Vec<String> = MEASURED
            .into_iter()
            .filter(|class| self.take_over.get(*class).is_none_or(|t| t.0.len() * 2 < runs))
            .map(|class| format!("take-over after `{class}` was measured in less than half of {runs} runs"))
            .collect();
        if self.step_take_over.0.len() < runs {
            let count = self.step_take_over.0.len();
            found.push(format!(
                "take-over of steps was measured {count} times in {runs} runs"
            ));
        }
        if runs == 0 || self.instances == 0 {
            found.push("nothing was run: MILLRACE_FAULT_RUNS must be at least 1".into());
        }
        found
    }

    fn slow(&self) -> Vec<String> {
        let mut all = Times::default();
        for times in self.take_over.values() {
            all.extend(times);
        }
        [
            (
                "partitions of a killed or stopped coordinator",
                all,
                99,
                TAKE_OVER_MAX,
            ),
            // Every single one: the bound is the lease and a second, whatever else happens.
            (
                "steps of a killed worker",
                self.step_take_over.clone(),
                100,
                STEP_TAKE_OVER_MAX,
            ),
        ]
        .into_iter()
        .filter(|(_, times, percent, max)| times.percentile(*percent) >= *max)
        .map(|(what, times, percent, max)| {
            format!("take-over of {what}: p{percent} is not below {max:?}: {times}")
        })
        .collect()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |percent| self.percentile(percent).as_millis();
        write!(
            f,
            "p50 {} ms, p99 {} ms, max {} ms of {}",
            at(50),
            at(99),
            at(100),
            self.0.len()
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seeds {:?}", self.seeds)?;
        writeln!(
            f,
            "instances {}, executions {}, of these extra {}",
            self.instances, self.executions, self.extra
        )?;
        writeln!(
            f,
            "faults {:?}, take-over not measured {}",
            self.faults, self.unmeasured
        )?;
        writeln!(f, "answers to starts by status (0: none) {:?}", self.answers)?;
        for (class, times) in &self.take_over {
            writeln!(f, "take-over of partitions, {class}: {times}")?;
        }
        writeln!(f, "take-over of steps: {}", self.step_take_over)
    }
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let mut times = Times::default();
    assert_eq!(times.percentile(99), Duration::ZERO);
    for ms in (1..=200).rev() {
        times.add(Duration::from_millis(ms));
    }
    assert_eq!(times.percentile(50), Duration::from_millis(100));
    assert_eq!(times.percentile(99), Duration::from_millis(198));
    assert_eq!(times.percentile(100), Duration::from_millis(200));
}

#[test]
fn times_above_their_bounds_are_seen() {
    let mut figures = Figures::default();
    figures.taken_over("coordinator".into(), TAKE_OVER_MAX - Duration::from_millis(1));
    assert_eq!(figures.slow(), Vec::<String>::new());
    figures.taken_over("coordinator".into(), TAKE_OVER_MAX);
    figures.step_take_over.add(STEP_TAKE_OVER_MAX);
    assert_eq!(figures.slow().len(), 2);
}

#[test]
fn what_was_not_measured_is_not_proven() {
    let mut figures = Figures::default();
    assert!(!figures.violations().is_empty());
    (figures.seeds, figures.instances) = (vec![1, 2], 400);
    for class in MEASURED {
        figures.taken_over(class.into(), Duration::from_secs(1));
    }
    for _ in 0..2 {
        figures.step_take_over.add(Duration::from_secs(1));
    }
    assert_eq!(figures.violations(), Vec::<String>::new());
    figures.take_over.remove(MEASURED[0]);
    assert_eq!(figures.violations().len(), 1);
}
