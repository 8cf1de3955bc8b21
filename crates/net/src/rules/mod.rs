//! Service rules: what the kernel is to do with packets to Services, and making it so.
//!
//! [`rule_set`] decides; it is pure. [`kernel`] compares a decision with what is in the kernel and sends the
//! difference as one transaction. A packet finds its Service by one look-up in a map and an endpoint by one more,
//! however many there are.
//!
//! Architecture Invariant: nothing here runs when the process ends; rules stay until [`crate::cleanup`].

mod common;
pub(crate) mod conntrack;
mod difference;
mod endpoints;
pub(crate) mod expression;
mod firewall;
mod kernel;
mod target;
pub(crate) mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use cni::Cidr;
use serde::{Deserialize, Serialize};

use crate::input::{NetState, ObjectKey, PortView, Protocol, ServiceType, ServiceView, SliceView};
use crate::names::Names;

use endpoints::Endpoints;

pub use endpoints::Backend;
pub use kernel::Applied;
pub(crate) use kernel::{Kernel, touches};

/// What rules depend on besides Services: facts about this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node's name, as endpoints give it.
    pub node_name: String,
    /// What our things are called.
    pub names: Names,
    /// The node's own address in the pod network: what a pod sees as its peer when it talks to itself over a Service.
    /// Where it is absent (a pod network of somebody else), the outgoing interface's address is used.
    pub gateway: Option<IpAddr>,
    /// The node's address among the machines, if that is another one: pods reach the API server by it.
    #[serde(default)]
    pub node_ip: Option<IpAddr>,
    /// This node's ranges of pod addresses: what they send out of the cluster bears the node's address.
    pub pod_cidrs: Vec<Cidr>,
    /// The ranges of all nodes' pods: pods see one another's own addresses.
    pub cluster_cidrs: Vec<Cidr>,
    /// Ports of [`NodeFacts::gateway`] and [`NodeFacts::node_ip`] that pods must reach also where a host firewall drops what it does not know.
    pub host_ports: Vec<(Protocol, u16)>,
}

/// Where clients send to: an address and port of a Service, or a port of the node ([`Frontend::of_node`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The Service's address; unspecified for every address of the node.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
}

impl Frontend {
    /// A port of every address of the node.
    pub fn of_node(protocol: Protocol, port: u16) -> Frontend {
        Frontend { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), protocol, port }
    }

    /// Whether it is a port of every address of the node.
    pub fn is_of_node(&self) -> bool {
        self.address.is_unspecified()
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.address, self.protocol.lower(), self.port)
    }
}

/// How connections spread over endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Addresses and ports, in order; each new connection goes to any of them.
    pub backends: Vec<Backend>,
    /// How clients stay with theirs, if they do.
    pub affinity: Option<Affinity>,
}

/// A client's later connections go where its first went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// How long without a connection it is remembered.
    pub seconds: u32,
    /// Under which name: the frontends of one Service port share their memory.
    pub group: Group,
}

/// What remembers clients' endpoints under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The first frontend of the Service port.
    pub first: Frontend,
    /// Whether it is the memory of those that only this node's endpoints serve.
    pub local: bool,
}

/// Where packets to a [`Frontend`] go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The Service, and its port's name after a colon if it has one; for readers of the rules.
    pub origin: String,
    /// Whether endpoints see the node's address in place of the client's. Otherwise an endpoint of another node would
    /// answer past this one, which alone knows how to translate the answer back.
    pub masquerade: bool,
    /// Where they go. Without backends they go nowhere, unless they come from inside.
    pub choice: Choice,
    /// Where they go instead if they come from a pod of the cluster or from this node: clients that need not be served by
    /// the node they came to.
    pub inside: Option<Choice>,
}

/// All that the kernel is to do about Services on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// The node's facts: rules that do not depend on Services.
    pub facts: NodeFacts,
    /// Ports with endpoints.
    pub targets: BTreeMap<Frontend, Target>,
    /// Addresses of Services: what is sent to one of their ports that has no target is refused.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// Other frontends without endpoints: refused as well.
    pub refused: BTreeSet<Frontend>,
    /// Frontends whose endpoints are all elsewhere, although only this node's may serve: dropped without an answer, so that
    /// the client tries again, and by then may come to another node.
    pub dropped: BTreeSet<Frontend>,
    /// Frontends that only these ranges may use.
    pub guards: BTreeMap<Frontend, Vec<Cidr>>,
    /// Endpoints that may be reached from themselves over a Service.
    pub hairpins: BTreeSet<IpAddr>,
    /// Of frontends of UDP, which endpoints may go on with conversations that they have already.
    pub conversations: BTreeMap<Frontend, BTreeSet<Backend>>,
    /// Fields of Services that are set and not honoured, by Service.
    pub unsupported: BTreeMap<ObjectKey, Vec<String>>,
}

/// Decides the rules for `state` on the node that `facts` describes.
pub fn rule_set(state: &NetState, facts: &NodeFacts) -> RuleSet {
    let mut rules = RuleSet { facts: facts.clone(), ..RuleSet::default() };
    let slices = slices_by_service(state);
    for service in state.services.values() {
        if !service.unsupported.is_empty() {
            rules.unsupported.insert(service.key.clone(), service.unsupported.clone());
        }
        // Another proxy was asked for, or there is no address to make rules for.
        if !service.proxy_name.is_empty() || service.headless || service.kind == ServiceType::ExternalName {
            continue;
        }
        let of = (service.key.namespace.as_str(), service.key.name.as_str());
        let slices = slices.get(&of).map(Vec::as_slice).unwrap_or_default();
        // The tables are IPv4's; addresses of the other version are among the Service's unsupported fields.
        rules.cluster_ips.extend(service.cluster_ips.iter().filter(|address| address.is_ipv4()));
        for port in &service.ports {
            let endpoints = Endpoints::of(port, slices, &facts.node_name, &state.zone);
            rules.add(service, port, &endpoints);
        }
    }
    let choices = rules.targets.values().flat_map(|target| std::iter::once(&target.choice).chain(&target.inside));
    // At once, which is several times faster than one by one.
    rules.hairpins = choices.flat_map(|choice| &choice.backends).map(|(address, _)| *address).collect();
    rules
}

/// Slices by the namespace and name of their Service.
fn slices_by_service(state: &NetState) -> BTreeMap<(&str, &str), Vec<&SliceView>> {
    let mut slices: BTreeMap<(&str, &str), Vec<&SliceView>> = BTreeMap::new();
    for slice in state.slices.values().map(Arc::as_ref) {
        slices.entry((&slice.key.namespace, &slice.service)).or_default().push(slice);
    }
    slices
}

impl RuleSet {
    fn add(&mut self, service: &ServiceView, port: &PortView, endpoints: &Endpoints) {
        let frontend = |address: &IpAddr| Frontend { address: *address, protocol: port.protocol, port: port.port };
        let of = |addresses: &[IpAddr]| -> Vec<Frontend> {
            addresses.iter().filter(|address| address.is_ipv4()).map(frontend).collect()
        };
        let (internal, balanced) = (of(&service.cluster_ips), of(&service.balancer_ips));
        let mut external = [of(&service.external_ips), balanced.clone()].concat();
        if port.node_port != 0 {
            external.push(Frontend::of_node(port.protocol, port.node_port));
        }
        if let Some(first) = internal.first().or(external.first()) {
            let origin = Origin { service, port, first: *first };
            self.add_internal(&origin, &internal, endpoints);
            self.add_external(&origin, &external, endpoints);
        }
        if !service.source_ranges.is_empty() {
            let ranges: Vec<Cidr> =
                service.source_ranges.iter().copied().filter(|range| range.address().is_ipv4()).collect();
            self.guards.extend(balanced.iter().map(|frontend| (*frontend, ranges.clone())));
        }
        // Without any endpoint a conversation is left alone: it may be with one that is about to be ready again.
        if port.protocol == Protocol::Udp && !endpoints.serving.is_empty() {
            let all = internal.iter().chain(&external);
            self.conversations.extend(all.map(|frontend| (*frontend, endpoints.serving.clone())));
        }
    }

    fn add_internal(&mut self, origin: &Origin<'_>, frontends: &[Frontend], endpoints: &Endpoints) {
        let local = origin.service.local_only;
        let choice = if local { origin.local(endpoints) } else { origin.cluster(endpoints) };
        if choice.backends.is_empty() {
            // What has no endpoint at all is refused as every unknown port of the address is.
            self.dropped.extend(frontends.iter().filter(|_| !endpoints.cluster.is_empty()));
            return;
        }
        self.add_target(frontends, &Target { origin: origin.text(), choice, ..Target::default() });
    }

    fn add_external(&mut self, origin: &Origin<'_>, frontends: &[Frontend], endpoints: &Endpoints) {
        let cluster = origin.cluster(endpoints);
        if endpoints.cluster.is_empty() && endpoints.local.is_empty() {
            self.refused.extend(frontends);
            return;
        }
        if !origin.service.external_local {
            self.add_target(
                frontends,
                &Target { origin: origin.text(), masquerade: true, choice: cluster, inside: None },
            );
            return;
        }
        if endpoints.local.is_empty() {
            self.dropped.extend(frontends);
        }
        let choice = origin.local(endpoints);
        let target = Target { origin: origin.text(), masquerade: false, choice, inside: Some(cluster) };
        self.add_target(frontends, &target);
    }

    fn add_target(&mut self, frontends: &[Frontend], target: &Target) {
        self.targets.extend(frontends.iter().map(|frontend| (*frontend, target.clone())));
    }
}

/// A port of a Service, while its frontends are decided.
struct Origin<'a> {
    service: &'a ServiceView,
    port: &'a PortView,
    first: Frontend,
}

impl Origin<'_> {
    fn text(&self) -> String {
        match self.port.name.as_str() {
            "" => self.service.key.to_string(),
            name => format!("{}:{name}", self.service.key),
        }
    }

    fn cluster(&self, endpoints: &Endpoints) -> Choice {
        Choice { backends: endpoints.cluster.clone(), affinity: self.affinity(false) }
    }

    fn local(&self, endpoints: &Endpoints) -> Choice {
        Choice { backends: endpoints.local.clone(), affinity: self.affinity(true) }
    }

    fn affinity(&self, local: bool) -> Option<Affinity> {
        let seconds = self.service.affinity_seconds;
        (seconds > 0).then_some(Affinity { seconds, group: Group { first: self.first, local } })
    }
}

#[cfg(test)]
pub(crate) mod tests;
