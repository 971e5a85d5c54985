//! Breaks things, and measures how long others need to take over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_tests::ledger::{self, Entry, What};
use millrace_tests::{Client, Process, Stack, eventually_within};
use serde_json::Value;

use crate::report::Figures;
use crate::schedule::{Fault, Planned, Target};
use crate::{LEASE_TTL, STEP_TAKE_OVER_MAX, TAKE_OVER_MAX};

/// How often partitions are looked at while they are taken over.
const LOOK: Duration = Duration::from_millis(20);
/// Waits for recovery and for take-overs end here; above their bounds, so that the bound is judged and not the wait.
const GIVE_UP: Duration = Duration::from_secs(15);

/// Who serves each partition, and since which epoch.
type Owners = BTreeMap<String, (usize, u64)>;

/// One run's faults.
pub(crate) struct Injector<'a> {
    stack: &'a Stack,
    clients: Vec<Client>,
    ledger: &'a Path,
    pub(crate) figures: Figures,
    pub(crate) violations: Vec<String>,
}

impl<'a> Injector<'a> {
    pub(crate) fn new(stack: &'a Stack, ledger: &'a Path) -> Self {
        Self {
            stack,
            clients: (0..stack.coordinators.len())
                .map(|n| stack.client_of(n))
                .collect(),
            ledger,
            figures: Figures::default(),
            violations: Vec::new(),
        }
    }

    pub(crate) async fn run(&mut self, schedule: &[Planned]) -> anyhow::Result<()> {
        for planned in schedule {
            tokio::time::sleep(planned.pause).await;
            self.look_for_exits();
            self.figures.fault(planned.fault.class());
            match &planned.fault {
                Fault::Owner { soon } => self.kill_owner(planned, *soon).await?,
                Fault::Worker(number) => self.kill_worker(planned, *number).await?,
                Fault::Kill(targets) => self.kill(targets, &planned.dead).await?,
                Fault::Freeze => self.freeze(planned).await,
            }
        }
        self.look_for_exits();
        Ok(())
    }

    fn process(&self, target: Target) -> &Process {
        match target {
            Target::Coordinator(number) => &self.stack.coordinators[number],
            Target::Worker(number) => &self.stack.workers[number],
            Target::Nats => self.stack.nats.process(),
            Target::Redis => self.stack.redis.process(),
        }
    }

    /// Nothing ends by itself, whatever else is killed.
    fn look_for_exits(&mut self) {
        for process in self.stack.processes() {
            if let Some(status) = process.exit_status() {
                self.violations
                    .push(format!("{} ended by itself: {status}", process.name()));
            }
        }
    }

    async fn kill(&self, targets: &[Target], dead: &[Duration]) -> anyhow::Result<()> {
        for target in targets {
            self.process(*target).kill9();
        }
        let killed = tokio::time::Instant::now();
        let mut order: Vec<_> = targets.iter().zip(dead).collect();
        order.sort_by_key(|(_, dead)| **dead);
        for (target, dead) in order {
            tokio::time::sleep_until(killed + *dead).await;
            self.process(*target).restart()?;
        }
        Ok(())
    }

    async fn kill_owner(&mut self, planned: &Planned, soon: bool) -> anyhow::Result<()> {
        let before = self.settled().await;
        let owner = main_owner(before.as_ref());
        let process = &self.stack.coordinators[owner];
        let begun = Instant::now();
        process.kill9();
        let back = async {
            tokio::time::sleep(planned.dead[0]).await;
            if soon { process.restart() } else { Ok(()) }
        };
        let (taken, back) = tokio::join!(self.taken_over(before.as_ref(), owner, begun), back);
        back?;
        if !soon {
            process.restart()?;
        }
        self.book(planned, before.is_some(), taken, owner);
        Ok(())
    }

    async fn freeze(&mut self, planned: &Planned) {
        let before = self.settled().await;
        let owner = main_owner(before.as_ref());
        let process = &self.stack.coordinators[owner];
        let begun = Instant::now();
        process.stop();
        // The fault is the time.
        let frozen = tokio::time::sleep(LEASE_TTL * 5 / 2);
        let (taken, ()) = tokio::join!(self.taken_over(before.as_ref(), owner, begun), frozen);
        process.cont();
        self.book(planned, before.is_some(), taken, owner);
    }

    fn book(&mut self, planned: &Planned, measured: bool, taken: Option<Duration>, owner: usize) {
        let class = planned.fault.class();
        match taken {
            _ if !measured => self.figures.unmeasured += 1,
            Some(time) => self.figures.taken_over(class, time),
            None => self.violations.push(format!(
                "{class}: partitions of coordinator-{owner} were not taken over within {GIVE_UP:?}"
            )),
        }
        if let Some(time) = taken.filter(|time| measured && *time >= TAKE_OVER_MAX) {
            eprintln!("slow take-over of coordinator-{owner}: {time:?}");
        }
    }

    /// Who serves what, once everything is served; `None` when that does not come in time.
    async fn settled(&self) -> Option<Owners> {
        let check = async || {
            let (owners, count) = self.owners(None).await;
            (count > 0 && owners.len() == count).then_some(owners)
        };
        eventually_within(GIVE_UP, "everything is served", check)
            .await
            .ok()
    }

    /// Time from `begun` until all that `gone` served is served by a later owner, and the rest is served, too.
    async fn taken_over(&self, before: Option<&Owners>, gone: usize, begun: Instant) -> Option<Duration> {
        let before = before?;
        // A stopped one accepts connections and says nothing.
        let silent = self.stack.coordinators[gone].is_running().then_some(gone);
        while begun.elapsed() < GIVE_UP {
            let (owners, _) = self.owners(silent).await;
            let taken = |(partition, (owner, epoch)): (&String, &(usize, u64))| {
                let new = owners.get(partition);
                new.is_some_and(|(_, new)| *owner != gone || new > epoch)
            };
            if before.iter().all(taken) {
                return Some(begun.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// Who serves what, and how many partitions there are; the coordinator `silent` is not asked.
    async fn owners(&self, silent: Option<usize>) -> (Owners, usize) {
        let asked = self
            .clients
            .iter()
            .enumerate()
            .filter(|(number, _)| Some(*number) != silent);
        let asked = asked.map(|(number, client)| async move {
            let answer = tokio::time::timeout(Duration::from_secs(1), client.get("/api/v1/status")).await;
            (
                number,
                answer
                    .ok()
                    .and_then(Result::ok)
                    .map(|a| a.body)
                    .unwrap_or_default(),
            )
        });
        let (mut owners, mut count) = (Owners::new(), 0);
        for (number, status) in futures_util::future::join_all(asked).await {
            let partitions = &status["partitions"];
            let all = partitions["count"].as_u64().and_then(|n| usize::try_from(n).ok());
            count = count.max(all.unwrap_or(0));
            for (partition, state) in partitions["here"].as_object().into_iter().flatten() {
                let Some(epoch) = serving(state) else { continue };
                // An owner that was replaced may not know it yet.
                let owner = owners.entry(partition.clone()).or_insert((number, epoch));
                if epoch > owner.1 {
                    *owner = (number, epoch);
                }
            }
        }
        (owners, count)
    }

    async fn kill_worker(&mut self, planned: &Planned, number: usize) -> anyhow::Result<()> {
        let process = &self.stack.workers[number];
        let pid = process.pid().unwrap_or_default();
        let is_calm = self.settled().await.is_some();
        let busy = eventually_within(
            GIVE_UP,
            "all workers are busy, this one in the middle of a step",
            async || {
                let entries = ledger::read(self.ledger).ok()?;
                let has_slow_step = !ledger::unfinished(&entries, pid).is_empty();
                (has_slow_step && self.all_busy(&entries)).then_some(())
            },
        );
        let is_busy = busy.await.is_ok();
        let killed = ledger::now_ms();
        process.kill9();
        let open = ledger::unfinished(&ledger::read(self.ledger)?, pid);
        tokio::time::sleep(planned.dead[0]).await;
        process.restart()?;
        if !is_calm || !is_busy {
            self.figures.unmeasured += 1;
            return Ok(());
        }
        self.await_steps(&open, pid, killed).await
    }

    /// Every worker has begun a step lately.
    fn all_busy(&self, entries: &[Entry]) -> bool {
        let since = ledger::now_ms().saturating_sub(1_000);
        let busy: BTreeSet<u32> = entries.iter().filter(|e| e.at >= since).map(|e| e.pid).collect();
        self.stack
            .workers
            .iter()
            .all(|w| w.pid().is_some_and(|pid| busy.contains(&pid)))
    }

    /// Waits until the steps that a killed worker had begun are run by another, and books when that began.
    async fn await_steps(
        &mut self,
        open: &BTreeSet<(String, u32)>,
        pid: u32,
        killed: u64,
    ) -> anyhow::Result<()> {
        let mut left = open.clone();
        let begun = Instant::now();
        while !left.is_empty() && begun.elapsed() < GIVE_UP {
            tokio::time::sleep(LOOK * 5).await;
            let entries = ledger::read(self.ledger)?;
            for place in open {
                let others = entries
                    .iter()
                    .filter(|e| e.pid != pid && e.place() == (place.0.as_str(), place.1));
                let again = others.clone().find(|e| e.what == What::Begin && e.at >= killed);
                // Another had begun it before: this one's execution was an extra one.
                let is_done = others.clone().any(|e| e.what == What::End);
                if (again.is_some() || is_done) && left.remove(place) {
                    let Some(again) = again else { continue };
                    let time = Duration::from_millis(again.at - killed);
                    self.figures.step_take_over.add(time);
                    if time >= STEP_TAKE_OVER_MAX {
                        eprintln!("slow take-over of step {place:?}: {time:?}");
                    }
                }
            }
        }
        for place in left {
            self.violations
                .push(format!("step {place:?} was not taken over within {GIVE_UP:?}"));
        }
        Ok(())
    }
}

/// Epoch of a partition that is served.
fn serving(state: &Value) -> Option<u64> {
    (state["phase"] == "serving").then(|| state["epoch"].as_u64())?
}

/// Who serves the most partitions.
fn main_owner(owners: Option<&Owners>) -> usize {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for (owner, _) in owners.into_iter().flat_map(BTreeMap::values) {
        *counts.entry(*owner).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map_or(0, |(owner, _)| owner)
}
