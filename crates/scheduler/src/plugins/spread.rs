//! PodTopologySpread: the pods that a constraint selects are spread evenly over the domains of a topology.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::decide::affinity::node_is_allowed;
use api::decide::pod::is_pod_terminating;
use api::decide::taints::{first_untolerated, forbids_scheduling};
use api::projection::{NodeLite, PodLite, SpreadLite};
use api::selector::Selector;

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Reach, Refusal, Remedy, Scoring, Verdict};
use crate::subject::{Counted, Subject};
use crate::topology::{HOSTNAME, Topology, ZONE};

/// The plugin.
pub(super) struct PodTopologySpread;

/// How pods that say nothing are spread among their siblings. Upstream: the plugin's system defaults.
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// A constraint and the pods it counts.
struct Constraint {
    spread: SpreadLite,
    topology: Topology,
    /// By slot: whether the node's pods count.
    counted: Vec<bool>,
    /// By domain.
    pods: Vec<i64>,
    /// By slot, where nodes are domains of their own.
    pods_of_node: Vec<i64>,
}

/// What the constraints that must hold come to.
struct Hard {
    constraint: Constraint,
    /// Whether the pod counts itself.
    counts_itself: bool,
    /// By domain: whether a node of it counts at all.
    eligible: Vec<bool>,
    domains: usize,
    /// How many eligible domains have so many pods.
    levels: BTreeMap<i64, usize>,
}

struct Spread {
    namespace: Box<str>,
    hard: Vec<Hard>,
    soft: Vec<Constraint>,
    /// Nodes without all the labels of the soft constraints get no score.
    needs_all_labels: bool,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn judge(&self, subject: &Subject, nodes: &Nodes) -> Option<Box<dyn Judge>> {
        let pod = subject.pod();
        let (hard, mut soft): (Vec<SpreadLite>, Vec<SpreadLite>) =
            pod.spec.spread.iter().cloned().partition(|spread| spread.is_hard);
        let needs_all_labels = !pod.spec.spread.is_empty();
        if !needs_all_labels {
            soft = subject.siblings.iter().flat_map(defaults).collect();
        }
        if hard.is_empty() && soft.is_empty() {
            return None;
        }
        let mut spread = Spread {
            namespace: pod.meta.namespace.clone(),
            hard: constraints(hard, pod, nodes, true)
                .into_iter()
                .map(|constraint| Hard::new(constraint, pod))
                .collect(),
            soft: constraints(soft, pod, nodes, needs_all_labels),
            needs_all_labels,
        };
        for node in nodes.iter() {
            node.pods.iter().for_each(|placed| spread.add(node.slot, placed.pod(), 1));
        }
        Some(Box::new(spread))
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, _: &Nodes) -> bool {
        let hard = || pod.spec.spread.iter().filter(|spread| spread.is_hard);
        let has_keys = |node: &NodeLite| hard().all(|spread| node.meta.labels.get(&spread.topology_key).is_some());
        let counts = |other: &PodLite| {
            other.meta.namespace == pod.meta.namespace
                && hard().any(|spread| spread.selector.matches(&other.meta.labels))
        };
        match change {
            Change::Node { old: None, new } | Change::NodeGone(new) => has_keys(new),
            Change::Node { old: Some(old), new } => {
                let values = |node: &NodeLite| -> Vec<Option<String>> {
                    hard().map(|spread| node.meta.labels.get(&spread.topology_key).map(str::to_owned)).collect()
                };
                (has_keys(old) || has_keys(new)) && (values(old) != values(new) || old.taints != new.taints)
            }
            Change::PodPlaced { old, new } => counts(new) || old.is_some_and(counts),
            Change::PodGone(gone) => counts(gone),
            Change::Namespace => false,
        }
    }
}

fn defaults(siblings: &Selector) -> impl Iterator<Item = SpreadLite> + '_ {
    DEFAULTS.into_iter().map(|(key, max_skew)| SpreadLite {
        max_skew,
        topology_key: key.into(),
        selector: siblings.clone(),
        ..SpreadLite::default()
    })
}

/// The constraints with the nodes whose pods they count; with `all_labels` only nodes that have all of their labels do.
fn constraints(spreads: Vec<SpreadLite>, pod: &PodLite, nodes: &Nodes, all_labels: bool) -> Vec<Constraint> {
    let keys: Vec<Box<str>> = spreads.iter().map(|spread| spread.topology_key.clone()).collect();
    let mut is_labelled = vec![false; nodes.slots()];
    for node in nodes.iter() {
        is_labelled[node.slot] = !all_labels || keys.iter().all(|key| node.label(key).is_some());
    }
    let constraint = |spread: SpreadLite| {
        let topology = Topology::new(&spread.topology_key, nodes);
        let mut counted = is_labelled.clone();
        for node in nodes.iter() {
            counted[node.slot] &= includes(&spread, pod, node.node());
        }
        let is_host = &*spread.topology_key == HOSTNAME;
        let pods_of_node = if is_host { vec![0; nodes.slots()] } else { Vec::new() };
        Constraint { pods: vec![0; topology.len()], spread, topology, counted, pods_of_node }
    };
    spreads.into_iter().map(constraint).collect()
}

/// Whether the policies of the constraint let the node's pods count.
fn includes(spread: &SpreadLite, pod: &PodLite, node: &NodeLite) -> bool {
    let tolerated = || first_untolerated(&node.taints, &pod.spec.tolerations, forbids_scheduling).is_none();
    (!spread.honors_affinity || node_is_allowed(pod, node)) && (!spread.honors_taints || tolerated())
}

impl Constraint {
    /// Counts a pod that the selector selects; gives the domain's count before and after, if it counts there.
    fn add(&mut self, slot: usize, sign: i64) -> Option<(i64, i64)> {
        if let Some(pods) = self.pods_of_node.get_mut(slot) {
            *pods += sign;
        }
        let domain = self.topology.domain(slot).filter(|_| self.counted[slot])?;
        let before = self.pods[domain];
        self.pods[domain] += sign;
        Some((before, before + sign))
    }
}

impl Hard {
    fn new(constraint: Constraint, pod: &PodLite) -> Hard {
        let mut eligible = vec![false; constraint.topology.len()];
        for (slot, counted) in constraint.counted.iter().enumerate() {
            if let Some(domain) = constraint.topology.domain(slot).filter(|_| *counted) {
                eligible[domain] = true;
            }
        }
        let domains = eligible.iter().filter(|eligible| **eligible).count();
        let levels = if domains == 0 { BTreeMap::new() } else { BTreeMap::from([(0, domains)]) };
        let counts_itself = constraint.spread.selector.matches(&pod.meta.labels);
        Hard { constraint, counts_itself, eligible, domains, levels }
    }

    fn add(&mut self, slot: usize, sign: i64) {
        let Some((before, after)) = self.constraint.add(slot, sign) else { return };
        if let Some(count) = self.levels.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                self.levels.remove(&before);
            }
        }
        *self.levels.entry(after).or_default() += 1;
    }

    /// The fewest pods of a domain; with too few domains, those that are missing count as empty.
    fn least(&self) -> i64 {
        let few =
            i64::try_from(self.domains).is_ok_and(|domains| domains < i64::from(self.constraint.spread.min_domains));
        let least = self.levels.first_key_value().map_or(i64::from(i32::MAX), |(level, _)| *level);
        if few { 0 } else { least }
    }

    /// How uneven it would be with the pod in the node's domain; `None` when the node is in no domain.
    fn skew(&self, slot: usize) -> Option<i64> {
        let domain = self.constraint.topology.domain(slot)?;
        let present = if self.eligible[domain] { self.constraint.pods[domain] } else { 0 };
        Some(present + i64::from(self.counts_itself) - self.least())
    }

    fn allows(&self, slot: usize) -> bool {
        self.skew(slot).is_some_and(|skew| skew <= i64::from(self.constraint.spread.max_skew))
    }
}

impl Spread {
    fn add(&mut self, slot: usize, pod: &PodLite, sign: i64) {
        // Pods on their way out make room already.
        if pod.meta.namespace != self.namespace || is_pod_terminating(pod) {
            return;
        }
        for hard in &mut self.hard {
            if hard.constraint.spread.selector.matches(&pod.meta.labels) {
                hard.add(slot, sign);
            }
        }
        for constraint in &mut self.soft {
            if constraint.spread.selector.matches(&pod.meta.labels) {
                constraint.add(slot, sign);
            }
        }
    }
}

impl Judge for Spread {
    fn reach(&self) -> Reach {
        Reach::Cluster
    }

    fn filters(&self) -> bool {
        !self.hard.is_empty()
    }

    fn filter(&self, node: &NodeInfo) -> Verdict {
        for hard in &self.hard {
            if hard.constraint.topology.domain(node.slot).is_none() {
                return Refusal::for_good(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            }
            if !hard.allows(node.slot) {
                return Refusal::for_now("node(s) didn't match pod topology spread constraints");
            }
        }
        Verdict::Fits
    }

    fn passes(&self, node: &NodeInfo) -> bool {
        self.hard.iter().all(|hard| hard.allows(node.slot))
    }

    fn remedies(&self, node: &NodeInfo) -> Vec<Remedy> {
        let broken = self.hard.iter().filter(|hard| !hard.allows(node.slot));
        let remedy = |hard: &Hard| {
            let key = hard.constraint.spread.topology_key.clone();
            match (hard.constraint.topology.domain(node.slot), hard.skew(node.slot)) {
                (Some(domain), Some(skew)) => Remedy::Spread {
                    key,
                    domain: hard.constraint.topology.value(domain).into(),
                    skew,
                    max_skew: hard.constraint.spread.max_skew.into(),
                },
                _ => Remedy::TopologyLabel { key },
            }
        };
        broken.map(remedy).collect()
    }

    fn scoring(&self) -> Scoring {
        if self.soft.is_empty() { Scoring::None } else { Scoring::Together }
    }

    fn score_together(&self, nodes: &[&NodeInfo]) -> Vec<i64> {
        let ignored = |node: &NodeInfo| {
            self.needs_all_labels && self.soft.iter().any(|soft| soft.topology.domain(node.slot).is_none())
        };
        let raw = self.raw_scores(nodes, ignored);
        let most = raw.iter().flatten().copied().max().unwrap_or(0).max(0);
        let least = raw.iter().flatten().copied().min().unwrap_or(0);
        let normalize = |score: Option<i64>| match score {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(score) => 100 * (most + least - score) / most,
        };
        raw.into_iter().map(normalize).collect()
    }

    fn count(&mut self, slot: usize, pod: &Arc<Counted>, sign: i64, _: &Nodes) {
        self.add(slot, pod.pod(), sign);
    }
}

impl Spread {
    /// The more pods, the higher and the worse: `None` for nodes that get no score. Domains of topologies with few of them
    /// count less, so that their larger numbers do not drown the others. Upstream: `topologyNormalizingWeight`.
    fn raw_scores(&self, nodes: &[&NodeInfo], ignored: impl Fn(&NodeInfo) -> bool) -> Vec<Option<i64>> {
        let mut scores: Vec<Option<f64>> = nodes.iter().map(|node| (!ignored(node)).then_some(0.0)).collect();
        for soft in &self.soft {
            let is_host = &*soft.spread.topology_key == HOSTNAME;
            let offered = || nodes.iter().zip(&scores).filter(|(_, score)| score.is_some()).map(|(node, _)| node);
            let size = if is_host {
                offered().count()
            } else {
                // Nodes without the label are one more domain.
                let mut seen = vec![false; soft.topology.len() + 1];
                offered().for_each(|node| seen[soft.topology.domain(node.slot).unwrap_or(soft.topology.len())] = true);
                seen.into_iter().filter(|seen| *seen).count()
            };
            let weight = ((size + 2) as f64).ln();
            for (node, score) in nodes.iter().zip(&mut scores) {
                let (Some(score), Some(domain)) = (score, soft.topology.domain(node.slot)) else { continue };
                let pods = if is_host { soft.pods_of_node[node.slot] } else { soft.pods[domain] };
                *score += pods as f64 * weight + f64::from(soft.spread.max_skew - 1);
            }
        }
        scores.into_iter().map(|score| score.map(|score| score.round() as i64)).collect()
    }
}

#[cfg(test)]
mod tests;
