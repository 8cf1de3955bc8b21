//! Rules for tolerations and for the effects of taints.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::Toleration;

use crate::absent::text;
use crate::faults::{each_invalid, not_supported_in_order, required_choice};
use crate::names;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Judges the effect of a taint, which has to be there.
pub(crate) fn validate_effect(effect: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    required_choice(faults, path, effect, EFFECTS);
}

/// Judges tolerations.
pub(crate) fn validate(tolerations: &[Toleration], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, operator, value) = (text(&toleration.key), text(&toleration.operator), text(&toleration.value));
        let effect = text(&toleration.effect);
        let operator_path = path.child("operator");
        if !key.is_empty() {
            each_invalid(faults, &path.child("key"), key, names::qualified(key));
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            faults.invalid(&operator_path, operator, why);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            faults.invalid(&path.child("effect"), effect, why);
        }
        match operator {
            "Equal" | "" => {
                let value_faults = names::label_value(value);
                if !value_faults.is_empty() {
                    faults.invalid(&operator_path, value, value_faults.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                faults.invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            other => not_supported_in_order(faults, &operator_path, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            validate_effect(effect, &path.child("effect"), faults);
        }
    }
}

/// An update may add tolerations and change for how long they last, nothing else.
pub(crate) fn validate_only_added(new: &[Toleration], old: &[Toleration], path: &Path<'_>, faults: &mut FieldErrors) {
    let kept = |old: &Toleration| {
        new.iter().any(|new| Toleration { toleration_seconds: new.toleration_seconds, ..old.clone() } == *new)
    };
    if !old.iter().all(kept) {
        faults.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}
