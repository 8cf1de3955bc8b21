//! `isopod up`: a cluster on this machine, what is in the files on it, until interrupted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use apiserver::User;
use cli::apply::{self, Applied, Located, Outcome};
use cli::progress::{State, World, address, state};
use client::{Cache, Client};
use stdx::TaskTree;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::ControlPlane;
use crate::local_node::{self, LocalNode};
use crate::machine::{self, Settings};
use crate::paths::Paths;
use crate::{membership, node_dns, preflight, roles, token};

/// How long components may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until interrupted.
pub async fn run(up: cli::args::Up) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let settings = Settings::new(&up)?;
    let paths = Paths::new(&up.place.data_dir)?;
    let mut missing = preflight::missing_of_machine(holder(&paths));
    if missing.is_empty() {
        missing = preflight::missing(&settings);
    }
    missing.extend(membership::conflict(&paths, &settings));
    if !missing.is_empty() {
        bail!("this machine cannot run a cluster yet:\n  - {}", missing.join("\n  - "));
    }
    paths.create()?;
    machine::end_last();
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

/// The process that runs a cluster or a node on this data folder already.
pub fn holder(paths: &Paths) -> Option<i32> {
    let pid = std::fs::read_to_string(paths.run().join("up.pid")).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_one = command.split(|byte| *byte == 0).any(|word| word == b"up" || word == b"agent");
    (is_one && pid != rustix::process::getpid().as_raw_nonzero().get()).then_some(pid)
}

/// Makes this process the one that uses the data folder.
pub fn hold(paths: &Paths) -> anyhow::Result<()> {
    Ok(std::fs::write(paths.run().join("up.pid"), std::process::id().to_string())?)
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
    hold(paths)?;
    let network = local_node::pod_network(settings, paths).await?;
    let control = ControlPlane::start(paths, settings, tasks).await?;
    membership::remember(paths, settings)?;
    println!("the API answers at https://127.0.0.1:{}", settings.port);
    if settings.is_open() {
        println!("more machines join with what `isopod token create --print-join-command` prints");
    }
    let client = control.master("isopod");
    let nodes = control.caches.of(reconcile::plan::kinds::NODES);
    tasks.spawn("dns service", node_dns::keep(client.clone(), nodes, node_dns::publish(&client, settings).await?));
    roles::ensure(&client).await?;
    roles::ensure_bootstrap(&client).await?;
    token::publish(&client, settings, &control.authority_pem).await?;
    membership::publish(&client, settings).await?;
    control.start_loops(tasks);
    let node = LocalNode {
        said: &up.node,
        settings,
        paths,
        network,
        client: Client::new(control.server.in_process(User::node(&settings.node_name)), "kubelet"),
        // Rules are a user of their own, with upstream's role for it.
        proxy: Client::new(control.server.in_process(User::new("system:kube-proxy", &[])), "kube-proxy"),
        authority_pem: &control.authority_pem,
        serving: control.agent_serving.clone(),
    };
    node.start(tasks).await?;
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
        if stdx::timeout(limit, self.seen(applied)).await.is_err() {
            tracing::warn!("what was applied is not seen yet");
        }
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
                // Last, so that it is what one sees.
                for done in applied.iter().filter(|done| done.manifest.target.resource == "services") {
                    if let Some(address) = address(&done.object, &world) {
                        println!("{}: answers at {address}", done.manifest.title);
                    }
                }
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

    /// Waits until the caches know what was applied: before, they would tell that it is not there.
    async fn seen(&self, applied: &[Applied]) {
        for done in applied {
            let cache = match &*done.manifest.target.resource {
                "deployments" => &self.world.deployments,
                "pods" => &self.world.pods,
                "services" => &self.world.services,
                _ => continue,
            };
            cache.wait_for(done.object.revision()).await;
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
