//! What the server alone sets on pods. Upstream: `pkg/registry/core/pod/strategy.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::absent::{entry, list, list_mut, text};
use crate::core::pod::{defaults, resources};
use crate::def::{Rules, Writer};
use crate::meta;

/// Puts back what `writer` may not change.
pub(crate) fn reset(new: &mut Pod, old: Option<&Pod>, writer: Writer, _: &Rules<'_>) {
    let Some(old) = old else {
        return create(new);
    };
    match writer {
        Writer::Status => return status(new, old),
        Writer::Binding => return,
        Writer::EphemeralContainers => {
            let containers = new.spec.as_mut().and_then(|spec| spec.ephemeral_containers.take());
            keep_all_but_spec(new, old);
            new.spec.get_or_insert_default().ephemeral_containers = containers;
        }
        Writer::Resize => resize(new, old),
        _ => new.status.clone_from(&old.status),
    }
    if let Some(spec) = &mut new.spec {
        drop_disabled(spec);
    }
    let changed = new.spec != old.spec;
    meta::count_generation(&mut new.metadata, Some(&old.metadata), changed);
}

fn create(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    drop_disabled(spec);
    let gated = !list(&spec.scheduling_gates).is_empty();
    pod.status = Some(PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some(resources::quality_of_service(spec).to_owned()),
        conditions: gated.then(|| vec![gated_condition()]),
        ..PodStatus::default()
    });
    merge_label_keys(spec, &pod.metadata.labels);
    meta::count_generation(&mut pod.metadata, None, true);
}

fn gated_condition() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..PodCondition::default()
    }
}

/// Fields behind feature gates that are off by default at this level are dropped, as upstream does; names that say the
/// same are made to agree.
pub(crate) fn drop_disabled(spec: &mut PodSpec) {
    // Admission may have given the account after defaulting.
    defaults::service_account(spec);
    spec.scheduling_group = None;
    for volume in list_mut(&mut spec.volumes) {
        let sources = volume.projected.as_mut().map_or(&mut [][..], |projected| list_mut(&mut projected.sources));
        for source in sources {
            source.cluster_trust_bundle = None;
            source.pod_certificate = None;
        }
    }
}

/// Turns `matchLabelKeys` into requirements on the pod's own labels, so that a scheduler need not know the pod's template.
fn merge_label_keys(spec: &mut PodSpec, labels: &Option<BTreeMap<String, String>>) {
    if let Some(affinity) = &mut spec.affinity {
        let pod = affinity.pod_affinity.as_mut().map(|affinity| {
            (
                &mut affinity.required_during_scheduling_ignored_during_execution,
                &mut affinity.preferred_during_scheduling_ignored_during_execution,
            )
        });
        let anti = affinity.pod_anti_affinity.as_mut().map(|affinity| {
            (
                &mut affinity.required_during_scheduling_ignored_during_execution,
                &mut affinity.preferred_during_scheduling_ignored_during_execution,
            )
        });
        for (required, preferred) in pod.into_iter().chain(anti) {
            let preferred = list_mut(preferred).iter_mut().map(|weighted| &mut weighted.pod_affinity_term);
            for term in list_mut(required).iter_mut().chain(preferred) {
                let Some(selector) = &mut term.label_selector else { continue };
                require(selector, list(&term.match_label_keys), "In", labels);
                require(selector, list(&term.mismatch_label_keys), "NotIn", labels);
            }
        }
    }
    for constraint in list_mut(&mut spec.topology_spread_constraints) {
        if let Some(selector) = &mut constraint.label_selector {
            require(selector, list(&constraint.match_label_keys), "In", labels);
        }
    }
}

fn require(selector: &mut LabelSelector, keys: &[String], operator: &str, labels: &Option<BTreeMap<String, String>>) {
    for key in keys {
        if let Some(value) = entry(labels, key) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
}

fn status(new: &mut Pod, old: &Pod) {
    new.spec.clone_from(&old.spec);
    new.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
    new.metadata.owner_references.clone_from(&old.metadata.owner_references);
    let status = new.status.get_or_insert_default();
    let old_status = old.status.clone().unwrap_or_default();
    if text(&status.qos_class).is_empty() {
        status.qos_class = old_status.qos_class;
    }
    if status.observed_generation.unwrap_or(0) == 0 {
        status.observed_generation = old_status.observed_generation;
    }
    for condition in list_mut(&mut status.conditions) {
        let before = list(&old_status.conditions).iter().find(|old| old.type_ == condition.type_);
        if condition.observed_generation.unwrap_or(0) == 0 {
            condition.observed_generation = before.and_then(|old| old.observed_generation);
        }
    }
}

/// Everything but the spec's part that the writer is for, from the old pod.
fn keep_all_but_spec(new: &mut Pod, old: &Pod) {
    let managed_fields = new.metadata.managed_fields.take();
    let resource_version = new.metadata.resource_version.take();
    *new = old.clone();
    new.metadata.managed_fields = managed_fields;
    new.metadata.resource_version = resource_version;
}

fn resize(new: &mut Pod, old: &Pod) {
    let (new_spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let same = |new: &[Container], old: &[Container]| {
        new.len() == old.len() && new.iter().zip(old).all(|(new, old)| new.name == old.name)
    };
    let (new_init, old_init) = (list(&new_spec.init_containers), list(&old_spec.init_containers));
    if !same(&new_spec.containers, &old_spec.containers) || !same(new_init, old_init) {
        // Not a resize: left as it is, for validation to refuse.
        return;
    }
    keep_all_but_spec(new, old);
    let spec = new.spec.get_or_insert_default();
    take_resources(&mut spec.containers, &new_spec.containers);
    take_resources(list_mut(&mut spec.init_containers), new_init);
}

fn take_resources(containers: &mut [Container], from: &[Container]) {
    for (container, from) in containers.iter_mut().zip(from) {
        container.resources.clone_from(&from.resources);
        container.resize_policy.clone_from(&from.resize_policy);
    }
}
