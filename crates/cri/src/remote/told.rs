//! What a runtime tells, out of CRI's messages. Pure. What a runtime leaves out has the value that CRI gives it.

use super::asked::{RTMIN, SIGNALS};
use super::proto;
use crate::container::{
    Container, ContainerExit, ContainerImage, ContainerMetadata, ContainerState, ContainerStatus, ContainerTimes,
    ContainerUser, HugepageLimit, LinuxContainerResources, LinuxContainerStatus, Mount, MountPropagation,
};
use crate::event::{ContainerEvent, ContainerEventType};
use crate::image::{FilesystemUsage, Image, ImageFsInfo, ImageSpec, ImageUser};
use crate::sandbox::{PodSandbox, PodSandboxMetadata, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus};
use crate::security::{NamespaceMode, NamespaceOption};
use crate::service::{RuntimeCondition, RuntimeHandler, RuntimeStatus};
use crate::stats::{ContainerStats, CpuUsage, MemoryUsage, PodSandboxStats};

/// A signal's name; none for the image's own.
pub(super) fn signal(number: i32) -> String {
    match number {
        RTMIN => "SIGRTMIN".into(),
        36..=50 => format!("SIGRTMIN+{}", number - RTMIN),
        51..=64 => format!("SIGRTMAX-{}", RTMIN + 30 - number),
        65 => "SIGRTMAX".into(),
        number => {
            let index = usize::try_from(number - 1).ok();
            index.and_then(|index| SIGNALS.get(index)).map(ToString::to_string).unwrap_or_default()
        }
    }
}

pub(super) fn status(told: proto::StatusResponse) -> RuntimeStatus {
    let condition = |told: proto::RuntimeCondition| RuntimeCondition {
        condition_type: told.kind,
        status: told.status,
        reason: told.reason,
        message: told.message,
    };
    let handler = |told: proto::RuntimeHandler| {
        let features = told.features.unwrap_or_default();
        RuntimeHandler {
            name: told.name,
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        }
    };
    RuntimeStatus {
        conditions: told.status.unwrap_or_default().conditions.into_iter().map(condition).collect(),
        handlers: told.runtime_handlers.into_iter().map(handler).collect(),
        supplemental_groups_policy: told.features.unwrap_or_default().supplemental_groups_policy,
    }
}

fn sandbox_metadata(told: Option<proto::PodSandboxMetadata>) -> PodSandboxMetadata {
    let proto::PodSandboxMetadata { name, uid, namespace, attempt } = told.unwrap_or_default();
    PodSandboxMetadata { name, uid, namespace, attempt }
}

fn sandbox_state(told: i32) -> PodSandboxState {
    if told == 0 { PodSandboxState::Ready } else { PodSandboxState::NotReady }
}

pub(super) fn sandbox(told: proto::PodSandbox) -> PodSandbox {
    PodSandbox {
        id: told.id,
        metadata: sandbox_metadata(told.metadata),
        state: sandbox_state(told.state),
        created_at: told.created_at,
        labels: told.labels,
        annotations: told.annotations,
    }
}

pub(super) fn sandbox_status(told: proto::PodSandboxStatus) -> PodSandboxStatus {
    let network = told.network.unwrap_or_default();
    let options = told.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    PodSandboxStatus {
        id: told.id,
        metadata: sandbox_metadata(told.metadata),
        state: sandbox_state(told.state),
        created_at: told.created_at,
        network: PodSandboxNetworkStatus {
            ip: network.ip.parse().ok(),
            additional_ips: network.additional_ips.iter().filter_map(|told| told.ip.parse().ok()).collect(),
        },
        namespaces: namespaces(options.unwrap_or_default()),
        labels: told.labels,
        annotations: told.annotations,
        runtime_handler: told.runtime_handler,
    }
}

fn namespaces(told: proto::NamespaceOption) -> NamespaceOption {
    let mode = |mode: i32| match mode {
        1 => NamespaceMode::Container,
        2 => NamespaceMode::Node,
        3 => NamespaceMode::Target(told.target_id.clone()),
        _ => NamespaceMode::Pod,
    };
    NamespaceOption { network: mode(told.network), pid: mode(told.pid), ipc: mode(told.ipc), users: None }
}

fn container_metadata(told: Option<proto::ContainerMetadata>) -> ContainerMetadata {
    let proto::ContainerMetadata { name, attempt } = told.unwrap_or_default();
    ContainerMetadata { name, attempt }
}

fn container_state(told: i32) -> ContainerState {
    match told {
        0 => ContainerState::Created,
        1 => ContainerState::Running,
        2 => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

fn image_spec(told: Option<proto::ImageSpec>) -> ImageSpec {
    let proto::ImageSpec { image, user_specified_image, annotations } = told.unwrap_or_default();
    ImageSpec { image, user_specified_image, annotations }
}

/// Which image a container runs. Older runtimes do not tell its id apart from the reference.
fn container_image(spec: Option<proto::ImageSpec>, image_ref: String, image_id: String) -> ContainerImage {
    let spec = image_spec(spec);
    let is_id = |text: &str| text.starts_with("sha256:");
    let image_id = match image_id.is_empty() {
        false => image_id,
        true if is_id(&image_ref) => image_ref.clone(),
        true if is_id(&spec.image) => spec.image.clone(),
        true => String::new(),
    };
    ContainerImage { spec, image_ref, image_id }
}

pub(super) fn container(told: proto::Container) -> Container {
    Container {
        id: told.id,
        pod_sandbox_id: told.pod_sandbox_id,
        metadata: container_metadata(told.metadata),
        image: container_image(told.image, told.image_ref, told.image_id),
        state: container_state(told.state),
        created_at: told.created_at,
        labels: told.labels,
        annotations: told.annotations,
    }
}

/// A container's status; which sandbox it belongs to is told elsewhere.
pub(super) fn container_status(told: proto::ContainerStatus, pod_sandbox_id: String) -> ContainerStatus {
    let state = container_state(told.state);
    let user = told.user.and_then(|user| user.linux);
    ContainerStatus {
        id: told.id,
        pod_sandbox_id,
        metadata: container_metadata(told.metadata),
        state,
        times: ContainerTimes {
            created_at: told.created_at,
            started_at: told.started_at,
            finished_at: told.finished_at,
        },
        exit: ContainerExit { exit_code: told.exit_code, reason: told.reason, message: told.message },
        image: container_image(told.image, told.image_ref, told.image_id),
        labels: told.labels,
        annotations: told.annotations,
        mounts: told.mounts.into_iter().map(mount).collect(),
        log_path: told.log_path,
        linux: LinuxContainerStatus {
            resources: told.resources.and_then(|resources| resources.linux).map(resources).unwrap_or_default(),
            user: user.map(|user| ContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: user.supplemental_groups,
            }),
            stop_signal: signal(told.stop_signal),
            pid: None,
        },
    }
}

fn mount(told: proto::Mount) -> Mount {
    Mount {
        container_path: told.container_path,
        host_path: told.host_path,
        image: told.image.map(|image| image_spec(Some(image))),
        sub_path: told.image_sub_path,
        readonly: told.readonly,
        recursive_read_only: told.recursive_read_only,
        selinux_relabel: told.selinux_relabel,
        propagation: match told.propagation {
            1 => MountPropagation::HostToContainer,
            2 => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
    }
}

fn resources(told: proto::LinuxContainerResources) -> LinuxContainerResources {
    let pages = told.hugepage_limits.into_iter();
    LinuxContainerResources {
        cpu_period: told.cpu_period,
        cpu_quota: told.cpu_quota,
        cpu_shares: told.cpu_shares,
        memory_limit_in_bytes: told.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: told.memory_swap_limit_in_bytes,
        oom_score_adj: told.oom_score_adj,
        cpuset_cpus: told.cpuset_cpus,
        cpuset_mems: told.cpuset_mems,
        hugepage_limits: pages.map(|page| HugepageLimit { page_size: page.page_size, limit: page.limit }).collect(),
        unified: told.unified,
    }
}

/// What happened; nothing of a kind that is not known.
pub(super) fn event(told: proto::ContainerEventResponse) -> Option<ContainerEvent> {
    let event_type = match told.container_event_type {
        0 => ContainerEventType::Created,
        1 => ContainerEventType::Started,
        2 => ContainerEventType::Stopped,
        3 => ContainerEventType::Deleted,
        _ => return None,
    };
    let sandbox = told.pod_sandbox_status.unwrap_or_default();
    Some(ContainerEvent {
        container_id: told.container_id,
        pod_sandbox_id: sandbox.id,
        pod: sandbox_metadata(sandbox.metadata),
        event_type,
        created_at: told.created_at,
    })
}

pub(super) fn image(told: proto::Image) -> Image {
    let user = match (told.uid, told.username) {
        (Some(uid), _) => ImageUser::Uid(uid.value),
        (None, name) if name.is_empty() => ImageUser::Unset,
        (None, name) => ImageUser::Username(name),
    };
    Image {
        id: told.id,
        repo_tags: told.repo_tags,
        repo_digests: told.repo_digests,
        size_bytes: told.size,
        user,
        spec: image_spec(told.spec),
        pinned: told.pinned,
    }
}

fn value(told: Option<proto::UInt64Value>) -> u64 {
    told.map_or(0, |told| told.value)
}

fn filesystem(told: proto::FilesystemUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: told.timestamp,
        mountpoint: told.fs_id.unwrap_or_default().mountpoint,
        used_bytes: value(told.used_bytes),
        inodes_used: value(told.inodes_used),
    }
}

pub(super) fn image_fs_info(told: proto::ImageFsInfoResponse) -> ImageFsInfo {
    ImageFsInfo {
        image_filesystems: told.image_filesystems.into_iter().map(filesystem).collect(),
        container_filesystems: told.container_filesystems.into_iter().map(filesystem).collect(),
    }
}

fn cpu(told: Option<proto::CpuUsage>) -> CpuUsage {
    let told = told.unwrap_or_default();
    CpuUsage {
        timestamp: told.timestamp,
        usage_core_nano_seconds: value(told.usage_core_nano_seconds),
        // CRI does not tell.
        throttled_periods: None,
    }
}

fn memory(told: Option<proto::MemoryUsage>) -> MemoryUsage {
    let told = told.unwrap_or_default();
    MemoryUsage {
        timestamp: told.timestamp,
        working_set_bytes: value(told.working_set_bytes),
        available_bytes: told.available_bytes.map(|told| told.value).filter(|available| *available > 0),
        usage_bytes: value(told.usage_bytes),
        rss_bytes: value(told.rss_bytes),
        page_faults: value(told.page_faults),
        major_page_faults: value(told.major_page_faults),
    }
}

pub(super) fn container_stats(told: proto::ContainerStats, pod_sandbox_id: String) -> ContainerStats {
    let attributes = told.attributes.unwrap_or_default();
    ContainerStats {
        id: attributes.id,
        pod_sandbox_id,
        metadata: container_metadata(attributes.metadata),
        cpu: cpu(told.cpu),
        memory: memory(told.memory),
        // CRI tells it of whole pods only.
        process_count: None,
        writable_layer: told.writable_layer.map(filesystem),
    }
}

pub(super) fn sandbox_stats(told: proto::PodSandboxStats) -> PodSandboxStats {
    let (attributes, linux) = (told.attributes.unwrap_or_default(), told.linux.unwrap_or_default());
    let containers = linux.containers.into_iter();
    PodSandboxStats {
        metadata: sandbox_metadata(attributes.metadata),
        cpu: cpu(linux.cpu),
        memory: memory(linux.memory),
        process_count: linux.process.and_then(|process| process.process_count).map_or(0, |count| count.value),
        containers: containers.map(|container| container_stats(container, attributes.id.clone())).collect(),
        id: attributes.id,
    }
}
