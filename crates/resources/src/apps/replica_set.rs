//! ReplicaSet: so many pods of one template.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};

use crate::apps::template;
use crate::base::{CORE, stored};
use crate::columns::{age, column, container_images, container_names, name, wide};
use crate::def::{Cell, Facts, ResourceDef, Rules, Selectable, Subresource, Writer};
use crate::faults::{immutable, non_negative};
use crate::{meta, selector};

pub static REPLICA_SET: ResourceDef<ReplicaSet> = ResourceDef {
    selectable: &[Selectable { field: "status.replicas", value: |set| replicas(set).to_string() }],
    default,
    reset,
    validate,
    warnings: |new, old| {
        let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone());
        let changed = old.is_none_or(|old| template(old) != template(new));
        template(new).filter(|_| changed).map_or(Vec::new(), |template| template::warnings(&template))
    },
    columns: &[
        name(),
        column("Desired", "integer", "How many pods there should be.", |set| {
            Cell::Int(set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0).into())
        }),
        column("Current", "integer", "How many pods there are.", |set| Cell::Int(replicas(set).into())),
        column("Ready", "integer", "How many pods are ready.", |set| {
            Cell::Int(set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0).into())
        }),
        age(),
        wide("Containers", "string", "Names of each container in the template.", |set| {
            container_names(containers(set))
        }),
        wide("Images", "string", "Images referenced by each container in the template.", |set| {
            container_images(containers(set))
        }),
        wide("Selector", "string", "Labels of the set's pods.", |set| {
            Cell::Text(selector::shown(set.spec.as_ref().map(|spec| &spec.selector)))
        }),
    ],
    ..ResourceDef::plain(Facts {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        backing: stored("replicasets"),
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

fn replicas(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn containers(set: &ReplicaSet) -> &[k8s_openapi::api::core::v1::Container] {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    template.and_then(|template| template.spec.as_ref()).map_or(&[], |spec| &spec.containers)
}

fn default(set: &mut ReplicaSet, _: &Rules<'_>) {
    let spec = set.spec.get_or_insert_default();
    spec.replicas.get_or_insert(1);
    template::default(spec.template.get_or_insert_default());
}

fn reset(new: &mut ReplicaSet, old: Option<&ReplicaSet>, writer: Writer, _: &Rules<'_>) {
    let Some(old) = old else {
        new.status = Some(ReplicaSetStatus::default());
        reset_template(new);
        return meta::count_generation(&mut new.metadata, None, true);
    };
    if writer == Writer::Status {
        return new.spec.clone_from(&old.spec);
    }
    new.status.clone_from(&old.status);
    reset_template(new);
    let changed = new.spec != old.spec;
    meta::count_generation(&mut new.metadata, Some(&old.metadata), changed);
}

fn reset_template(set: &mut ReplicaSet) {
    if let Some(template) = set.spec.as_mut().and_then(|spec| spec.template.as_mut()) {
        template::reset(template);
    }
}

fn validate(new: &ReplicaSet, old: Option<&ReplicaSet>, writer: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    if writer == Writer::Status {
        return validate_status(new.status.as_ref(), faults);
    }
    let path = Path::new("spec");
    let spec = new.spec.clone().unwrap_or_default();
    non_negative(faults, &path.child("replicas"), spec.replicas.unwrap_or(0).into());
    non_negative(faults, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0).into());
    template::validate_selector(&spec.selector, &path.child("selector"), faults);
    let template = spec.template.clone().unwrap_or_default();
    template::validate(&template, &spec.selector, &path.child("template"), faults);
    if let Some(old) = old.and_then(|old| old.spec.as_ref()) {
        immutable(faults, &path.child("selector"), &spec.selector, &old.selector);
    }
}

fn validate_status(status: Option<&ReplicaSetStatus>, faults: &mut FieldErrors) {
    let Some(status) = status else { return };
    let path = Path::new("status");
    let ready = status.ready_replicas.unwrap_or(0);
    let counts = [
        ("fullyLabeledReplicas", status.fully_labeled_replicas.unwrap_or(0)),
        ("readyReplicas", ready),
        ("availableReplicas", status.available_replicas.unwrap_or(0)),
    ];
    non_negative(faults, &path.child("replicas"), status.replicas.into());
    for (field, value) in counts {
        non_negative(faults, &path.child(field), value.into());
    }
    non_negative(faults, &path.child("terminatingReplicas"), status.terminating_replicas.unwrap_or(0).into());
    non_negative(faults, &path.child("observedGeneration"), status.observed_generation.unwrap_or(0));
    for (field, value) in counts.into_iter().filter(|(_, value)| *value > status.replicas) {
        faults.invalid(&path.child(field), &value, "cannot be greater than status.replicas");
    }
    let available = status.available_replicas.unwrap_or(0);
    if available > ready {
        faults.invalid(&path.child("availableReplicas"), &available, "cannot be greater than readyReplicas");
    }
}
