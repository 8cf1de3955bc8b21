//! Bounds below which a node ends pods, as options say them. Pure.
//!
//! Upstream: `ParseThresholdConfig` in `pkg/kubelet/eviction/helpers.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;

use super::Shortage;
use crate::pressure::Room;

/// Upstream's defaults on Linux, but for disk: a tenth or more of a large disk is room enough, and a machine that has other
/// work than pods is often filled that far. k3s draws the line there, too.
pub const DEFAULT: &str =
    "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%";
/// Grace of a pod that is ended for a bound without one: the least there is. Upstream: `immediateEvictionGracePeriodSeconds`.
pub const AT_ONCE_SECONDS: u64 = 1;

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

/// A file system of the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Pods,
    Images,
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
    /// The signal of that name.
    fn named(name: &str) -> Result<Signal, String> {
        let found = SIGNALS.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| *signal).ok_or_else(|| format!("unknown signal {name:?}"))
    }

    /// What lies on the file system that is short, where images have one of their own; pods have volumes and logs on the other.
    pub const fn side(self) -> Option<Side> {
        match self {
            Signal::NodefsAvailable | Signal::NodefsInodesFree => Some(Side::Pods),
            Signal::ImagefsAvailable | Signal::ImagefsInodesFree => Some(Side::Images),
            Signal::MemoryAvailable | Signal::PidAvailable => None,
        }
    }

    /// The resource that is short, as messages name it. Upstream: `signalToResource`.
    pub const fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory",
            Signal::NodefsAvailable | Signal::ImagefsAvailable => "ephemeral-storage",
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    /// As options name it.
    fn name(self) -> &'static str {
        SIGNALS.iter().find(|(_, signal)| *signal == self).map_or("", |(name, _)| name)
    }

    /// Capacity and what is left of it.
    fn observed(self, room: &Room) -> (u64, u64) {
        match self {
            Signal::MemoryAvailable => room.memory,
            Signal::NodefsAvailable => room.disk,
            Signal::ImagefsAvailable => room.image_disk,
            Signal::NodefsInodesFree => room.inodes,
            Signal::ImagefsInodesFree => room.image_inodes,
            Signal::PidAvailable => room.pids,
        }
    }
}

/// So much, or a part of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Amount {
    Of(u64),
    /// Of the capacity, in thousandths of a percent.
    Share(u64),
}

impl Amount {
    const NONE: Amount = Amount::Of(0);

    fn read(text: &str) -> Result<Amount, String> {
        let Some(percent) = text.strip_suffix('%') else {
            let amount = Quantity::parse(text).map_err(|_| format!("{text:?} is no amount"))?.value();
            return u64::try_from(amount).map(Amount::Of).map_err(|_| format!("{text:?} is negative"));
        };
        let percent = percent.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
        percent
            .map(|percent| Amount::Share((percent * 1000.0) as u64))
            .ok_or_else(|| format!("{text:?} is no percentage"))
    }

    fn is_none(self) -> bool {
        matches!(self, Amount::Of(0) | Amount::Share(0))
    }

    /// Of this capacity.
    fn of(self, capacity: u64) -> u64 {
        match self {
            Amount::Of(amount) => amount,
            Amount::Share(share) => {
                u64::try_from(u128::from(capacity) * u128::from(share) / 100_000).unwrap_or(u64::MAX)
            }
        }
    }
}

/// A bound below which pods are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Threshold {
    pub signal: Signal,
    least: Amount,
    /// How long there has to be less; zero of a hard bound.
    pub grace: Duration,
    /// What has to be left beyond the bound, once pods are ended for it.
    reclaim: Amount,
}

impl Threshold {
    /// The least that must be left, of this capacity.
    pub fn quantity(&self, capacity: u64) -> u64 {
        self.least.of(capacity)
    }

    /// Whether pods are ended for it at once.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// Whether too little is left. What cannot be measured is never short.
    pub(super) fn met(&self, room: &Room) -> bool {
        let (capacity, available) = self.signal.observed(room);
        capacity > 0 && available < self.quantity(capacity)
    }

    /// Whether there is enough again.
    pub(super) fn resolved(&self, room: &Room) -> bool {
        let (capacity, available) = self.signal.observed(room);
        capacity == 0 || available >= self.quantity(capacity).saturating_add(self.reclaim.of(capacity))
    }

    pub(super) fn shortage(&self, room: &Room, grace_seconds_max: u64) -> Shortage {
        let (capacity, available) = self.signal.observed(room);
        let grace_seconds_max = if self.is_hard() { AT_ONCE_SECONDS } else { grace_seconds_max };
        Shortage { signal: self.signal, quantity: self.quantity(capacity), available, grace_seconds_max }
    }
}

/// When a node ends pods.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// In the order in which shortages are seen to.
    pub thresholds: Vec<Threshold>,
    /// How long a pressure stays told after it has passed.
    pub transition: Duration,
    /// Longest time that a pod has for its end for a soft bound.
    pub pod_grace_seconds_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds::read(&Said::default()).expect("the defaults are well formed")
    }
}

/// What options say of it, each as text.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// `SIGNAL<AMOUNT,…`. An amount of 0 or 0% switches a signal off.
    pub hard: &'a str,
    /// The same, for bounds with a grace period.
    pub soft: &'a str,
    /// `SIGNAL=DURATION,…`, for each soft bound.
    pub soft_grace_period: &'a str,
    /// `SIGNAL=AMOUNT,…`.
    pub minimum_reclaim: &'a str,
    /// A duration.
    pub pressure_transition_period: &'a str,
    /// Seconds; with 0, pods have the time that they ask for.
    pub max_pod_grace_period: u64,
}

impl Default for Said<'_> {
    fn default() -> Self {
        Said {
            hard: DEFAULT,
            soft: "",
            soft_grace_period: "",
            minimum_reclaim: "",
            pressure_transition_period: "5m",
            max_pod_grace_period: 0,
        }
    }
}

impl Bounds {
    /// Reads what options say.
    ///
    /// # Errors
    /// All that is wrong, each with its option.
    pub fn read(said: &Said<'_>) -> Result<Bounds, Vec<String>> {
        let mut wrong = Vec::new();
        let hard = pairs("--eviction-hard", said.hard, '<', Amount::read, &mut wrong);
        let soft = pairs("--eviction-soft", said.soft, '<', Amount::read, &mut wrong);
        let grace = pairs("--eviction-soft-grace-period", said.soft_grace_period, '=', grace, &mut wrong);
        let reclaim = pairs("--eviction-minimum-reclaim", said.minimum_reclaim, '=', Amount::read, &mut wrong);
        let transition = duration(said.pressure_transition_period);
        wrong.extend(transition.as_ref().err().map(|why| format!("--eviction-pressure-transition-period: {why}")));
        let reclaimed = |signal| reclaim.get(&signal).copied().unwrap_or(Amount::NONE);
        let mut thresholds = Vec::new();
        for (signal, least) in hard {
            thresholds.push(Threshold { signal, least, grace: Duration::ZERO, reclaim: reclaimed(signal) });
        }
        for (signal, least) in soft {
            match grace.get(&signal) {
                Some(grace) => thresholds.push(Threshold { signal, least, grace: *grace, reclaim: reclaimed(signal) }),
                None => wrong.push(format!("--eviction-soft-grace-period: {} has none", signal.name())),
            }
        }
        thresholds.retain(|threshold| !threshold.least.is_none());
        thresholds.sort_by_key(|threshold| (threshold.signal, !threshold.is_hard()));
        let pod_grace_seconds_max = match said.max_pod_grace_period {
            0 => u64::MAX,
            seconds => seconds,
        };
        match transition {
            Ok(transition) if wrong.is_empty() => Ok(Bounds { thresholds, transition, pod_grace_seconds_max }),
            _ => Err(wrong),
        }
    }
}

/// Reads `SIGNAL=VALUE,…`; whatever is wrong with an option's parts goes to `wrong`.
fn pairs<T>(
    option: &str,
    text: &str,
    between: char,
    read: fn(&str) -> Result<T, String>,
    wrong: &mut Vec<String>,
) -> BTreeMap<Signal, T> {
    let mut found = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let pair = part.split_once(between).ok_or_else(|| format!("is not SIGNAL{between}VALUE"));
        let read = pair.and_then(|(signal, value)| Ok((Signal::named(signal)?, read(value)?)));
        match read {
            Ok((signal, value)) => {
                if found.insert(signal, value).is_some() {
                    wrong.push(format!("{option}: {} is there twice", signal.name()));
                }
            }
            Err(why) => wrong.push(format!("{option}: {part:?}: {why}")),
        }
    }
    found
}

fn grace(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err(format!("{text:?} is no time to wait")) } else { Ok(duration) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let nanos = api::codec::parse_duration(text)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| format!("{text:?} is negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn bounds_are_read_in_the_order_in_which_they_are_seen_to() {
        let said = Said {
            hard: "pid.available<5%,memory.available<1Gi,nodefs.available<0%",
            soft: "memory.available<2Gi",
            soft_grace_period: "memory.available=1m30s",
            minimum_reclaim: "memory.available=100Mi",
            pressure_transition_period: "30s",
            max_pod_grace_period: 7,
        };
        let bounds = Bounds::read(&said).unwrap();
        let read: Vec<(Signal, u64, u64)> =
            bounds.thresholds.iter().map(|bound| (bound.signal, bound.quantity(1000), bound.grace.as_secs())).collect();
        let memory = Signal::MemoryAvailable;
        assert_eq!(read, [(memory, GIB, 0), (memory, 2 * GIB, 90), (Signal::PidAvailable, 50, 0)]);
        assert_eq!((bounds.transition.as_secs(), bounds.pod_grace_seconds_max), (30, 7));
        assert_eq!(Bounds::default().pod_grace_seconds_max, u64::MAX);
    }

    #[test]
    fn all_faults_are_told() {
        let said = Said {
            hard: "memory.available<x,swap.free<1,nodefs.available<101%,pid.available",
            soft: "memory.available<2Gi,memory.available<3Gi",
            soft_grace_period: "nodefs.available=0s",
            minimum_reclaim: "memory.available=-1",
            pressure_transition_period: "soon",
            max_pod_grace_period: 0,
        };
        let expected = [
            r#"--eviction-hard: "memory.available<x": "x" is no amount"#,
            r#"--eviction-hard: "swap.free<1": unknown signal "swap.free""#,
            r#"--eviction-hard: "nodefs.available<101%": "101%" is no percentage"#,
            r#"--eviction-hard: "pid.available": is not SIGNAL<VALUE"#,
            "--eviction-soft: memory.available is there twice",
            r#"--eviction-soft-grace-period: "nodefs.available=0s": "0s" is no time to wait"#,
            r#"--eviction-minimum-reclaim: "memory.available=-1": "-1" is negative"#,
            r#"--eviction-pressure-transition-period: time: invalid duration "soon""#,
            "--eviction-soft-grace-period: memory.available has none",
        ];
        assert_eq!(Bounds::read(&said).unwrap_err(), expected);
    }
}
