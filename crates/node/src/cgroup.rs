//! Control groups of pods: which group a pod has, and its limits. The runtime makes those of containers below.
//!
//! Layout as upstream's `cgroupfs` driver: `kubepods[/burstable|/besteffort]/pod<uid>`. Versions 1 and 2; all are files
//! below one root, so that both can be tested anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::decide::resources::PodResources;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::create::{QUOTA_PERIOD, quota, shares};
use crate::pod::{spec, uid};

mod survivors;

/// Controllers of version 1 that pods have groups in.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];

/// Groups in which those of the pods are that are not guaranteed all they use.
const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";
/// What the names of pods' groups begin with.
const POD_PREFIX: &str = "pod";

/// The control groups of the machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// `/sys/fs/cgroup`
    root: PathBuf,
    /// Group below which all of this node's pods are, without slashes at the ends; several nodes of one machine differ by it.
    parent: String,
    unified: bool,
}

/// A pod's limits in the units of control groups; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub memory_bytes: i64,
}

/// What is counted in a container's group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Periods in which the quota was exhausted.
    pub throttled_periods: Option<u64>,
}

impl Cgroups {
    /// The groups below `root`; the unified hierarchy is told by its file of controllers, and counts only with memory in it.
    pub fn open(root: &Path, parent: &str) -> Cgroups {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let unified = controllers.split_whitespace().any(|controller| controller == "memory");
        Cgroups { root: root.into(), parent: parent.trim_matches('/').into(), unified }
    }

    /// The pod's group as a path below each hierarchy's root.
    pub fn path(&self, pod: &Pod) -> String {
        let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or("BestEffort");
        let (parent, uid) = (&self.parent, uid(pod));
        match class {
            "Guaranteed" => format!("/{parent}/{POD_PREFIX}{uid}"),
            "Burstable" => format!("/{parent}/{BURSTABLE}/{POD_PREFIX}{uid}"),
            _ => format!("/{parent}/{BEST_EFFORT}/{POD_PREFIX}{uid}"),
        }
    }

    /// Makes the pod's group with its limits.
    pub fn create(&self, pod: &Pod) -> io::Result<()> {
        let path = self.path(pod);
        let limits = limits(pod);
        if self.unified { self.create_unified(&path, limits) } else { self.create_split(&path, limits) }
    }

    /// Raises the limits of the pod's group to those that it is to have, and lowers none: its containers may still have more.
    pub fn raise(&self, pod: &Pod) -> io::Result<()> {
        let (path, limits) = (self.path(pod), limits(pod));
        let raise = |controller: &str, file: &str, wanted: i64, text: String| {
            let path = self.folder(controller, &path).join(file);
            // Without a limit, or with a word in its place, there is nothing to raise.
            let present = fs::read_to_string(&path).unwrap_or_default();
            let present = present.split_whitespace().next().and_then(|number| number.parse::<i64>().ok());
            match present.is_some_and(|present| present >= 0 && (wanted <= 0 || wanted > present)) {
                true => fs::write(path, text),
                false => Ok(()),
            }
        };
        let or_none = |amount: i64, none: &str| if amount > 0 { amount.to_string() } else { none.to_owned() };
        if self.unified {
            raise("", "memory.max", limits.memory_bytes, or_none(limits.memory_bytes, "max"))?;
            let quota = format!("{} {QUOTA_PERIOD}", or_none(limits.cpu_quota, "max"));
            return raise("", "cpu.max", limits.cpu_quota, quota);
        }
        raise("memory", "memory.limit_in_bytes", limits.memory_bytes, or_none(limits.memory_bytes, "-1"))?;
        raise("cpu", "cpu.cfs_quota_us", limits.cpu_quota, or_none(limits.cpu_quota, "-1"))
    }

    /// Removes the groups of a pod by its uid, whatever class it has or had. Its runtime has nothing of it any more: what lives
    /// in them all the same is killed.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        self.tiers()?.try_for_each(|tier| clear(&tier.join(format!("{POD_PREFIX}{uid}"))))
    }

    /// The uids of pods that have groups here. What cannot be read has none.
    pub fn pods(&self) -> BTreeSet<String> {
        let tiers = self.tiers().into_iter().flatten();
        let entries = tiers.filter_map(|tier| fs::read_dir(tier).ok()).flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let uid = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_prefix(POD_PREFIX)?.to_owned());
        folders.filter_map(uid).collect()
    }

    /// What is counted of a container in its group, where its runtime made that by the container's id.
    pub fn counts(&self, uid: &str, container_id: &str) -> Counts {
        let (pids, cpu) = if self.unified { ("", "") } else { ("pids", "cpu") };
        let read = |controller: &str, file: &str| {
            let group = self.of_container(controller, uid, container_id)?;
            fs::read_to_string(group.join(file)).ok()
        };
        let throttled = |text: String| text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok());
        Counts {
            processes: read(pids, "pids.current").and_then(|text| text.trim().parse().ok()),
            throttled_periods: read(cpu, "cpu.stat").and_then(throttled),
        }
    }

    fn of_container(&self, controller: &str, uid: &str, container_id: &str) -> Option<PathBuf> {
        let parent = self.folder(controller, &self.parent);
        let tiers = [parent.clone(), parent.join(BURSTABLE), parent.join(BEST_EFFORT)];
        // containerd's way to call it, and CRI-O's.
        let names = [container_id.to_owned(), format!("crio-{container_id}")];
        let groups = tiers.iter().map(|tier| tier.join(format!("{POD_PREFIX}{uid}")));
        groups.flat_map(|pod| names.each_ref().map(|name| pod.join(name))).find(|group| group.exists())
    }

    /// The folders in which pods of each class have their groups, in every hierarchy: runtimes make groups below the pod's also
    /// in those of which nothing is known here.
    fn tiers(&self) -> io::Result<impl Iterator<Item = PathBuf>> {
        let hierarchies = if self.unified { vec![self.root.clone()] } else { folders(&self.root)? };
        let parents = hierarchies.into_iter().map(|hierarchy| hierarchy.join(&self.parent));
        Ok(parents.flat_map(|parent| [parent.clone(), parent.join(BURSTABLE), parent.join(BEST_EFFORT)]))
    }

    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        self.root.join(controller).join(path.trim_start_matches('/'))
    }

    fn create_split(&self, path: &str, limits: Limits) -> io::Result<()> {
        for controller in CONTROLLERS {
            // Controllers may share a hierarchy, or not be there: then they are not enforced.
            if self.root.join(controller).exists() {
                let folder = self.folder(controller, path);
                fs::create_dir_all(&folder)?;
                if controller == "cpuset" {
                    inherit_cpuset(&self.root.join("cpuset"), path)?;
                }
            }
        }
        let write = |controller: &str, file: &str, value: i64| match self.root.join(controller).exists() {
            true => fs::write(self.folder(controller, path).join(file), value.to_string()),
            false => Ok(()),
        };
        write("cpu", "cpu.shares", limits.cpu_shares.max(2))?;
        if limits.cpu_quota > 0 {
            write("cpu", "cpu.cfs_period_us", QUOTA_PERIOD)?;
            write("cpu", "cpu.cfs_quota_us", limits.cpu_quota)?;
        }
        if limits.memory_bytes > 0 {
            write("memory", "memory.limit_in_bytes", limits.memory_bytes)?;
        }
        Ok(())
    }

    fn create_unified(&self, path: &str, limits: Limits) -> io::Result<()> {
        let mut folder = self.root.clone();
        for part in path.trim_start_matches('/').split('/') {
            // A group's children have the controllers that its own file says.
            fs::write(folder.join("cgroup.subtree_control"), "+cpu +memory +pids +cpuset")?;
            folder = folder.join(part);
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join("cpu.weight"), weight(limits.cpu_shares).to_string())?;
        if limits.cpu_quota > 0 {
            fs::write(folder.join("cpu.max"), format!("{} {QUOTA_PERIOD}", limits.cpu_quota))?;
        }
        if limits.memory_bytes > 0 {
            fs::write(folder.join("memory.max"), limits.memory_bytes.to_string())?;
        }
        fs::write(folder.join("cgroup.subtree_control"), "+cpu +memory +pids +cpuset")
    }
}

/// Version 1 shares (2 to 262,144) as version 2 weight (1 to 10,000). Upstream: runc's `ConvertCPUSharesToCgroupV2Value`.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A group of version 1 can hold no process before it has processors and memory nodes: those of its parent.
fn inherit_cpuset(root: &Path, path: &str) -> io::Result<()> {
    let mut parent = root.to_path_buf();
    for part in path.trim_start_matches('/').split('/') {
        let folder = parent.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let present = fs::read_to_string(folder.join(file)).unwrap_or_default();
            if present.trim().is_empty() {
                fs::write(folder.join(file), fs::read_to_string(parent.join(file))?)?;
            }
        }
        parent = folder;
    }
    Ok(())
}

/// The folders of a folder, without what links lead to; none where it is not there.
fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Kills what lives in a control group and in those below it, and removes them.
///
/// # Errors
/// When that fails, or what was killed does not end.
pub fn clear(folder: &Path) -> io::Result<()> {
    survivors::end(folder)?;
    remove_tree(folder)
}

/// Removes a control group with those below it; nothing lives in them any more.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// What all of a pod's containers may use together. A limit holds for the pod only when every container has one. Upstream:
/// `ResourceConfigForPod`.
pub fn limits(pod: &Pod) -> Limits {
    let mut resources = match PodResources::of(&spec(pod)) {
        Ok(resources) => resources,
        Err(error) => {
            tracing::error!(pod = uid(pod), %error, "amounts that no accepted pod has: it is not limited");
            return Limits::default();
        }
    };
    for container in &mut resources.containers {
        if let (None, Some(limit)) = (container.requests.get("cpu"), container.limits.get("cpu")) {
            container.requests.set("cpu", limit);
        }
    }
    let all = resources.limits();
    let limit = |name: &str| {
        let whole = resources.pod.as_ref().is_some_and(|pod| pod.limits.get(name).is_some());
        let each = resources.containers.iter().all(|container| container.limits.get(name).is_some());
        all.get(name).filter(|_| whole || each)
    };
    Limits {
        cpu_shares: shares(resources.requests().amount("cpu").milli_value()),
        cpu_quota: limit("cpu").map_or(0, |cpu| quota(cpu.milli_value())),
        memory_bytes: limit("memory").map_or(0, |memory| memory.value()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","uid":"u1"}},"spec":{{"containers":[{resources}]}},"status":{{"qosClass":"Burstable"}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_pod_is_limited_only_when_each_container_is() {
        let both = r#"{"name":"a","resources":{"limits":{"cpu":"500m","memory":"64Mi"}}},{"name":"b","resources":{"limits":{"cpu":"1","memory":"64Mi"}}}"#;
        assert_eq!(limits(&pod(both)), Limits { cpu_shares: 1536, cpu_quota: 150_000, memory_bytes: 128 << 20 });
        let one = r#"{"name":"a","resources":{"limits":{"cpu":"500m"}}},{"name":"b"}"#;
        assert_eq!(limits(&pod(one)), Limits { cpu_shares: 512, cpu_quota: 0, memory_bytes: 0 });
    }

    #[test]
    fn a_sidecar_counts_beside_the_others_and_an_init_container_before_them() {
        let limited = |name: &str, cpu: &str, more: &str| {
            format!(r#"{{"name":"{name}","resources":{{"limits":{{"cpu":"{cpu}","memory":"64Mi"}}}}{more}}}"#)
        };
        let mut pod = pod(&limited("a", "1", ""));
        let inits = [limited("s", "500m", r#","restartPolicy":"Always""#), limited("i", "2", "")].join(",");
        pod.spec.as_mut().unwrap().init_containers = serde_json::from_str(&format!("[{inits}]")).unwrap();
        assert_eq!(limits(&pod), Limits { cpu_shares: 2560, cpu_quota: 250_000, memory_bytes: 128 << 20 });
    }

    #[test]
    fn the_pod_as_a_whole_and_its_overhead_count() {
        let whole = |fields: &str| -> Pod {
            serde_json::from_str(&format!(r#"{{"spec":{{"containers":[{{"name":"a"}},{{"name":"b"}}],{fields}}}}}"#))
                .unwrap()
        };
        let asked = r#""resources":{"requests":{"cpu":"1"},"limits":{"cpu":"2","memory":"64Mi"}}"#;
        let expected = Limits { cpu_shares: 1024, cpu_quota: 200_000, memory_bytes: 64 << 20 };
        assert_eq!(limits(&whole(asked)), expected);
        let overhead = format!(r#"{asked},"overhead":{{"cpu":"1","memory":"16Mi"}}"#);
        let expected = Limits { cpu_shares: 2048, cpu_quota: 300_000, memory_bytes: 80 << 20 };
        assert_eq!(limits(&whole(&overhead)), expected);
    }

    #[test]
    fn a_pods_groups_are_found_and_removed_in_hierarchies_that_only_runtimes_know() {
        let root = std::env::temp_dir().join(format!("isopod-node-hierarchies-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        let groups =
            ["memory/kubepods/podu1/c", "unified/kubepods/besteffort/podu2/c", "misc/kubepods/burstable/podu2"];
        groups.iter().for_each(|group| fs::create_dir_all(root.join(group)).unwrap());
        std::os::unix::fs::symlink("memory", root.join("link")).unwrap();
        let cgroups = Cgroups::open(&root, "kubepods");
        assert_eq!(cgroups.pods(), ["u1".to_owned(), "u2".to_owned()].into());
        cgroups.remove("u2").unwrap();
        assert_eq!(cgroups.pods(), ["u1".to_owned()].into());
        assert!(root.join("unified/kubepods/besteffort").exists() && root.join("misc/kubepods/burstable").exists());
        fs::remove_dir_all(&root).unwrap();
        // A machine without control groups has nothing to remove.
        cgroups.remove("u1").unwrap();
    }

    #[test]
    fn counts_are_those_of_the_containers_own_group() {
        let root = std::env::temp_dir().join(format!("isopod-node-counts-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        write("pids/kubepods/burstable/podu1/c1/pids.current", "3\n");
        write("cpu/kubepods/burstable/podu1/c1/cpu.stat", "nr_periods 9\nnr_throttled 7\nthrottled_time 1\n");
        write("pids/kubepods/podu2/crio-c2/pids.current", "1\n");
        let cgroups = Cgroups::open(&root, "kubepods");
        assert_eq!(cgroups.counts("u1", "c1"), Counts { processes: Some(3), throttled_periods: Some(7) });
        assert_eq!(cgroups.counts("u2", "c2"), Counts { processes: Some(1), throttled_periods: None });
        assert_eq!(cgroups.counts("u1", "c2"), Counts::default());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn writes_the_files_of_the_unified_hierarchy() {
        let root = std::env::temp_dir().join(format!("isopod-node-cgroup-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
        let cgroups = Cgroups::open(&root, "kubepods");
        let pod = pod(r#"{"name":"a","resources":{"limits":{"cpu":"500m","memory":"64Mi"}}}"#);
        cgroups.create(&pod).unwrap();
        let folder = root.join("kubepods/burstable/podu1");
        assert_eq!(fs::read_to_string(folder.join("cpu.max")).unwrap(), "50000 100000");
        assert_eq!(fs::read_to_string(folder.join("memory.max")).unwrap(), (64 << 20).to_string());
        assert_eq!(fs::read_to_string(folder.join("cpu.weight")).unwrap(), "20");
        assert_eq!(cgroups.path(&pod), "/kubepods/burstable/podu1");
        assert_eq!(cgroups.pods(), ["u1".to_owned()].into());
        fs::remove_dir_all(&root).unwrap();
    }
}
