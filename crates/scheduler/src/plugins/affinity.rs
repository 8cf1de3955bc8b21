//! NodeAffinity, as far as `spec.nodeSelector` goes: only nodes with all the labels. `spec.affinity` is in `unhonoured.rs`.

use api::projection::{PodLite, Texts};

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Plugin, Verdict};

/// The plugin.
pub(super) struct NodeAffinity;

struct Selected<'a>(&'a Texts);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn judge<'a>(&self, pod: &'a PodLite, _: &'a Nodes) -> Option<Box<dyn Judge + 'a>> {
        let selector = &pod.spec.node_selector;
        (!selector.is_empty()).then(|| Box::new(Selected(selector)) as Box<dyn Judge>)
    }
}

impl Judge for Selected<'_> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let labels = &node.node().meta.labels;
        if self.0.iter().all(|(name, value)| labels.get(name) == Some(value)) {
            Verdict::Fits
        } else {
            Verdict::Unfit(vec!["node(s) didn't match Pod's node affinity/selector".into()])
        }
    }
}
