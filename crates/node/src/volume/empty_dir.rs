//! Folders of a pod's own: on disk, in memory, or of huge pages.
//!
//! Upstream: `pkg/volume/emptydir`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use super::mounted;
use crate::pod::env::Sources;
use crate::pod::{containers, spec};

/// What a folder is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// At most so many bytes; 0 when nobody says how many.
    Memory {
        bytes: i64,
    },
    /// Pages of this size, as resources name it: `2Mi`.
    HugePages {
        size: String,
    },
}

/// Decides what the folder is made of. Pure.
pub fn medium(pod: &Pod, source: &EmptyDirVolumeSource, sources: &Sources) -> Result<Medium, String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory { bytes: memory_bytes(pod, source, sources) }),
        "HugePages" => match &sizes_asked(pod)[..] {
            [size] => Ok(Medium::HugePages { size: size.clone() }),
            [] => Err("medium HugePages needs a request of huge pages".into()),
            _ => Err("medium HugePages can be used only with huge pages of one size".into()),
        },
        other => match other.strip_prefix("HugePages-") {
            Some(size) => Ok(Medium::HugePages { size: size.to_owned() }),
            None => Err(format!("unknown storage medium {other:?}")),
        },
    }
}

/// The least of what the node has for pods, what the pod may use, and what the folder may hold.
fn memory_bytes(pod: &Pod, source: &EmptyDirVolumeSource, sources: &Sources) -> i64 {
    let of_node = sources.allocatable.get("memory").map_or(0, Quantity::value);
    let of_pod = crate::cgroup::limits(pod).memory_bytes;
    let own =
        source.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok()).map_or(0, |limit| limit.value());
    [of_node, of_pod, own].into_iter().filter(|bytes| *bytes > 0).min().unwrap_or(0)
}

fn sizes_asked(pod: &Pod) -> Vec<String> {
    let spec = spec(pod);
    let resources = containers(&spec).filter_map(|(_, container)| container.resources.as_ref());
    let requests = resources.flat_map(|resources| resources.requests.iter().chain(&resources.limits));
    let names = requests.flat_map(|list| list.keys());
    let mut sizes: Vec<String> = names.filter_map(|name| name.strip_prefix("hugepages-")).map(str::to_owned).collect();
    sizes.sort();
    sizes.dedup();
    sizes
}

/// Makes the folder what it is to be, for everybody in the pod.
pub fn prepare(folder: &Path, pod: &Pod, volume: &Volume, medium: &Medium, group: Option<u32>) -> io::Result<()> {
    match medium {
        Medium::Disk => {}
        Medium::Memory { bytes: 0 } => mounted::mount_new(folder, "tmpfs", "")?,
        Medium::Memory { bytes } => mounted::mount_new(folder, "tmpfs", &format!("size={bytes}"))?,
        Medium::HugePages { size } => mounted::mount_new(folder, "hugetlbfs", &format!("pagesize={size}"))?,
    }
    if propagates(pod, volume) {
        mounted::share(folder)?;
    }
    let metadata = fs::metadata(folder)?;
    // What is made here later gets the group by itself; it is empty so far, so nothing else has to be changed.
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if group.is_some_and(|group| group != metadata.gid()) {
        chown(folder, None, group)?;
    }
    if metadata.mode() & 0o7777 != mode || group.is_some() {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Whether some container wants mounts to be seen on the other side.
fn propagates(pod: &Pod, volume: &Volume) -> bool {
    let spec = spec(pod);
    let mut mounts = containers(&spec).flat_map(|(_, container)| container.volume_mounts.iter().flatten());
    mounts.any(|mount| {
        mount.name == volume.name
            && matches!(mount.mount_propagation.as_deref(), Some("Bidirectional" | "HostToContainer"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, resources: &str, expected: Result<Medium, &str>) {
        let pod =
            serde_json::from_str(&format!(r#"{{"spec":{{"containers":[{{"name":"c","resources":{resources}}}]}}}}"#))
                .unwrap();
        let memory = Quantity::parse("1Gi").unwrap();
        let sources = Sources { allocatable: [("memory".to_owned(), memory)].into(), ..Sources::default() };
        let found = medium(&pod, &serde_json::from_str(source).unwrap(), &sources);
        assert_eq!(found, expected.map_err(str::to_owned), "{source} {resources}");
    }

    #[test]
    fn the_least_limit_counts() {
        let limited = r#"{"limits":{"memory":"64Mi"}}"#;
        let memory = |mebibytes: i64| Ok(Medium::Memory { bytes: mebibytes << 20 });
        check("{}", "{}", Ok(Medium::Disk));
        check(r#"{"medium":"Memory"}"#, "{}", memory(1024));
        check(r#"{"medium":"Memory"}"#, limited, memory(64));
        check(r#"{"medium":"Memory","sizeLimit":"10Mi"}"#, limited, memory(10));
        check(r#"{"medium":"Memory","sizeLimit":"100Mi"}"#, limited, memory(64));
        check(r#"{"medium":"Memory","sizeLimit":"0"}"#, "{}", memory(1024));
    }

    #[test]
    fn huge_pages_have_one_size() {
        let size = |size: &str| Ok(Medium::HugePages { size: size.into() });
        check(r#"{"medium":"HugePages-1Gi"}"#, "{}", size("1Gi"));
        check(r#"{"medium":"HugePages"}"#, r#"{"requests":{"hugepages-2Mi":"4Mi"}}"#, size("2Mi"));
        check(r#"{"medium":"HugePages"}"#, "{}", Err("medium HugePages needs a request of huge pages"));
        check(
            r#"{"medium":"HugePages"}"#,
            r#"{"limits":{"hugepages-2Mi":"4Mi","hugepages-1Gi":"1Gi"}}"#,
            Err("medium HugePages can be used only with huge pages of one size"),
        );
        check(r#"{"medium":"Tape"}"#, "{}", Err("unknown storage medium \"Tape\""));
    }
}
