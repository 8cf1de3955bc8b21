//! Pod sandboxes: what a pod's containers share.

use serde::{Deserialize, Serialize};

use std::net::IpAddr;

use crate::StringMap;
use crate::container::LinuxContainerResources;
use crate::security::{LinuxSandboxSecurityContext, NamespaceOption};

/// Which pod a sandbox is for, and which try it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

/// What to put into `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the host that leads to a port of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host; 0 maps nothing.
    pub host_port: u16,
    /// Address of the host; empty is all.
    pub host_ip: String,
}

/// A sandbox as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    /// Which pod it is for.
    pub metadata: PodSandboxMetadata,
    /// The host name inside; empty for the host's own network.
    pub hostname: String,
    /// Where the log files of its containers are; their `log_path` is relative to it.
    pub log_directory: String,
    /// Name resolution; `None` shows the host's file.
    pub dns_config: Option<DnsConfig>,
    /// Ports of the host that lead inside.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Which of the runtime's handlers is to run it; empty is the default.
    pub runtime_handler: String,
    /// What only Linux has.
    pub linux: LinuxPodSandboxConfig,
}

/// What only Linux has of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxPodSandboxConfig {
    /// The pod's control group, made by the caller, as a path below the hierarchy's root
    /// (`/kubepods/burstable/pod1234`).
    pub cgroup_parent: String,
    /// Security.
    pub security_context: LinuxSandboxSecurityContext,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: StringMap,
    /// What the sandbox itself is allowed beyond its containers.
    pub overhead: Option<LinuxContainerResources>,
    /// The sum of what the containers are allowed.
    pub resources: Option<LinuxContainerResources>,
}

/// Whether containers can run in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// They can.
    Ready,
    /// They cannot, or no longer.
    #[default]
    NotReady,
}

/// A sandbox's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxNetworkStatus {
    /// The pod's address; `None` on the host's network.
    pub ip: Option<IpAddr>,
    /// Further addresses.
    pub additional_ips: Vec<IpAddr>,
}

/// A sandbox as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStatus {
    /// Its id.
    pub id: String,
    /// Which pod it is for.
    pub metadata: PodSandboxMetadata,
    /// Its state.
    pub state: PodSandboxState,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// Its addresses.
    pub network: PodSandboxNetworkStatus,
    /// Which namespaces it has of its own.
    pub namespaces: NamespaceOption,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Which of the runtime's handlers runs it; empty is the default.
    pub runtime_handler: String,
}

/// A sandbox in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandbox {
    /// Its id.
    pub id: String,
    /// Which pod it is for.
    pub metadata: PodSandboxMetadata,
    /// Its state.
    pub state: PodSandboxState,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
}

/// Which sandboxes to list; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxFilter {
    /// Only this one, by id.
    pub id: Option<String>,
    /// Only in this state.
    pub state: Option<PodSandboxState>,
    /// Only with all these labels.
    pub label_selector: StringMap,
}

impl PodSandboxFilter {
    /// Whether `sandbox` is asked for.
    pub fn matches(&self, sandbox: &PodSandbox) -> bool {
        self.id.as_ref().is_none_or(|id| *id == sandbox.id)
            && self.state.is_none_or(|state| state == sandbox.state)
            && self.label_selector.iter().all(|(key, value)| sandbox.labels.get(key) == Some(value))
    }
}

impl From<&PodSandboxStatus> for PodSandbox {
    fn from(status: &PodSandboxStatus) -> Self {
        PodSandbox {
            id: status.id.clone(),
            metadata: status.metadata.clone(),
            state: status.state,
            created_at: status.created_at,
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
        }
    }
}
