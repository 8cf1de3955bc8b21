//! When a node that runs short ends pods, which it ends first, and what it says. Pure.
//!
//! Upstream: `pkg/kubelet/eviction`: hard thresholds, signals, ranking and words.

use std::cmp::Reverse;
use std::time::Duration;

use api::quantity::Quantity;

use stdx::Mono;

use crate::pressure::{Pressure, Room};

/// Upstream's defaults on Linux, but for disk: a tenth or more of a large disk is room enough, and a machine that has other
/// work than pods is often filled that far. k3s draws the line there, too.
pub const DEFAULT: &str =
    "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%";

/// What is measured. The order is that in which shortages are seen to. Upstream: `byEvictionPriority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    ImagefsAvailable,
    NodefsInodesFree,
    ImagefsInodesFree,
    PidAvailable,
}

const SIGNALS: [(&str, Signal); 6] = [
    ("memory.available", Signal::MemoryAvailable),
    ("nodefs.available", Signal::NodefsAvailable),
    ("nodefs.inodesFree", Signal::NodefsInodesFree),
    ("imagefs.available", Signal::ImagefsAvailable),
    ("imagefs.inodesFree", Signal::ImagefsInodesFree),
    ("pid.available", Signal::PidAvailable),
];

impl Signal {
    /// The resource that is short, as messages name it. Upstream: `signalToResource`.
    pub const fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory",
            Signal::NodefsAvailable | Signal::ImagefsAvailable => "ephemeral-storage",
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    /// Capacity and what is left of it. Images lie on the file system of pods.
    fn observed(self, room: &Room) -> (u64, u64) {
        match self {
            Signal::MemoryAvailable => room.memory,
            Signal::NodefsAvailable | Signal::ImagefsAvailable => room.disk,
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => room.inodes,
            Signal::PidAvailable => room.pids,
        }
    }
}

/// As much as has to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Least {
    Amount(u64),
    /// Of the capacity, in thousandths of a percent.
    Share(u64),
}

/// A bound below which pods are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    pub signal: Signal,
    least: Least,
}

impl Threshold {
    /// The least that must be left, of this capacity.
    pub fn quantity(&self, capacity: u64) -> u64 {
        match self.least {
            Least::Amount(amount) => amount,
            Least::Share(share) => {
                u64::try_from(u128::from(capacity) * u128::from(share) / 100_000).unwrap_or(u64::MAX)
            }
        }
    }

    /// Capacity and what is left, when that is too little. What cannot be measured is never short.
    fn met(&self, room: &Room) -> Option<(u64, u64)> {
        let (capacity, available) = self.signal.observed(room);
        (capacity > 0 && available < self.quantity(capacity)).then_some((capacity, available))
    }
}

/// Reads `SIGNAL<AMOUNT,…`; all faults at once. An amount of 0 or 0% switches a signal off.
///
/// # Errors
/// What is wrong with which part.
pub fn thresholds(text: &str) -> Result<Vec<Threshold>, String> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match threshold(part) {
            Ok(threshold) if matches!(threshold.least, Least::Amount(0) | Least::Share(0)) => {}
            Ok(threshold) => found.push(threshold),
            Err(why) => wrong.push(format!("{part:?}: {why}")),
        }
    }
    found.sort_by_key(|threshold| threshold.signal);
    if wrong.is_empty() { Ok(found) } else { Err(wrong.join("; ")) }
}

fn threshold(part: &str) -> Result<Threshold, &'static str> {
    let (signal, amount) = part.split_once('<').ok_or("is not SIGNAL<AMOUNT")?;
    let signal = SIGNALS.iter().find(|(name, _)| *name == signal).ok_or("unknown signal")?.1;
    let least = match amount.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.parse().map_err(|_| "is no percentage")?;
            if !(0.0..=100.0).contains(&percent) {
                return Err("is no percentage");
            }
            Least::Share((percent * 1000.0) as u64)
        }
        None => {
            let amount = Quantity::parse(amount).map_err(|_| "is no amount")?.value();
            Least::Amount(u64::try_from(amount).map_err(|_| "is negative")?)
        }
    };
    Ok(Threshold { signal, least })
}

/// What the node runs short of.
pub fn pressure(thresholds: &[Threshold], room: &Room) -> Pressure {
    let mut pressure = Pressure::default();
    for threshold in thresholds.iter().filter(|threshold| threshold.met(room).is_some()) {
        match threshold.signal.resource() {
            "memory" => pressure.memory = true,
            "pids" => pressure.pids = true,
            _ => pressure.disk = true,
        }
    }
    pressure
}

/// How long a pressure stays told after it has passed, so that pods do not come and go with it. Upstream:
/// `evictionPressureTransitionPeriod`.
const TRANSITION: Duration = Duration::from_secs(300);

/// Pressures as they are told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    memory: Option<Mono>,
    disk: Option<Mono>,
    pids: Option<Mono>,
    told: Pressure,
}

impl Held {
    /// Takes in what is short at `now`; what is to be told.
    pub fn see(&mut self, short: Pressure, now: Mono) -> Pressure {
        let held = |last: &mut Option<Mono>, short: bool| {
            if short {
                *last = Some(now);
            }
            last.is_some_and(|last| now - last < TRANSITION)
        };
        self.told = Pressure {
            memory: held(&mut self.memory, short.memory),
            disk: held(&mut self.disk, short.disk),
            pids: held(&mut self.pids, short.pids),
        };
        self.told
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

/// The shortage to see to first.
pub fn shortage(thresholds: &[Threshold], room: &Room) -> Option<Shortage> {
    thresholds.iter().find_map(|threshold| {
        let (capacity, available) = threshold.met(room)?;
        Some(Shortage { signal: threshold.signal, quantity: threshold.quantity(capacity), available })
    })
}

/// One thing that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub signal: Signal,
    pub quantity: u64,
    pub available: u64,
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
        Room { memory: (8 * GIB, GIB), disk: (100, 15), inodes: (100, 5), pids: (1000, 500) }
    }

    #[track_caller]
    fn check(room: Room, expected: Pressure) {
        assert_eq!(pressure(&thresholds(DEFAULT).unwrap(), &room), expected, "{room:?}");
    }

    #[test]
    fn tells_what_is_short() {
        check(plenty(), Pressure::default());
        check(Room { memory: (8 * GIB, 99 << 20), ..plenty() }, Pressure { memory: true, ..Pressure::default() });
        check(Room { disk: (100, 5), ..plenty() }, Pressure::default());
        check(Room { disk: (100, 4), ..plenty() }, Pressure { disk: true, ..Pressure::default() });
        check(Room { inodes: (100, 4), ..plenty() }, Pressure { disk: true, ..Pressure::default() });
        // Without a threshold of its own nothing is short of process ids; a file system without inodes never of them.
        check(Room { pids: (1000, 0), inodes: (0, 0), ..plenty() }, Pressure::default());
    }

    #[test]
    fn thresholds_are_read_and_all_faults_told() {
        let read = thresholds("pid.available<5%,memory.available<1Gi,nodefs.available<0%").unwrap();
        assert_eq!(
            read.iter().map(|one| one.signal).collect::<Vec<_>>(),
            [Signal::MemoryAvailable, Signal::PidAvailable]
        );
        assert_eq!((read[0].quantity(1), read[1].quantity(1000)), (GIB, 50));
        let wrong = thresholds("memory.available<x,swap.free<1,nodefs.available<101%").unwrap_err();
        assert_eq!(
            wrong,
            r#""memory.available<x": is no amount; "swap.free<1": unknown signal; "nodefs.available<101%": is no percentage"#
        );
    }

    #[test]
    fn a_pressure_stays_told_for_five_minutes() {
        let mut held = Held::default();
        let at = |second: u64| Mono(Duration::from_secs(second));
        let short = Pressure { memory: true, ..Pressure::default() };
        assert!(held.see(short, at(1000)).memory);
        assert!(held.see(Pressure::default(), at(1299)).memory);
        assert!(!held.see(Pressure::default(), at(1300)).memory);
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
        let room = Room { memory: (8 * GIB, 50 << 20), ..plenty() };
        let shortage = shortage(&thresholds(DEFAULT).unwrap(), &room).unwrap();
        assert_eq!(
            shortage.message(&pod("p", 0, 2 << 20, 0)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2Mi, \
             request is 0, has larger consumption of memory. "
        );
    }
}
