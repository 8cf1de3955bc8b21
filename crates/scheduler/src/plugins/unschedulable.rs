//! NodeUnschedulable: cordoned nodes get no pods, unless the pod tolerates that.

use api::decide::taints::{NO_SCHEDULE, is_tolerated};
use api::projection::{PodLite, Taint};

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Refusal, Remedy, Verdict};
use crate::subject::Subject;

/// The plugin.
pub(super) struct NodeUnschedulable;

struct Cordoned;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        (!tolerates(subject.pod())).then(|| Box::new(Cordoned) as Box<dyn Judge>)
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, _: &Nodes) -> bool {
        let Change::Node { old, new } = change else { return false };
        old.is_none_or(|old| old.unschedulable) && (!new.unschedulable || tolerates(pod))
    }
}

fn tolerates(pod: &PodLite) -> bool {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: NO_SCHEDULE.into(), ..Taint::default() };
    is_tolerated(&pod.spec.tolerations, &taint)
}

impl Judge for Cordoned {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node.node().unschedulable { Refusal::for_good("node(s) were unschedulable") } else { Verdict::Fits }
    }

    fn remedies(&self, _: &NodeInfo) -> Vec<Remedy> {
        vec![Remedy::Uncordon]
    }
}
