//! NodeName: a pod that names a node runs there or nowhere.

use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Refusal, Remedy, Verdict};
use crate::subject::Subject;

/// The plugin.
pub(super) struct NodeName;

struct Named(Box<str>);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        let name = &subject.pod().spec.node_name;
        (!name.is_empty()).then(|| Box::new(Named(name.clone())) as Box<dyn Judge>)
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, _: &Nodes) -> bool {
        matches!(change, Change::Node { old: None, new } if new.meta.name == pod.spec.node_name)
    }
}

impl Judge for Named {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node.name == self.0 {
            Verdict::Fits
        } else {
            Refusal::for_good("node(s) didn't match the requested node name")
        }
    }

    fn remedies(&self, _: &NodeInfo) -> Vec<Remedy> {
        vec![Remedy::NodeName]
    }
}
