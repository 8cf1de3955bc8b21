//! A pod as decisions are made about it: with what is worked out from it once.

use std::sync::Arc;

use api::decide::Resources;
use api::projection::PodLite;
use api::quantity::Quantity;
use api::selector::Selector;
use client::Object;

use crate::amounts::{Amounts, Load};

/// Requests that count for a container without any, in scores only. Upstream: `DefaultMilliCPURequest`, `DefaultMemoryRequest`.
const NONZERO_CPU_MILLI: i64 = 100;
const NONZERO_MEMORY: i64 = 200 << 20;

/// A pod and what it asks for.
#[derive(Clone, Debug)]
pub struct Counted {
    pub object: Arc<Object>,
    pub requests: Amounts,
    /// What it asks for, where a container that asks for nothing counts a little, so that scores spread such pods.
    pub nonzero: Load,
    /// The host's ports it takes.
    pub ports: Vec<HostPort>,
}

/// A port of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub address: Box<str>,
    pub protocol: Box<str>,
    pub port: i32,
}

/// Every address of the host.
const ANY: &str = "0.0.0.0";

impl HostPort {
    /// Whether not both can be had.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let same_address = self.address == other.address || &*self.address == ANY || &*other.address == ANY;
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

impl Counted {
    /// Works out what the pod asks for.
    pub fn new(object: Arc<Object>) -> Counted {
        let pod: &PodLite = object.project();
        let missing: Resources = [
            ("cpu", Quantity::from_milli(NONZERO_CPU_MILLI)),
            ("memory", Quantity::new(NONZERO_MEMORY, api::quantity::Format::BinarySi)),
        ]
        .into_iter()
        .collect();
        let requests = Amounts::of(&pod.spec.resources.requests());
        let nonzero = Load::of(&Amounts::of(&pod.spec.resources.requests_or(&missing)));
        let ports = host_ports(pod);
        Counted { object, requests, nonzero, ports }
    }

    /// The pod's fields that decisions go by.
    pub fn pod(&self) -> &PodLite {
        self.object.project()
    }

    /// Whether it has something to say about pods near it.
    pub fn has_terms(&self) -> bool {
        has_terms(self.pod())
    }
}

/// Whether the pod has something to say about pods near it.
pub fn has_terms(pod: &PodLite) -> bool {
    pod.spec.affinity.as_ref().is_some_and(|affinity| !affinity.pod.is_empty() || !affinity.anti.is_empty())
}

/// The ports of the host that the pod takes.
pub fn host_ports(pod: &PodLite) -> Vec<HostPort> {
    use api::decide::resources::Stage;
    // Init containers that end give their ports back before the others start.
    let containers = pod.spec.containers.iter().filter(|container| container.stage != Stage::Init);
    let ports = containers.flat_map(|container| &container.ports).filter(|port| port.host_port > 0);
    let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.into() };
    ports
        .map(|port| HostPort {
            address: or(&port.host_ip, ANY),
            protocol: or(&port.protocol, "TCP"),
            port: port.host_port,
        })
        .collect()
}

/// A pod to be placed.
#[derive(Clone, Debug)]
pub struct Subject {
    pub counted: Arc<Counted>,
    /// The pods that it is spread among when it says nothing itself: those of its services and of the workload that manages
    /// it. `None` if there are none.
    pub siblings: Option<Selector>,
}

impl Subject {
    /// A pod without siblings.
    pub fn new(object: Arc<Object>) -> Subject {
        Subject { counted: Arc::new(Counted::new(object)), siblings: None }
    }

    /// The pod's fields that decisions go by.
    pub fn pod(&self) -> &PodLite {
        self.counted.pod()
    }

    /// What tells the pod from others.
    pub fn uid(&self) -> &str {
        self.counted.object.uid()
    }

    /// Whether every decision about both is the same: pods of one template are alike. Labels count where somebody goes by
    /// them: the pod itself, or, if `wooed`, pods that have something to say about pods near them.
    pub fn is_like(&self, other: &Subject, wooed: bool) -> bool {
        if Arc::ptr_eq(&self.counted, &other.counted) && self.siblings == other.siblings {
            return true;
        }
        let (left, right) = (self.pod(), other.pod());
        let parts = |pod: &PodLite| -> [usize; 4] {
            let terms = usize::from(has_terms(pod));
            [pod.spec.containers.len(), pod.spec.tolerations.len(), pod.spec.spread.len(), terms]
        };
        let by_labels = wooed || has_terms(left) || !left.spec.spread.is_empty();
        parts(left) == parts(right)
            && left.meta.namespace == right.meta.namespace
            && (!by_labels || left.meta.labels == right.meta.labels)
            && self.counted.requests == other.counted.requests
            && self.counted.nonzero == other.counted.nonzero
            && self.counted.ports == other.counted.ports
            && left.spec.node_name == right.spec.node_name
            && left.spec.node_selector == right.spec.node_selector
            && left.spec.tolerations == right.spec.tolerations
            && left.spec.affinity == right.spec.affinity
            && left.spec.spread == right.spec.spread
            && left.spec.containers.iter().zip(&right.spec.containers).all(|(left, right)| left.image == right.image)
            && self.siblings == other.siblings
    }
}
