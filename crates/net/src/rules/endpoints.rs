//! Which endpoints of a Service's port take new connections on this node.
//!
//! Upstream: `pkg/proxy/topology.go`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::input::{EndpointView, PortView, Protocol, SliceView};

/// An endpoint's address and port.
pub type Backend = (IpAddr, u16);

/// The endpoints of one port of a Service, by who may use them.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// For traffic that any endpoint of the cluster may serve.
    pub(super) cluster: Vec<Backend>,
    /// For traffic that only this node's endpoints may serve.
    pub(super) local: Vec<Backend>,
    /// Of UDP, those that still answer what they were sent before, whether or not they get anything new.
    pub(super) serving: BTreeSet<Backend>,
}

impl Endpoints {
    /// The endpoints of `port` in `slices`, as used on `node` of `zone`.
    pub(super) fn of(port: &PortView, slices: &[&SliceView], node: &str, zone: &str) -> Endpoints {
        let all = gather(port, slices);
        let ready: Vec<&Found> = all.iter().filter(|(_, endpoint)| endpoint.ready).collect();
        let topology = Topology::of(&ready, node, zone);
        // As upstream's proxy: those that still serve while they end are used when nothing else is left, so that the last
        // one of a Service is used until it is gone; separately for the cluster and for the node.
        let ending = || all.iter().filter(|(_, endpoint)| endpoint.serving && endpoint.terminating);
        let here = |found: &&Found| found.1.node_name == node;
        let backends =
            |found: Vec<&Found>| -> Vec<Backend> { found.into_iter().map(|(backend, _)| *backend).collect() };
        let or_ending =
            |chosen: Vec<&Found>, rest: Vec<&Found>| backends(if chosen.is_empty() { rest } else { chosen });
        let near = ready.iter().copied().filter(|(_, endpoint)| topology.admits(endpoint, node, zone)).collect();
        let talks = |(_, endpoint): &&Found| endpoint.ready || endpoint.serving;
        let serving = match port.protocol {
            Protocol::Udp => all.iter().filter(talks).map(|(backend, _)| *backend).collect(),
            _ => BTreeSet::new(),
        };
        Endpoints {
            cluster: or_ending(near, ending().collect()),
            local: or_ending(ready.iter().copied().filter(here).collect(), ending().filter(here).collect()),
            serving,
        }
    }
}

type Found<'a> = (Backend, &'a EndpointView);

/// Every endpoint once, in order; of two that claim one address, the ready one.
fn gather<'a>(port: &PortView, slices: &[&'a SliceView]) -> Vec<Found<'a>> {
    let mut found: Vec<Found<'a>> = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter().find(|found| found.name == port.name && found.protocol == port.protocol);
        let Some(number) = matching.map(|matching| matching.port) else { continue };
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.address().filter(IpAddr::is_ipv4) else { continue };
            found.push(((address, number), endpoint));
        }
    }
    found.sort_by_key(|(backend, endpoint)| (*backend, !endpoint.ready));
    found.dedup_by_key(|(backend, _)| *backend);
    found
}

/// How far clients go for an endpoint, as the hints on endpoints say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

impl Topology {
    /// Hints count only where every ready endpoint has one and at least one is for this place: otherwise some clients
    /// would be left without any.
    fn of(ready: &[&Found<'_>], node: &str, zone: &str) -> Topology {
        let agreed = |hints: fn(&EndpointView) -> &Vec<String>, place: &str| {
            ready.iter().all(|(_, endpoint)| !hints(endpoint).is_empty())
                && ready.iter().any(|(_, endpoint)| hints(endpoint).iter().any(|hint| hint == place))
        };
        if agreed(|endpoint| &endpoint.for_nodes, node) {
            Topology::SameNode
        } else if agreed(|endpoint| &endpoint.for_zones, zone) {
            Topology::SameZone
        } else {
            Topology::Anywhere
        }
    }

    fn admits(self, endpoint: &EndpointView, node: &str, zone: &str) -> bool {
        match self {
            Topology::Anywhere => true,
            Topology::SameNode => endpoint.for_nodes.iter().any(|hint| hint == node),
            Topology::SameZone => endpoint.for_zones.iter().any(|hint| hint == zone),
        }
    }
}
