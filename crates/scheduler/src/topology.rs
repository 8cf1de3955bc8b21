//! Which nodes belong together: those with the same value of a label.

use std::collections::BTreeMap;

use crate::nodes::Nodes;

/// The label that tells nodes apart. Upstream: `v1.LabelHostname`.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The domains of one label's key, by number.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    values: Vec<Box<str>>,
    /// By the node's slot.
    domains: Vec<Option<u32>>,
}

impl Topology {
    /// The domains that the nodes make.
    pub fn new(key: &str, nodes: &Nodes) -> Topology {
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut topology = Topology { values: Vec::new(), domains: vec![None; nodes.slots()] };
        for node in nodes.iter() {
            let Some(value) = node.label(key) else { continue };
            let number = *numbers.entry(value).or_insert_with(|| {
                topology.values.push(value.into());
                topology.values.len() as u32 - 1
            });
            topology.domains[node.slot] = Some(number);
        }
        topology
    }

    /// The domain of the node in a slot; none when it lacks the label.
    pub fn domain(&self, slot: usize) -> Option<usize> {
        self.domains.get(slot).copied().flatten().map(|domain| domain as usize)
    }

    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no node has the label.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The label's value in a domain.
    pub fn value(&self, domain: usize) -> &str {
        &self.values[domain]
    }
}

/// Sums by domain, for any number of keys.
#[derive(Clone, Debug, Default)]
pub struct Tally(Vec<Sums>);

#[derive(Clone, Debug)]
struct Sums {
    key: Box<str>,
    topology: Topology,
    sums: Vec<i64>,
    /// How many of the sums are not zero.
    some: usize,
}

impl Tally {
    /// Adds to the domain of a node.
    pub fn add(&mut self, key: &str, slot: usize, amount: i64, nodes: &Nodes) {
        let at = self.0.iter().position(|sums| *sums.key == *key).unwrap_or_else(|| {
            let topology = Topology::new(key, nodes);
            self.0.push(Sums { key: key.into(), sums: vec![0; topology.len()], topology, some: 0 });
            self.0.len() - 1
        });
        let sums = &mut self.0[at];
        let Some(domain) = sums.topology.domain(slot) else { return };
        let sum = &mut sums.sums[domain];
        let was = *sum != 0;
        *sum += amount;
        sums.some = sums.some + usize::from(*sum != 0) - usize::from(was);
    }

    /// The sum in the node's domain of this key; `None` when the node lacks the label.
    pub fn at(&self, key: &str, slot: usize) -> Option<i64> {
        let sums = self.0.iter().find(|sums| *sums.key == *key)?;
        sums.topology.domain(slot).map(|domain| sums.sums[domain])
    }

    /// The sums of all keys in the node's domains.
    pub fn total(&self, slot: usize) -> i64 {
        self.0.iter().filter_map(|sums| sums.topology.domain(slot).map(|domain| sums.sums[domain])).sum()
    }

    /// A key under which the node's domain has more than nothing.
    pub fn positive(&self, slot: usize) -> Option<&str> {
        let has = |sums: &&Sums| sums.topology.domain(slot).is_some_and(|domain| sums.sums[domain] > 0);
        self.0.iter().find(has).map(|sums| &*sums.key)
    }

    /// Whether all sums are zero.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|sums| sums.some == 0)
    }
}
