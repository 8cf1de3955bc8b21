//! What pods write to the node's disk, and which of them write more than they may.
//!
//! Upstream: `localStorageEviction` in `pkg/kubelet/eviction`.

use std::collections::BTreeMap;

use api::decide::resources::PodResources;
use api::quantity::Quantity;
use cri::{ContainerStats, PodSandboxFilter};
use k8s_openapi::api::core::v1::{Pod, Volume};
use stdx::disk::Usage;

use crate::agent::Agent;
use crate::evict::Side;
use crate::pod::seen::POD_UID;
use crate::pod::{containers, create, spec, uid};
use crate::volume;

const RESOURCE: &str = "ephemeral-storage";

/// What a pod has on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes by the volume's name, of those that lie with the pod.
    pub volumes: BTreeMap<String, u64>,
    /// By the container's name: its logs and its own layer.
    pub containers: BTreeMap<String, Usage>,
    /// The layers alone, which may be on another file system than all else.
    pub layers: BTreeMap<String, Usage>,
    /// All of it, with the files that every pod has.
    pub whole: Usage,
}

impl Written {
    /// What of it is on one of the node's two file systems, where it has two.
    #[must_use]
    pub fn on(mut self, side: Side) -> Written {
        let layers: Vec<Usage> = self.layers.values().copied().collect();
        match side {
            Side::Images => {
                self.whole = Usage::default();
                layers.into_iter().for_each(|layer| self.whole += layer);
                self.volumes.clear();
                self.containers.clone_from(&self.layers);
            }
            Side::Pods => {
                layers.into_iter().for_each(|layer| self.whole = less(self.whole, layer));
                for (name, layer) in std::mem::take(&mut self.layers) {
                    let all = self.containers.entry(name).or_default();
                    *all = less(*all, layer);
                }
            }
        }
        self
    }
}

fn less(all: Usage, part: Usage) -> Usage {
    Usage { bytes: all.bytes.saturating_sub(part.bytes), files: all.files.saturating_sub(part.files) }
}

/// Whether something says how much the pod may write.
pub fn is_limited(pod: &Pod) -> bool {
    let spec = spec(pod);
    let volumes = spec.volumes.iter().flatten().any(|volume| size_limit(volume).is_some());
    volumes || PodResources::of(&spec).is_ok_and(|resources| resources.limits().get(RESOURCE).is_some())
}

/// Why a pod that has written this is ended, if it is.
pub fn excess(pod: &Pod, written: &Written) -> Option<String> {
    let beyond = |used: u64, limit: Quantity| i128::from(used) > i128::from(limit.value());
    let spec = spec(pod);
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = size_limit(volume) else { continue };
        if written.volumes.get(&volume.name).is_some_and(|used| beyond(*used, limit)) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit \"{limit}\". ", volume.name));
        }
    }
    let whole = PodResources::of(&spec).ok()?.limits().get(RESOURCE);
    if let Some(limit) = whole.filter(|limit| beyond(written.whole.bytes, *limit)) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    containers(&spec).find_map(|(_, container)| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let limit = create::amount(limits, RESOURCE).filter(|limit| !limit.is_zero())?;
        let used = written.containers.get(&container.name)?.bytes;
        let name = &container.name;
        beyond(used, limit)
            .then(|| format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "))
    })
}

/// As much as a folder on disk may hold; one in memory cannot hold more.
fn size_limit(volume: &Volume) -> Option<Quantity> {
    let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() != Some("Memory"))?;
    let limit = Quantity::parse(&source.size_limit.as_ref()?.0).ok()?;
    (limit.value() > 0).then_some(limit)
}

/// Looks at all that a pod has on disk.
pub(crate) async fn written(agent: &Agent, pod: &Pod) -> Written {
    let context = agent.context();
    let stats = stats(agent, pod).await;
    let spec = spec(pod);
    let volumes: Vec<_> = spec.volumes.iter().flatten().filter(|volume| volume.empty_dir.is_some()).collect();
    let volumes: Vec<_> =
        volumes.iter().map(|volume| (volume.name.clone(), volume::folder(&context.roots, pod, volume))).collect();
    let logs = std::path::PathBuf::from(create::log_directory(pod, &context.facts));
    let names: Vec<String> = containers(&spec).map(|(_, container)| container.name.clone()).collect();
    let all = volume::pod_folder(&context.roots.disk, pod);
    let look = move || {
        let mut written = Written { whole: usage(&all), ..Written::default() };
        written.volumes = volumes.into_iter().map(|(name, folder)| (name, usage(&folder).bytes)).collect();
        written.containers = names.into_iter().map(|name| (name.clone(), usage(&logs.join(&name)))).collect();
        written
    };
    let mut written = stdx::blocking(look).await.unwrap_or_else(|error| {
        tracing::error!(%error, pod = uid(pod), "what a pod has written was not looked at");
        Written::default()
    });
    for stats in stats {
        let Some(layer) = stats.writable_layer else { continue };
        let used = Usage { bytes: layer.used_bytes, files: layer.inodes_used };
        *written.layers.entry(stats.metadata.name.clone()).or_default() += used;
        *written.containers.entry(stats.metadata.name).or_default() += used;
    }
    written.containers.values().for_each(|used| written.whole += *used);
    written
}

/// What the pod's containers use, each try of each.
async fn stats(agent: &Agent, pod: &Pod) -> Vec<ContainerStats> {
    let runtime = &agent.context().runtime;
    let label = BTreeMap::from([(POD_UID.to_owned(), uid(pod).to_owned())]);
    let filter = PodSandboxFilter { label_selector: label.clone(), ..PodSandboxFilter::default() };
    let mut found = Vec::new();
    let unknown = |error: &cri::Error| tracing::warn!(%error, pod = uid(pod), "what a pod's containers have written is not known");
    let sandboxes = runtime.list_pod_sandbox(filter).await.inspect_err(unknown).unwrap_or_default();
    for sandbox in sandboxes {
        let filter = cri::ContainerFilter { pod_sandbox_id: Some(sandbox.id), ..cri::ContainerFilter::default() };
        match runtime.list_container_stats(filter).await {
            Ok(stats) => found.extend(stats),
            Err(error) => unknown(&error),
        }
    }
    found
}

/// What lies below a folder that may not be there.
fn usage(folder: &std::path::Path) -> Usage {
    stdx::disk::usage(folder).unwrap_or_else(|error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(folder = %folder.display(), %error, "a folder's use of the disk is not known");
        }
        Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod of two containers and two folders that has written so much.
    fn check(fields: &str, volume: u64, container: u64, whole: u64, expected: Option<&str>) {
        let pod: Pod = serde_json::from_str(&format!("{{\"spec\":{fields}}}")).unwrap();
        let usage = |bytes| Usage { bytes, files: 1 };
        let written = Written {
            volumes: [("v".to_owned(), volume)].into(),
            containers: [("c".to_owned(), usage(container))].into(),
            whole: usage(whole),
            ..Written::default()
        };
        assert_eq!(excess(&pod, &written).as_deref(), expected, "{fields}");
        assert!(expected.is_none() || is_limited(&pod), "{fields}");
    }

    #[test]
    fn what_containers_write_beside_volumes_and_logs_lies_with_images() {
        let usage = |bytes| Usage { bytes, files: bytes / 10 };
        let written = Written {
            volumes: [("v".to_owned(), 100)].into(),
            containers: [("c".to_owned(), usage(30)), ("d".to_owned(), usage(10))].into(),
            layers: [("c".to_owned(), usage(20))].into(),
            whole: usage(140),
        };
        let (pods, images) = (written.clone().on(Side::Pods), written.on(Side::Images));
        assert_eq!((pods.whole, pods.containers["c"], pods.containers["d"]), (usage(120), usage(10), usage(10)));
        assert_eq!((images.whole, images.containers["c"], images.containers.get("d")), (usage(20), usage(20), None));
    }

    #[test]
    fn folders_containers_and_pods_end_at_their_limits() {
        let folder = r#"{"containers":[],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1024Ki"}}]}"#;
        check(folder, 1 << 20, 0, 9 << 20, None);
        check(folder, (1 << 20) + 1, 0, 0, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
        let memory =
            r#"{"containers":[],"volumes":[{"name":"v","emptyDir":{"medium":"Memory","sizeLimit":"1024Ki"}}]}"#;
        check(memory, 2 << 20, 0, 0, None);
        let limited = r#"{"containers":[{"name":"c","resources":{"limits":{"ephemeral-storage":"1Mi"}}},
            {"name":"d","resources":{"limits":{"ephemeral-storage":"2Mi"}}}]}"#;
        check(limited, 9, 1 << 20, 3 << 20, None);
        let container = "Container c exceeded its local ephemeral storage limit \"1Mi\". ";
        check(limited, 9, (1 << 20) + 1, 3 << 20, Some(container));
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
        check(limited, 9, 0, (3 << 20) + 1, Some(whole));
        check(r#"{"containers":[{"name":"c"}]}"#, 1 << 40, 1 << 40, 1 << 40, None);
    }

    #[test]
    fn only_a_limit_makes_a_pod_worth_a_look() {
        let check = |fields: &str, expected| {
            let pod: Pod = serde_json::from_str(&format!("{{\"spec\":{fields}}}")).unwrap();
            assert_eq!(is_limited(&pod), expected, "{fields}");
        };
        check(r#"{"containers":[{"name":"c","resources":{"requests":{"ephemeral-storage":"1Mi"}}}]}"#, false);
        check(
            r#"{"containers":[],"volumes":[{"name":"v","emptyDir":{}},{"name":"w","hostPath":{"path":"/"}}]}"#,
            false,
        );
        check(r#"{"containers":[],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"0"}}]}"#, false);
    }
}
