//! NodePorts: no two pods of a node take the same port of the host.

use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Refusal, Remedy, Verdict};
use crate::subject::{HostPort, Subject, host_ports};

/// The plugin.
pub(super) struct NodePorts;

struct Ports(Vec<HostPort>);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        let ports = &subject.counted.ports;
        (!ports.is_empty()).then(|| Box::new(Ports(ports.clone())) as Box<dyn Judge>)
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, _: &Nodes) -> bool {
        match change {
            Change::Node { old: None, .. } => true,
            Change::PodGone(gone) => {
                let freed = host_ports(gone);
                host_ports(pod).iter().any(|port| freed.iter().any(|free| free.conflicts(port)))
            }
            _ => false,
        }
    }
}

impl Judge for Ports {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if self.0.iter().any(|port| node.ports.iter().any(|taken| taken.conflicts(port))) {
            Refusal::for_now("node(s) didn't have free ports for the requested pod ports")
        } else {
            Verdict::Fits
        }
    }

    fn remedies(&self, node: &NodeInfo) -> Vec<Remedy> {
        let taken = self.0.iter().filter(|port| node.ports.iter().any(|taken| taken.conflicts(port)));
        taken.map(|port| Remedy::Port(port.clone())).collect()
    }
}
