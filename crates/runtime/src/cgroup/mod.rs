//! Control groups, as files below a root: version 1 with a folder per controller, or version 2's one tree.
//!
//! Everything here reads and writes files only, so that both versions can be tested with a made-up root.

mod device;
mod files;
mod stats;
mod sys;
mod values;

use std::io;
use std::path::{Path, PathBuf};

use cri::LinuxContainerResources;
use shim::spec::CgroupSpec;

pub use device::DeviceRule;
pub use stats::Usage;

/// The controllers of version 1 that containers are put into, where they are mounted.
const V1_CONTROLLERS: [&str; 12] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio",
    "systemd",
];

/// The controllers of version 2 that groups pass on to their children, where the kernel has them.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// One tree of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where it is mounted.
    root: PathBuf,
    /// Its controllers in version 1 (`cpu,cpuacct`); empty in version 2.
    name: String,
}

/// The machine's control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    unified: bool,
}

/// Why control groups could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct CgroupError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The result of working on control groups.
pub type Result<T> = std::result::Result<T, CgroupError>;

/// Makes an error of `source`.
fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { operation, path, source }
}

impl Cgroups {
    /// What is mounted at `root` (usually `/sys/fs/cgroup`).
    pub fn detect(root: &Path) -> Result<Cgroups> {
        if root.join("cgroup.controllers").exists() {
            let hierarchy = Hierarchy { root: root.to_owned(), name: String::new() };
            return Ok(Cgroups { hierarchies: vec![hierarchy], unified: true });
        }
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for controller in V1_CONTROLLERS {
            // `cpu` often is a link to `cpu,cpuacct`.
            let Ok(root) = root.join(controller).canonicalize() else { continue };
            if hierarchies.iter().any(|known| known.root == root) || !root.join("tasks").exists() {
                continue;
            }
            let folder = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let name = if folder == "systemd" { "name=systemd".to_owned() } else { folder };
            hierarchies.push(Hierarchy { root, name });
        }
        if hierarchies.is_empty() {
            let source = io::Error::new(io::ErrorKind::NotFound, "no control groups are mounted");
            return Err(failed("open", root)(source));
        }
        Ok(Cgroups { hierarchies, unified: false })
    }

    /// Whether this is version 2.
    pub fn unified(&self) -> bool {
        self.unified
    }

    /// The names of version 1's hierarchies, as a mount's options take them.
    pub fn v1_names(&self) -> impl Iterator<Item = &str> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.name.as_str()).filter(|_| !self.unified)
    }

    /// The folder of `group` in the hierarchy with `controller`.
    fn folder(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let has = |hierarchy: &&Hierarchy| self.unified || hierarchy.name.split(',').any(|name| name == controller);
        self.hierarchies.iter().find(has).map(|hierarchy| below(&hierarchy.root, group))
    }

    fn folders(&self, group: &str) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(move |hierarchy| below(&hierarchy.root, group))
    }

    /// Makes `group` (a path such as `/kubepods/pod1/container`) with its parents, where it does not exist. In version 2
    /// the parents pass their controllers on, so that they can have no processes of their own.
    pub fn create(&self, group: &str) -> Result<()> {
        let names: Vec<&str> = names(group).collect();
        for Hierarchy { root, name } in &self.hierarchies {
            let cpuset = name.split(',').any(|name| name == "cpuset");
            let mut folder = root.clone();
            for name in &names {
                if self.unified {
                    pass_controllers_on(&folder)?;
                }
                let parent = folder.clone();
                folder.push(name);
                match std::fs::create_dir(&folder) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(failed("create control group", &folder)(error));
                    }
                    _ if cpuset => inherit_cpuset(&parent, &folder)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Sets what `resources` says of `group`; what it leaves out stays.
    pub fn set(&self, group: &str, resources: &LinuxContainerResources) -> Result<()> {
        let settings = if self.unified { values::v2(resources) } else { values::v1(resources) };
        let apply = |setting: &values::Setting| match self.folder(setting.controller, group) {
            Some(folder) => files::apply(&folder, setting),
            None => Ok(()),
        };
        // Version 1 has two limits of memory, with and without swap, of which the former must never be the lower one: where both
        // rise, the first that is written fails until the other is.
        let mut again = Vec::new();
        for setting in settings {
            match apply(&setting) {
                Err(_) if setting.controller == "memory" && !self.unified => again.push(setting),
                outcome => outcome?,
            }
        }
        again.iter().try_for_each(apply)
    }

    /// Allows `group` exactly the given devices.
    pub fn set_devices(&self, group: &str, rules: &[DeviceRule]) -> Result<()> {
        match self.folder("devices", group) {
            Some(folder) if self.unified => device::attach(&folder, rules),
            Some(folder) => {
                files::write(&folder.join("devices.deny"), "a")?;
                rules.iter().try_for_each(|rule| files::write(&folder.join("devices.allow"), &rule.to_string()))
            }
            None => Ok(()),
        }
    }

    /// What a supervisor needs to know of `group`.
    pub fn spec(&self, group: &str) -> CgroupSpec {
        let oom_file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        CgroupSpec {
            folders: self.folders(group).map(text).collect(),
            unified: self.unified,
            oom_file: self.folder("memory", group).map(|folder| text(folder.join(oom_file))).unwrap_or_default(),
        }
    }

    /// Kills every process of `group` and its children. They may still be ending when this answers.
    pub fn kill(&self, group: &str) -> Result<()> {
        self.folders(group).take(1).filter(|folder| folder.exists()).try_for_each(|folder| files::kill(&folder))
    }

    /// Whether no process is in `group` or its children; a missing group is empty.
    pub fn is_empty(&self, group: &str) -> bool {
        self.folders(group).take(1).all(|folder| files::is_empty(&folder))
    }

    /// Removes `group` and its children, which must be empty of processes; missing ones are success.
    pub fn remove(&self, group: &str) -> Result<()> {
        self.folders(group).try_for_each(|folder| files::remove(&folder))
    }

    /// Removes `group` if it has neither processes nor children; answers whether it is gone everywhere.
    pub fn remove_if_empty(&self, group: &str) -> bool {
        // All are tried, whatever becomes of the others.
        let left: Vec<PathBuf> =
            self.folders(group).filter(|folder| std::fs::remove_dir(folder).is_err() && folder.exists()).collect();
        left.is_empty()
    }

    /// What `group` uses.
    pub fn usage(&self, group: &str) -> Result<Usage> {
        match self.unified {
            true => stats::v2(&below(&self.hierarchies[0].root, group)),
            false => stats::v1(|controller| self.folder(controller, group)),
        }
    }
}

fn names(group: &str) -> impl Iterator<Item = &str> {
    group.split('/').filter(|name| !name.is_empty() && *name != "." && *name != "..")
}

fn below(root: &Path, group: &str) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(names(group));
    path
}

/// Lets children of `folder` use the controllers that it has itself.
fn pass_controllers_on(folder: &Path) -> Result<()> {
    let available = files::read(&folder.join("cgroup.controllers"))?;
    let passed = files::read(&folder.join("cgroup.subtree_control"))?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    for controller in V2_CONTROLLERS {
        if has(&available, controller) && !has(&passed, controller) {
            files::write(&folder.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// Version 1 gives a new group no processors at all: then it takes its parent's.
fn inherit_cpuset(parent: &Path, folder: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(name), folder.join(name));
        if !files::read(&to)?.trim().is_empty() {
            continue;
        }
        files::write(&to, files::read(&from)?.trim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
