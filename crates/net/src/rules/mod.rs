//! Service rules: what the kernel is to do with packets to Services, and making it so.
//!
//! [`rule_set`] decides; it is pure. [`kernel`] compares a decision with what is in the kernel and sends the
//! difference as one transaction. A packet finds its Service by one look-up in a map and an endpoint by one more,
//! however many there are.
//!
//! Architecture Invariant: nothing here runs when the process ends; rules stay until [`crate::cleanup`].

mod difference;
mod expression;
mod firewall;
mod kernel;
mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use cni::Cidr;
use serde::{Deserialize, Serialize};

use crate::input::{EndpointView, NetState, ObjectKey, PortView, Protocol, ServiceType, ServiceView, SliceView};
use crate::names::Names;

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
    /// This node's ranges of pod addresses: what they send out of the cluster bears the node's address.
    pub pod_cidrs: Vec<Cidr>,
    /// The ranges of all nodes' pods: pods see one another's own addresses.
    pub cluster_cidrs: Vec<Cidr>,
    /// Ports of [`NodeFacts::gateway`] that pods must reach also where a host firewall drops what it does not know.
    pub host_ports: Vec<(Protocol, u16)>,
}

/// Where clients send to: an address and port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The Service's address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.address, self.protocol.lower(), self.port)
    }
}

/// Where packets to a [`Frontend`] go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The Service, and its port's name after a colon if it has one; for readers of the rules.
    pub origin: String,
    /// Addresses and ports, in order, at least one; each new connection goes to any of them.
    pub backends: Vec<(IpAddr, u16)>,
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
    /// Endpoints that may be reached from themselves over a Service.
    pub hairpins: BTreeSet<IpAddr>,
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
        let slices = slices.get(&service.key).map(Vec::as_slice).unwrap_or_default();
        add_service(&mut rules, service, slices);
    }
    rules
}

fn slices_by_service(state: &NetState) -> BTreeMap<ObjectKey, Vec<&SliceView>> {
    let mut slices: BTreeMap<ObjectKey, Vec<&SliceView>> = BTreeMap::new();
    for slice in state.slices.values().map(Arc::as_ref) {
        slices.entry(slice.service_key()).or_default().push(slice);
    }
    slices
}

fn add_service(rules: &mut RuleSet, service: &ServiceView, slices: &[&SliceView]) {
    // The tables are IPv4's; addresses of the other version are among the Service's unsupported fields.
    let addresses: Vec<IpAddr> = service.cluster_ips.iter().copied().filter(IpAddr::is_ipv4).collect();
    rules.cluster_ips.extend(&addresses);
    for port in &service.ports {
        let backends = backends(service, port, slices, &rules.facts.node_name);
        if backends.is_empty() {
            continue;
        }
        rules.hairpins.extend(backends.iter().map(|(address, _)| *address));
        let origin =
            if port.name.is_empty() { service.key.to_string() } else { format!("{}:{}", service.key, port.name) };
        for address in &addresses {
            let frontend = Frontend { address: *address, protocol: port.protocol, port: port.port };
            rules.targets.insert(frontend, Target { origin: origin.clone(), backends: backends.clone() });
        }
    }
}

/// The endpoints that take new connections for `port`: those that are ready; when none is, those that still serve while
/// they end, as upstream's proxy does, so that the last one of a Service is used until it is gone.
fn backends(service: &ServiceView, port: &PortView, slices: &[&SliceView], node: &str) -> Vec<(IpAddr, u16)> {
    let here = |endpoint: &&EndpointView| !service.local_only || endpoint.node_name == node;
    let gather = |chosen: fn(&EndpointView) -> bool| -> Vec<(IpAddr, u16)> {
        let mut found = BTreeSet::new();
        for slice in slices {
            let matching = slice.ports.iter().find(|found| found.name == port.name && found.protocol == port.protocol);
            let Some(number) = matching.map(|matching| matching.port) else { continue };
            let chosen = slice.endpoints.iter().filter(|endpoint| chosen(endpoint)).filter(here);
            let addresses = chosen.filter_map(EndpointView::address).filter(IpAddr::is_ipv4);
            found.extend(addresses.map(|address| (address, number)));
        }
        found.into_iter().collect()
    };
    let ready = gather(|endpoint| endpoint.ready);
    if ready.is_empty() { gather(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

#[cfg(test)]
pub(crate) mod tests;
