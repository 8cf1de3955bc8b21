//! RuntimeClass: a way to run containers that pods may ask for.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::api::node::v1::{RuntimeClass, Scheduling};

use crate::absent::list;
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::core::pod::{resources, tolerations};
use crate::def::{Cell, Facts, ResourceDef, Rules, Scope, Writer};
use crate::faults::{each_invalid, immutable};
use crate::{meta, names};

pub static RUNTIME_CLASS: ResourceDef<RuntimeClass> = ResourceDef {
    default: |class, _| {
        if let Some(overhead) = &mut class.overhead {
            resources::round_up(&mut overhead.pod_fixed);
        }
    },
    validate,
    columns: &[
        name(),
        column("Handler", "string", "What the node's container runtime calls it.", |class| {
            Cell::Text(class.handler.clone())
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        scope: Scope::Cluster,
        backing: stored("runtimeclasses"),
        ..CORE
    })
};

fn validate(new: &RuntimeClass, old: Option<&RuntimeClass>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let handler = Path::new("handler");
    if let Some(old) = old {
        immutable(faults, &handler, &new.handler, &old.handler);
    }
    each_invalid(faults, &handler, &new.handler, names::dns_label(&new.handler));
    if let Some(overhead) = &new.overhead {
        let limits = ResourceRequirements { limits: overhead.pod_fixed.clone(), ..ResourceRequirements::default() };
        resources::validate_container(&limits, &Default::default(), &Path::new("overhead"), faults);
    }
    if let Some(scheduling) = &new.scheduling {
        validate_scheduling(scheduling, &Path::new("scheduling"), faults);
    }
}

fn validate_scheduling(scheduling: &Scheduling, path: &Path<'_>, faults: &mut FieldErrors) {
    meta::validate_labels(&scheduling.node_selector, &path.child("nodeSelector"), faults);
    let tolerations = list(&scheduling.tolerations);
    let path = path.child("tolerations");
    // Upstream names the field twice.
    tolerations::validate(tolerations, &path.child("tolerations"), faults);
    let same = |a: &Toleration, b: &Toleration| {
        (&a.key, &a.operator, &a.value, &a.effect) == (&b.key, &b.operator, &b.value, &b.effect)
    };
    for (index, toleration) in tolerations.iter().enumerate() {
        if tolerations[..index].iter().any(|before| same(before, toleration)) {
            faults.duplicate(&path.index(index), toleration);
        }
    }
}
