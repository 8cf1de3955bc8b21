//! What pods and the machine use, asked when somebody wants to know.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cri::{
    Container, ContainerFilter, ContainerState, ContainerStats, PodSandboxFilter, PodSandboxState, PodSandboxStats,
};

use crate::agent::Agent;
use crate::cgroup::Counts;
use crate::pod::seen::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};

/// A rate over less than this is noise.
const RATE_NANOSECONDS_MIN: i64 = 500_000_000;
/// A sample older than this says nothing of now.
const RATE_NANOSECONDS_MAX: i64 = 600_000_000_000;

/// A pod with what it uses.
pub(super) struct PodUsage {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// In nanoseconds since 1970.
    pub created_at: i64,
    pub stats: PodSandboxStats,
    pub containers: Vec<ContainerUsage>,
}

/// A running container with what it uses.
pub(super) struct ContainerUsage {
    pub name: String,
    pub id: String,
    pub image: String,
    /// In nanoseconds since 1970.
    pub started_at: i64,
    pub stats: ContainerStats,
    /// What the runtime tells, or its control group where it does not.
    pub process_count: Option<u64>,
    pub throttled_periods: Option<u64>,
}

/// Every pod that runs. What disappears between two questions is left out.
pub(super) async fn pods(agent: &Agent) -> cri::Result<Vec<PodUsage>> {
    let runtime = &agent.context().runtime;
    let filter = PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
    let mut pods = Vec::new();
    for sandbox in runtime.list_pod_sandbox(filter).await? {
        let Some(stats) = present(runtime.pod_sandbox_stats(&sandbox.id).await)? else { continue };
        let of_it = ContainerFilter { pod_sandbox_id: Some(sandbox.id.clone()), ..ContainerFilter::default() };
        let mut containers = Vec::new();
        for container in runtime.list_containers(of_it).await? {
            if container.state == ContainerState::Running {
                containers.extend(used(agent, container, &sandbox.metadata.uid, &stats).await?);
            }
        }
        let label = |name: &str| sandbox.labels.get(name).cloned().unwrap_or_default();
        pods.push(PodUsage {
            name: label(POD_NAME),
            namespace: label(POD_NAMESPACE),
            uid: label(POD_UID),
            created_at: sandbox.created_at,
            stats,
            containers,
        });
    }
    pods.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok(pods)
}

async fn used(
    agent: &Agent,
    container: Container,
    pod_uid: &str,
    pod: &PodSandboxStats,
) -> cri::Result<Option<ContainerUsage>> {
    let Some(status) = present(agent.context().runtime.container_status(&container.id).await)? else { return Ok(None) };
    let Some(stats) = pod.containers.iter().find(|stats| stats.id == container.id) else { return Ok(None) };
    let counts = match (stats.process_count, stats.cpu.throttled_periods) {
        (None, _) | (_, None) => agent.context().cgroups.counts(pod_uid, &container.id),
        _ => Counts::default(),
    };
    Ok(Some(ContainerUsage {
        process_count: stats.process_count.or(counts.processes),
        throttled_periods: stats.cpu.throttled_periods.or(counts.throttled_periods),
        name: container.labels.get(CONTAINER_NAME).unwrap_or(&container.metadata.name).clone(),
        image: status.image.image_ref.clone(),
        started_at: status.times.started_at,
        id: container.id,
        stats: stats.clone(),
    }))
}

fn present<T>(answer: cri::Result<T>) -> cri::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the whole machine uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MachineUsage {
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
    pub available_bytes: u64,
    pub processes: u64,
    pub processes_max: u64,
    /// Seconds since 1970.
    pub booted_at: i64,
}

impl MachineUsage {
    /// Asks the kernel.
    pub(super) fn read() -> MachineUsage {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        MachineUsage::parse(
            &text("/proc/stat"),
            &text("/proc/meminfo"),
            &text("/proc/loadavg"),
            &text("/proc/sys/kernel/pid_max"),
        )
    }

    fn parse(stat: &str, memory: &str, load: &str, pid_max: &str) -> MachineUsage {
        // The first line counts hundredths of a second; idle and waiting for disks is no use.
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .into_iter()
            .flat_map(|line| line.split_whitespace().skip(1))
            .map_while(|word| word.parse().ok())
            .collect();
        let busy: u64 =
            ticks.iter().enumerate().filter(|(index, _)| matches!(index, 0..=2 | 5..=7)).map(|(_, ticks)| ticks).sum();
        let kilobytes = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let available = kilobytes("MemAvailable:");
        let tasks =
            load.split_whitespace().nth(3).and_then(|pair| pair.split_once('/')).and_then(|(_, all)| all.parse().ok());
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime "));
        MachineUsage {
            cpu_nanoseconds: busy * 10_000_000,
            memory_bytes: kilobytes("MemTotal:").saturating_sub(available) * 1024,
            available_bytes: available * 1024,
            processes: tasks.unwrap_or(0),
            processes_max: pid_max.trim().parse().unwrap_or(0),
            booted_at: boot.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        }
    }
}

/// Processor use at the last question, by what it is of: rates come of two questions, and nothing runs in between.
#[derive(Default)]
pub(super) struct Rates(Mutex<BTreeMap<String, (i64, u64)>>);

impl Rates {
    /// Billionths of a core used since the last question, for each of `now`: name, moment, nanoseconds of use. None the
    /// first time.
    pub(super) fn since_last(&self, now: &[(String, i64, u64)]) -> BTreeMap<String, u64> {
        let mut last = self.0.lock().expect("no holder of this lock panics");
        let rates = now.iter().filter_map(|(name, at, used)| {
            let (then, before) = last.get(name)?;
            Some((name.clone(), rate((*then, *before), (*at, *used))?))
        });
        let rates = rates.collect();
        let mut next = BTreeMap::new();
        for (name, at, used) in now {
            // Who asks in quick succession is told by the same, older sample.
            let kept = last.get(name).filter(|(then, before)| at - then < RATE_NANOSECONDS_MIN && before <= used);
            next.insert(name.clone(), kept.copied().unwrap_or((*at, *used)));
        }
        // What is gone is forgotten.
        *last = next;
        rates
    }
}

fn rate((then, before): (i64, u64), (now, used): (i64, u64)) -> Option<u64> {
    let elapsed = now - then;
    let used = used.checked_sub(before)?;
    if !(RATE_NANOSECONDS_MIN..=RATE_NANOSECONDS_MAX).contains(&elapsed) {
        return None;
    }
    u64::try_from(u128::from(used) * 1_000_000_000 / u128::try_from(elapsed).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_comes_of_two_samples_that_are_apart() {
        let second = 1_000_000_000;
        assert_eq!(rate((0, 0), (2 * second, 1_000_000_000)), Some(500_000_000));
        assert_eq!(rate((0, 0), (second / 10, 1)), None);
        assert_eq!(rate((0, 5), (second, 4)), None, "a restarted one counts anew");
        let rates = Rates::default();
        let ask = |at: i64, used| rates.since_last(&[("c".to_owned(), at * second, used)]).get("c").copied();
        assert_eq!((ask(1, 0), ask(2, 1_000_000_000), ask(3, 1_000_000_000)), (None, Some(1_000_000_000), Some(0)));
    }

    #[test]
    fn reads_what_the_kernel_says_of_the_machine() {
        let stat = "cpu  100 10 50 9000 40 3 2 1 0 0\ncpu0 1\nbtime 1700000000\n";
        let memory = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n";
        let found = MachineUsage::parse(stat, memory, "0.1 0.2 0.3 2/345 999", "32768\n");
        let expected = MachineUsage {
            cpu_nanoseconds: 166 * 10_000_000,
            memory_bytes: 600 * 1024,
            available_bytes: 400 * 1024,
            processes: 345,
            processes_max: 32_768,
            booted_at: 1_700_000_000,
        };
        assert_eq!(found, expected);
    }
}
