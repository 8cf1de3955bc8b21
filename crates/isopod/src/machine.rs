//! What a cluster on this machine is made of: names, addresses and ranges, worked out from what was said.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail};
use cni::Cidr;
use net::Names;

use crate::preflight::listen_addresses;

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";
/// What tokens are issued as.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Which address of the service range is the DNS service's, as usual.
const DNS_OFFSET: u128 = 10;

/// What was said, and what it means.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_name: String,
    pub names: Names,
    pub pod_cidr: Cidr,
    /// Where all nodes' pods are.
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    /// The node's own address in the pod network.
    pub gateway: IpAddr,
    pub dns_address: IpAddr,
    pub port: u16,
    /// Where the API is served.
    pub listen: Vec<SocketAddr>,
    /// Where the agent answers.
    pub agent_listen: Vec<SocketAddr>,
}

impl Settings {
    /// Works out the settings; lists everything that is wrong.
    pub fn new(up: &cli::args::Up) -> anyhow::Result<Settings> {
        let mut wrong = Vec::new();
        let mut range = |option: &str, text: &str| {
            let parsed = cidr(text);
            if parsed.is_none() {
                wrong.push(format!("{option}: {text:?} is not a range of IPv4 addresses such as 10.244.0.0/24"));
            }
            parsed
        };
        let (pods, services) = (range("--pod-cidr", &up.pod_cidr), range("--service-cidr", &up.service_cidr));
        if let (Some(pods), Some(services)) = (pods, services)
            && pods.overlaps(&services)
        {
            wrong.push(format!("--pod-cidr {pods} and --service-cidr {services} overlap"));
        }
        let upstreams = up.node.dns_upstream.iter().map(|text| crate::dataplane::upstream(text).map(drop));
        let stubs = up.node.dns_stub_domain.iter().map(|text| crate::dataplane::stub_domain(text).map(drop));
        wrong.extend(upstreams.chain(stubs).filter_map(Result::err).map(|error| error.to_string()));
        let node_name = match &up.node_name {
            Some(name) => name.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
        };
        let faults = api::names::dns_subdomain(&node_name);
        wrong.extend(faults.iter().map(|fault| format!("node name {node_name:?}: {fault}")));
        let (Some(pod_cidr), Some(service_cidr), true) = (pods, services, wrong.is_empty()) else {
            bail!("{}", wrong.join("; "));
        };
        let gateway = pod_cidr.network().nth(1).context("the range of pods has no room for the node's address")?;
        let dns_address = service_cidr.network().nth(DNS_OFFSET).context("the range of Services is too small")?;
        Ok(Settings {
            node_name,
            names: Names::default(),
            pod_cidr,
            cluster_cidr: around(pod_cidr, service_cidr),
            service_cidr,
            gateway,
            dns_address,
            port: up.port,
            listen: listen_addresses(gateway, up.port, &up.bind),
            agent_listen: listen_addresses(gateway, node::server::PORT, &up.bind),
        })
    }
}

/// The range that other nodes get theirs from: the /16 around this node's, unless Services are there.
fn around(pods: Cidr, services: Cidr) -> Cidr {
    const PREFIX: u8 = 16;
    let wide = Cidr::new(pods.address(), PREFIX.min(pods.prefix())).map(|wide| wide.network());
    wide.filter(|wide| !wide.overlaps(&services)).unwrap_or(pods)
}

fn cidr(text: &str) -> Option<Cidr> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let cidr = Cidr::new(address, prefix.parse().ok()?)?;
    // From /8 to /28: room for a cluster, and for a cluster's first addresses.
    (address.is_ipv4() && (8..=28).contains(&cidr.prefix())).then_some(cidr)
}
