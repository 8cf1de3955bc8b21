//! One pod on this node: what is wanted, what is there, what to do next, and what to tell.

pub mod create;
pub mod env;
pub mod images;
pub mod memory;
pub mod plan;
pub mod seen;
pub mod status;
pub mod steps;
pub mod unhonoured;
pub mod worker;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Whether a container runs before the others or with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// To its end, in order, before the next.
    Init,
    /// Together with its peers.
    Main,
}

/// The pod's specification; an empty one for a pod without, which validation refuses.
pub fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// Every container with its role, in the order they start.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| (Role::Init, container));
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
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
