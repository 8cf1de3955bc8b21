//! What of a pod may change once it exists: next to nothing.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    Affinity, Container, EphemeralContainer, NodeAffinity, NodeSelectorTerm, Pod, PodSpec,
};

use crate::absent::{drop_empty, entries, entry, list, list_mut, text};
use crate::core::pod::{annotations, tolerations};
use crate::names;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Judges an update of the pod itself.
pub(crate) fn validate(new: &Pod, old: &Pod, faults: &mut FieldErrors) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    for (field, containers, old_containers) in [
        ("containers", &new_spec.containers[..], &old_spec.containers[..]),
        ("initContainers", list(&new_spec.init_containers), list(&old_spec.init_containers)),
    ] {
        if !validate_containers(containers, old_containers, &path.child(field), faults) {
            return;
        }
    }
    if !validate_deadline(&new_spec, &old_spec, &path, faults) {
        return;
    }
    let (new_tolerations, old_tolerations) = (list(&new_spec.tolerations), list(&old_spec.tolerations));
    tolerations::validate_only_added(new_tolerations, old_tolerations, &path.child("tolerations"), faults);
    validate_gates(&new_spec, &old_spec, &path.child("schedulingGates"), faults);
    let mut masked = with_changeable_of(&new_spec, &old_spec);
    if !list(&old_spec.scheduling_gates).is_empty() {
        mask_gated(&mut masked, &old_spec, &path, faults);
    }
    let (masked, old_spec) = (canonical(masked), canonical(old_spec));
    if masked != old_spec {
        let why =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", difference(&old_spec, &masked));
        faults.forbidden(&path, why);
    }
}

fn spec_of(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// Tells whether the containers are still the same ones, so that comparing further makes sense.
fn validate_containers(new: &[Container], old: &[Container], path: &Path<'_>, faults: &mut FieldErrors) -> bool {
    if new.len() != old.len() {
        faults.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    true
}

/// A deadline may appear or come closer. Tells whether the rest is worth judging.
fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            faults.invalid(&path, &new, names::out_of_range(0, i32::MAX.into()));
            false
        }
        (Some(new), Some(old)) if old < new => {
            faults.invalid(&path, &new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            faults.invalid(&path, "null", "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn validate_gates(new: &PodSpec, old: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, gate) in list(&new.scheduling_gates).iter().enumerate() {
        if !list(&old.scheduling_gates).contains(gate) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            faults.forbidden(&path.index(index).child("name"), why);
        }
    }
}

/// The new spec with everything that may change taken from the old one: what differs then, may not.
fn with_changeable_of(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut masked = new.clone();
    let images = |masked: &mut [Container], old: &[Container]| {
        for (masked, old) in masked.iter_mut().zip(old) {
            masked.image.clone_from(&old.image);
        }
    };
    images(&mut masked.containers, &old.containers);
    images(list_mut(&mut masked.init_containers), list(&old.init_containers));
    masked.active_deadline_seconds = old.active_deadline_seconds;
    masked.scheduling_gates.clone_from(&old.scheduling_gates);
    masked.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && masked.termination_grace_period_seconds == Some(1)
    {
        masked.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    masked
}

/// A gated pod was not looked at by a scheduler yet: where it may go can be narrowed.
fn mask_gated(masked: &mut PodSpec, old: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if entries(&old.node_selector).any(|(key, value)| entry(&masked.node_selector, key) != Some(value)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        faults.invalid(&path.child("nodeSelector"), &masked.node_selector, why);
    }
    masked.node_selector.clone_from(&old.node_selector);
    let old_node = old.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let new_node = masked.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    if old_node == new_node {
        return;
    }
    validate_node_affinity(new_node.as_ref(), old_node.as_ref(), &path.child("affinity").child("nodeAffinity"), faults);
    let mut affinity = masked.affinity.take().unwrap_or_default();
    affinity.node_affinity = old_node;
    masked.affinity = (old.affinity.is_some() || affinity != Affinity::default()).then_some(affinity);
}

fn validate_node_affinity(
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let terms = |affinity: Option<&NodeAffinity>| {
        let required =
            affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.clone());
        required.map_or(Vec::new(), |required| required.node_selector_terms)
    };
    let (new, old) = (terms(new), terms(old));
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return faults.invalid(&path, &new, why);
    }
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        if !only_adds(new, old) {
            faults.invalid(&path.index(index), new, "only additions are allowed (no mutations or deletions)");
        }
    }
}

fn only_adds(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let matched_nothing = list(&old.match_expressions).is_empty() && list(&old.match_fields).is_empty();
    let matches_something = !list(&new.match_expressions).is_empty() || !list(&new.match_fields).is_empty();
    !(matched_nothing && matches_something)
        && list(&new.match_expressions).starts_with(list(&old.match_expressions))
        && list(&new.match_fields).starts_with(list(&old.match_fields))
}

/// The spec with empty lists absent: a client that writes `[]` changes nothing.
fn canonical(mut spec: PodSpec) -> PodSpec {
    drop_empty(&mut spec.init_containers);
    drop_empty(&mut spec.ephemeral_containers);
    drop_empty(&mut spec.volumes);
    drop_empty(&mut spec.tolerations);
    drop_empty(&mut spec.image_pull_secrets);
    drop_empty(&mut spec.host_aliases);
    drop_empty(&mut spec.readiness_gates);
    drop_empty(&mut spec.scheduling_gates);
    drop_empty(&mut spec.topology_spread_constraints);
    drop_empty(&mut spec.resource_claims);
    for container in spec.containers.iter_mut().chain(list_mut(&mut spec.init_containers)) {
        drop_empty(&mut container.args);
        drop_empty(&mut container.command);
        drop_empty(&mut container.env);
        drop_empty(&mut container.env_from);
        drop_empty(&mut container.ports);
        drop_empty(&mut container.resize_policy);
        drop_empty(&mut container.volume_devices);
        drop_empty(&mut container.volume_mounts);
        if container.resources == Some(Default::default()) {
            container.resources = None;
        }
    }
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        *flag = flag.filter(|flag| *flag);
    }
    spec
}

/// The fields that differ, one a line, old before new.
fn difference(old: &PodSpec, new: &PodSpec) -> String {
    let fields = |spec: &PodSpec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let mut lines = String::new();
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys.into_iter().filter(|key| old.get(*key) != new.get(*key)) {
        for (mark, value) in [('-', old.get(key)), ('+', new.get(key))] {
            if let Some(value) = value {
                lines.push_str(&format!("{mark} \t{key}: {value},\n"));
            }
        }
    }
    lines
}

/// Judges an addition of ephemeral containers. Nothing else of the pod differs.
pub(crate) fn validate_ephemeral(new: &Pod, old: &Pod, faults: &mut FieldErrors) {
    if entry(&old.metadata.annotations, annotations::MIRROR).is_some() {
        return faults.forbidden(&Path::new(""), "static pods do not support ephemeral containers");
    }
    let spec = Path::new("spec");
    let path = spec.child("ephemeralContainers");
    let (new, old) = (spec_of(new), spec_of(old));
    for old in list(&old.ephemeral_containers) {
        let same_name = |new: &&EphemeralContainer| new.name == old.name;
        match list(&new.ephemeral_containers).iter().find(same_name) {
            None => {
                faults.forbidden(&path, format!("existing ephemeral containers {:?} may not be removed\n", old.name))
            }
            Some(new) if new != old => {
                faults.forbidden(&path, format!("existing ephemeral containers {:?} may not be changed\n", old.name));
            }
            Some(_) => {}
        }
    }
}

/// Whether the pod's node was chosen by the writer of its status, which is nobody's to do.
pub(crate) fn node_changed(new: &Pod, old: &Pod) -> bool {
    let node = |pod: &Pod| pod.spec.as_ref().map_or(String::new(), |spec| text(&spec.node_name).to_owned());
    node(new) != node(old)
}
