//! PodDisruptionBudget: how many of a set of pods may be taken away at once on purpose.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::absent::list;
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Subresource, Writer};
use crate::faults::{non_negative, not_supported_in_order};
use crate::{conditions, meta, selector, shares};

pub static POD_DISRUPTION_BUDGET: ResourceDef<PodDisruptionBudget> = ResourceDef {
    reset,
    validate,
    columns: &[
        name(),
        column("Min Available", "string", "The minimum number of pods that must be available.", |budget| {
            share(spec(budget).and_then(|spec| spec.min_available.as_ref()))
        }),
        column("Max Unavailable", "string", "The maximum number of pods that may be unavailable.", |budget| {
            share(spec(budget).and_then(|spec| spec.max_unavailable.as_ref()))
        }),
        column("Allowed Disruptions", "integer", "How many pods may be disrupted now.", |budget| {
            Cell::Int(budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0).into())
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        group: "policy",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        backing: stored("poddisruptionbudgets"),
        subresources: &[Subresource::Status],
        ..CORE
    })
};

fn spec(budget: &PodDisruptionBudget) -> Option<&PodDisruptionBudgetSpec> {
    budget.spec.as_ref()
}

fn share(share: Option<&IntOrString>) -> Cell {
    Cell::Text(match share {
        None => "N/A".to_owned(),
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(percent)) => percent.clone(),
    })
}

fn reset(new: &mut PodDisruptionBudget, old: Option<&PodDisruptionBudget>, writer: Writer, _: &Rules<'_>) {
    let Some(old) = old else {
        new.status = Some(PodDisruptionBudgetStatus::default());
        return meta::count_generation(&mut new.metadata, None, true);
    };
    if writer == Writer::Status {
        new.spec.clone_from(&old.spec);
        return;
    }
    new.status.clone_from(&old.status);
    meta::count_generation(&mut new.metadata, Some(&old.metadata), new.spec != old.spec);
}

fn validate(
    new: &PodDisruptionBudget,
    _: Option<&PodDisruptionBudget>,
    writer: Writer,
    _: &Rules<'_>,
    faults: &mut FieldErrors,
) {
    if writer == Writer::Status {
        return validate_status(&new.status.clone().unwrap_or_default(), &Path::new("status"), faults);
    }
    validate_spec(&new.spec.clone().unwrap_or_default(), &Path::new("spec"), faults);
}

fn validate_spec(spec: &PodDisruptionBudgetSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        faults.invalid(path, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for (field, share) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(share) = share {
            let path = path.child(field);
            shares::validate(share, &path, faults);
            shares::validate_at_most_all(share, &path, faults);
        }
    }
    selector::validate(spec.selector.as_ref(), &path.child("selector"), faults);
    if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
        const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];
        if !POLICIES.contains(&policy.as_str()) {
            not_supported_in_order(faults, &path.child("unhealthyPodEvictionPolicy"), policy, POLICIES);
        }
    }
}

fn validate_status(status: &PodDisruptionBudgetStatus, path: &Path<'_>, faults: &mut FieldErrors) {
    conditions::validate(list(&status.conditions), &path.child("conditions"), faults);
    for (field, value) in [
        ("disruptionsAllowed", status.disruptions_allowed),
        ("currentHealthy", status.current_healthy),
        ("desiredHealthy", status.desired_healthy),
        ("expectedPods", status.expected_pods),
    ] {
        non_negative(faults, &path.child(field), value.unwrap_or(0).into());
    }
}
