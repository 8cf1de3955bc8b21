//! What a cluster on this machine is made of: names, addresses and ranges, worked out from what was said.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, bail};
use cli::args::OfNode;
use cni::Cidr;
use net::Names;

use crate::preflight::listen_addresses;
use crate::token;

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";
/// What tokens are issued as.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How often nodes renew their leases.
const RENEWED: Duration = Duration::from_secs(10);
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
    /// The node's address among the machines; that in the pod network where no other machine comes here.
    pub address: IpAddr,
    pub port: u16,
    /// How long a node may be silent.
    pub node_monitor_grace_period: Duration,
    pub served: Served,
}

/// Where this machine's servers are found.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Where the API listens; nowhere on a node of a cluster elsewhere.
    pub api: Vec<SocketAddr>,
    /// Where the agent listens.
    pub agent: Vec<SocketAddr>,
    /// The machine's addresses: what listens everywhere is found at each.
    pub own: Vec<IpAddr>,
    /// Where else the API is reached, as it was told: over a balancer or a translation of addresses, say.
    pub more_addresses: Vec<IpAddr>,
    pub more_names: Vec<String>,
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
        let grace =
            token::seconds("--node-monitor-grace-period", &up.node_monitor_grace_period).map(Duration::from_secs);
        wrong.extend(grace.as_ref().err().map(ToString::to_string));
        if grace.as_ref().is_ok_and(|grace| *grace <= RENEWED) {
            let least = RENEWED.as_secs();
            wrong.push(format!(
                "--node-monitor-grace-period: nodes tell every {least}s that they live; it must be longer"
            ));
        }
        let node_name = node_name(&up.node);
        wrong.extend(faults(&up.node));
        wrong.extend(strange_names(&up.apiserver_cert_extra_sans));
        let (Some(pod_cidr), Some(service_cidr), true) = (pods, services, wrong.is_empty()) else {
            bail!("{}", wrong.join("; "));
        };
        let gateway = pod_cidr.network().nth(1).context("the range of pods has no room for the node's address")?;
        let dns_address = service_cidr.network().nth(DNS_OFFSET).context("the range of Services is too small")?;
        let address = up.node.node_ip.or_else(|| among_machines(&up.bind)).unwrap_or(gateway);
        let reached: Vec<IpAddr> = up.bind.iter().copied().chain([address]).collect();
        let sans = &up.apiserver_cert_extra_sans;
        let everywhere = up.bind.iter().any(IpAddr::is_unspecified);
        let served = Served {
            api: listen_addresses(gateway, up.port, &up.bind),
            agent: listen_addresses(gateway, node::server::PORT, &reached),
            own: if everywhere {
                net::machine_addresses().context("read this machine's addresses")?
            } else {
                Vec::new()
            },
            more_addresses: sans.iter().filter_map(|text| text.parse().ok()).collect(),
            more_names: sans.iter().filter(|text| text.parse::<IpAddr>().is_err()).cloned().collect(),
        };
        Ok(Settings {
            node_name,
            names: Names::default(),
            pod_cidr,
            cluster_cidr: around(pod_cidr, service_cidr),
            service_cidr,
            gateway,
            dns_address,
            address,
            port: up.port,
            node_monitor_grace_period: grace?,
            served,
        })
    }

    /// The settings of a node of a cluster elsewhere.
    pub fn of_agent(said: &OfNode, address: IpAddr, member: &Membership) -> anyhow::Result<Settings> {
        let gateway = member.range.network().nth(1).context("the range of pods has no room for the node's address")?;
        let dns_address = member.services.network().nth(DNS_OFFSET).context("the range of Services is too small")?;
        Ok(Settings {
            node_name: node_name(said),
            names: Names::default(),
            pod_cidr: member.range,
            cluster_cidr: member.pods,
            service_cidr: member.services,
            gateway,
            dns_address,
            address,
            port: 0,
            node_monitor_grace_period: Duration::ZERO,
            served: Served { agent: listen_addresses(gateway, node::server::PORT, &[address]), ..Served::default() },
        })
    }

    /// Where pods, and other machines if they come here, reach the API.
    pub fn advertised(&self) -> SocketAddr {
        SocketAddr::new(if self.is_open() { self.address } else { self.gateway }, self.port)
    }

    /// Whether other machines can reach the API.
    pub fn is_open(&self) -> bool {
        let mut served = self.served.api.iter().map(SocketAddr::ip);
        self.address != self.gateway && served.any(|at| at == self.address || at.is_unspecified())
    }

    /// The addresses that a server of this machine, which listens there, is found at.
    pub fn found_at(&self, listen: &[SocketAddr]) -> Vec<IpAddr> {
        let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), self.gateway];
        let everywhere = listen.iter().any(|address| address.ip().is_unspecified());
        let own = self.served.own.iter().copied().filter(|_| everywhere);
        for address in listen.iter().map(SocketAddr::ip).chain([self.address]).chain(own) {
            if !address.is_unspecified() && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

/// What a node knows of its cluster before it can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Where all pods are.
    pub pods: Cidr,
    pub services: Cidr,
    /// Where this node's pods are.
    pub range: Cidr,
}

/// What the node is called.
pub fn node_name(said: &OfNode) -> String {
    let of_machine = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    said.node_name.clone().unwrap_or_else(of_machine)
}

/// What is wrong with what was said of the node.
pub fn faults(said: &OfNode) -> Vec<String> {
    let upstreams = said.dns_upstream.iter().map(|text| crate::dataplane::upstream(text).map(drop));
    let stubs = said.dns_stub_domain.iter().map(|text| crate::dataplane::stub_domain(text).map(drop));
    let mut wrong: Vec<String> =
        upstreams.chain(stubs).filter_map(Result::err).map(|error| error.to_string()).collect();
    let name = node_name(said);
    wrong.extend(api::names::dns_subdomain(&name).iter().map(|fault| format!("node name {name:?}: {fault}")));
    if let Some(address) = said.node_ip.filter(|address| !address.is_ipv4() || !apiserver::may_be_dialed(*address)) {
        wrong.push(format!("--node-ip {address}: other machines cannot reach this machine at such an address"));
    }
    wrong
}

/// Has the kernel end every other program first when memory runs out, also before what this one starts from now on. Without
/// the privilege for that, it is ended as others are. Upstream: `--oom-score-adj` of kubelet and kube-proxy.
pub fn end_last() {
    const OOM_SCORE_ADJ: i32 = -999;
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ.to_string()) {
        tracing::info!(%error, "the kernel may end this program for want of memory like any other");
    }
}

/// What is wrong with names that the API is to have.
fn strange_names(sans: &[String]) -> Vec<String> {
    let named = sans.iter().filter(|text| text.parse::<IpAddr>().is_err());
    // A certificate may be for all names of a domain.
    let faults = named.flat_map(|name| {
        let faults = api::names::dns_subdomain(name.strip_prefix("*.").unwrap_or(name));
        faults.into_iter().map(move |fault| format!("--apiserver-cert-extra-sans {name:?}: {fault}"))
    });
    faults.collect()
}

/// The address at which other machines find what listens at these.
fn among_machines(bound: &[IpAddr]) -> Option<IpAddr> {
    let named = bound.iter().copied().find(|address| address.is_ipv4() && apiserver::may_be_dialed(*address));
    let everywhere = || bound.iter().any(IpAddr::is_unspecified).then(|| towards("192.0.2.1:9")).flatten();
    named.or_else(everywhere)
}

/// The address from which this machine speaks to that one. Nothing is sent.
pub fn towards(place: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(place).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| apiserver::may_be_dialed(*address))
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
