//! What of a machine its pods may have: all of it but what is reserved and what eviction keeps free. Pure.
//!
//! Upstream: `kubeReserved`, `systemReserved`, `evictionHard` and `GetNodeAllocatableReservation`.

use std::collections::BTreeMap;

use api::decide::resources::Resources;
use api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use crate::evict::{Bounds, Signal};

/// Pods on a node. Upstream: `maxPods`.
pub const PODS_MAX: u32 = 110;
/// What can be reserved.
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// What is kept from pods.
#[derive(Clone, Debug)]
pub struct Reserved {
    /// For this program and its like.
    pub kube: Resources,
    /// For the rest of the machine.
    pub system: Resources,
    /// What eviction keeps free.
    pub bounds: Bounds,
    pub pods_max: u32,
}

impl Default for Reserved {
    fn default() -> Self {
        Reserved {
            kube: Resources::default(),
            system: Resources::default(),
            bounds: Bounds::default(),
            pods_max: PODS_MAX,
        }
    }
}

/// What a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub processors: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Reads `NAME=AMOUNT,…`; all faults at once.
///
/// # Errors
/// What is wrong with which part.
pub fn resources(text: &str) -> Result<Resources, String> {
    let (mut found, mut wrong) = (Resources::default(), Vec::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=').map(|(name, amount)| (name, Quantity::parse(amount))) {
            Some((name, Ok(amount))) if RESERVABLE.contains(&name) && amount.sign() >= 0 => found.set(name, amount),
            Some((name, Ok(_))) if !RESERVABLE.contains(&name) => wrong.push(format!("{name:?} cannot be reserved")),
            _ => wrong.push(format!("{part:?} is not NAME=AMOUNT")),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong.join("; ")) }
}

impl Reserved {
    /// What the node tells of its machine.
    pub fn capacity(&self, machine: Capacity) -> BTreeMap<String, QuantityText> {
        let amounts = [
            ("cpu", machine.processors.to_string()),
            ("memory", format!("{}Ki", machine.memory_bytes / 1024)),
            ("ephemeral-storage", format!("{}Ki", machine.disk_bytes / 1024)),
            ("pods", self.pods_max.to_string()),
            ("hugepages-1Gi", "0".into()),
            ("hugepages-2Mi", "0".into()),
        ];
        amounts.into_iter().map(|(name, amount)| (name.to_owned(), QuantityText(amount))).collect()
    }

    /// What pods may ask for in all.
    pub fn allocatable(&self, machine: Capacity) -> BTreeMap<String, QuantityText> {
        let mut all = self.capacity(machine);
        let kept = |name: &str| {
            let scaled = |amounts: &Resources| amounts.amount(name);
            (scaled(&self.kube), scaled(&self.system))
        };
        let (kube, system) = kept("cpu");
        let milli = i64::from(machine.processors) * 1000 - kube.milli_value() - system.milli_value();
        let cpu = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{}m", milli.max(0)) };
        all.insert("cpu".into(), QuantityText(cpu));
        let bytes = |name: &str, capacity: u64, signal: Signal| {
            let mut hard = self.bounds.thresholds.iter().filter(|threshold| threshold.is_hard());
            let evicted = hard.find(|threshold| threshold.signal == signal);
            let evicted = evicted.map_or(0, |threshold| threshold.quantity(capacity));
            let (kube, system) = kept(name);
            let reserved = [kube, system].map(|amount| u64::try_from(amount.value()).unwrap_or(0));
            capacity.saturating_sub(evicted).saturating_sub(reserved[0]).saturating_sub(reserved[1])
        };
        let memory = bytes("memory", machine.memory_bytes / 1024 * 1024, Signal::MemoryAvailable);
        all.insert("memory".into(), QuantityText(format!("{}Ki", memory / 1024)));
        let disk = bytes("ephemeral-storage", machine.disk_bytes, Signal::NodefsAvailable);
        all.insert("ephemeral-storage".into(), QuantityText(disk.to_string()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_may_have_what_nothing_else_keeps() {
        let machine = Capacity { processors: 2, memory_bytes: 4 << 30, disk_bytes: 100 << 30 };
        let shown = |reserved: &Reserved| {
            let all = reserved.allocatable(machine);
            ["cpu", "memory", "ephemeral-storage", "pods"].map(|name| all[name].0.clone())
        };
        let plain = Reserved::default();
        assert_eq!(plain.capacity(machine)["memory"].0, "4194304Ki");
        assert_eq!(shown(&plain), ["2", "4091904Ki", "102005473280", "110"]);
        let reserved = Reserved {
            kube: resources("cpu=100m,memory=100Mi").unwrap(),
            system: resources("cpu=100m,ephemeral-storage=1Gi").unwrap(),
            bounds: Bounds { thresholds: vec![], ..Bounds::default() },
            pods_max: 20,
        };
        assert_eq!(shown(&reserved), ["1800m", "4091904Ki", "106300440576", "20"]);
    }

    #[test]
    fn all_faults_are_told() {
        let wrong = resources("cpu=100m,gpu=1,memory,pid=-1").unwrap_err();
        assert_eq!(wrong, r#""gpu" cannot be reserved; "memory" is not NAME=AMOUNT; "pid=-1" is not NAME=AMOUNT"#);
    }
}
