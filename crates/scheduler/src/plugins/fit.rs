//! NodeResourcesFit: what the pod asks for is free; among nodes where it is, the emptier ones are better (LeastAllocated).

use std::borrow::Cow;
use std::sync::Arc;

use api::projection::PodLite;

use crate::amounts::Amounts;
use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Refusal, Remedy, Scoring, Verdict};
use crate::subject::{Counted, Subject};

/// The plugin.
pub(super) struct NodeResourcesFit;

struct Asked(Arc<Counted>);

/// A resource, and how it stands with it on a node.
struct Want<'a> {
    name: &'a str,
    asked: i64,
    used: i64,
    has: i64,
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        Some(Box::new(Asked(subject.counted.clone())))
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, nodes: &Nodes) -> bool {
        match change {
            Change::Node { old, new } => {
                let requests = Amounts::of(&pod.spec.resources.requests());
                let grew = old.is_none_or(|old| old.allocatable != new.allocatable);
                // A node that came without its pods being known yet is taken for empty.
                grew && nodes.named(&new.meta.name).is_none_or(|node| lacking(&requests, node).next().is_none())
            }
            Change::PodGone(_) => true,
            Change::PodPlaced { old: Some(old), new } => old.spec.resources != new.spec.resources,
            _ => false,
        }
    }
}

/// What the node has too little of.
fn lacking<'a>(requests: &'a Amounts, node: &'a NodeInfo) -> impl Iterator<Item = Want<'a>> {
    let (used, has) = (&node.requested, &node.allocatable);
    let want = |name, asked, used, has| Want { name, asked, used, has };
    let main = [
        want("cpu", requests.cpu_milli, used.cpu_milli, has.cpu_milli),
        want("memory", requests.memory, used.memory, has.memory),
        want("ephemeral-storage", requests.storage, used.storage, has.storage),
    ];
    let others =
        requests.others.iter().map(move |(name, amount)| want(name, *amount, used.other(name), has.other(name)));
    main.into_iter().chain(others).filter(|want| want.asked > 0 && want.asked > want.has - want.used)
}

fn is_full(node: &NodeInfo) -> bool {
    i64::try_from(node.pods.len()).is_ok_and(|pods| pods >= node.allocatable.pods)
}

impl Judge for Asked {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if self.passes(node) {
            return Verdict::Fits;
        }
        let mut refusal = Refusal { reasons: Vec::new(), resolvable: true };
        if is_full(node) {
            refusal.reasons.push("Too many pods".into());
        }
        for want in lacking(&self.0.requests, node) {
            refusal.reasons.push(match want.name {
                "cpu" => Cow::Borrowed("Insufficient cpu"),
                "memory" => Cow::Borrowed("Insufficient memory"),
                "ephemeral-storage" => Cow::Borrowed("Insufficient ephemeral-storage"),
                other => Cow::Owned(format!("Insufficient {other}")),
            });
            // More than an empty node has, no pod that goes can free.
            refusal.resolvable &= want.asked <= want.has;
        }
        Verdict::Unfit(refusal)
    }

    fn passes(&self, node: &NodeInfo) -> bool {
        !is_full(node) && lacking(&self.0.requests, node).next().is_none()
    }

    fn remedies(&self, node: &NodeInfo) -> Vec<Remedy> {
        let count = is_full(node).then_some(Remedy::PodCount);
        let free = lacking(&self.0.requests, node).map(|want| {
            let lacking = want.asked - (want.has - want.used);
            Remedy::Free { resource: want.name.into(), lacking }
        });
        count.into_iter().chain(free).collect()
    }

    fn scoring(&self) -> Scoring {
        Scoring::Plain
    }

    /// The mean share of processor and memory that stays free, in percent.
    fn score(&self, node: &NodeInfo) -> i64 {
        let asked = node.nonzero_requested.plus(self.0.nonzero);
        let parts = [(asked.cpu_milli, node.allocatable.cpu_milli), (asked.memory, node.allocatable.memory)];
        let (mut total, mut weights) = (0, 0);
        for (asked, has) in parts.into_iter().filter(|(_, has)| *has > 0) {
            weights += 1;
            if asked <= has {
                total += (has - asked).saturating_mul(100) / has;
            }
        }
        if weights == 0 { 0 } else { total / weights }
    }
}
