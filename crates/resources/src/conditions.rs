//! Conditions of the common shape (`metav1.Condition`). Upstream: `ValidateConditions`.

use api::field::{FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::faults::{each_invalid, not_supported_in_order};
use crate::names;

const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Judges each condition, and that no type comes twice.
pub(crate) fn validate(conditions: &[Condition], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if conditions[..index].iter().any(|other| other.type_ == condition.type_) {
            faults.duplicate(&path.child("type"), &condition.type_);
        }
        validate_one(condition, &path, faults);
    }
}

fn validate_one(condition: &Condition, path: &Path<'_>, faults: &mut FieldErrors) {
    each_invalid(faults, &path.child("type"), &condition.type_, names::qualified(&condition.type_));
    const STATUSES: &[&str] = &["False", "True", "Unknown"];
    if !STATUSES.contains(&condition.status.as_str()) {
        not_supported_in_order(faults, &path.child("status"), &condition.status, STATUSES);
    }
    let generation = condition.observed_generation.unwrap_or(0);
    if generation < 0 {
        faults.invalid(&path.child("observedGeneration"), &generation, "must be greater than or equal to zero");
    }
    if condition.last_transition_time.0 == jiff::Timestamp::UNIX_EPOCH {
        // A missing time is read as this one.
        faults.required(&path.child("lastTransitionTime"), "must be set");
    }
    let reason_path = path.child("reason");
    if condition.reason.is_empty() {
        faults.required(&reason_path, "must be set");
    } else {
        each_invalid(faults, &reason_path, &condition.reason, names::condition_reason(&condition.reason));
        if condition.reason.len() > REASON_BYTES_MAX {
            faults.too_long(&reason_path, REASON_BYTES_MAX);
        }
    }
    if condition.message.len() > MESSAGE_BYTES_MAX {
        faults.too_long(&path.child("message"), MESSAGE_BYTES_MAX);
    }
}
