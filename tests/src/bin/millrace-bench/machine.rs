//! The machine: what it is, and who used its processors while something was measured.

use std::path::Path;
use std::time::{Duration, Instant};

use millrace_tests::Process;
use serde::Serialize;

/// Under which conditions was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cores: usize,
    model: String,
    kernel: String,
    /// Of the directory that holds the servers' data.
    file_system: String,
    /// `release` or `debug`.
    build: &'static str,
    /// Before anything was started.
    load_average: String,
}

/// Processor time in a window, as shares of one core.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cpu {
    /// Each process by name; `bench` is this one.
    pub(crate) processes: Vec<(String, f64)>,
    /// What everything else on the machine took. More than 0.15: the figures are not to be published.
    pub(crate) others: f64,
}

/// Counts processor time from its start on.
pub(crate) struct Meter<'a> {
    processes: Vec<(&'a Process, Duration)>,
    me: Duration,
    machine: Duration,
    begun: Instant,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            model,
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            file_system: file_system(&read("/proc/mounts"), &std::env::temp_dir()),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().into(),
        }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{} cores ({}), Linux {}, data on {}, {} build, load average {} before",
            self.cores, self.model, self.kernel, self.file_system, self.build, self.load_average
        )
    }
}

impl<'a> Meter<'a> {
    pub(crate) fn start(processes: impl IntoIterator<Item = &'a Process>) -> anyhow::Result<Self> {
        let processes: anyhow::Result<_> = processes
            .into_iter()
            .filter(|p| p.is_running())
            .map(|p| Ok((p, p.usage()?.cpu)))
            .collect();
        Ok(Self {
            processes: processes?,
            me: own_cpu(),
            machine: machine_cpu(),
            begun: Instant::now(),
        })
    }

    pub(crate) fn stop(&self) -> anyhow::Result<Cpu> {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let share = |used: Duration| used.as_secs_f64() / elapsed;
        let mut processes: Vec<(String, f64)> = Vec::new();
        for (process, before) in &self.processes {
            let used = process.usage()?.cpu.saturating_sub(*before);
            processes.push((process.name().into(), share(used)));
        }
        processes.push(("bench".into(), share(own_cpu().saturating_sub(self.me))));
        let ours: f64 = processes.iter().map(|(_, share)| share).sum();
        let all = share(machine_cpu().saturating_sub(self.machine));
        Ok(Cpu {
            processes,
            others: (all - ours).max(0.0),
        })
    }
}

impl Cpu {
    /// Time of each process for one of so many things a second: `nats-server 17 µs, …`, most first; then what others
    /// took of a core.
    pub(crate) fn line(&self, per_s: f64) -> String {
        let mut sorted: Vec<_> = self.processes.iter().collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut parts: Vec<_> = sorted
            .iter()
            .map(|(name, share)| format!("{name} {:.1} µs", share / per_s * 1e6))
            .collect();
        parts.push(format!("others {:.0} % of a core", self.others * 100.0));
        parts.join(", ")
    }
}

/// Type of the file system that holds `path`.
fn file_system(mounts: &str, path: &Path) -> String {
    let of_path = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        path.starts_with(at).then_some((at.len(), kind))
    });
    of_path
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".into(), |(_, kind)| kind.into())
}

fn own_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    ticks(fields.split_whitespace().skip(11).take(2))
}

/// In user and system mode, of all processes; interrupts and other guests do not count.
fn machine_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    ticks(
        stat.lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(3),
    )
}

/// A hundred ticks a second on every Linux.
fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    Duration::from_millis(fields.filter_map(|f| f.parse::<u64>().ok()).sum::<u64>() * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_is_the_one_of_the_longest_mount_point() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp2 xfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/var/tmp")), "ext4");
    }
}
