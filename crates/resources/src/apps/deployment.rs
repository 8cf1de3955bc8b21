//! Deployment: pods of one template, replaced step by step when it changes.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::absent::{default_text, text};
use crate::apps::template;
use crate::base::{CORE, stored};
use crate::columns::{age, column, container_images, container_names, name, wide};
use crate::def::{Cell, Facts, ResourceDef, Rules, Subresource, Writer};
use crate::faults::{immutable, non_negative, not_supported_in_order};
use crate::{meta, selector, shares};

const HISTORY: i32 = 10;
const PROGRESS_SECONDS: i32 = 600;

pub static DEPLOYMENT: ResourceDef<Deployment> = ResourceDef {
    default,
    reset,
    validate,
    warnings: |new, old| {
        let template = |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.template.clone());
        let changed = old.is_none_or(|old| template(old) != template(new));
        new.spec.as_ref().filter(|_| changed).map_or(Vec::new(), |spec| template::warnings(&spec.template))
    },
    columns: &[
        name(),
        column("Ready", "string", "Number of the pod with ready state", |deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            Cell::Text(format!("{}/{wanted}", count(deployment, |status| status.ready_replicas)))
        }),
        column("Up-to-date", "string", "Pods that follow the present template.", |deployment| {
            Cell::Int(count(deployment, |status| status.updated_replicas))
        }),
        column("Available", "string", "Pods that have been ready for long enough.", |deployment| {
            Cell::Int(count(deployment, |status| status.available_replicas))
        }),
        age(),
        wide("Containers", "string", "Names of each container in the template.", |deployment| {
            container_names(containers(deployment))
        }),
        wide("Images", "string", "Images referenced by each container in the template.", |deployment| {
            container_images(containers(deployment))
        }),
        wide("Selector", "string", "Labels of the deployment's pods.", |deployment| {
            Cell::Text(selector::shown(deployment.spec.as_ref().map(|spec| &spec.selector)))
        }),
    ],
    ..ResourceDef::plain(Facts {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        backing: stored("deployments"),
        subresources: &[
            Subresource::Scale {
                spec_replicas: ".spec.replicas",
                status_replicas: ".status.replicas",
                selector: ".spec.selector",
            },
            Subresource::Status,
        ],
        ..CORE
    })
};

fn count(deployment: &Deployment, field: fn(&DeploymentStatus) -> Option<i32>) -> i64 {
    deployment.status.as_ref().and_then(field).unwrap_or(0).into()
}

fn containers(deployment: &Deployment) -> &[k8s_openapi::api::core::v1::Container] {
    let spec = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    spec.map_or(&[], |spec| &spec.containers)
}

fn default(deployment: &mut Deployment, _: &Rules<'_>) {
    let spec = deployment.spec.get_or_insert_default();
    spec.replicas.get_or_insert(1);
    let strategy = spec.strategy.get_or_insert_default();
    default_text(&mut strategy.type_, "RollingUpdate");
    if text(&strategy.type_) == "RollingUpdate" {
        let rolling = strategy.rolling_update.get_or_insert_default();
        let quarter = || IntOrString::String("25%".to_owned());
        rolling.max_unavailable.get_or_insert_with(quarter);
        rolling.max_surge.get_or_insert_with(quarter);
    }
    spec.revision_history_limit.get_or_insert(HISTORY);
    spec.progress_deadline_seconds.get_or_insert(PROGRESS_SECONDS);
    template::default(&mut spec.template);
}

fn reset(new: &mut Deployment, old: Option<&Deployment>, writer: Writer, _: &Rules<'_>) {
    let Some(old) = old else {
        new.status = Some(DeploymentStatus::default());
        new.spec.iter_mut().for_each(|spec| template::reset(&mut spec.template));
        return meta::count_generation(&mut new.metadata, None, true);
    };
    if writer == Writer::Status {
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
        return;
    }
    new.status.clone_from(&old.status);
    new.spec.iter_mut().for_each(|spec| template::reset(&mut spec.template));
    let changed = new.spec != old.spec || new.metadata.annotations != old.metadata.annotations;
    meta::count_generation(&mut new.metadata, Some(&old.metadata), changed);
}

fn validate(new: &Deployment, old: Option<&Deployment>, writer: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    if let (Some(old), Writer::Status) = (old, writer) {
        return validate_status(new, old, faults);
    }
    let path = Path::new("spec");
    let spec = new.spec.clone().unwrap_or_default();
    validate_spec(&spec, &path, faults);
    if let Some(old) = old.and_then(|old| old.spec.as_ref()) {
        immutable(faults, &path.child("selector"), &spec.selector, &old.selector);
    }
}

fn validate_spec(spec: &DeploymentSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    non_negative(faults, &path.child("replicas"), spec.replicas.unwrap_or(0).into());
    template::validate_selector(&spec.selector, &path.child("selector"), faults);
    template::validate(&spec.template, &spec.selector, &path.child("template"), faults);
    let strategy = spec.strategy.clone().unwrap_or_default();
    validate_strategy(&strategy, &path.child("strategy"), faults);
    non_negative(faults, &path.child("minReadySeconds"), min_ready.into());
    non_negative(faults, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0).into());
    if let Some(seconds) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        non_negative(faults, &path, seconds.into());
        if seconds <= min_ready {
            faults.invalid(&path, &seconds, "must be greater than minReadySeconds");
        }
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path<'_>, faults: &mut FieldErrors) {
    let rolling_path = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            faults.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &rolling_path, faults),
        ("RollingUpdate", None) => faults.required(&rolling_path, "this should be defaulted and never be nil"),
        (other, _) => not_supported_in_order(faults, &path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path<'_>, faults: &mut FieldErrors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_path = path.child("maxUnavailable");
    shares::validate(unavailable, &unavailable_path, faults);
    shares::validate(surge, &path.child("maxSurge"), faults);
    if shares::amount(unavailable) == 0 && shares::amount(surge) == 0 {
        // Nothing could ever be replaced.
        faults.invalid(&unavailable_path, unavailable, "may not be 0 when `maxSurge` is 0");
    }
    shares::validate_at_most_all(unavailable, &unavailable_path, faults);
}

fn validate_status(new: &Deployment, old: &Deployment, faults: &mut FieldErrors) {
    let path = Path::new("status");
    let (status, old_status) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    let replicas = status.replicas.unwrap_or(0);
    non_negative(faults, &path.child("observedGeneration"), status.observed_generation.unwrap_or(0));
    for (field, value) in [
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("unavailableReplicas", status.unavailable_replicas),
        ("terminatingReplicas", status.terminating_replicas),
        ("collisionCount", status.collision_count),
    ] {
        non_negative(faults, &path.child(field), value.unwrap_or(0).into());
    }
    for (field, value) in [
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ] {
        let value = value.unwrap_or(0);
        if value > replicas {
            faults.invalid(&path.child(field), &value, "cannot be greater than status.replicas");
        }
    }
    let available = status.available_replicas.unwrap_or(0);
    if available > status.ready_replicas.unwrap_or(0) {
        faults.invalid(&path.child("availableReplicas"), &available, "cannot be greater than readyReplicas");
    }
    if old_status.collision_count > status.collision_count {
        let collisions = status.collision_count.map_or("null".to_owned(), |count| count.to_string());
        faults.invalid(&path.child("collisionCount"), &collisions, "cannot be decremented");
    }
}
