//! `isopod down`: ends and removes what runs of a cluster, also after a crash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::runtime::image::ImageStore;
use ::runtime::{BuiltIn, RuntimeOptions};
use anyhow::{Context as _, bail};
use cni::Cidr;
use cri::Runtime;
use net::{CleanupOptions, Names};
use stdx::TaskTree;

use crate::paths::Paths;
use crate::runtime::Elsewhere;
use crate::{dataplane, membership};

/// How long `up` may take to end.
const END: Duration = Duration::from_secs(15);

/// How long a container may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Ends control plane and agent, then every pod, the data plane and the routing; with `purge` also the data.
pub async fn run(down: &cli::args::Down) -> anyhow::Result<()> {
    let paths = Paths::new(&down.place.data_dir)?;
    if !paths.data().exists() && !paths.run().exists() {
        println!("there is no cluster at {}", paths.data().display());
        return Ok(());
    }
    end_up(&paths).await?;
    paths.create()?;
    remove_node(&paths, membership::own_range(&paths)?).await?;
    remove(paths.run())?;
    if down.purge {
        remove(paths.data())?;
        remove(paths.keys())?;
        println!("everything is removed");
    } else {
        println!("nothing runs any more; the data stays in {}", paths.data().display());
    }
    Ok(())
}

/// Ends every pod, the data plane and the routing of a node whose agent does not run.
pub async fn remove_node(paths: &Paths, pod_cidr: Cidr) -> anyhow::Result<()> {
    match Elsewhere::recall(paths)? {
        Some(elsewhere) => remove_pods_elsewhere(paths, &elsewhere).await?,
        None => remove_pods(paths, pod_cidr).await?,
    }
    remove_cgroups(Path::new("/sys/fs/cgroup"), paths.cgroup())?;
    dataplane::stop(paths).await?;
    let cleanup =
        CleanupOptions { names: Names::default(), pod_cidr, state_directory: paths.network_state(), netns: None };
    net::cleanup(&cleanup).context("remove the pod network")
}

/// Ends the process that runs the cluster, if there is one.
async fn end_up(paths: &Paths) -> anyhow::Result<()> {
    let Some(pid) = crate::up::holder(paths) else { return Ok(()) };
    let Some(raw) = rustix::process::Pid::from_raw(pid) else { return Ok(()) };
    rustix::process::kill_process(raw, rustix::process::Signal::TERM).with_context(|| format!("end process {pid}"))?;
    if stdx::timeout(END, dataplane::ended(pid)).await.is_err() {
        bail!("process {pid} does not end");
    }
    Ok(())
}

/// Removes every sandbox with all that belongs to it.
async fn remove_pods(paths: &Paths, pod_cidr: Cidr) -> anyhow::Result<()> {
    let network = net::bridge::BridgeNetwork::start(net::bridge::BridgeOptions {
        names: Names::default(),
        pod_cidr,
        service_cidrs: Vec::new(),
        mtu: None,
        state_directory: paths.network_state(),
        netns: None,
    })
    .await
    .context("open the pod network")?;
    let images = ImageStore::open(&paths.images())?;
    let options = RuntimeOptions::new(paths.runtime_state(), paths.runtime(), Arc::new(network), Arc::new(images));
    let runtime = BuiltIn::open(options).await.context("open the container runtime")?;
    end_pods(&runtime).await?;
    runtime.gc().await?;
    Ok(())
}

/// The same, with a runtime behind a socket. Others' pods it may have stay: ours bear the labels of an agent's.
async fn remove_pods_elsewhere(paths: &Paths, elsewhere: &Elsewhere) -> anyhow::Result<()> {
    let tasks = TaskTree::default();
    let runtime = elsewhere.reopen(paths, &tasks).await?;
    end_pods(&runtime).await?;
    elsewhere.folders().remove()?;
    if tasks.drain(END).await.is_err() {
        tracing::warn!("the runtime's events do not end");
    }
    Ok(())
}

/// Ends and removes everything that an agent made.
async fn end_pods(runtime: &dyn Runtime) -> anyhow::Result<()> {
    let is_pods = |labels: &cri::StringMap| labels.contains_key(node::pod::seen::POD_UID);
    // All at once: what does not listen takes the whole grace period.
    let containers = runtime.list_containers(cri::ContainerFilter::default()).await?;
    let stops = containers.iter().filter(|container| is_pods(&container.labels)).map(|container| async {
        if let Err(error) = runtime.stop_container(&container.id, GRACE).await {
            tracing::warn!(%error, container = container.id, "container not stopped");
        }
    });
    futures_util::future::join_all(stops).await;
    let sandboxes = runtime.list_pod_sandbox(cri::PodSandboxFilter::default()).await?;
    for sandbox in sandboxes.iter().filter(|sandbox| is_pods(&sandbox.labels)) {
        runtime.stop_pod_sandbox(&sandbox.id).await?;
        runtime.remove_pod_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Removes the groups of pods, with whatever their runtime lost sight of: all that the agent made lies below one group of each
/// hierarchy.
fn remove_cgroups(root: &Path, parent: &str) -> anyhow::Result<()> {
    let mut roots = vec![root.to_path_buf()];
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            roots.push(entry.path());
        }
    }
    for root in roots {
        let folder = root.join(parent);
        node::cgroup::clear(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
