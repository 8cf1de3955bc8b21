//! TaintToleration: no pod goes where a taint it does not tolerate keeps it off; nodes that prefer others come last.

use api::decide::taints::{PREFER_NO_SCHEDULE, first_untolerated, forbids_scheduling, is_tolerated};
use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Normalization, Plugin, Verdict};

/// The plugin.
pub(super) struct TaintToleration;

struct Tolerations<'a>(&'a PodLite);

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn judge<'a>(&self, pod: &'a PodLite, _: &'a Nodes) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Tolerations(pod)))
    }

    fn weight(&self) -> i64 {
        3
    }
}

impl Judge for Tolerations<'_> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        match first_untolerated(&node.node().taints, &self.0.spec.tolerations, forbids_scheduling) {
            None => Verdict::Fits,
            Some(_) => Verdict::Unfit(vec!["node(s) had untolerated taint(s)".into()]),
        }
    }

    /// The number of taints that would rather not have the pod.
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let unwelcome = |taint: &&api::projection::Taint| {
            &*taint.effect == PREFER_NO_SCHEDULE && !is_tolerated(&self.0.spec.tolerations, taint)
        };
        i64::try_from(node.node().taints.iter().filter(unwelcome).count()).ok()
    }

    fn normalization(&self) -> Normalization {
        Normalization::Reverse
    }
}
