//! Which other nodes there are and where their pods are, into the routes of this one.

use std::net::IpAddr;
use std::sync::Arc;

use api::projection::NodeLite;
use client::{Cache, Object};
use cni::Cidr;
use net::peers::{PeerRoutes, Peers};

use crate::machine::Settings;

/// Keeps the routes as the nodes are, until the task is dropped; the routes stay.
pub async fn keep(routes: PeerRoutes, nodes: Cache, settings: Settings) {
    let mut told: Option<Peers> = None;
    // Nothing is removed before the first complete list.
    let mut seen = nodes.synced().await;
    loop {
        let peers = peers(seen.iter(), &settings);
        if told.as_ref() != Some(&peers) {
            routes.set(peers.clone());
            told = Some(peers);
        }
        seen = nodes.progressed(seen.revision()).await;
    }
}

/// The nodes that routes lead to. A range is a node's own word, like its address: so none counts that is outside of the
/// cluster's, that is this node's, or that an older node has.
fn peers<'a>(nodes: impl Iterator<Item = &'a Arc<Object>>, settings: &Settings) -> Peers {
    let mut others: Vec<&Arc<Object>> = nodes.filter(|node| node.name() != settings.node_name).collect();
    others.sort_by_key(|node| (node.meta().creation, node.name().to_owned()));
    let mut peers = Peers::new();
    for node in others {
        let lite = node.project::<NodeLite>();
        let address = lite.address("InternalIP").and_then(|address| address.parse::<IpAddr>().ok());
        let range = lite.pod_cidrs.first().and_then(|range| range.parse::<Cidr>().ok());
        let (Some(address), Some(range)) = (address, range.map(|range| range.network())) else { continue };
        let cluster = settings.cluster_cidr;
        let within = cluster.contains(range.address()) && range.prefix() >= cluster.prefix();
        let taken = range.overlaps(&settings.pod_cidr) || peers.keys().any(|other: &Cidr| other.overlaps(&range));
        // One whose address is in the pod network is reached by none but itself.
        let reached = address.is_ipv4() && apiserver::may_be_dialed(address) && !cluster.contains(address);
        if within && !taken && reached && address != settings.address {
            peers.insert(range, address);
        }
    }
    peers
}

#[cfg(test)]
mod tests {
    use client::Gvk;

    use super::*;
    use crate::machine::Membership;

    #[test]
    fn a_route_leads_to_each_node_that_has_a_range_of_its_own() {
        let node = |name: &str, second: u32, address: &str, range: &str| {
            let spec = if range.is_empty() { String::new() } else { format!(r#""podCIDRs":["{range}"]"#) };
            let body = format!(
                r#"{{"metadata":{{"name":"{name}","uid":"{name}","creationTimestamp":"2026-01-01T00:00:{second:02}Z"}},
                "spec":{{{spec}}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}]}}}}"#
            );
            Arc::new(Object::from_body(Arc::new(Gvk::new("", "v1", "Node")), 1, body.into()).unwrap())
        };
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        let member =
            Membership { pods: range("10.1.0.0/16"), services: range("10.2.0.0/16"), range: range("10.1.1.0/24") };
        let said = <cli::Args as clap::Parser>::parse_from(["isopod", "agent", "--node-name", "self"]);
        let cli::Command::Agent(said) = said.command else { panic!("{said:?}") };
        let settings = Settings::of_agent(&said.node, "192.0.2.1".parse().unwrap(), &member).unwrap();
        let nodes = [
            node("self", 1, "192.0.2.1", "10.1.1.0/24"),
            node("thief", 9, "192.0.2.9", "10.1.2.0/25"),
            node("two", 2, "192.0.2.2", "10.1.2.0/24"),
            node("three", 3, "192.0.2.3", "10.1.3.0/24"),
            node("new", 4, "192.0.2.4", ""),
            node("everything", 5, "192.0.2.5", "0.0.0.0/0"),
            node("outside", 5, "192.0.2.5", "172.16.0.0/24"),
            node("loop", 5, "127.0.0.1", "10.1.5.0/24"),
            node("inside", 5, "10.1.6.1", "10.1.6.0/24"),
            node("mine", 5, "192.0.2.7", "10.1.1.0/24"),
        ];
        let found: Vec<String> =
            peers(nodes.iter(), &settings).iter().map(|(range, address)| format!("{range} {address}")).collect();
        assert_eq!(found, ["10.1.2.0/24 192.0.2.2", "10.1.3.0/24 192.0.2.3"]);
    }
}
