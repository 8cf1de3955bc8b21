//! The control plane: keys, store, API server, controllers and scheduler, composed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use apiserver::{ApiServer, Authentication, Config, Network, SecretsSealed, Tokens, User, Version};
use client::Client;
use pki::identity::ClientVerifier;
use pki::kubeconfig::Kubeconfig;
use pki::{Authority, CertificateRequest, Files, Purpose, Signed};
use reconcile::{Caches, NodeRanges, Runner, WantedCertificate};
use stdx::TaskTree;
use store::disk::Real;
use store::{Embedded, Options};
use wire::tls::{CertificateSlot, CertifiedKey, ClientCertificates, ServerTls, certified_key};
use wire::{Limits, Listener};

use crate::dialer::Direct;
use crate::machine::{ISSUER, Settings};
use crate::paths::Paths;

/// How often certificates are looked at; they are renewed at two thirds of a year.
const RENEWAL_LOOK: Duration = Duration::from_secs(12 * 3600);
/// Names of the API server besides its addresses.
const SERVER_NAMES: [&str; 5] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// A running control plane.
pub struct ControlPlane {
    pub server: Arc<ApiServer>,
    pub store: Embedded,
    pub caches: Caches,
    pub authority_pem: String,
    signing: Arc<Signing>,
    node_ranges: NodeRanges,
    grace_period: Duration,
    /// What the agent of this machine shows.
    pub agent_serving: CertificateSlot,
}

/// Everything that proves somebody.
struct Keys {
    authority: Arc<Authority>,
    serving: CertificateSlot,
    agent_serving: CertificateSlot,
    /// What the API server shows to agents.
    to_agents: CertificateSlot,
    files: Files,
}

impl ControlPlane {
    /// Makes what is missing, opens the store and serves the API.
    pub async fn start(paths: &Paths, settings: &Settings, tasks: &TaskTree) -> anyhow::Result<ControlPlane> {
        let keys = Keys::open(paths, settings)?;
        let store = open_store(paths).await?;
        let token_key = Arc::new(keys.files.token_key()?);
        let config = Config {
            store: Arc::new(store.clone()),
            dialer: Arc::new(Direct::new(keys.authority.certificate_pem(), keys.to_agents.clone())?),
            authentication: Authentication {
                certificates: Some(ClientVerifier::new(keys.authority.certificate_pem())?),
                anonymous: true,
            },
            tokens: Tokens::new(vec![token_key], ISSUER),
            network: Network {
                services: (v4(settings.service_cidr.network().address())?, settings.service_cidr.prefix()),
                node_ports: (30_000, 32_767),
            },
            advertise: settings.advertised(),
            version: Version::isopod(env!("CARGO_PKG_VERSION"), "", ""),
        };
        let server = ApiServer::new(config).await.context("start the API server")?;
        listen(&server, &keys, settings, tasks).await?;
        let authority_pem = keys.authority.certificate_pem().to_owned();
        let signing = Arc::new(Signing { authority: keys.authority.clone(), settings: settings.clone() });
        let agent_serving = keys.agent_serving.clone();
        tasks.spawn("renewal", renew(keys, paths.clone(), settings.clone()));
        let informers =
            Client::new(server.in_process(User::new("system:kube-controller-manager", &[])), "kube-controller-manager");
        let caches = Caches::new(informers, tasks.clone());
        let node_ranges = node_ranges(settings)?;
        let grace_period = settings.node_monitor_grace_period;
        Ok(ControlPlane { server, store, caches, authority_pem, signing, node_ranges, grace_period, agent_serving })
    }

    /// A client that may do everything, for what the binary itself does.
    pub fn master(&self, field_manager: &'static str) -> Client {
        Client::new(self.server.in_process(User::master("system:apiserver")), field_manager)
    }

    /// Starts controllers and scheduler, each under the account that upstream gives it.
    pub fn start_loops(&self, tasks: &TaskTree) {
        let server = self.server.clone();
        let runner = Runner {
            client: self.master("kube-controller-manager"),
            caches: self.caches.clone(),
            tasks: tasks.clone(),
            root_ca: self.authority_pem.as_str().into(),
            node_ranges: Some(self.node_ranges.clone()),
            node_monitor_grace_period: Some(self.grace_period),
            authority: Some(self.signing.clone()),
            client_of: Box::new(move |controller| {
                let account = User::service_account("kube-system", account(controller), "");
                Client::new(server.in_process(account), "kube-controller-manager")
            }),
        };
        controllers::start(&runner);
        let scheduler = scheduler::run::Options {
            client: Client::new(self.server.in_process(User::new("system:kube-scheduler", &[])), "kube-scheduler"),
            caches: self.caches.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn("scheduler", scheduler::run::run(scheduler));
    }
}

/// The service account of a controller in `kube-system`, to which upstream's default roles are bound.
fn account(controller: &'static str) -> &'static str {
    match controller {
        "deployment" => "deployment-controller",
        "replicaset" => "replicaset-controller",
        "disruption" => "disruption-controller",
        "endpointslice" => "endpointslice-controller",
        "endpointslicemirroring" => "endpointslicemirroring-controller",
        "endpoints" => "endpoint-controller",
        "namespace" => "namespace-controller",
        "node-lifecycle" | "node-ipam" | "taint-eviction" => "node-controller",
        "serviceaccount" => "service-account-controller",
        "certificatesigningrequest-approving"
        | "certificatesigningrequest-signing"
        | "certificatesigningrequest-cleaner" => "certificate-controller",
        "root-ca-certificate-publisher" => "root-ca-cert-publisher",
        "generic-garbage-collector" => "generic-garbage-collector",
        other => other,
    }
}

/// How the cluster's range of pod addresses is divided among nodes: pieces as large as this node's, of which this node's own
/// is already in use when the others come.
fn node_ranges(settings: &Settings) -> anyhow::Result<NodeRanges> {
    Ok(NodeRanges {
        network: v4(settings.cluster_cidr.network().address())?,
        prefix: settings.cluster_cidr.prefix(),
        node_prefix: settings.pod_cidr.prefix(),
        chosen: Some((settings.node_name.as_str().into(), v4(settings.pod_cidr.network().address())?)),
    })
}

/// The authority as controllers lean on it.
struct Signing {
    authority: Arc<Authority>,
    settings: Settings,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signing")
    }
}

impl reconcile::Authority for Signing {
    fn read(&self, request: &[u8]) -> Result<WantedCertificate, String> {
        let request = CertificateRequest::read(request).map_err(|error| error.to_string())?;
        Ok(WantedCertificate {
            common_name: request.common_name,
            organizations: request.organizations,
            dns_names: request.dns_names,
            emails: request.emails,
            addresses: request.addresses,
            uris: request.uris,
        })
    }

    fn keeps(&self, address: IpAddr) -> bool {
        let Settings { cluster_cidr, pod_cidr, service_cidr, served, .. } = &self.settings;
        [cluster_cidr, pod_cidr, service_cidr].into_iter().any(|range| range.contains(address))
            || self.settings.found_at(&served.api).contains(&address)
            || served.more_addresses.contains(&address)
    }

    fn signature(&self, text: &str, token_id: &str, token_secret: &str) -> String {
        pki::detached::sign(text, token_id, token_secret)
    }

    fn valid_until(&self, certificate: &[u8]) -> Option<jiff::Timestamp> {
        let (_, end) = pki::authority::validity(std::str::from_utf8(certificate).ok()?).ok()?;
        jiff::Timestamp::from_second(end).ok()
    }

    fn sign(&self, request: &[u8], usages: &[String], lifetime: Duration) -> Result<String, String> {
        let request = CertificateRequest::read(request).map_err(|error| error.to_string())?;
        self.authority.sign_request(&request, usages, lifetime, stdx::wall()).map_err(|error| format!("{error:?}"))
    }
}

fn v4(address: IpAddr) -> anyhow::Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => bail!("{address} is not an IPv4 address"),
    }
}

async fn open_store(paths: &Paths) -> anyhow::Result<Embedded> {
    let disk = Real::open(paths.store()).with_context(|| format!("open {}", paths.store().display()))?;
    let holds_data = std::fs::read_dir(paths.store())?
        .filter_map(Result::ok)
        .any(|entry| entry.metadata().is_ok_and(|file| file.len() > 0));
    let key = Files::open(paths.keys())?.sealing_key(holds_data && paths.settings().exists())?;
    let sealed = SecretsSealed::new(vec![key]);
    Embedded::open(Arc::new(disk), Options::default(), Arc::new(sealed)).await.context("open the store")
}

impl Keys {
    fn open(paths: &Paths, settings: &Settings) -> anyhow::Result<Keys> {
        let files = Files::open(&paths.pki())?;
        let authority = Arc::new(files.authority("ca", "kubernetes", stdx::wall())?);
        let slot = |signed: Signed| anyhow::Ok(CertificateSlot::new(certified(&signed)?));
        let serving = slot(serving(&files, &authority, settings)?)?;
        let agent_serving = slot(self::agent_serving(&files, &authority, settings)?)?;
        let to_agents = slot(to_agents(&files, &authority)?)?;
        let keys = Keys { authority, serving, agent_serving, to_agents, files };
        keys.write_kubeconfig(paths, settings)?;
        Ok(keys)
    }

    fn write_kubeconfig(&self, paths: &Paths, settings: &Settings) -> anyhow::Result<()> {
        let now = stdx::wall();
        let purpose = Purpose::Client { organization: Some("system:masters".into()) };
        let client = self.files.signed("admin", &self.authority, "kubernetes-admin", &purpose, now)?;
        let wanted = Kubeconfig {
            cluster: "isopod",
            user: "kubernetes-admin",
            server: &format!("https://127.0.0.1:{}", settings.port),
            authority_pem: self.authority.certificate_pem(),
            client: &client,
        };
        self.files.kubeconfig(&paths.kubeconfig(), &wanted, now)?;
        Ok(())
    }
}

fn serving(files: &Files, authority: &Authority, settings: &Settings) -> anyhow::Result<Signed> {
    let mut names: Vec<String> = SERVER_NAMES.map(str::to_owned).into();
    names.push(settings.node_name.clone());
    names.extend(settings.served.more_names.iter().cloned());
    let mut addresses = settings.found_at(&settings.served.api);
    addresses.extend(&settings.served.more_addresses);
    addresses.extend(settings.service_cidr.network().nth(1));
    let purpose = Purpose::Server { names, addresses };
    Ok(files.signed("apiserver", authority, "kube-apiserver", &purpose, stdx::wall())?)
}

/// What this machine's agent shows: its node's name and every address it listens on.
fn agent_serving(files: &Files, authority: &Authority, settings: &Settings) -> anyhow::Result<Signed> {
    let addresses = settings.found_at(&settings.served.agent);
    let purpose = Purpose::Server { names: vec![settings.node_name.clone()], addresses };
    let user = format!("system:node:{}", settings.node_name);
    Ok(files.signed("kubelet", authority, &user, &purpose, stdx::wall())?)
}

/// What the API server shows to agents. Name and group are kubeadm's.
fn to_agents(files: &Files, authority: &Authority) -> anyhow::Result<Signed> {
    let purpose = Purpose::Client { organization: Some(crate::roles::ADMINS.into()) };
    let name = "kube-apiserver-kubelet-client";
    Ok(files.signed("apiserver-kubelet-client", authority, name, &purpose, stdx::wall())?)
}

fn certified(signed: &Signed) -> anyhow::Result<Arc<CertifiedKey>> {
    Ok(certified_key(signed.certificate_pem.as_bytes(), signed.key_pem.as_bytes())?)
}

/// Renews certificates when they are due, without a restart.
async fn renew(keys: Keys, paths: Paths, settings: Settings) {
    loop {
        stdx::sleep(RENEWAL_LOOK).await;
        let renewed = || -> anyhow::Result<()> {
            keys.serving.replace(certified(&serving(&keys.files, &keys.authority, &settings)?)?);
            keys.agent_serving.replace(certified(&agent_serving(&keys.files, &keys.authority, &settings)?)?);
            keys.to_agents.replace(certified(&to_agents(&keys.files, &keys.authority)?)?);
            keys.write_kubeconfig(&paths, &settings)
        };
        if let Err(error) = renewed() {
            tracing::error!(error = format!("{error:#}"), "certificates not renewed");
        }
    }
}

async fn listen(server: &Arc<ApiServer>, keys: &Keys, settings: &Settings, tasks: &TaskTree) -> anyhow::Result<()> {
    let mut listeners = Vec::new();
    for address in &settings.served.api {
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        listeners.push(Listener::Tcp(listener));
    }
    let tls = ServerTls::new(Arc::new(keys.serving.clone()), ClientCertificates::Requested)?;
    let answering = server.clone();
    let service: wire::Service = Arc::new(move |request, connection| {
        let server = answering.clone();
        Box::pin(async move { server.handle(request, &connection).await })
    });
    let cancel = tasks.cancel().clone();
    let limits = Limits { drain_deadline: Duration::from_secs(2), ..Limits::default() };
    tasks.spawn_draining("api listener", async move {
        if let Err(error) = wire::serve(listeners, Some(tls), service, limits, cancel).await {
            tracing::warn!(%error, "API connections cut off");
        }
    });
    Ok(())
}
