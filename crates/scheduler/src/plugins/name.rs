//! NodeName: a pod that names a node runs there or nowhere.

use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Plugin, Verdict};

/// The plugin.
pub(super) struct NodeName;

struct Named<'a>(&'a str);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn judge<'a>(&self, pod: &'a PodLite, _: &'a Nodes) -> Option<Box<dyn Judge + 'a>> {
        (!pod.spec.node_name.is_empty()).then(|| Box::new(Named(&pod.spec.node_name)) as Box<dyn Judge>)
    }
}

impl Judge for Named<'_> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if *node.name == *self.0 {
            Verdict::Fits
        } else {
            Verdict::Unfit(vec!["node(s) didn't match the requested node name".into()])
        }
    }
}
