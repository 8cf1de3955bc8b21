//! From which nodes pods are driven away, and how fast: a zone at a time, slower where much of a zone is dead, and not at
//! all where everything is, since then the fault lies with who looks.
//!
//! Upstream: `doNoExecuteTaintingPass`, `handleDisruption` and `ComputeZoneState`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::decide::taints::NO_EXECUTE;
use api::projection::NodeLite;
use client::Object;
use reconcile::{Action, Now, Plan};
use stdx::Mono;

use super::taints::{self, NOT_READY, UNREACHABLE};

/// Between two nodes of a zone, usually. Upstream: `--node-eviction-rate` 0.1.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two nodes of a large zone of which much is dead. Upstream: `--secondary-node-eviction-rate` 0.01.
const SLOW_INTERVAL: Duration = Duration::from_secs(100);
/// In zones of this size and smaller nothing is driven away when much is dead. Upstream: `--large-cluster-size-threshold`.
const SMALL_ZONE_MAX: usize = 50;
/// Hundredths of a zone's nodes. Upstream: `--unhealthy-zone-threshold` 0.55.
const UNHEALTHY_PERCENT: usize = 55;
const UNHEALTHY_MIN: usize = 3;
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// When the next node of each zone may be tainted.
#[derive(Clone, Default)]
pub(super) struct Memory {
    next: BTreeMap<String, Mono>,
}

/// How a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

#[derive(Default)]
struct Zone<'a> {
    nodes: Vec<&'a Arc<Object>>,
    ready: usize,
    unready: usize,
}

impl Zone<'_> {
    fn state(&self) -> State {
        let all = self.ready + self.unready;
        match self.unready {
            0 => State::Normal,
            _ if self.ready == 0 => State::Full,
            unready if unready >= UNHEALTHY_MIN && unready * 100 >= all * UNHEALTHY_PERCENT => State::Partial,
            _ => State::Normal,
        }
    }

    /// The time between two nodes that are tainted; `None` for never.
    fn interval(&self) -> Option<Duration> {
        match self.state() {
            State::Normal | State::Full => Some(INTERVAL),
            State::Partial => (self.nodes.len() > SMALL_ZONE_MAX).then_some(SLOW_INTERVAL),
        }
    }
}

/// Whether the node has a taint of this controller's by which pods are driven away.
pub(super) fn drives_away(node: &Object) -> bool {
    has(node, NOT_READY) || has(node, UNREACHABLE)
}

fn has(node: &Object, key: &str) -> bool {
    node.project::<NodeLite>().taints.iter().any(|taint| &*taint.key == key && &*taint.effect == NO_EXECUTE)
}

/// The taint that the node's state asks for; `None` for a ready one, and for one that has not said anything.
fn wanted(node: &Object) -> Option<&'static str> {
    match &*super::ready(node)?.status {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

/// Taints those nodes from which pods are to be driven away, and takes the taints off others.
pub(super) fn drive(nodes: &[Arc<Object>], now: Now, memory: &mut Memory) -> Plan {
    let zones = zones(nodes);
    let counted = || zones.values().filter(|zone| zone.ready + zone.unready > 0);
    let all_dead = counted().next().is_some() && counted().all(|zone| zone.state() == State::Full);
    memory.next.retain(|zone, next| *next > now.mono && zones.contains_key(zone));
    let mut actions = Vec::new();
    let mut again: Option<Duration> = None;
    for (name, zone) in &zones {
        let mut waiting = Vec::new();
        for node in &zone.nodes {
            match wanted(node) {
                Some(_) if all_dead => actions.extend(drives_away(node).then(|| spare(node)).flatten()),
                Some(key) if has(node, key) => {}
                // Nobody new is driven away, only for another reason.
                Some(key) if drives_away(node) => actions.extend(taint(node, key, now)),
                Some(key) => waiting.push((node, key)),
                None => actions.extend(drives_away(node).then(|| spare(node)).flatten()),
            }
        }
        let left = step(name, zone, waiting, now, memory, &mut actions);
        again = again.into_iter().chain(left).min();
    }
    let plan = Plan::nothing().then(actions);
    match again {
        Some(again) => plan.again_within(again),
        None => plan,
    }
}

/// Taints the first node that waits, if one may be tainted now; and when to look again.
fn step(
    name: &str,
    zone: &Zone<'_>,
    waiting: Vec<(&&Arc<Object>, &'static str)>,
    now: Now,
    memory: &mut Memory,
    actions: &mut Vec<Action>,
) -> Option<Duration> {
    let interval = zone.interval()?;
    if let Some(next) = memory.next.get(name) {
        return Some(*next - now.mono);
    }
    let (node, key) = waiting.first()?;
    actions.extend(taint(node, key, now));
    memory.next.insert(name.to_owned(), now.mono + interval);
    Some(interval)
}

fn zones(nodes: &[Arc<Object>]) -> BTreeMap<String, Zone<'_>> {
    let mut zones: BTreeMap<String, Zone<'_>> = BTreeMap::new();
    for node in nodes {
        let labels = &node.meta().labels;
        let label = |key: &str| labels.get(key).unwrap_or_default();
        let name = format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        let zone = zones.entry(name).or_default();
        zone.nodes.push(node);
        if labels.get(EXCLUDED).is_some() || super::ready(node).is_none() {
            continue;
        }
        if super::is_ready(node) {
            zone.ready += 1;
        } else {
            zone.unready += 1;
        }
    }
    zones
}

fn taint(node: &Object, key: &'static str, now: Now) -> Option<Action> {
    taints::change(node, |taints| {
        remove(taints);
        taints.push(taints::new(key, NO_EXECUTE, now));
    })
}

fn spare(node: &Object) -> Option<Action> {
    taints::change(node, remove)
}

fn remove(taints: &mut Vec<k8s_openapi::api::core::v1::Taint>) {
    taints.retain(|taint| taint.effect != NO_EXECUTE || !matches!(taint.key.as_str(), NOT_READY | UNREACHABLE));
}
