//! Connections out of the API server.

use std::net::IpAddr;

use http::{Request, Response};
use k8s_openapi::api::core::v1::Node;
use stdx::BoxFuture;
use wire::Body;
use wire::client::Connection;

use crate::refusal::Refusal;

/// Why something could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("error dialing backend: {reason}")]
pub struct DialError {
    pub reason: String,
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Refusal {
        Refusal::internal(&error)
    }
}

/// A response to a request for an upgrade, and the upgraded connection when it was agreed to with `101`.
pub type Upgrade = (Response<Body>, Option<Box<dyn Connection>>);

/// Where a node's agent listens, as the node registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
}

/// The way to everything outside the API server; each cluster has one. No redirect is followed.
///
/// A request to a node goes to its agent's own HTTPS server, at upstream's paths (`/containerLogs/…`, `/exec/…`): the
/// implementation shows the API server's own certificate and checks the agent's. Requests have a path and a query; scheme
/// and authority are for the implementation to add.
pub trait Dialer: Send + Sync {
    /// Sends a request to the agent of a node.
    fn node<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>>;

    /// Sends a request to the agent of a node that asks for the upgrade which its `Upgrade` header names.
    fn node_upgrade<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>>;

    /// Sends a request to a pod, a Service's endpoint or a further port of a node, on which whoever answers is believed.
    fn direct<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>>;

    /// The same for a request that asks for an upgrade.
    fn direct_upgrade<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>>;
}

/// A place in the cluster's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether TLS is spoken there.
    pub secure: bool,
    pub address: IpAddr,
    pub port: u16,
}

impl Place {
    /// As it stands in a URL.
    pub fn authority(&self) -> String {
        std::net::SocketAddr::new(self.address, self.port).to_string()
    }
}

/// Whether an address may be dialed for somebody: not this machine's own loopback, nor what only its own link knows, such
/// as a cloud's metadata. Whoever writes a node's or a pod's status chooses the address. Upstream: `isProxyableIP`.
pub fn may_be_dialed(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !address.is_loopback()
                && !address.is_link_local()
                && !address.is_multicast()
                && !address.is_unspecified()
                && !address.is_broadcast()
        }
        IpAddr::V6(address) => {
            !address.is_loopback()
                && !address.is_unicast_link_local()
                && !address.is_multicast()
                && !address.is_unspecified()
        }
    }
}

/// Where the agent of a node listens, or why it cannot be dialed.
pub(crate) fn endpoint(node: &Node) -> Result<NodeEndpoint, String> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of_kind = |kind: &str| addresses.iter().find(|address| address.type_ == kind);
    // As kubeadm prefers them; names are not resolved.
    let preferred = ["InternalIP", "ExternalIP"].into_iter().find_map(of_kind);
    let Some(address) = preferred.and_then(|address| address.address.parse::<IpAddr>().ok()) else {
        return Err(format!("no preferred addresses found for node {name:?}"));
    };
    if !may_be_dialed(address) {
        return Err("address not allowed".into());
    }
    let endpoints = status.and_then(|status| status.daemon_endpoints.as_ref());
    let port = endpoints.and_then(|endpoints| endpoints.kubelet_endpoint.as_ref()).map_or(0, |endpoint| endpoint.port);
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(NodeEndpoint { name, address, port }),
        _ => Err(format!("node {name:?} registered no port of its agent")),
    }
}

/// Reaches nothing: for API servers without nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

fn nothing<T>() -> BoxFuture<'static, Result<T, DialError>> {
    Box::pin(async { Err(DialError { reason: "no nodes can be reached".to_owned() }) })
}

impl Dialer for NoNodes {
    fn node<'a>(&'a self, _: &'a NodeEndpoint, _: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        nothing()
    }

    fn node_upgrade<'a>(&'a self, _: &'a NodeEndpoint, _: Request<Body>) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        nothing()
    }

    fn direct<'a>(&'a self, _: &'a Place, _: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        nothing()
    }

    fn direct_upgrade<'a>(&'a self, _: &'a Place, _: Request<Body>) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        nothing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(addresses: &[(&str, &str)], port: i32) -> Node {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, address)| serde_json::json!({"type": kind, "address": address})).collect();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n"},
            "status": {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}},
        }))
        .expect("a node")
    }

    #[test]
    fn a_node_is_found_where_it_registered_unless_that_is_nobodys_business() {
        let check = |addresses: &[(&str, &str)], port, expected: Result<&str, &str>| {
            let found = endpoint(&node(addresses, port)).map(|found| format!("{} {}", found.address, found.port));
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{addresses:?}");
        };
        check(&[("Hostname", "n"), ("InternalIP", "10.0.0.7")], 10_250, Ok("10.0.0.7 10250"));
        check(&[("ExternalIP", "192.0.2.7")], 1, Ok("192.0.2.7 1"));
        check(&[("Hostname", "localhost")], 10_250, Err("no preferred addresses found for node \"n\""));
        check(&[("InternalIP", "10.0.0.7")], 0, Err("node \"n\" registered no port of its agent"));
        for address in ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "::"] {
            check(&[("InternalIP", address)], 10_250, Err("address not allowed"));
        }
        check(&[("InternalIP", "::ffff:127.0.0.1")], 10_250, Err("address not allowed"));
    }
}
