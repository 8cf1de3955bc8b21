//! What the runtime has of a pod, as one value.

use std::collections::{BTreeMap, BTreeSet};

use cri::{
    ContainerFilter, ContainerState, ContainerStatus, PodSandboxFilter, PodSandboxState, PodSandboxStatus, Runtime,
    StringMap,
};
use serde::{Deserialize, Serialize};

use super::plan::LOST_CODE;

/// Labels by which upstream's kubelet, and everything that looks over its shoulder, knows what belongs to which pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// The runtime's view of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Newest first.
    pub sandboxes: Vec<PodSandboxStatus>,
    /// Newest first.
    pub containers: Vec<ContainerStatus>,
    /// What the agent itself knows of them.
    pub known: Known,
}

/// What the agent knows of containers and no runtime tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Those that were ended to be started anew, by id: however they end, they are.
    pub again: BTreeSet<String>,
    /// Bytes of memory that each requested when it was last started, by its name.
    pub memory_requests: BTreeMap<String, i64>,
}

impl Seen {
    /// Asks the runtime. What disappears between two questions is left out.
    pub async fn ask(runtime: &dyn Runtime, uid: &str) -> cri::Result<Seen> {
        let labels: StringMap = [(POD_UID.to_owned(), uid.to_owned())].into();
        let mut seen = Seen::default();
        let filter = PodSandboxFilter { label_selector: labels.clone(), ..PodSandboxFilter::default() };
        for sandbox in runtime.list_pod_sandbox(filter).await? {
            match runtime.pod_sandbox_status(&sandbox.id).await {
                Ok(status) => seen.sandboxes.push(status),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let filter = ContainerFilter { label_selector: labels, ..ContainerFilter::default() };
        for container in runtime.list_containers(filter).await? {
            match runtime.container_status(&container.id).await {
                Ok(status) => seen.containers.push(status),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        seen.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.metadata.attempt, sandbox.created_at)));
        seen.containers
            .sort_by_key(|container| std::cmp::Reverse((container.metadata.attempt, container.times.created_at)));
        Ok(seen)
    }

    /// The sandbox that containers can run in.
    pub fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|sandbox| sandbox.state == PodSandboxState::Ready)
    }

    /// The code that decides whether a container that ended is started again.
    pub fn code(&self, container: &ContainerStatus) -> i32 {
        if self.known.again.contains(&container.id) { LOST_CODE } else { container.exit.exit_code }
    }

    /// The newest try of a container.
    pub fn newest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|container| container.metadata.name == name)
    }

    /// The newest try of a container before the one given.
    pub fn before(&self, container: &ContainerStatus) -> Option<&ContainerStatus> {
        self.containers.iter().find(|other| {
            other.metadata.name == container.metadata.name && other.metadata.attempt < container.metadata.attempt
        })
    }

    /// Containers that have processes.
    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|container| container.state == ContainerState::Running)
    }
}
