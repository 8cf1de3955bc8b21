//! NodeResourcesFit: what the pod asks for is free; among nodes where it is, the emptier ones are better (LeastAllocated).

use api::decide::Resources;
use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes, nonzero};
use crate::plugin::{Judge, Plugin, Verdict};

/// The plugin.
pub(super) struct NodeResourcesFit;

struct Asked {
    requests: Resources,
    nonzero: Resources,
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn judge<'a>(&self, pod: &'a PodLite, _: &'a Nodes) -> Option<Box<dyn Judge + 'a>> {
        let requests = pod.spec.resources.requests();
        Some(Box::new(Asked { nonzero: nonzero(&requests), requests }))
    }
}

impl Judge for Asked {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let allocatable = &node.node().allocatable;
        let mut reasons = Vec::new();
        if allocatable.get("pods").is_some_and(|most| i64::try_from(node.pods).unwrap_or(i64::MAX) >= most.value()) {
            reasons.push("Too many pods".to_owned());
        }
        for (name, amount) in self.requests.iter().filter(|(_, amount)| !amount.is_zero()) {
            if allocatable.amount(name) - node.requested.amount(name) < amount {
                reasons.push(format!("Insufficient {name}"));
            }
        }
        if reasons.is_empty() { Verdict::Fits } else { Verdict::Unfit(reasons) }
    }

    /// The mean share of processor and memory that stays free, in percent.
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let allocatable = &node.node().allocatable;
        let mut total = 0;
        for name in ["cpu", "memory"] {
            let has = allocatable.amount(name).milli_value();
            let asked = (node.nonzero_requested.amount(name) + self.nonzero.amount(name)).milli_value();
            if has > 0 && asked <= has {
                // Milli-bytes of a large node times a hundred leave 64 bits.
                total += i64::try_from(i128::from(has - asked) * 100 / i128::from(has)).unwrap_or(0);
            }
        }
        Some(total / 2)
    }
}
