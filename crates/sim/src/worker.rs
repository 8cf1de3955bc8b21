//! A machine with a real agent over the fake runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::User;
use client::{Cache, Client, Watched};
use cri::fake::{Behavior, ExecScript, FakeImage, FakeRuntime};
use cri::{DnsConfig, ExecSyncResponse, PodSandboxConfig, PodSandboxFilter, PodSandboxState, RuntimeService};
use k8s_openapi::api::core::v1::Service;
use node::agent::Options;
use node::cgroup::Cgroups;
use node::evict::Bounds;
use node::pod::create::NodeFacts;
use node::register::{Machine, Registration};
use node::reserve::Reserved;
use node::volume::Roots;
use node::{Agent, Rules};
use stdx::sim::{NodeContext, Simulation};
use stdx::{BoxFuture, Mono, TaskTree, mono};

use crate::cluster::Surroundings;
use crate::link::Cable;

/// Processors of a machine; each pod asks for one.
pub const PROCESSORS: u32 = 3;
/// Images whose containers become ready.
pub const GOOD: [&str; 3] = ["app:v1", "app:v2", "app:v3"];
/// Its containers run and never become ready.
pub const SICK: &str = "app:sick";
/// Nobody has it.
pub const MISSING: &str = "app:missing";
/// A container takes so long to answer whether it is ready: an agent that begins has told something before.
const ANSWER_TAKES: Duration = Duration::from_millis(150);
/// One container in two is ready only some time after it was started, up to so long.
const WARM_UP_MAX_MILLIS: u64 = 40_000;
/// Ids that a machine hands out before it is restarted.
const IDS_PER_LIFE: u32 = 2000;

/// Service rules that take a moment.
struct SlowRules;

impl Rules for SlowRules {
    fn withdraw<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(stdx::sleep(Duration::from_millis(20)))
    }

    fn forget(&self, _: &str) {}
}

/// The machine.
pub struct Worker {
    pub name: String,
    pub node: NodeContext,
    pub cable: Cable,
    around: Surroundings,
    runtime: FakeRuntime,
    folder: PathBuf,
    lives: u32,
}

impl Worker {
    /// A machine that is off.
    pub fn new(simulation: &Simulation, number: usize, around: &Surroundings, folder: &Path) -> Worker {
        let name = format!("worker-{number}");
        Worker {
            around: around.clone(),
            node: simulation.node(&name),
            runtime: runtime(),
            folder: folder.join(&name),
            cable: Cable::default(),
            name,
            lives: 0,
        }
    }

    /// Starts the agent.
    pub fn start(&self) {
        let (around, runtime, folder) = (self.around.clone(), self.runtime.clone(), self.folder.clone());
        let (name, cable) = (self.name.clone(), self.cable.clone());
        drop(self.node.run(async move {
            let agent =
                Agent::new(options(&around, &name, &cable, runtime, &folder)).await.expect("the fake runtime answers");
            agent.run().await;
        }));
    }

    /// The agent is killed and started again after a while; its pods go on.
    pub async fn restart_agent(&mut self, down: Duration) {
        self.node.kill();
        stdx::sleep(down).await;
        self.node = self.node.restart();
        self.start();
    }

    /// The machine loses power and comes back after a while: nothing runs, and what was in memory is gone.
    pub async fn lose_power(&mut self, down: Duration) {
        self.node.kill();
        stdx::sleep(down).await;
        self.lives += 1;
        self.runtime = runtime();
        self.burn_ids().await;
        // There may be nothing in it yet.
        std::fs::remove_dir_all(self.folder.join("memory")).unwrap_or_default();
        self.node = self.node.restart();
        self.start();
    }

    /// A new life gives nothing the id of something of an earlier one.
    async fn burn_ids(&self) {
        for _ in 0..self.lives * IDS_PER_LIFE {
            let id = self.runtime.run_pod_sandbox(PodSandboxConfig::default()).await.expect("a sandbox");
            self.runtime.remove_pod_sandbox(&id).await.expect("it is there");
        }
    }

    /// Uids of the pods that have a sandbox up.
    pub async fn running(&self) -> Vec<String> {
        let filter = PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
        let sandboxes = self.runtime.list_pod_sandbox(filter).await.expect("the fake runtime answers");
        let mut uids: Vec<String> = sandboxes.into_iter().map(|sandbox| sandbox.metadata.uid).collect();
        uids.sort();
        uids
    }
}

fn runtime() -> FakeRuntime {
    let runtime = FakeRuntime::new();
    let behavior = Behavior { exec: Some(warms_up()), exec_takes: ANSWER_TAKES, ..Behavior::default() };
    for name in GOOD {
        let image =
            FakeImage { pull_takes: Duration::from_secs(2), behavior: behavior.clone(), ..FakeImage::default() };
        runtime.set_image(name, image);
    }
    let behavior =
        Behavior { exec: Some(Arc::new(|_, _| not_ready())), exec_takes: ANSWER_TAKES, ..Behavior::default() };
    runtime.set_image(SICK, FakeImage { present: true, behavior, ..FakeImage::default() });
    runtime
}

/// Says that a container is ready once it has warmed up, and then for good. How long that takes differs from one to
/// the other, so that a ReplicaSet is asked for fewer pods while some of its pods serve and others do not yet.
fn warms_up() -> ExecScript {
    let ready_at: Mutex<BTreeMap<String, Mono>> = Mutex::default();
    Arc::new(move |container, _| {
        let mut ready_at = ready_at.lock().expect("no holder of this lock panics");
        let at = *ready_at.entry(container.to_owned()).or_insert_with(|| mono() + warm_up());
        if mono() < at { not_ready() } else { ExecSyncResponse::default() }
    })
}

fn warm_up() -> Duration {
    let millis = match stdx::random_u64() % 2 {
        0 => stdx::random_u64() % WARM_UP_MAX_MILLIS,
        _ => 0,
    };
    Duration::from_millis(millis)
}

fn not_ready() -> ExecSyncResponse {
    ExecSyncResponse { exit_code: 1, stderr: b"not today".to_vec(), ..ExecSyncResponse::default() }
}

fn options(around: &Surroundings, name: &str, cable: &Cable, runtime: FakeRuntime, folder: &Path) -> Options {
    let tasks = TaskTree::default();
    let client = |user, manager| Client::new(Arc::new(around.link(user).over(cable)), manager);
    let proxy = client(User::new("system:kube-proxy", &[]), "kube-proxy");
    let client = client(User::node(name), "kubelet");
    Options {
        client,
        runtime: Arc::new(runtime),
        rules: Arc::new(SlowRules),
        registration: Registration {
            name: name.to_owned(),
            address: "192.0.2.7".parse().expect("an address"),
            port: 0,
            labels: BTreeMap::new(),
            machine: Machine {
                processors: PROCESSORS,
                memory_bytes: 8 << 30,
                disk_bytes: 100 << 30,
                version: "v1.36.0+isopod.sim".into(),
                ..Machine::default()
            },
            // What the machine that simulates runs short of is nothing to the simulated one.
            reserved: Reserved {
                bounds: Bounds { thresholds: Vec::new(), ..Bounds::default() },
                ..Reserved::default()
            },
        },
        // A machine without controllers enforces nothing.
        cgroups: Cgroups::open(&folder.join("cgroup"), "kubepods"),
        facts: NodeFacts {
            name: name.to_owned(),
            cluster_dns: "10.96.0.10".into(),
            cluster_domain: "cluster.local".into(),
            host_dns: DnsConfig::default(),
            log_root: folder.join("logs").display().to_string(),
            memory_bytes: 8 << 30,
            ..NodeFacts::default()
        },
        roots: Roots { disk: folder.join("disk"), memory: folder.join("memory") },
        services: Cache::start(&tasks, proxy, Watched::of::<Service>()),
        static_pods: None,
        tasks,
    }
}
