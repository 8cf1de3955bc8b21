//! When a node that runs short ends pods, which it ends first, and what it says. Pure.
//!
//! Upstream: `pkg/kubelet/eviction`: thresholds, signals, ranking and words.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use stdx::Mono;

pub use bounds::{AT_ONCE_SECONDS, Bounds, DEFAULT, Said, Side, Signal, Threshold};

use crate::pressure::{Pressure, Room};

mod bounds;

/// What was short at the looks so far: since when, and what is told of it.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    since: BTreeMap<Threshold, Mono>,
    /// Those for which pods were to end at the last look. They count until what they reclaim at least is there.
    unresolved: Vec<Threshold>,
    memory: Option<Mono>,
    disk: Option<Mono>,
    pids: Option<Mono>,
    told: Pressure,
}

impl Watch {
    /// Takes in what there is at `now`; the shortage to see to first. A bound with a grace period is told of at once, and has no
    /// pod ended before that has passed. Upstream: `managerImpl.synchronize`.
    pub fn see(&mut self, bounds: &Bounds, room: &Room, now: Mono) -> Option<Shortage> {
        let met = |threshold: &&Threshold| {
            threshold.met(room) || (self.unresolved.contains(threshold) && !threshold.resolved(room))
        };
        let met: Vec<Threshold> = bounds.thresholds.iter().filter(met).copied().collect();
        self.since.retain(|threshold, _| met.contains(threshold));
        for threshold in &met {
            self.since.entry(*threshold).or_insert(now);
        }
        self.tell(&met, bounds.transition, now);
        let ripe =
            |threshold: &&Threshold| self.since.get(threshold).is_some_and(|since| now - *since >= threshold.grace);
        self.unresolved = met.iter().filter(ripe).copied().collect();
        self.unresolved.first().map(|threshold| threshold.shortage(room, bounds.pod_grace_seconds_max))
    }

    /// A pressure stays told for a while after it has passed, so that pods do not come and go with it.
    fn tell(&mut self, met: &[Threshold], transition: Duration, now: Mono) {
        let held = |last: &mut Option<Mono>, resources: &[&str]| {
            if met.iter().any(|threshold| resources.contains(&threshold.signal.resource())) {
                *last = Some(now);
            }
            last.is_some_and(|last| now == last || now - last < transition)
        };
        self.told = Pressure {
            memory: held(&mut self.memory, &["memory"]),
            disk: held(&mut self.disk, &["ephemeral-storage", "inodes"]),
            pids: held(&mut self.pids, &["pids"]),
        };
    }

    /// What was told last.
    pub fn told(&self) -> Pressure {
        self.told
    }
}

/// Why a pod does not begin on a node that runs short: with memory alone, only pods that promise nothing are kept out.
/// Upstream: `managerImpl.Admit`.
pub fn keeps_out(pressure: Pressure, best_effort: bool, critical: bool) -> Option<String> {
    let names: Vec<&str> =
        [("MemoryPressure", pressure.memory), ("DiskPressure", pressure.disk), ("PIDPressure", pressure.pids)]
            .into_iter()
            .filter(|(_, short)| *short)
            .map(|(name, _)| name)
            .collect();
    let memory_only = pressure.memory && names.len() == 1;
    let stays_out = !names.is_empty() && !critical && (best_effort || !memory_only);
    stays_out.then(|| format!("The node had condition: [{}]. ", names.join(" ")))
}

/// What a pod uses and asks for of what is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    pub used: u64,
    pub requested: u64,
    /// Containers with what they use and ask for.
    pub containers: Vec<(String, u64, u64)>,
}

/// One thing that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub signal: Signal,
    pub quantity: u64,
    pub available: u64,
    /// Longest time that a pod has for its end; its own, if that is shorter.
    pub grace_seconds_max: u64,
}

/// The pods in the order in which they end: those that use more than they asked for, then the less important, then those
/// that use most beyond what they asked for. Upstream: `rankMemoryPressure` and its siblings.
pub fn ranked(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|pod| {
        let beyond = i128::from(pod.used) - i128::from(pod.requested);
        (Reverse(beyond > 0), pod.priority, Reverse(beyond))
    });
    candidates
}

impl Shortage {
    /// Why a pod is ended, for its status and event. Upstream: `evictionMessage`.
    pub fn message(&self, pod: &Candidate) -> String {
        let resource = self.signal.resource();
        let mut text = format!("The node was low on resource: {resource}. ");
        let amount = |amount: u64| self.amount(amount);
        text += &format!("{}. ", self.amounts());
        for (name, used, requested) in pod.containers.iter().filter(|(_, used, requested)| used > requested) {
            text += &format!(
                "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
                amount(*used),
                amount(*requested)
            );
        }
        text
    }

    /// What has to be left, and what is.
    pub fn amounts(&self) -> String {
        format!("Threshold quantity: {}, available: {}", self.amount(self.quantity), self.amount(self.available))
    }

    /// Bytes in Ki as upstream's metrics give them; counts as they are.
    fn amount(&self, amount: u64) -> String {
        let bytes = matches!(self.signal.resource(), "memory" | "ephemeral-storage");
        match amount {
            0 => "0".into(),
            amount if !bytes => amount.to_string(),
            amount if amount % (1 << 30) == 0 => format!("{}Gi", amount >> 30),
            amount if amount % (1 << 20) == 0 => format!("{}Mi", amount >> 20),
            amount if amount % (1 << 10) == 0 => format!("{}Ki", amount >> 10),
            amount => amount.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn plenty() -> Room {
        Room {
            memory: (8 * GIB, GIB),
            disk: (100, 15),
            inodes: (100, 5),
            image_disk: (100, 15),
            image_inodes: (100, 5),
            pids: (1000, 500),
        }
    }

    fn at(second: u64) -> Mono {
        Mono(Duration::from_secs(second))
    }

    fn short_of_memory(mebibytes: u64) -> Room {
        Room { memory: (8 * GIB, mebibytes << 20), ..plenty() }
    }

    #[track_caller]
    fn check(room: Room, expected: Pressure) {
        let mut watch = Watch::default();
        watch.see(&Bounds::default(), &room, at(0));
        assert_eq!(watch.told(), expected, "{room:?}");
    }

    #[test]
    fn tells_what_is_short() {
        check(plenty(), Pressure::default());
        check(short_of_memory(99), Pressure { memory: true, ..Pressure::default() });
        check(Room { disk: (100, 5), ..plenty() }, Pressure::default());
        check(Room { disk: (100, 4), ..plenty() }, Pressure { disk: true, ..Pressure::default() });
        check(Room { inodes: (100, 4), ..plenty() }, Pressure { disk: true, ..Pressure::default() });
        check(Room { image_disk: (100, 4), ..plenty() }, Pressure { disk: true, ..Pressure::default() });
        check(Room { image_inodes: (100, 4), ..plenty() }, Pressure { disk: true, ..Pressure::default() });
        // Without a threshold of its own nothing is short of process ids; a file system without inodes never of them.
        check(Room { pids: (1000, 0), inodes: (0, 0), ..plenty() }, Pressure::default());
    }

    #[test]
    fn a_pressure_stays_told_for_five_minutes() {
        let (mut watch, bounds) = (Watch::default(), Bounds::default());
        let mut told = |room: &Room, second: u64| {
            watch.see(&bounds, room, at(second));
            watch.told().memory
        };
        assert!(told(&short_of_memory(10), 1000));
        assert!(told(&plenty(), 1299));
        assert!(!told(&plenty(), 1300));
    }

    /// What is short at each of these moments: the quantity of the bound, in MiB.
    #[track_caller]
    fn check_looks(said: Said<'_>, looks: &[(u64, u64, Option<u64>)]) {
        let (mut watch, bounds) = (Watch::default(), Bounds::read(&said).unwrap());
        for (second, left, expected) in looks {
            let shortage = watch.see(&bounds, &short_of_memory(*left), at(*second));
            assert_eq!(shortage.map(|shortage| shortage.quantity >> 20), *expected, "{left} MiB at {second} s");
        }
    }

    #[test]
    fn a_soft_bound_waits_for_its_grace_period_without_a_break() {
        let said = Said {
            hard: "memory.available<100Mi",
            soft: "memory.available<300Mi",
            soft_grace_period: "memory.available=30s",
            ..Said::default()
        };
        let looks = [
            (0, 200, None),
            (20, 200, None),
            // A hard bound does not wait.
            (25, 50, Some(100)),
            (30, 200, Some(300)),
            (40, 300, None),
            (50, 200, None),
            (80, 200, Some(300)),
        ];
        check_looks(said, &looks);
    }

    #[test]
    fn so_much_is_reclaimed_at_least() {
        let said = Said { hard: "memory.available<100Mi", minimum_reclaim: "memory.available=50Mi", ..Said::default() };
        let looks = [(0, 120, None), (10, 90, Some(100)), (20, 120, Some(100)), (30, 150, None), (40, 120, None)];
        check_looks(said, &looks);
    }

    #[test]
    fn only_a_soft_bound_leaves_pods_time() {
        let said = Said {
            hard: "pid.available<600",
            soft: "memory.available<1Gi",
            soft_grace_period: "memory.available=1s",
            max_pod_grace_period: 20,
            ..Said::default()
        };
        let (mut watch, bounds) = (Watch::default(), Bounds::read(&said).unwrap());
        let seconds = |shortage: Option<Shortage>| shortage.map(|shortage| shortage.grace_seconds_max);
        assert_eq!(seconds(watch.see(&bounds, &short_of_memory(10), at(0))), Some(1), "of processes there are too few");
        assert_eq!(seconds(watch.see(&bounds, &short_of_memory(10), at(1))), Some(20));
    }

    #[test]
    fn a_node_that_runs_short_takes_no_pods() {
        let memory = Pressure { memory: true, ..Pressure::default() };
        let both = Pressure { disk: true, ..memory };
        assert_eq!(keeps_out(memory, true, false).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        assert_eq!(keeps_out(memory, false, false), None);
        assert_eq!(
            keeps_out(both, false, false).as_deref(),
            Some("The node had condition: [MemoryPressure DiskPressure]. ")
        );
        assert_eq!(keeps_out(both, true, true), None);
        assert_eq!(keeps_out(Pressure::default(), true, false), None);
    }

    fn pod(uid: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let containers = vec![("c".to_owned(), used, requested)];
        Candidate { uid: uid.into(), priority, used, requested, containers }
    }

    #[test]
    fn those_beyond_their_requests_end_first() {
        let pods = vec![
            pod("modest", 0, 100, 200),
            pod("important", 10, 900, 100),
            pod("greedy", 0, 300, 100),
            pod("greediest", 0, 800, 100),
        ];
        let order: Vec<String> = ranked(pods).into_iter().map(|pod| pod.uid).collect();
        assert_eq!(order, ["greediest", "greedy", "important", "modest"]);
    }

    #[test]
    fn the_message_is_upstreams() {
        let shortage = Watch::default().see(&Bounds::default(), &short_of_memory(50), at(0)).unwrap();
        assert_eq!(
            shortage.message(&pod("p", 0, 2 << 20, 0)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2Mi, \
             request is 0, has larger consumption of memory. "
        );
    }
}
