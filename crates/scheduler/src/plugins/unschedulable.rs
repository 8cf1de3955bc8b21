//! NodeUnschedulable: cordoned nodes get no pods, unless the pod tolerates that.

use api::decide::taints::{NO_SCHEDULE, is_tolerated};
use api::projection::{PodLite, Taint};

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Plugin, Verdict};

/// The plugin.
pub(super) struct NodeUnschedulable;

struct Cordoned {
    tolerated: bool,
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn judge<'a>(&self, pod: &'a PodLite, _: &'a Nodes) -> Option<Box<dyn Judge + 'a>> {
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: NO_SCHEDULE.into(), ..Taint::default() };
        Some(Box::new(Cordoned { tolerated: is_tolerated(&pod.spec.tolerations, &taint) }))
    }
}

impl Judge for Cordoned {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node.node().unschedulable && !self.tolerated {
            Verdict::Unfit(vec!["node(s) were unschedulable".into()])
        } else {
            Verdict::Fits
        }
    }
}
