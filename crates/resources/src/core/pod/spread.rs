//! Rules for topology spread constraints.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::absent::list;
use crate::core::pod::affinity;
use crate::faults::{choice, each_invalid};
use crate::{names, selector};

/// Judges `topologySpreadConstraints`.
pub(crate) fn validate(constraints: &[TopologySpreadConstraint], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        validate_one(constraint, &path, faults);
        let same = |later: &TopologySpreadConstraint| {
            (&later.topology_key, &later.when_unsatisfiable)
                == (&constraint.topology_key, &constraint.when_unsatisfiable)
        };
        if constraints[index + 1..].iter().any(same) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            faults.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), &pair);
        }
    }
}

fn validate_one(constraint: &TopologySpreadConstraint, path: &Path<'_>, faults: &mut FieldErrors) {
    if constraint.max_skew <= 0 {
        faults.invalid(&path.child("maxSkew"), &constraint.max_skew, "must be greater than zero");
    }
    if constraint.topology_key.is_empty() {
        faults.required(&path.child("topologyKey"), "can not be empty");
    }
    let when = constraint.when_unsatisfiable.as_str();
    choice(faults, &path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        if domains <= 0 {
            faults.invalid(&path, &domains, "must be greater than zero");
        }
        if when != "DoNotSchedule" {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            faults.invalid(&path, &domains, why);
        }
    }
    for (field, policy) in
        [("nodeAffinityPolicy", &constraint.node_affinity_policy), ("nodeTaintsPolicy", &constraint.node_taints_policy)]
    {
        if let Some(policy) = policy {
            choice(faults, &path.child(field), policy, &["Honor", "Ignore"]);
        }
    }
    let keys = list(&constraint.match_label_keys);
    let keys_path = path.child("matchLabelKeys");
    if !keys.is_empty() && constraint.label_selector.is_none() {
        faults.forbidden(&keys_path, "must not be specified when labelSelector is not set");
    }
    for (index, key) in keys.iter().enumerate() {
        each_invalid(faults, &keys_path.index(index), key, names::qualified(key));
    }
    affinity::validate_merged_keys(keys, constraint.label_selector.as_ref(), &keys_path, faults);
    selector::validate(constraint.label_selector.as_ref(), &path.child("labelSelector"), faults);
}
