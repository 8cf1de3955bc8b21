//! TaintToleration: no pod goes where a taint it does not tolerate keeps it off; nodes that prefer others come last.

use api::decide::taints::{PREFER_NO_SCHEDULE, first_untolerated, forbids_scheduling, is_tolerated};
use api::projection::{NodeLite, PodLite, Taint, Toleration};

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Refusal, Remedy, Scoring, Verdict};
use crate::subject::Subject;

/// The plugin.
pub(super) struct TaintToleration;

struct Tolerations(Vec<Toleration>);

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        Some(Box::new(Tolerations(subject.pod().spec.tolerations.clone())))
    }

    fn weight(&self) -> i64 {
        3
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, _: &Nodes) -> bool {
        let Change::Node { old, new } = change else { return false };
        let refused = |node: &NodeLite| objection(node, &pod.spec.tolerations).is_some();
        old.is_none_or(refused) && !refused(new)
    }
}

fn objection<'n>(node: &'n NodeLite, tolerations: &[Toleration]) -> Option<&'n Taint> {
    first_untolerated(&node.taints, tolerations, forbids_scheduling)
}

impl Judge for Tolerations {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        match objection(node.node(), &self.0) {
            None => Verdict::Fits,
            Some(_) => Refusal::for_good("node(s) had untolerated taint(s)"),
        }
    }

    fn remedies(&self, node: &NodeInfo) -> Vec<Remedy> {
        let taints = node.node().taints.iter();
        let keep_off = taints.filter(|taint| forbids_scheduling(taint) && !is_tolerated(&self.0, taint));
        keep_off.map(|taint| Remedy::Tolerate(taint.clone())).collect()
    }

    fn scoring(&self) -> Scoring {
        Scoring::Reversed
    }

    /// The number of taints that would rather not have the pod.
    fn score(&self, node: &NodeInfo) -> i64 {
        let unwelcome = |taint: &&Taint| &*taint.effect == PREFER_NO_SCHEDULE && !is_tolerated(&self.0, taint);
        i64::try_from(node.node().taints.iter().filter(unwelcome).count()).unwrap_or(i64::MAX)
    }
}
