//! Static pods: those that a folder of this machine asks for, with or without an API, and their mirrors in the API.
//!
//! Upstream: `pkg/kubelet/config/file.go`, `common.go` and `pod/mirror_client.go`: names, annotations and mirrors included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::decide::qos::qos_class;
use api::decide::resources::PodResources;
use api::value::Value;
use client::{ClientError, DeleteOptions, Object, Target};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use stdx::Backoff;

use crate::agent::{Agent, Context};
use crate::logs::Watcher;
use crate::pod::{name, namespace, uid};

pub const SOURCE: &str = "kubernetes.io/config.source";
pub const HASH: &str = "kubernetes.io/config.hash";
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const SEEN: &str = "kubernetes.io/config.seen";
/// No pod that the API takes is longer.
const BYTES_MAX: u64 = 3 << 20;
/// What could not be done is tried again after this, and then less and less often.
const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// Gives a pod its defaults and says what is wrong with it.
pub type Prepare = Arc<dyn Fn(Value) -> Result<Pod, String> + Send + Sync>;

/// Where static pods come from.
#[derive(Clone)]
pub struct Source {
    pub folder: PathBuf,
    pub prepare: Prepare,
}

/// Whether a pod comes from this machine and not from the API. Upstream: `IsStaticPod`.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api")
}

/// What a pod of the API is known by on its node: a mirror stands for a static pod.
pub fn local_uid(pod: &Pod) -> &str {
    annotation(pod, MIRROR).unwrap_or_else(|| uid(pod))
}

fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The pods in a folder by uid. A file that cannot be read or used is told and left out.
fn read(source: &Source, node: &str) -> std::io::Result<BTreeMap<String, Pod>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(&source.folder)?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut pods = BTreeMap::new();
    for file in files {
        match one(source, &file, node) {
            Ok(pod) => drop(pods.insert(uid(&pod).to_owned(), pod)),
            Err(why) => tracing::error!(file = %file.display(), why, "no static pod of this file"),
        }
    }
    Ok(pods)
}

fn one(source: &Source, file: &Path, node: &str) -> Result<Pod, String> {
    let length = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > BYTES_MAX {
        return Err(format!("it is longer than {BYTES_MAX} bytes"));
    }
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let parsed = api::codec::yaml::parse(&text, &api::codec::Limits::default()).map_err(|error| error.to_string())?;
    if parsed.value.str_at(&["kind"]) != Some("Pod") {
        return Err("it holds no Pod".into());
    }
    let hash = hash(&text, node, file);
    let pod = api::value::from_value(&parsed.value).map_err(|error| error.to_string())?;
    let pod = localized(pod, node, &hash, stdx::wall());
    let tree = api::value::to_value(&pod).map_err(|error| error.to_string())?;
    let seen = pod.metadata.creation_timestamp;
    let mut pod = (source.prepare)(tree)?;
    // What an API would have given it.
    (pod.metadata.uid, pod.metadata.creation_timestamp) = (Some(hash), seen);
    let class = PodResources::of(&crate::pod::spec(&pod)).map_err(|error| error.to_string())?;
    pod.status.get_or_insert_default().qos_class = Some(qos_class(&class).as_str().into());
    Ok(pod)
}

/// A digest of what a pod is made of (FNV-1a, 128 bits): a changed file is another pod.
fn hash(text: &[u8], node: &str, file: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let parts = [text, b"\0", node.as_bytes(), b"\0", file.as_os_str().as_bytes()];
    let bytes = parts.into_iter().flatten();
    let digest = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |digest, byte| {
        (digest ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{digest:032x}")
}

/// A pod of a file as one of this node. Pure. Upstream: `applyDefaults`.
fn localized(mut pod: Pod, node: &str, hash: &str, now: Timestamp) -> Pod {
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{}-{node}", meta.name.as_deref().unwrap_or_default()));
    if meta.namespace.as_deref().unwrap_or_default().is_empty() {
        meta.namespace = Some("default".into());
    }
    meta.uid = Some(hash.to_owned());
    meta.creation_timestamp = Some(Time(now));
    let annotations = meta.annotations.get_or_insert_default();
    for (key, value) in [(HASH, hash), (SOURCE, "file"), (SEEN, &now.to_string())] {
        annotations.insert(key.into(), value.to_owned());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    let tolerant =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&tolerant) {
        tolerations.push(tolerant);
    }
    pod.status = None;
    pod
}

/// The pod that stands for a static one in the API. Pure.
fn mirror(pod: &Pod, node: (&str, &str)) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.creation_timestamp = None;
    let hash = uid(pod).to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.0.to_owned(),
        uid: node.1.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    mirror
}

/// Follows the folder and keeps the mirrors, until the task is dropped.
pub async fn run(agent: Arc<Agent>, source: Source) {
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_LIMIT);
    loop {
        // Watching begins before reading, so that no change falls between the two.
        let watcher = Watcher::folder(&source.folder);
        let mut settled = match read(&source, &agent.registration().name) {
            Ok(pods) => {
                agent.set_static(pods).await;
                true
            }
            Err(error) => {
                tracing::error!(folder = %source.folder.display(), %error, "static pods not read: they stay as they are");
                false
            }
        };
        loop {
            settled &= keep_mirrors(&agent).await;
            let wait = if settled {
                backoff.succeed();
                None
            } else {
                Some(backoff.fail())
            };
            let changed = async {
                match &watcher {
                    Ok(watcher) => drop(watcher.written().await),
                    // Then it is looked at now and again.
                    Err(_) => stdx::sleep(RETRY_LIMIT).await,
                }
            };
            let retry = async {
                match wait {
                    Some(wait) => stdx::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => break,
                () = retry => break,
                () = agent.mirrors_changed() => settled = true,
            }
        }
    }
}

/// Brings the mirrors up to the static pods; whether all are.
async fn keep_mirrors(agent: &Agent) -> bool {
    if !agent.knows_pods() {
        return true;
    }
    let mut settled = true;
    let wanted = agent.static_pods();
    for object in agent.pods() {
        let Some(stands_for) = object.meta().annotations.get(MIRROR).map(str::to_owned) else { continue };
        let of_live = wanted.get(&stands_for).is_some_and(|pod| name(pod) == object.name());
        if of_live && object.meta().deletion.is_none() {
            agent.mirrored(&stands_for, object.uid()).await;
        } else if let Err(error) = remove(agent.context(), &object).await {
            tracing::warn!(?object, %error, "mirror pod not removed");
            settled = false;
        }
    }
    for pod in wanted.values().filter(|pod| agent.pod(namespace(pod), name(pod)).is_none()) {
        if let Err(error) = create(agent, pod).await {
            tracing::warn!(pod = name(pod), %error, "mirror pod not created");
            settled = false;
        }
    }
    settled
}

async fn remove(context: &Context, object: &Object) -> Result<(), ClientError> {
    let target = Target::new("", "v1", "pods").namespace(object.namespace()).name(object.name());
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(object.uid()) };
    match context.client.delete(target, options).await {
        Err(error) if !(error.is_not_found() || error.is_conflict()) => Err(error),
        _ => Ok(()),
    }
}

async fn create(agent: &Agent, pod: &Pod) -> Result<(), ClientError> {
    let client = &agent.context().client;
    let node = agent.registration().name.as_str();
    let owner = client.get(Target::new("", "v1", "nodes").name(node)).await?;
    let target = Target::new("", "v1", "pods").namespace(namespace(pod));
    match client.create(target, &mirror(pod, (node, owner.uid()))).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let pod: Pod =
            serde_json::from_str(r#"{"metadata":{"name":"web"},"spec":{"containers":[{"name":"c"}]}}"#).unwrap();
        let local = localized(pod, "n", "abc", Timestamp::from_second(0).unwrap());
        assert_eq!((name(&local), namespace(&local), uid(&local)), ("web-n", "default", "abc"));
        assert_eq!(local.spec.as_ref().unwrap().node_name.as_deref(), Some("n"));
        assert!(is_static(&local));
        let mirror = mirror(&local, ("n", "u"));
        assert_eq!((local_uid(&mirror), mirror.metadata.uid.as_deref()), ("abc", None));
        assert_eq!(annotation(&mirror, HASH), Some("abc"));
        let owner = &mirror.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Node", "u", Some(true)));
    }

    #[test]
    fn another_text_node_or_file_is_another_pod() {
        let file = Path::new("/m/a.yaml");
        let base = hash(b"x", "n", file);
        assert_eq!(base.len(), 32);
        assert_eq!(base, hash(b"x", "n", file));
        assert!(
            [hash(b"y", "n", file), hash(b"x", "m", file), hash(b"x", "n", Path::new("/m/b.yaml"))]
                .iter()
                .all(|other| *other != base)
        );
    }
}
