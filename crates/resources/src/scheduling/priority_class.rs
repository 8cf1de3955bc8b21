//! PriorityClass: a name for how important pods are.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::absent::text;
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Scope, Writer};
use crate::faults::{immutable, required_choice};
use crate::meta;

/// What users may give; above is the system's.
pub const USER_PRIORITY_MAX: i32 = 1_000_000_000;
const SYSTEM: &[(&str, i32, &str)] = &[
    (
        "system-node-critical",
        2 * USER_PRIORITY_MAX + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2 * USER_PRIORITY_MAX,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

pub static PRIORITY_CLASS: ResourceDef<PriorityClass> = ResourceDef {
    default: |class, _| {
        class.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
        class.value.get_or_insert(0);
    },
    reset: |new, old, _, _| {
        meta::count_generation(&mut new.metadata, old.map(|old| &old.metadata), false);
    },
    validate,
    columns: &[
        name(),
        column("Value", "integer", "Priority of pods of the class.", |class| {
            Cell::Int(class.value.unwrap_or(0).into())
        }),
        column("Global-Default", "boolean", "Whether pods without a class get this one.", |class| {
            Cell::Bool(class.global_default.unwrap_or(false))
        }),
        age(),
        column("PreemptionPolicy", "string", "Whether pods of the class push others out.", |class| {
            Cell::Text(text(&class.preemption_policy).to_owned())
        }),
    ],
    ..ResourceDef::plain(Facts {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        scope: Scope::Cluster,
        short_names: &["pc"],
        backing: stored("priorityclasses"),
        ..CORE
    })
};

fn validate(new: &PriorityClass, old: Option<&PriorityClass>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let name = text(&new.metadata.name);
    let value = new.value.unwrap_or(0);
    if name.starts_with("system-") {
        if let Some(error) = system_fault(name, value, new.global_default.unwrap_or(false)) {
            let why = "priority class names with 'system-' prefix are reserved for system use only. error";
            faults.forbidden(&Path::new("metadata").child("name"), format!("{why}: {error}"));
        }
    } else if value > USER_PRIORITY_MAX {
        let why = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        faults.forbidden(&Path::new("value"), why);
    }
    let policy_path = Path::new("preemptionPolicy");
    if let Some(policy) = &new.preemption_policy {
        required_choice(faults, &policy_path, policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(old) = old {
        if value != old.value.unwrap_or(0) {
            faults.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        immutable(faults, &policy_path, &new.preemption_policy, &old.preemption_policy);
    }
}

/// Why this is not one of the system's own classes, if it is not.
fn system_fault(name: &str, value: i32, global_default: bool) -> Option<String> {
    match SYSTEM.iter().find(|(system, ..)| *system == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted, _)) if *wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

/// The classes that every cluster has from its first start.
pub fn system_classes() -> Vec<PriorityClass> {
    let class = |(name, value, description): &(&str, i32, &str)| PriorityClass {
        metadata: ObjectMeta { name: Some((*name).to_owned()), ..ObjectMeta::default() },
        value: Some(*value),
        description: Some((*description).to_owned()),
        preemption_policy: Some("PreemptLowerPriority".to_owned()),
        ..PriorityClass::default()
    };
    SYSTEM.iter().map(class).collect()
}
