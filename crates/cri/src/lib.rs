//! The contract with a container runtime, in the terms of Kubernetes' Container Runtime Interface v1.
//!
//! The structs are CRI's messages as plain Rust; where a message has more than a dozen fields, those that belong
//! together are grouped. Streams (exec) are in-process pipes rather than CRI's URLs. [`remote`] is a runtime behind CRI's socket.
//!
//! Architecture Invariant: nothing of the Kubernetes API is known here, and no runtime is preferred.

pub mod beneath;
pub mod container;
pub mod error;
pub mod event;
pub mod exec;
pub mod fake;
pub mod image;
pub mod reference;
pub mod remote;
pub mod sandbox;
pub mod security;
pub mod service;
pub mod stats;

pub use container::{
    Container, ContainerConfig, ContainerExit, ContainerFilter, ContainerImage, ContainerMetadata, ContainerState,
    ContainerStatus, ContainerTimes, ContainerUser, Device, HugepageLimit, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerStatus, Mount, MountPropagation, Terminal,
};
pub use error::{Error, PullFailure, Result};
pub use event::{ContainerEvent, ContainerEventType, EventSender, Events, RuntimeEvent};
pub use exec::{AttachRequest, Duplex, ExecRequest, ExecSession, ExecSyncResponse, TerminalSize};
pub use image::{AuthConfig, FilesystemUsage, Image, ImageFsInfo, ImageSpec, ImageUser, PullImageRequest};
pub use sandbox::{
    DnsConfig, LinuxPodSandboxConfig, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus, PortMapping, Protocol,
};
pub use security::{
    Capability, IdRange, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, MASKED_PATHS, NamespaceMode,
    NamespaceOption, READONLY_PATHS, RunAs, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};
pub use service::{
    ImageService, Runtime, RuntimeCondition, RuntimeHandler, RuntimeService, RuntimeStatus, VersionResponse,
};
pub use stats::{ContainerStats, CpuUsage, MemoryUsage, PodSandboxStats};

/// Labels or annotations.
pub type StringMap = std::collections::BTreeMap<String, String>;
