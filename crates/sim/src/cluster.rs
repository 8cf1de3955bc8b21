//! The control plane as the binary composes it, on simulated machines that can lose power.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::{ApiServer, Authentication, Config, Network, NoNodes, Tokens, User, Version};
use client::{Client, Target};
use pki::TokenKey;
use reconcile::{Caches, Runner};
use stdx::TaskTree;
use stdx::sim::{NodeContext, Simulation};
use store::disk::{Faults, Sim as Disk};
use store::{Embedded, Options, Plain};

use crate::court::Court;
use crate::link::{Address, Cable, Fuse, Link, Serving, Weather};

/// An operation of the control plane's disk takes up to so long.
const DISK_DELAY_MAX: Duration = Duration::from_millis(4);
/// Power is to fail within so long, whether the disk is written to or not.
const POWER_PATIENCE: Duration = Duration::from_secs(60);

/// What everything in the cluster is reached and judged by.
#[derive(Clone, Default)]
pub struct Surroundings {
    pub address: Address,
    pub weather: Weather,
    pub court: Court,
    pub story: Story,
}

/// What happened, in the order in which it did; clones share it.
#[derive(Clone, Default)]
pub struct Story(Arc<Mutex<Vec<String>>>);

impl Story {
    /// Goes on.
    pub fn tell(&self, text: String) {
        tracing::info!(text, "story");
        self.0.lock().expect("no holder of this lock panics").push(text);
    }

    /// All of it in a line.
    pub fn told(&self) -> String {
        self.0.lock().expect("no holder of this lock panics").join("; ")
    }
}

impl Surroundings {
    /// A client over the way that things go wrong on.
    pub fn client(&self, user: User, manager: &'static str) -> Client {
        Client::new(Arc::new(self.link(user)), manager)
    }

    /// The way that things go wrong on.
    pub fn link(&self, user: User) -> Link {
        Link::new(&self.address, user, &self.weather, &self.court)
    }

    /// A client that sees everything as it is and at once.
    pub fn witness(&self) -> Client {
        let link = Link::new(&self.address, User::master("witness"), &Weather::default(), &self.court);
        Client::new(Arc::new(link), "witness")
    }
}

/// Store and API server on a machine of their own.
pub struct Control {
    pub node: NodeContext,
    around: Surroundings,
    disk: Disk,
    key: Arc<TokenKey>,
}

impl Control {
    /// A machine with an empty disk; [`Control::start`] starts it.
    pub fn new(simulation: &Simulation, seed: u64, around: &Surroundings) -> Control {
        let key = Arc::new(TokenKey::generate().expect("a key can be made"));
        Control { around: around.clone(), node: simulation.node("control"), disk: Disk::new(seed), key }
    }

    /// Opens the store and serves the API.
    pub async fn start(&self) {
        self.disk.set_faults(Faults { delay_max: DISK_DELAY_MAX, ..Faults::default() });
        let (disk, key, court) = (self.disk.clone(), self.key.clone(), self.around.court.clone());
        let server = self.node.run(async move { serve(disk, key, &court).await });
        let server = server.await.expect("the machine has power");
        let expected = self.around.court.highest();
        self.around.address.set(Some(Serving { server, node: self.node.clone() }));
        let revision = self.around.witness().current_revision(Target::new("", "v1", "nodes")).await;
        match revision {
            Ok(revision) if revision >= expected => {}
            Ok(revision) => {
                let text = format!("revision {expected} was acknowledged, and after the restart there is {revision}");
                self.around.court.accuse("durability", text);
            }
            Err(error) => self.around.court.accuse("progress", format!("the API server does not answer: {error}")),
        }
        self.grant_patches().await;
    }

    /// Upstream's controllers replace what ours patch; the binary grants that when it starts, and so does this.
    async fn grant_patches(&self) {
        let role = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "patches"},
            "rules": [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["patch"]},
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
            ],
        });
        let binding = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "patches"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "patches"},
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:serviceaccounts:kube-system"}],
        });
        for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
            let target = Target::new("rbac.authorization.k8s.io", "v1", plural);
            match self.around.witness().create(target, &object).await {
                Err(error) if !error.is_already_exists() => {
                    self.around.court.accuse("progress", format!("{plural} cannot be made: {error}"));
                }
                _ => {}
            }
        }
    }

    /// The machine loses power and comes back after a while.
    pub async fn lose_power(&mut self, down: Duration) {
        self.around.address.set(None);
        self.node.kill();
        self.disk = self.disk.power_cycle();
        stdx::sleep(down).await;
        self.node = self.node.restart();
        self.start().await;
    }

    /// The same, in the middle of the disk's operation of this number from now; and then once more, in the middle of
    /// one of the recovery's.
    pub async fn lose_power_at(&mut self, operation: u64, recovery: Option<u64>, down: Duration) {
        let power_fails_at = Some(self.disk.operations() + operation);
        self.disk.set_faults(Faults { delay_max: DISK_DELAY_MAX, power_fails_at, ..Faults::default() });
        // A cluster at rest writes little.
        stdx::timeout(POWER_PATIENCE, self.disk.power_failed()).await.unwrap_or_default();
        if let Some(power_fails_at) = recovery {
            self.around.address.set(None);
            self.node.kill();
            self.disk = self.disk.power_cycle();
            let power_fails_at = Some(power_fails_at);
            self.disk.set_faults(Faults { delay_max: DISK_DELAY_MAX, power_fails_at, ..Faults::default() });
            self.node = self.node.restart();
            let (disk, key, court) = (self.disk.clone(), self.key.clone(), self.around.court.clone());
            drop(self.node.run(async move { drop(serve(disk, key, &court).await) }));
            stdx::timeout(POWER_PATIENCE, self.disk.power_failed()).await.unwrap_or_default();
        }
        self.lose_power(down).await;
    }
}

async fn serve(disk: Disk, key: Arc<TokenKey>, court: &Court) -> Arc<ApiServer> {
    let options = Options { segment_bytes: 1 << 20, snapshot_log_bytes: 1 << 20, ..Options::default() };
    let store = Embedded::open(Arc::new(disk), options, Arc::new(Plain)).await.unwrap_or_else(|error| {
        // It refuses to go on without something that it once had: what was acknowledged is not there.
        court.accuse("durability", format!("the store does not open: {error}"));
        panic!("the store does not open: {error}");
    });
    let config = Config {
        store: Arc::new(store),
        dialer: Arc::new(NoNodes),
        authentication: Authentication { certificates: None, anonymous: false },
        tokens: Tokens::new(vec![key], "https://kubernetes.default.svc.cluster.local"),
        network: Network::default(),
        advertise: "192.0.2.1:6443".parse().expect("an address"),
        version: Version::isopod("0.0.0", "", ""),
    };
    ApiServer::new(config).await.expect("the API server starts")
}

/// Controllers and scheduler, in a process of their own.
pub struct Loops {
    pub node: NodeContext,
    pub cable: Cable,
    around: Surroundings,
    fuse: Fuse,
}

impl Loops {
    /// A machine for them; [`Loops::start`] starts them.
    pub fn new(simulation: &Simulation, around: &Surroundings) -> Loops {
        let (cable, fuse) = Default::default();
        Loops { around: around.clone(), node: simulation.node("loops"), cable, fuse }
    }

    /// Starts every controller and the scheduler under the accounts that upstream gives them.
    pub fn start(&self) {
        let (around, cable, fuse) = (self.around.clone(), self.cable.clone(), self.fuse.clone());
        let client = move |user: User, manager: &'static str| {
            Client::new(Arc::new(around.link(user).over(&cable).fused(&fuse)), manager)
        };
        drop(self.node.run(async move {
            let tasks = TaskTree::default();
            let informers = client(User::new("system:kube-controller-manager", &[]), "kube-controller-manager");
            let scheduler = client(User::new("system:kube-scheduler", &[]), "kube-scheduler");
            let caches = Caches::new(informers.clone(), tasks.clone());
            let runner = Runner {
                client: informers,
                caches: caches.clone(),
                tasks: tasks.clone(),
                root_ca: "certificate".into(),
                node_ranges: None,
                node_monitor_grace_period: None,
                authority: None,
                client_of: Box::new(move |controller| {
                    client(User::service_account("kube-system", account(controller), ""), "kube-controller-manager")
                }),
            };
            controllers::start(&runner);
            scheduler::run::run(scheduler::run::Options { client: scheduler, caches, tasks }).await;
        }));
    }

    /// The process is killed; [`Loops::revive`] starts it again.
    pub fn kill(&self) {
        self.node.kill();
    }

    /// The process begins its next life.
    pub fn revive(&mut self) {
        self.node = self.node.restart();
        self.start();
    }

    /// The process is killed as it sends its write of this number from now: whatever it was about is cut there.
    pub async fn cut_at(&mut self, write: u64, down: Duration) {
        let blown = self.fuse.arm(write, &self.node);
        // Controllers of a cluster at rest write nothing.
        stdx::timeout(POWER_PATIENCE, blown.cancelled()).await.unwrap_or_default();
        self.fuse.disarm();
        self.kill();
        stdx::sleep(down).await;
        self.revive();
    }
}

/// The service account of a controller in `kube-system`, to which upstream's default roles are bound.
fn account(controller: &'static str) -> &'static str {
    match controller {
        "deployment" => "deployment-controller",
        "replicaset" => "replicaset-controller",
        "disruption" => "disruption-controller",
        "endpointslice" => "endpointslice-controller",
        "endpoints" => "endpoint-controller",
        "namespace" => "namespace-controller",
        "node-lifecycle" | "node-ipam" | "taint-eviction" => "node-controller",
        "serviceaccount" => "service-account-controller",
        "certificatesigningrequest-approving"
        | "certificatesigningrequest-signing"
        | "certificatesigningrequest-cleaner" => "certificate-controller",
        "root-ca-certificate-publisher" => "root-ca-cert-publisher",
        // The others are called what their controllers are.
        other => other,
    }
}
