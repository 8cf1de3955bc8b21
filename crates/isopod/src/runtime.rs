//! Which container runtime runs this node's pods: the built-in one, or one behind a socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::cni::{GcRequest, Network as _};
use ::runtime::image::{HostConfig, ImageOptions, ImageStore, RegistryConfig};
use ::runtime::{BuiltIn, RuntimeOptions};
use anyhow::{Context as _, bail};
use cli::args::OfNode;
use cri::remote::{Remote, RemoteOptions, socket};
use cri::{PodSandboxFilter, Runtime, RuntimeService as _};
use net::bridge::BridgeNetwork;
use stdx::TaskTree;

use crate::cni::Folders;
use crate::machine::Settings;
use crate::membership;
use crate::paths::Paths;
use crate::token;

/// How long an ordinary call of a runtime behind a socket takes at most, unless somebody says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// What was chosen, and so what `down` and `image` have to turn to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    pub endpoint: String,
    pub folders: [PathBuf; 2],
}

impl Elsewhere {
    /// The runtime that was chosen on the command line, unless it is the built-in one.
    pub fn chosen(node: &OfNode) -> Option<Elsewhere> {
        let endpoint = node.container_runtime_endpoint.clone()?;
        Some(Elsewhere { endpoint, folders: [node.cni_conf_dir.clone(), node.cni_bin_dir.clone()] })
    }

    /// What is remembered of it.
    fn remembered(&self) -> serde_json::Value {
        serde_json::json!({"endpoint": self.endpoint, "cniConfDir": self.folders[0], "cniBinDir": self.folders[1]})
    }

    /// What was remembered at an earlier start.
    pub fn recall(paths: &Paths) -> anyhow::Result<Option<Elsewhere>> {
        let settings = membership::settings(paths)?;
        let text = |name: &str| settings["runtime"][name].as_str().map(str::to_owned);
        let (endpoint, folders) = (text("endpoint"), [text("cniConfDir"), text("cniBinDir")]);
        let (Some(endpoint), [Some(configurations), Some(programs)]) = (endpoint, folders) else { return Ok(None) };
        Ok(Some(Elsewhere { endpoint, folders: [configurations.into(), programs.into()] }))
    }

    /// CNI's folders as that runtime uses them.
    pub fn folders(&self) -> Folders {
        let [configurations, programs] = self.folders.clone();
        Folders { configurations, programs }
    }

    /// Opens the runtime.
    pub async fn open(&self, paths: &Paths, timeout: Duration, tasks: &TaskTree) -> anyhow::Result<Remote> {
        let socket = socket(&self.endpoint)
            .map_err(|wrong| anyhow::anyhow!("--container-runtime-endpoint {}: {wrong}", self.endpoint))?;
        let options = RemoteOptions { socket, state_directory: paths.runtime_state(), request_timeout: timeout };
        let opened = Remote::open(options, tasks).await;
        opened.with_context(|| format!("validate CRI v1 runtime API for endpoint {:?}", self.endpoint))
    }

    /// The same, to end what runs there.
    pub async fn reopen(&self, paths: &Paths, tasks: &TaskTree) -> anyhow::Result<Remote> {
        self.open(paths, REQUEST_TIMEOUT, tasks).await
    }
}

/// The node's runtime, with the pod network in its hands.
pub async fn open(
    said: &OfNode,
    settings: &Settings,
    paths: &Paths,
    network: BridgeNetwork,
    tasks: &TaskTree,
) -> anyhow::Result<Arc<dyn Runtime>> {
    let chosen = Elsewhere::chosen(said);
    let remembered = chosen.as_ref().map_or(serde_json::Value::Null, Elsewhere::remembered);
    membership::amend(paths, |settings| drop(settings.insert("runtime".into(), remembered)))?;
    let open_files = crate::open_files::raise();
    let Some(elsewhere) = chosen else {
        let images = Arc::new(ImageStore::open_with(&paths.images(), image_options(said)?)?);
        let options = RuntimeOptions::new(paths.runtime_state(), paths.runtime(), Arc::new(network), images);
        let options = RuntimeOptions { open_files, ..options };
        let runtime = BuiltIn::open(options).await.context("start the container runtime")?;
        return Ok(Arc::new(runtime));
    };
    if !said.insecure_registry.is_empty() || !said.registry_ca.is_empty() {
        bail!(
            "--insecure-registry and --registry-ca are for the built-in runtime: configure registries in the other one"
        );
    }
    let runtime = elsewhere.open(paths, timeout(said)?, tasks).await?;
    elsewhere.folders().install(settings, paths).context("configure the pod network")?;
    runtime.set_pod_cidr(&settings.pod_cidr.to_string()).await.context("tell the runtime the range of pods")?;
    // What was lost with a runtime or a plugin that ended half way.
    let sandboxes = runtime.list_pod_sandbox(PodSandboxFilter::default()).await.context("list sandboxes")?;
    let valid: Vec<String> = sandboxes.into_iter().map(|sandbox| sandbox.id).collect();
    runtime.retain(&valid).context("undo what was bound for sandboxes that are gone")?;
    // The runtime may be taking sandboxes of an earlier agent back in this moment.
    let folder = paths.network_state();
    let _turn =
        stdx::blocking(move || crate::cni::turn(&folder)).await.context("wait for the pod network's plugin")??;
    network.gc(&GcRequest { valid }).await.context("clean up the pod network")?;
    Ok(Arc::new(runtime))
}

/// A folder on the file system of images, which another runtime may have elsewhere.
pub async fn images_folder(said: &OfNode, paths: &Paths, runtime: &dyn Runtime) -> PathBuf {
    if Elsewhere::chosen(said).is_none() {
        return paths.images();
    }
    let told = match runtime.image_fs_info().await {
        Ok(info) => info.container_filesystems.into_iter().chain(info.image_filesystems).next(),
        Err(error) => {
            tracing::warn!(%error, "the runtime does not say where its images are: they are taken to be with the pods");
            None
        }
    };
    told.map_or_else(|| paths.data().to_path_buf(), |found| found.mountpoint.into())
}

fn timeout(node: &OfNode) -> anyhow::Result<Duration> {
    let seconds = token::seconds("--runtime-request-timeout", &node.runtime_request_timeout)?;
    Ok(if seconds == 0 { REQUEST_TIMEOUT } else { Duration::from_secs(seconds) })
}

/// Registries as the options say.
fn image_options(said: &OfNode) -> anyhow::Result<ImageOptions> {
    let mut registries = RegistryConfig::default();
    for host in &said.insecure_registry {
        registries.hosts.insert(host.clone(), HostConfig { plain_http: true, ..HostConfig::default() });
    }
    for pair in &said.registry_ca {
        let (host, file) = pair.split_once('=').with_context(|| format!("--registry-ca {pair:?} is not HOST=FILE"))?;
        registries.hosts.insert(host.to_owned(), HostConfig { ca_file: Some(file.into()), ..HostConfig::default() });
    }
    Ok(ImageOptions { registries, ..ImageOptions::default() })
}
