//! Role and ClusterRole: what may be done, in a namespace or everywhere.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};

use crate::absent::list;
use crate::base::{CORE, stored};
use crate::columns::{created_at, name};
use crate::def::{Facts, ResourceDef, Scope};
use crate::{names, selector};

pub static ROLE: ResourceDef<Role> = ResourceDef {
    name_faults: names::path_segment_name,
    validate: |new, _, _, _, faults| validate_rules(list(&new.rules), Scope::Namespaced, faults),
    columns: &[name(), created_at()],
    ..ResourceDef::plain(Facts {
        group: super::GROUP,
        kind: "Role",
        plural: "roles",
        singular: "role",
        backing: stored("roles"),
        ..CORE
    })
};

pub static CLUSTER_ROLE: ResourceDef<ClusterRole> = ResourceDef {
    name_faults: names::path_segment_name,
    validate: |new, _, _, _, faults| {
        validate_rules(list(&new.rules), Scope::Cluster, faults);
        validate_aggregation(new, faults);
    },
    columns: &[name(), created_at()],
    ..ResourceDef::plain(Facts {
        group: super::GROUP,
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        scope: Scope::Cluster,
        backing: stored("clusterroles"),
        ..CORE
    })
};

fn validate_rules(rules: &[PolicyRule], scope: Scope, faults: &mut FieldErrors) {
    let path = Path::new("rules");
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, scope, &path.index(index), faults);
    }
}

fn validate_rule(rule: &PolicyRule, scope: Scope, path: &Path<'_>, faults: &mut FieldErrors) {
    let (groups, resources) = (list(&rule.api_groups), list(&rule.resources));
    if rule.verbs.is_empty() {
        faults.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let urls = list(&rule.non_resource_urls);
    if !urls.is_empty() {
        let path = path.child("nonResourceURLs");
        if scope == Scope::Namespaced {
            faults.invalid(&path, urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if !groups.is_empty() || !resources.is_empty() || !list(&rule.resource_names).is_empty() {
            faults.invalid(&path, urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if groups.is_empty() {
        faults.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        faults.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}

fn validate_aggregation(role: &ClusterRole, faults: &mut FieldErrors) {
    let Some(aggregation) = &role.aggregation_rule else { return };
    let rule = Path::new("aggregationRule");
    let path = rule.child("clusterRoleSelectors");
    let selectors = list(&aggregation.cluster_role_selectors);
    if selectors.is_empty() {
        faults.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (index, role_selector) in selectors.iter().enumerate() {
        selector::validate(Some(role_selector), &path.index(index), faults);
    }
}
