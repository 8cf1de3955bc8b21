//! Rules for node and pod affinity.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::absent::{entries, list};
use crate::faults::each_invalid;
use crate::{names, selector};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Judges `affinity`.
pub(crate) fn validate(affinity: &Affinity, path: &Path<'_>, faults: &mut FieldErrors) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            validate_node_selector(required, &path.child(REQUIRED), faults);
        }
        let preferred = path.child(PREFERRED);
        let terms = list(&node.preferred_during_scheduling_ignored_during_execution);
        for (index, term) in terms.iter().enumerate() {
            let path = preferred.index(index);
            validate_weight(term.weight, &path, faults);
            validate_term(&term.preference, Values::Any, &path.child("preference"), faults);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        validate_pod_terms(
            list(&pod.required_during_scheduling_ignored_during_execution),
            &path.child(REQUIRED),
            faults,
        );
        validate_weighted(
            list(&pod.preferred_during_scheduling_ignored_during_execution),
            &path.child(PREFERRED),
            faults,
        );
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        validate_pod_terms(
            list(&pod.required_during_scheduling_ignored_during_execution),
            &path.child(REQUIRED),
            faults,
        );
        validate_weighted(
            list(&pod.preferred_during_scheduling_ignored_during_execution),
            &path.child(PREFERRED),
            faults,
        );
    }
}

/// Whether values have to be possible values of labels: a preference that never matches does no harm.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    OfLabels,
    Any,
}

fn validate_weight(weight: i32, path: &Path<'_>, faults: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        faults.invalid(&path.child("weight"), &weight, "must be in the range 1-100");
    }
}

fn validate_node_selector(selector: &NodeSelector, path: &Path<'_>, faults: &mut FieldErrors) {
    let terms = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        faults.required(&terms, "must have at least one node selector term");
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        validate_term(term, Values::OfLabels, &terms.index(index), faults);
    }
}

fn validate_term(term: &NodeSelectorTerm, values: Values, path: &Path<'_>, faults: &mut FieldErrors) {
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(&term.match_expressions).iter().enumerate() {
        validate_requirement(requirement, values, &expressions.index(index), faults);
    }
    let fields = path.child("matchFields");
    for (index, requirement) in list(&term.match_fields).iter().enumerate() {
        validate_field_requirement(requirement, &fields.index(index), faults);
    }
}

fn validate_requirement(
    requirement: &NodeSelectorRequirement,
    kind: Values,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let values = list(&requirement.values);
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            faults.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            faults.forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            faults.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => faults.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    each_invalid(faults, &path.child("key"), &requirement.key, names::qualified(&requirement.key));
    for (index, value) in values.iter().enumerate().filter(|_| kind == Values::OfLabels) {
        each_invalid(faults, &values_path.index(index), value, names::label_value(value));
    }
}

fn validate_field_requirement(requirement: &NodeSelectorRequirement, path: &Path<'_>, faults: &mut FieldErrors) {
    let values = list(&requirement.values);
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            faults.required(&values_path, why);
        }
        "In" | "NotIn" => {}
        other => faults.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if requirement.key != "metadata.name" {
        return faults.invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
    }
    for (index, value) in values.iter().enumerate() {
        each_invalid(faults, &values_path.index(index), value, names::dns_subdomain(value));
    }
}

fn validate_pod_terms(terms: &[PodAffinityTerm], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, term) in terms.iter().enumerate() {
        validate_pod_term(term, &path.index(index), faults);
    }
}

fn validate_weighted(terms: &[WeightedPodAffinityTerm], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        validate_weight(term.weight, &path, faults);
        validate_pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), faults);
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path<'_>, faults: &mut FieldErrors) {
    selector::validate(term.label_selector.as_ref(), &path.child("labelSelector"), faults);
    selector::validate(term.namespace_selector.as_ref(), &path.child("namespaceSelector"), faults);
    for namespace in list(&term.namespaces) {
        each_invalid(faults, &path.child("namespace"), namespace, names::dns_label(namespace));
    }
    let (matched, mismatched) = (list(&term.match_label_keys), list(&term.mismatch_label_keys));
    validate_keys(matched, term.label_selector.as_ref(), &path.child("matchLabelKeys"), faults);
    validate_keys(mismatched, term.label_selector.as_ref(), &path.child("mismatchLabelKeys"), faults);
    validate_merged_keys(matched, term.label_selector.as_ref(), path, faults);
    let matched_path = path.child("matchLabelKeys");
    for (index, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        faults.invalid(&matched_path.index(index), key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    let topology_path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        faults.required(&topology_path, "can not be empty");
    }
    each_invalid(faults, &topology_path, &term.topology_key, names::qualified(&term.topology_key));
}

fn validate_keys(keys: &[String], selector: Option<&LabelSelector>, path: &Path<'_>, faults: &mut FieldErrors) {
    if !keys.is_empty() && selector.is_none() {
        return faults.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (index, key) in keys.iter().enumerate() {
        each_invalid(faults, &path.index(index), key, names::qualified(key));
    }
}

/// A key's requirement was merged into the selector before; a second one of that key came from the user.
pub(crate) fn validate_merged_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let Some(selector) = selector else { return };
    let mut seen: Vec<&String> = entries(&selector.match_labels).map(|(key, _)| key).collect();
    for requirement in list(&selector.match_expressions) {
        let place = keys.iter().position(|key| *key == requirement.key);
        if let Some(place) = place.filter(|_| seen.contains(&&requirement.key)) {
            faults.invalid(&path.index(place), &requirement.key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(&requirement.key);
    }
}
