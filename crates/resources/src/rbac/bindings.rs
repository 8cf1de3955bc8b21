//! RoleBinding and ClusterRoleBinding: who has a role, in a namespace or everywhere.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};

use crate::absent::{default_text, list, list_mut, text};
use crate::base::{CORE, stored};
use crate::columns::{age, column, name, wide};
use crate::def::{Cell, Facts, ResourceDef, Scope};
use crate::faults::{each_invalid, not_supported_in_order};
use crate::names;

pub static ROLE_BINDING: ResourceDef<RoleBinding> = ResourceDef {
    name_faults: names::path_segment_name,
    default: |binding, _| default(&mut binding.role_ref, list_mut(&mut binding.subjects)),
    validate: |new, old, _, _, faults| {
        let old = old.map(|old| &old.role_ref);
        validate_role(&new.role_ref, old, &["Role", "ClusterRole"], faults);
        validate_subjects(list(&new.subjects), Scope::Namespaced, faults);
    },
    columns: &[
        name(),
        column("Role", "string", "The role that is given.", |binding| shown_role(&binding.role_ref)),
        age(),
        wide("Users", "string", "Users in the roleBinding", |binding| subjects(list(&binding.subjects), "User")),
        wide("Groups", "string", "Groups in the roleBinding", |binding| subjects(list(&binding.subjects), "Group")),
        wide("ServiceAccounts", "string", "ServiceAccounts in the roleBinding", |binding| {
            subjects(list(&binding.subjects), "ServiceAccount")
        }),
    ],
    ..ResourceDef::plain(Facts {
        group: super::GROUP,
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        backing: stored("rolebindings"),
        ..CORE
    })
};

pub static CLUSTER_ROLE_BINDING: ResourceDef<ClusterRoleBinding> = ResourceDef {
    name_faults: names::path_segment_name,
    default: |binding, _| default(&mut binding.role_ref, list_mut(&mut binding.subjects)),
    validate: |new, old, _, _, faults| {
        let old = old.map(|old| &old.role_ref);
        validate_role(&new.role_ref, old, &["ClusterRole"], faults);
        validate_subjects(list(&new.subjects), Scope::Cluster, faults);
    },
    columns: &[
        name(),
        column("Role", "string", "The role that is given.", |binding| shown_role(&binding.role_ref)),
        age(),
        wide("Users", "string", "Users in the clusterRoleBinding", |binding| subjects(list(&binding.subjects), "User")),
        wide("Groups", "string", "Groups in the clusterRoleBinding", |binding| {
            subjects(list(&binding.subjects), "Group")
        }),
        wide("ServiceAccounts", "string", "ServiceAccounts in the clusterRoleBinding", |binding| {
            subjects(list(&binding.subjects), "ServiceAccount")
        }),
    ],
    ..ResourceDef::plain(Facts {
        group: super::GROUP,
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        scope: Scope::Cluster,
        backing: stored("clusterrolebindings"),
        ..CORE
    })
};

fn shown_role(role: &RoleRef) -> Cell {
    Cell::Text(format!("{}/{}", role.kind, role.name))
}

fn subjects(subjects: &[Subject], kind: &str) -> Cell {
    let shown = |subject: &Subject| match text(&subject.namespace) {
        namespace if kind == "ServiceAccount" => format!("{namespace}/{}", subject.name),
        _ => subject.name.clone(),
    };
    let names: Vec<String> = subjects.iter().filter(|subject| subject.kind == kind).map(shown).collect();
    Cell::Text(names.join(", "))
}

fn default(role: &mut RoleRef, subjects: &mut [Subject]) {
    default_text(&mut role.api_group, super::GROUP);
    for subject in subjects {
        if ["User", "Group"].contains(&subject.kind.as_str()) {
            default_text(&mut subject.api_group, super::GROUP);
        }
    }
}

fn validate_role(role: &RoleRef, old: Option<&RoleRef>, kinds: &[&str], faults: &mut FieldErrors) {
    let path = Path::new("roleRef");
    if text(&role.api_group) != super::GROUP {
        not_supported_in_order(faults, &path.child("apiGroup"), text(&role.api_group), &[super::GROUP]);
    }
    if !kinds.contains(&role.kind.as_str()) {
        not_supported_in_order(faults, &path.child("kind"), &role.kind, kinds);
    }
    if role.name.is_empty() {
        faults.required(&path.child("name"), "");
    } else {
        each_invalid(faults, &path.child("name"), &role.name, names::path_segment(&role.name));
    }
    if old.is_some_and(|old| old != role) {
        faults.invalid(&path, role, "cannot change roleRef");
    }
}

fn validate_subjects(subjects: &[Subject], scope: Scope, faults: &mut FieldErrors) {
    let path = Path::new("subjects");
    for (index, subject) in subjects.iter().enumerate() {
        validate_subject(subject, scope, &path.index(index), faults);
    }
}

fn validate_subject(subject: &Subject, scope: Scope, path: &Path<'_>, faults: &mut FieldErrors) {
    let group = text(&subject.api_group);
    let group_path = path.child("apiGroup");
    if subject.name.is_empty() {
        faults.required(&path.child("name"), "");
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                each_invalid(faults, &path.child("name"), &subject.name, names::dns_subdomain(&subject.name));
            }
            if !group.is_empty() {
                not_supported_in_order(faults, &group_path, group, &[""]);
            }
            if scope == Scope::Cluster && text(&subject.namespace).is_empty() {
                faults.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != super::GROUP {
                not_supported_in_order(faults, &group_path, group, &[super::GROUP]);
            }
        }
        other => not_supported_in_order(faults, &path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}
