//! What `pods/resize` may change: cpu and memory of containers that run.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Container, ContainerResizePolicy, Pod, PodSpec, ResourceRequirements};

use crate::absent::{entries, entry, list, text};
use crate::core::pod::resources::{self, Amounts};
use crate::core::pod::{annotations, is_sidecar};

/// Judges a resize. Nothing but resources and resize policies differs.
pub(crate) fn validate(new: &Pod, old: &Pod, faults: &mut FieldErrors) {
    let whole = Path::new("");
    let (new_spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    if entry(&old.metadata.annotations, annotations::MIRROR).is_some() {
        return faults.forbidden(&whole, "static pods cannot be resized");
    }
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return faults.forbidden(&whole, "windows pods cannot be resized");
    }
    if has_pod_level(&new_spec) || has_pod_level(&old_spec) {
        return faults.forbidden(&whole, "pods with pod-level resources cannot be resized");
    }
    let path = Path::new("spec");
    let before = old.status.as_ref().map_or("", |status| text(&status.qos_class));
    if before != resources::quality_of_service(&new_spec) {
        faults.invalid(&path, before, "Pod QOS Class may not change as a result of resizing");
    }
    if !node_supports(old) {
        faults.forbidden(&path, "Pod running on node without support for resize");
    }
    validate_containers(&new_spec, &old_spec, &path, faults);
}

fn has_pod_level(spec: &PodSpec) -> bool {
    let Some(resources) = &spec.resources else { return false };
    entries(&resources.requests).chain(entries(&resources.limits)).next().is_some()
}

/// A node that reports a running container's resources can change them.
fn node_supports(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().map_or(&[][..], |status| list(&status.container_statuses));
    let running = statuses.iter().find(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.is_none_or(|status| status.resources.is_some())
}

fn validate_containers(new: &PodSpec, old: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let (new_init, old_init) = (list(&new.init_containers), list(&old.init_containers));
    if new.containers.len() != old.containers.len() || new_init.len() != old_init.len() {
        return faults.forbidden(path, "only cpu and memory resources are mutable");
    }
    let init_path = path.child("initContainers");
    for (index, (new, old)) in new_init.iter().zip(old_init).enumerate() {
        if is_sidecar(old) {
            validate_amounts(new, old, &init_path.index(index), faults);
            if with_cpu_and_memory_of(new, old) != *old {
                faults.forbidden(path, "only cpu and memory resources for sidecar containers are mutable");
            }
        } else if new != old {
            faults.forbidden(path, "resources for non-sidecar init containers are immutable");
        }
    }
    let main_path = path.child("containers");
    for (index, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        validate_amounts(new, old, &main_path.index(index), faults);
        if with_cpu_and_memory_of(new, old) != *old {
            faults.forbidden(path, "only cpu and memory resources are mutable");
        }
    }
}

fn validate_amounts(new: &Container, old: &Container, path: &Path<'_>, faults: &mut FieldErrors) {
    let path = path.child("resources");
    let (new_resources, old_resources) =
        (new.resources.clone().unwrap_or_default(), old.resources.clone().unwrap_or_default());
    let removed =
        |new: &Option<Amounts>, old: &Option<Amounts>| entries(old).any(|(resource, _)| entry(new, resource).is_none());
    if removed(&new_resources.requests, &old_resources.requests) {
        faults.forbidden(&path.child("requests"), "resource requests cannot be removed");
    }
    if removed(&new_resources.limits, &old_resources.limits) {
        faults.forbidden(&path.child("limits"), "resource limits cannot be removed");
    }
    let of_memory = |policy: &&ContainerResizePolicy| policy.resource_name == "memory";
    let restarts = list(&new.resize_policy)
        .iter()
        .find(of_memory)
        .is_some_and(|policy| policy.restart_policy == "RestartContainer");
    let limit = |resources: &ResourceRequirements| entry(&resources.limits, "memory").map(resources::amount);
    if limit(&new_resources).is_some() && limit(&old_resources).is_none() && !restarts {
        let why = "memory limits cannot be added unless resizePolicy is RestartContainer";
        faults.forbidden(&path.child("limits").key("memory"), why);
    }
}

/// The new container with the cpu and memory of the old one: what differs then, may not.
fn with_cpu_and_memory_of(new: &Container, old: &Container) -> Container {
    let mask = |new: &Option<Amounts>, old: &Option<Amounts>| {
        let mut masked = new.clone().unwrap_or_default();
        for resource in ["cpu", "memory"] {
            masked.remove(resource);
            if let Some(amount) = entry(old, resource) {
                masked.insert(resource.to_owned(), amount.clone());
            }
        }
        old.is_some().then_some(masked)
    };
    let (resources, old_resources) =
        (new.resources.clone().unwrap_or_default(), old.resources.clone().unwrap_or_default());
    let masked = ResourceRequirements {
        limits: mask(&resources.limits, &old_resources.limits),
        requests: mask(&resources.requests, &old_resources.requests),
        claims: resources.claims,
    };
    let resources =
        if old.resources.is_none() && masked == ResourceRequirements::default() { None } else { Some(masked) };
    Container { resources, resize_policy: old.resize_policy.clone(), ..new.clone() }
}
