//! Cluster roles that sum up others: their rules are those of all roles that their selectors name.
//!
//! Upstream: `pkg/controller/clusterroleaggregation`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::Selector;
use api::value::to_value;
use client::{Key, Object};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use reconcile::plan::kinds::CLUSTER_ROLES;
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, View, Watch};

use crate::{owner, patch};

/// The controller that fills aggregated cluster roles.
pub struct ClusterRoleController;

/// A role and all roles, in the order of names.
pub struct Observed {
    role: Option<Arc<Object>>,
    roles: Vec<Arc<Object>>,
}

impl Controller for ClusterRoleController {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        // Any role may be a part of any sum, before its change or after it.
        let sums = |view: &View, _: &Object| {
            view.all(CLUSTER_ROLES).filter(|role| aggregates(role)).map(|role| role.key().clone()).collect()
        };
        vec![Watch::mapped(CLUSTER_ROLES, sums)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        Observed { role: view.get(CLUSTER_ROLES, key), roles: view.all(CLUSTER_ROLES).collect() }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        let Some(role) = observed.role.as_ref().and_then(|role| owner::typed::<ClusterRole>(role)) else {
            return Plan::nothing();
        };
        if role.metadata.deletion_timestamp.is_some() || role.aggregation_rule.is_none() {
            return Plan::nothing();
        }
        let mut roles: Vec<ClusterRole> = observed.roles.iter().filter_map(|role| owner::typed(role)).collect();
        roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let rules = sum(&role, &roles);
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Plan::nothing();
        }
        let Ok(rules) = to_value(&rules) else { return Plan::nothing() };
        let body = patch::object([("rules", rules)]);
        let of = owner::reference(CLUSTER_ROLES, &role.metadata);
        Plan::nothing().then([Change::Patch { of, subresource: None, body, revision: None }.into()])
    }
}

fn aggregates(role: &Object) -> bool {
    role.tree().is_ok_and(|tree| tree.get("aggregationRule").is_some_and(|rule| !rule.is_null()))
}

/// The rules of the roles that the role's selectors name, each once.
fn sum(role: &ClusterRole, roles: &[ClusterRole]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_deref());
    let nothing = BTreeMap::new();
    let mut rules: Vec<PolicyRule> = Vec::new();
    // Validation refuses selectors that cannot be read.
    for selector in selectors.into_iter().flatten().filter_map(|selector| Selector::from_object(Some(selector)).ok()) {
        let named = roles.iter().filter(|other| {
            other.metadata.name != role.metadata.name
                && selector.matches(other.metadata.labels.as_ref().unwrap_or(&nothing))
        });
        for rule in named.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn rules(world: &World, name: &str) -> Vec<String> {
        let role: ClusterRole = world.typed(CLUSTER_ROLES, "", name);
        role.rules.into_iter().flatten().map(|rule| rule.resources.unwrap_or_default().join(",")).collect()
    }

    fn part(world: &mut World, name: &str, label: &str, resource: &str) {
        let json = format!(
            r#"{{"metadata": {{"name": "{name}", "labels": {{"{label}": "true"}}}},
                "rules": [{{"apiGroups": ["acme.com"], "resources": ["{resource}"], "verbs": ["get"]}}]}}"#
        );
        world.create(CLUSTER_ROLES, "", &json);
    }

    #[test]
    fn a_sum_has_the_rules_of_its_parts_once_and_in_the_order_of_names() {
        let mut world = World::new();
        let sum = r#"{"metadata": {"name": "sum"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-sum": "true"}},
                {"matchExpressions": [{"key": "also", "operator": "Exists"}]}]}}"#;
        world.create(CLUSTER_ROLES, "", sum);
        part(&mut world, "b", "to-sum", "gadgets");
        part(&mut world, "a", "to-sum", "widgets");
        part(&mut world, "c", "also", "widgets");
        part(&mut world, "d", "also", "gizmos");
        part(&mut world, "e", "other", "secrets");
        let key = Key::new("", "sum");
        assert!(world.work::<ClusterRoleController>(&key));
        assert_eq!(rules(&world, "sum"), ["widgets", "gadgets", "gizmos"]);
        assert!(!world.work::<ClusterRoleController>(&key), "a right sum is left alone");
        world.edit(CLUSTER_ROLES, "", "b", r#"{"metadata": {"labels": {"to-sum": null}}}"#);
        world.work::<ClusterRoleController>(&key);
        assert_eq!(rules(&world, "sum"), ["widgets", "gizmos"]);
        world.edit(CLUSTER_ROLES, "", "sum", r#"{"rules": []}"#);
        assert!(world.work::<ClusterRoleController>(&key), "what somebody else wrote is put right");
    }

    #[test]
    fn every_change_of_a_role_concerns_every_sum_and_nothing_else() {
        let mut world = World::new();
        world.create(CLUSTER_ROLES, "", r#"{"metadata": {"name": "sum"}, "aggregationRule": {}}"#);
        part(&mut world, "a", "to-sum", "widgets");
        let view = world.view(&[CLUSTER_ROLES]);
        let watches = ClusterRoleController::watches();
        let changed = world.find(CLUSTER_ROLES, "", "a").expect("a role");
        assert_eq!((watches[0].concerns)(&view, changed), [Key::new("", "sum")]);
        assert!(!world.work::<ClusterRoleController>(&Key::new("", "a")), "a plain role is left alone");
    }
}
