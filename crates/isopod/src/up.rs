//! `isopod up`: a cluster on this machine, what is in the files on it, until interrupted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cli::apply::{self, Applied, Located, Outcome};
use cli::progress::{State, World, state};
use client::{Cache, Client, Watched};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::bridge::{BridgeNetwork, BridgeOptions};
use net::feed::{Feed, FeedOptions};
use net::input::Protocol;
use net::rules::NodeFacts as RuleFacts;
use node::cgroup::Cgroups;
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
use tokio::signal::unix::{SignalKind, signal};
use wire::tls::{ClientCertificates, ServerTls};
use wire::{Limits, Listener};

use crate::control::ControlPlane;
use crate::machine::{DOMAIN, Settings};
use crate::paths::Paths;
use crate::routes::{self, NodeRules};
use crate::runtime::Elsewhere;
use crate::{dataplane, preflight, roles, token};

/// How long components may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until interrupted.
pub async fn run(up: cli::args::Up) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let settings = Settings::new(&up)?;
    let paths = Paths::new(&up.place.data_dir)?;
    let missing = preflight::missing(&settings, holder(&paths));
    if !missing.is_empty() {
        bail!("this machine cannot run a cluster yet:\n  - {}", missing.join("\n  - "));
    }
    paths.create()?;
    let tasks = TaskTree::default();
    let work = async {
        let cluster = start(&up, &settings, &paths, &tasks).await?;
        let applied = cluster.apply(&up).await?;
        println!("export KUBECONFIG={}", paths.kubeconfig().display());
        cluster.wait(&applied, Duration::from_secs(up.wait_timeout)).await?;
        anyhow::Ok(cluster)
    };
    let outcome = tokio::select! {
        outcome = work => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let cluster = match outcome {
        Some(Ok(cluster)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                why = cluster.control.store.broken() => tracing::error!(why, "the store is broken: stopping"),
            }
            Some(cluster)
        }
        Some(Err(error)) => {
            stop(None, &tasks).await;
            return Err(error);
        }
        None => None,
    };
    stop(cluster.as_ref(), &tasks).await;
    println!("control plane and agent have stopped; containers and routing go on (`isopod down` ends them)");
    Ok(())
}

async fn stop(cluster: Option<&Cluster>, tasks: &TaskTree) {
    if let Some(cluster) = cluster {
        cluster.control.server.unready();
    }
    if let Err(late) = tasks.drain(DRAIN).await {
        tracing::warn!(?late, "parts did not end in time");
    }
    if let Some(cluster) = cluster {
        cluster.control.server.stop().await;
        cluster.control.store.close().await;
    }
}

/// The process that runs a cluster on this data folder already.
pub fn holder(paths: &Paths) -> Option<i32> {
    let pid = std::fs::read_to_string(paths.run().join("up.pid")).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_up = command.split(|byte| *byte == 0).any(|word| word == b"up");
    (is_up && pid != rustix::process::getpid().as_raw_nonzero().get()).then_some(pid)
}

/// Everything that runs.
struct Cluster {
    control: ControlPlane,
    client: Client,
    world: Caches,
}

/// The caches that progress is read from.
struct Caches {
    deployments: Cache,
    replica_sets: Cache,
    pods: Cache,
    services: Cache,
    slices: Cache,
}

async fn start(up: &cli::args::Up, settings: &Settings, paths: &Paths, tasks: &TaskTree) -> anyhow::Result<Cluster> {
    std::fs::write(paths.run().join("up.pid"), std::process::id().to_string())?;
    let network = BridgeNetwork::start(BridgeOptions {
        names: settings.names.clone(),
        pod_cidr: settings.pod_cidr,
        service_cidrs: vec![settings.service_cidr],
        mtu: None,
        state_directory: paths.network_state(),
        netns: None,
    })
    .await
    .context("make the pod network")?;
    let control = ControlPlane::start(paths, settings, tasks).await?;
    remember(up, paths, settings)?;
    println!("the API answers at https://127.0.0.1:{}", settings.port);
    let client = control.master("isopod");
    routes::publish_dns(&client, settings).await?;
    roles::ensure(&client).await?;
    roles::ensure_bootstrap(&client).await?;
    token::publish(&client, settings, &control.authority_pem).await?;
    control.start_loops(tasks);
    start_node(up, settings, paths, &control, network, tasks).await?;
    use reconcile::plan::kinds;
    let world = Caches {
        deployments: control.caches.of(kinds::DEPLOYMENTS),
        replica_sets: control.caches.of(kinds::REPLICA_SETS),
        pods: control.caches.of(kinds::PODS),
        services: control.caches.of(kinds::SERVICES),
        slices: control.caches.of(kinds::ENDPOINT_SLICES),
    };
    Ok(Cluster { control, client, world })
}

/// Writes what `down` has to know.
fn remember(up: &cli::args::Up, paths: &Paths, settings: &Settings) -> anyhow::Result<()> {
    let runtime = Elsewhere::chosen(&up.node).map(|elsewhere| elsewhere.remembered());
    let text = serde_json::json!({"version": 1, "podCidr": settings.pod_cidr.to_string(), "runtime": runtime});
    pki::files::write_private(&paths.settings(), &text.to_string())?;
    Ok(())
}

async fn start_node(
    up: &cli::args::Up,
    settings: &Settings,
    paths: &Paths,
    control: &ControlPlane,
    network: BridgeNetwork,
    tasks: &TaskTree,
) -> anyhow::Result<()> {
    if let Some(name) = up.node.allowed_unsafe_sysctls.iter().find(|name| !node::admit::machine::is_namespaced(name)) {
        anyhow::bail!("the sysctl {name:?} is not known to be namespaced: it would change the whole machine");
    }
    let runtime = crate::runtime::open(up, settings, paths, network, tasks).await?;
    let user = apiserver::User::node(&settings.node_name);
    let client = Client::new(control.server.in_process(user), "kubelet");
    let gate = gate(control, client.clone(), settings)?;
    // Rules are a user of their own, with upstream's role for it.
    let proxy = Client::new(control.server.in_process(apiserver::User::new("system:kube-proxy", &[])), "kube-proxy");
    let services = Cache::start(tasks, proxy.clone(), Watched::of::<core::Service>());
    let slices = Cache::start(tasks, proxy.clone(), Watched::of::<EndpointSlice>());
    // Names of pods exist where their namespace does, and the node's zone is its label's.
    let namespaces = Cache::start(tasks, proxy.clone(), Watched::of::<core::Namespace>());
    let nodes = Cache::start(tasks, proxy.clone(), Watched::of::<core::Node>());
    tasks.spawn("data plane", dataplane::keep(paths.clone(), data_plane(up, settings)));
    let feed = Feed::start(
        FeedOptions { facts: rule_facts(settings), netns: None, dataplane: Some(paths.dataplane_socket()) },
        tasks,
    )
    .await
    .context("start the service rules")?;
    let sources =
        routes::Sources { services: services.clone(), slices, namespaces, nodes, node: settings.node_name.clone() };
    tasks.spawn("rules", routes::feed(feed.clone(), sources));
    let machine = Machine::read(paths.data(), &format!("v1.36.0+isopod.{}", env!("CARGO_PKG_VERSION")))?;
    let options = Options {
        client,
        runtime,
        rules: Arc::new(NodeRules(feed)),
        facts: node_facts(up, settings, paths, &machine),
        registration: Registration {
            name: settings.node_name.clone(),
            address: settings.gateway,
            pod_cidr: settings.pod_cidr.to_string(),
            port: node::server::PORT,
            labels: BTreeMap::new(),
            machine,
            reserved: reserved(up)?,
        },
        cgroups: Cgroups::open(std::path::Path::new("/sys/fs/cgroup"), paths.cgroup()),
        roots: Roots { disk: paths.pods(), memory: paths.pods_volatile() },
        services,
        static_pods: up.node.pod_manifest_path.clone().map(|folder| Source { folder, prepare: Arc::new(prepared) }),
        tasks: tasks.clone(),
    };
    let agent = Agent::new(options).await.context("start the agent")?;
    serve_agent(&agent, gate, control, settings, tasks).await?;
    tasks.spawn("agent", agent.run());
    Ok(())
}

fn rule_facts(settings: &Settings) -> RuleFacts {
    RuleFacts {
        node_name: settings.node_name.clone(),
        names: settings.names.clone(),
        gateway: Some(settings.gateway),
        pod_cidrs: vec![settings.pod_cidr],
        cluster_cidrs: vec![settings.pod_cidr],
        host_ports: vec![
            (Protocol::Udp, 53),
            (Protocol::Tcp, 53),
            (Protocol::Tcp, dataplane::METRICS_PORT),
            (Protocol::Tcp, settings.port),
            (Protocol::Tcp, node::server::PORT),
        ],
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
fn reserved(up: &cli::args::Up) -> anyhow::Result<Reserved> {
    let kube = reserve::resources(&up.node.kube_reserved).map_err(|wrong| format!("--kube-reserved: {wrong}"));
    let system = reserve::resources(&up.node.system_reserved).map_err(|wrong| format!("--system-reserved: {wrong}"));
    let text = up.node.eviction_hard.as_deref().unwrap_or(evict::DEFAULT);
    let thresholds = evict::thresholds(text).map_err(|wrong| format!("--eviction-hard: {wrong}"));
    match (kube, system, thresholds) {
        (Ok(kube), Ok(system), Ok(thresholds)) => Ok(Reserved { kube, system, thresholds, pods_max: up.node.max_pods }),
        (kube, system, thresholds) => {
            let wrong: Vec<String> = [kube.err(), system.err(), thresholds.err()].into_iter().flatten().collect();
            bail!("{}", wrong.join("; "))
        }
    }
}

fn data_plane(up: &cli::args::Up, settings: &Settings) -> dataplane::Wanted {
    dataplane::Wanted {
        listen: vec![std::net::SocketAddr::new(settings.gateway, 53)],
        own: vec![settings.gateway, settings.dns_address],
        upstreams: up.dns_upstream.clone(),
        stub_domains: up.dns_stub_domain.clone(),
        metrics: std::net::SocketAddr::new(settings.gateway, dataplane::METRICS_PORT),
        node_name: settings.node_name.clone(),
    }
}

fn node_facts(up: &cli::args::Up, settings: &Settings, paths: &Paths, machine: &Machine) -> NodeFacts {
    NodeFacts {
        name: settings.node_name.clone(),
        cluster_dns: settings.dns_address.to_string(),
        cluster_domain: DOMAIN.into(),
        host_dns: host_dns(),
        log_root: paths.logs().display().to_string(),
        memory_bytes: i64::try_from(machine.memory_bytes).unwrap_or(i64::MAX),
        // Where tools that bring profiles put them, whatever the cluster's own folder is.
        seccomp_root: "/var/lib/kubelet/seccomp".into(),
        allowed_unsafe_sysctls: up.node.allowed_unsafe_sysctls.clone(),
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
fn gate(control: &ControlPlane, client: Client, settings: &Settings) -> anyhow::Result<Gate> {
    let verifier = ClientVerifier::new(&control.authority_pem)?;
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
        "address": settings.gateway.to_string(),
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
    control: &ControlPlane,
    settings: &Settings,
    tasks: &TaskTree,
) -> anyhow::Result<()> {
    let mut listeners = Vec::new();
    for address in &settings.agent_listen {
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        listeners.push(Listener::Tcp(listener));
    }
    let tls = ServerTls::new(Arc::new(control.agent_serving.clone()), ClientCertificates::Requested)?;
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

impl Cluster {
    /// Applies the files, and says what became of each object as kubectl does.
    async fn apply(&self, up: &cli::args::Up) -> anyhow::Result<Vec<Applied>> {
        let locate = |group: &str, version: &str, kind: &str| {
            let (plural, namespaced) = self.control.server.locate(group, version, kind)?;
            Some(Located { plural: plural.to_owned(), namespaced })
        };
        let explicit = up.namespace != "default";
        let manifests = apply::read(&up.files, &up.namespace, explicit, &locate)?;
        let client = self.client.with_field_manager("kubectl-client-side-apply");
        let mut applied = Vec::new();
        for manifest in &manifests {
            let done = apply::apply(&client, manifest).await?;
            println!("{} {}", done.manifest.title, done.outcome.word());
            if done.outcome == Outcome::Created && done.manifest.target.resource == "namespaces" {
                self.namespace_ready(done.object.name()).await?;
            }
            applied.push(done);
        }
        Ok(applied)
    }

    /// Waits for what every namespace gets by itself and pods in it need.
    async fn namespace_ready(&self, name: &str) -> anyhow::Result<()> {
        let accounts = self.control.caches.of(reconcile::plan::kinds::SERVICE_ACCOUNTS);
        let mut snapshot = accounts.synced().await;
        while snapshot.get(name, "default").is_none() {
            let next = accounts.progressed(snapshot.revision());
            snapshot =
                stdx::timeout(Duration::from_secs(10), next).await.context("the namespace gets no service account")?;
        }
        Ok(())
    }

    /// Shows how far everything is until it is ready; after `limit`, says why not.
    async fn wait(&self, applied: &[Applied], limit: Duration) -> anyhow::Result<()> {
        let end = stdx::mono() + limit;
        let mut shown: BTreeMap<String, State> = BTreeMap::new();
        loop {
            let world = self.look().await;
            let revisions = [
                world.deployments.revision(),
                world.pods.revision(),
                world.slices.revision(),
                world.services.revision(),
            ];
            let mut waiting = Vec::new();
            for done in applied {
                let now = state(&done.object, &world);
                let title = &done.manifest.title;
                if shown.get(title) != Some(&now) && is_workload(done) {
                    match &now {
                        State::Ready(how) => println!("{title}: ready: {how}"),
                        State::Waiting(why) => println!("{title}: {why}"),
                    }
                }
                if let State::Waiting(why) = &now {
                    waiting.push(format!("{title}: {why}"));
                }
                shown.insert(title.clone(), now);
            }
            if waiting.is_empty() {
                return Ok(());
            }
            let left = end - stdx::mono();
            if left.is_zero() {
                bail!("not ready after {} s:\n  - {}", limit.as_secs(), waiting.join("\n  - "));
            }
            if stdx::timeout(left, self.change(revisions)).await.is_err() {
                tracing::debug!("the wait is over: one more look, and then why");
            }
        }
    }

    async fn look(&self) -> World {
        World {
            deployments: self.world.deployments.synced().await,
            replica_sets: self.world.replica_sets.synced().await,
            pods: self.world.pods.synced().await,
            services: self.world.services.synced().await,
            slices: self.world.slices.synced().await,
        }
    }

    async fn change(&self, [deployments, pods, slices, services]: [u64; 4]) {
        tokio::select! {
            _ = self.world.deployments.progressed(deployments) => {}
            _ = self.world.pods.progressed(pods) => {}
            _ = self.world.slices.progressed(slices) => {}
            _ = self.world.services.progressed(services) => {}
        }
    }
}

/// Whether an object's progress is worth a line: others are ready once applied.
fn is_workload(applied: &Applied) -> bool {
    matches!(&*applied.manifest.target.resource, "deployments" | "pods" | "services")
}
