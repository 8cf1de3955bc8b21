//! The node on this machine, composed: network, runtime, rules, data plane and agent, whichever cluster it belongs to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cli::args::OfNode;
use client::{Cache, Client, Watched};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::bridge::{BridgeNetwork, BridgeOptions};
use net::feed::{Feed, FeedOptions};
use net::input::Protocol;
use net::peers::PeerRoutes;
use net::rules::NodeFacts as RuleFacts;
use node::cgroup::Cgroups;
use node::evict::Bounds;
use node::pod::create::NodeFacts;
use node::register::{Machine, Registration};
use node::reserve::{self, Reserved};
use node::server::Server;
use node::server::gate::{Asker, Certificates, Gate};
use node::static_pods::Source;
use node::volume::Roots;
use node::{Agent, Options, evict};
use pki::identity::ClientVerifier;
use resources::{AnyResource, Rules, Writer};
use stdx::TaskTree;
use wire::tls::{CertificateSlot, ClientCertificates, ServerTls};
use wire::{Limits, Listener};

use crate::machine::{DOMAIN, Settings};
use crate::paths::Paths;
use crate::routes::{self, NodeRules};
use crate::{dataplane, peers};

/// What a node on this machine is made from.
pub struct LocalNode<'a> {
    pub said: &'a OfNode,
    pub settings: &'a Settings,
    pub paths: &'a Paths,
    pub network: BridgeNetwork,
    /// The way to the API as the node itself.
    pub client: Client,
    /// And as whoever may read what rules and names are made from.
    pub proxy: Client,
    /// Who vouches for those who come to the agent.
    pub authority_pem: &'a str,
    /// What the agent shows them.
    pub serving: CertificateSlot,
}

/// The version that nodes tell.
pub const VERSION: &str = concat!("v1.36.0+isopod.", env!("CARGO_PKG_VERSION"));

/// How the node is registered.
pub fn registration(said: &OfNode, name: &str, address: IpAddr, machine: Machine) -> anyhow::Result<Registration> {
    Ok(Registration {
        name: name.to_owned(),
        address,
        port: node::server::PORT,
        labels: BTreeMap::new(),
        machine,
        reserved: reserved(said)?,
    })
}

/// Makes this machine's side of the pod network.
pub async fn pod_network(settings: &Settings, paths: &Paths) -> anyhow::Result<BridgeNetwork> {
    let options = BridgeOptions {
        names: settings.names.clone(),
        pod_cidr: settings.pod_cidr,
        service_cidrs: vec![settings.service_cidr],
        mtu: None,
        state_directory: paths.network_state(),
        netns: None,
    };
    BridgeNetwork::start(options).await.context("make the pod network")
}

impl LocalNode<'_> {
    /// Starts everything as tasks of the tree.
    pub async fn start(self, tasks: &TaskTree) -> anyhow::Result<()> {
        let LocalNode { said, settings, paths, network, client, proxy, authority_pem, serving } = self;
        if let Some(name) = said.allowed_unsafe_sysctls.iter().find(|name| !node::admit::machine::is_namespaced(name)) {
            anyhow::bail!("the sysctl {name:?} is not known to be namespaced: it would change the whole machine");
        }
        let runtime = crate::runtime::open(said, settings, paths, network, tasks).await?;
        let gate = gate(authority_pem, client.clone(), settings)?;
        let services = Cache::start(tasks, proxy.clone(), Watched::of::<core::Service>());
        let feed = start_routing(said, settings, paths, &proxy, &services, tasks).await?;
        let mut machine = Machine::read(paths.data(), VERSION)?;
        machine.disks.images = crate::runtime::images_folder(said, paths, &*runtime).await;
        let options = Options {
            client,
            runtime,
            rules: Arc::new(NodeRules(feed)),
            facts: node_facts(said, settings, paths, &machine),
            registration: registration(said, &settings.node_name, settings.address, machine)?,
            cgroups: Cgroups::open(std::path::Path::new("/sys/fs/cgroup"), paths.cgroup()),
            roots: Roots { disk: paths.pods(), memory: paths.pods_volatile() },
            services,
            static_pods: said.pod_manifest_path.clone().map(|folder| Source { folder, prepare: Arc::new(prepared) }),
            tasks: tasks.clone(),
        };
        let agent = Agent::new(options).await.context("start the agent")?;
        serve_agent(&agent, gate, serving, settings, tasks).await?;
        tasks.spawn("agent", agent.run());
        Ok(())
    }
}

/// Starts what leads packets and names to pods.
async fn start_routing(
    said: &OfNode,
    settings: &Settings,
    paths: &Paths,
    proxy: &Client,
    services: &Cache,
    tasks: &TaskTree,
) -> anyhow::Result<Feed> {
    let slices = Cache::start(tasks, proxy.clone(), Watched::of::<EndpointSlice>());
    // Names of pods exist where their namespace does, and the node's zone is its label's.
    let namespaces = Cache::start(tasks, proxy.clone(), Watched::of::<core::Namespace>());
    let nodes = Cache::start(tasks, proxy.clone(), Watched::of::<core::Node>());
    tasks.spawn("data plane", dataplane::keep(paths.clone(), data_plane(said, settings)));
    let feed = Feed::start(
        FeedOptions { facts: rule_facts(settings), netns: None, dataplane: Some(paths.dataplane_socket()) },
        tasks,
    )
    .await
    .context("start the service rules")?;
    let sources = routes::Sources {
        services: services.clone(),
        slices,
        namespaces,
        nodes: nodes.clone(),
        node: settings.node_name.clone(),
    };
    tasks.spawn("rules", routes::feed(feed.clone(), sources));
    let routes = PeerRoutes::start(None).context("start the routes to other nodes")?;
    tasks.spawn("peer routes", peers::keep(routes, nodes, settings.clone()));
    Ok(feed)
}

fn rule_facts(settings: &Settings) -> RuleFacts {
    let mut host_ports = vec![
        (Protocol::Udp, 53),
        (Protocol::Tcp, 53),
        (Protocol::Tcp, dataplane::METRICS_PORT),
        (Protocol::Tcp, node::server::PORT),
    ];
    host_ports.extend((!settings.served.api.is_empty()).then_some((Protocol::Tcp, settings.port)));
    RuleFacts {
        node_name: settings.node_name.clone(),
        names: settings.names.clone(),
        gateway: Some(settings.gateway),
        node_ip: Some(settings.address).filter(|address| *address != settings.gateway),
        pod_cidrs: vec![settings.pod_cidr],
        cluster_cidrs: vec![settings.cluster_cidr],
        host_ports,
    }
}

/// A static pod with its defaults, or what is wrong with it: the same rules as for pods of the API.
fn prepared(mut pod: api::value::Value) -> Result<core::Pod, String> {
    let definition: &dyn AnyResource = &resources::core::pod::POD;
    let rules = Rules { now: stdx::wall(), user: "kubelet", dry_run: false };
    let told = |error: &dyn std::fmt::Display| error.to_string();
    definition.default(&mut pod, &rules).map_err(|error| told(&error))?;
    let faults = definition.prepare(&mut pod, None, Writer::Create, &rules).map_err(|error| told(&error))?;
    if !faults.is_empty() {
        let all: Vec<String> = faults.faults().iter().map(ToString::to_string).collect();
        return Err(all.join("; "));
    }
    api::value::from_value(&pod).map_err(|error| told(&error))
}

/// What is kept from pods, as the options say; everything wrong with them at once.
fn reserved(said: &OfNode) -> anyhow::Result<Reserved> {
    let kube = reserve::resources(&said.kube_reserved).map_err(|wrong| format!("--kube-reserved: {wrong}"));
    let system = reserve::resources(&said.system_reserved).map_err(|wrong| format!("--system-reserved: {wrong}"));
    let bounds = Bounds::read(&evict::Said {
        hard: said.eviction.eviction_hard.as_deref().unwrap_or(evict::DEFAULT),
        soft: &said.eviction.eviction_soft,
        soft_grace_period: &said.eviction.eviction_soft_grace_period,
        minimum_reclaim: &said.eviction.eviction_minimum_reclaim,
        pressure_transition_period: &said.eviction.eviction_pressure_transition_period,
        max_pod_grace_period: said.eviction.eviction_max_pod_grace_period,
    });
    match (kube, system, bounds) {
        (Ok(kube), Ok(system), Ok(bounds)) => Ok(Reserved { kube, system, bounds, pods_max: said.max_pods }),
        (kube, system, bounds) => {
            let wrong: Vec<String> = [kube.err(), system.err()].into_iter().flatten().collect();
            bail!("{}", [wrong, bounds.err().unwrap_or_default()].concat().join("; "))
        }
    }
}

fn data_plane(said: &OfNode, settings: &Settings) -> dataplane::Wanted {
    dataplane::Wanted {
        listen: vec![std::net::SocketAddr::new(settings.gateway, 53)],
        own: vec![settings.gateway, settings.dns_address],
        upstreams: said.dns_upstream.clone(),
        stub_domains: said.dns_stub_domain.clone(),
        metrics: std::net::SocketAddr::new(settings.gateway, dataplane::METRICS_PORT),
        node_name: settings.node_name.clone(),
    }
}

fn node_facts(said: &OfNode, settings: &Settings, paths: &Paths, machine: &Machine) -> NodeFacts {
    NodeFacts {
        name: settings.node_name.clone(),
        cluster_dns: settings.dns_address.to_string(),
        cluster_domain: DOMAIN.into(),
        host_dns: host_dns(),
        log_root: paths.logs().display().to_string(),
        memory_bytes: i64::try_from(machine.memory_bytes).unwrap_or(i64::MAX),
        // Where tools that bring profiles put them, whatever the cluster's own folder is.
        seccomp_root: "/var/lib/kubelet/seccomp".into(),
        allowed_unsafe_sysctls: said.allowed_unsafe_sysctls.clone(),
        apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")),
    }
}

/// The machine's own resolver settings.
fn host_dns() -> cri::DnsConfig {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut dns = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

/// What stands before the agent's paths: certificates of the cluster's authority, and the API server's reviews.
fn gate(authority_pem: &str, client: Client, settings: &Settings) -> anyhow::Result<Gate> {
    let verifier = ClientVerifier::new(authority_pem)?;
    let certificates: Certificates = Arc::new(move |chain| {
        let identity = verifier
            .identity(chain, stdx::wall())
            .inspect_err(|error| tracing::debug!(%error, "client certificate at the agent"))
            .ok()?;
        let mut groups = identity.groups;
        groups.push("system:authenticated".into());
        Some(Asker { name: identity.user, groups, ..Asker::default() })
    });
    Ok(Gate::new(certificates, client, &settings.node_name))
}

/// What `/configz` tells: what of upstream's settings is in effect here.
fn agent_settings(settings: &Settings) -> serde_json::Value {
    serde_json::json!({"kubeletconfig": {
        "address": settings.address.to_string(),
        "port": node::server::PORT,
        "readOnlyPort": 0,
        "authentication": {"x509": {}, "webhook": {"enabled": true, "cacheTTL": "0s"}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "0s", "cacheUnauthorizedTTL": "0s"}},
        "clusterDomain": DOMAIN,
        "clusterDNS": [settings.dns_address.to_string()],
        "cgroupDriver": "cgroupfs",
        "podCIDR": settings.pod_cidr.to_string(),
        "enableServer": true,
        "enableDebuggingHandlers": true,
    }})
}

async fn serve_agent(
    agent: &Arc<Agent>,
    gate: Gate,
    serving: CertificateSlot,
    settings: &Settings,
    tasks: &TaskTree,
) -> anyhow::Result<()> {
    let mut listeners = Vec::new();
    for address in &settings.served.agent {
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        listeners.push(Listener::Tcp(listener));
    }
    let tls = ServerTls::new(Arc::new(serving), ClientCertificates::Requested)?;
    let service = Server::new(agent.clone(), gate, agent_settings(settings)).service();
    let cancel = tasks.cancel().clone();
    let limits = Limits { drain_deadline: Duration::from_secs(1), connections_max: 1024, ..Limits::default() };
    tasks.spawn_draining("agent listener", async move {
        if let Err(error) = wire::serve(listeners, Some(tls), service, limits, cancel).await {
            tracing::debug!(%error, "streams cut off");
        }
    });
    Ok(())
}
