//! One pod on this node: what is wanted, what is there, what to do next, and what to tell.

pub mod create;
pub mod dns;
pub mod env;
pub mod env_file;
pub mod images;
pub mod memory;
pub mod plan;
pub mod pulled;
pub mod seen;
pub mod status;
pub mod steps;
pub mod unhonoured;
pub mod worker;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// When a container runs with regard to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// To its end, in order, before the next.
    Init,
    /// Begun in order with the former, and running until all of its later peers have ended.
    Sidecar,
    /// Together with its peers.
    Main,
    /// Added to a pod that runs, once.
    Ephemeral,
}

/// The pod's specification; an empty one for a pod without, which validation refuses.
pub fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// Every container that a pod is made with, with its role, in the order they start.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| (init_role(container), container));
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// The role of a container among those of `initContainers`. Upstream: `IsRestartableInitContainer`.
pub fn init_role(container: &Container) -> Role {
    match container.restart_policy.as_deref() {
        Some("Always") => Role::Sidecar,
        _ => Role::Init,
    }
}

/// A container of any role by its name, ephemeral ones as the others see them.
pub fn find_container(spec: &PodSpec, name: &str) -> Option<(Role, Container)> {
    let ordinary = containers(spec).find(|(_, container)| container.name == name);
    let ephemeral = || spec.ephemeral_containers.iter().flatten().find(|container| container.name == name);
    ordinary
        .map(|(role, container)| (role, container.clone()))
        .or_else(|| ephemeral().map(|container| (Role::Ephemeral, ordinary_form(container))))
}

/// An ephemeral container in the shape of the others.
pub fn ordinary_form(ephemeral: &EphemeralContainer) -> Container {
    let own = ephemeral.clone();
    Container {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        name: own.name,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
        // Neither ports, probes, hooks, resources nor restarts: validation refuses them.
        ..Container::default()
    }
}

/// The address that the pod is reached at: its own, or the node's when it lives in the node's network.
pub fn address(pod: &Pod, seen: &seen::Seen, host_ip: &str) -> Option<std::net::IpAddr> {
    let sandbox = seen.sandboxes.first()?;
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    if host_network { host_ip.parse().ok() } else { sandbox.network.ip }
}

/// `metadata.uid`
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `metadata.namespace`
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `metadata.name`
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod as upstream's kubelet names it in messages: `name_namespace(uid)`.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}
