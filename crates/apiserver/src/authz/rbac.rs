//! Role-based access control: whether some bound role allows a request. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::Attributes;
use crate::user::{User, service_account_name};

/// What a role allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

impl From<&PolicyRule> for Rule {
    fn from(rule: &PolicyRule) -> Rule {
        Rule {
            verbs: rule.verbs.clone(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            names: rule.resource_names.clone().unwrap_or_default(),
            urls: rule.non_resource_urls.clone().unwrap_or_default(),
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Whether this rule allows the request.
    pub(crate) fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.urls.iter().any(|url| url_matches(url, asked.path));
        }
        has(&self.groups, asked.group)
            && self.covers_resource(asked)
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }

    fn covers_resource(&self, asked: &Attributes<'_>) -> bool {
        let below = |resource: &str, main: &str| {
            !asked.subresource.is_empty()
                && resource.strip_prefix(main).and_then(|rest| rest.strip_prefix('/')) == Some(asked.subresource)
        };
        self.resources.iter().any(|resource| {
            resource == "*"
                || (asked.subresource.is_empty() && resource == asked.resource)
                || below(resource, asked.resource)
                || below(resource, "*")
        })
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// A role, cut down to what decisions need.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoleRules {
    pub rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// The label selectors of the roles whose rules this one takes over.
    aggregates: Vec<api::selector::Selector>,
}

/// A binding, cut down to what decisions need.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub role: RoleRef,
    pub subjects: Vec<Subject>,
}

/// All roles and bindings of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rbac {
    pub cluster_roles: BTreeMap<String, RoleRules>,
    pub roles: BTreeMap<(String, String), RoleRules>,
    pub cluster_bindings: BTreeMap<String, Binding>,
    /// By namespace, then by name.
    pub bindings: BTreeMap<String, BTreeMap<String, Binding>>,
}

/// Roles may aggregate roles that aggregate; deeper chains than this are not followed.
const AGGREGATION_DEPTH_MAX: usize = 4;

impl RoleRules {
    /// A namespaced role.
    pub(crate) fn of_role(role: &Role) -> RoleRules {
        RoleRules { rules: role.rules.iter().flatten().map(Rule::from).collect(), ..RoleRules::default() }
    }

    /// A cluster role. A selector that cannot be read selects nothing.
    pub(crate) fn of_cluster_role(role: &ClusterRole) -> RoleRules {
        let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
        RoleRules {
            rules: role.rules.iter().flatten().map(Rule::from).collect(),
            labels: role.metadata.labels.clone().unwrap_or_default(),
            aggregates: selectors
                .filter_map(|selector| api::selector::Selector::from_object(Some(selector)).ok())
                .collect(),
        }
    }
}

impl Binding {
    /// A binding in a namespace.
    pub(crate) fn of_binding(binding: &RoleBinding) -> Binding {
        Binding { role: binding.role_ref.clone(), subjects: binding.subjects.clone().unwrap_or_default() }
    }

    /// A binding of the whole cluster.
    pub(crate) fn of_cluster_binding(binding: &ClusterRoleBinding) -> Binding {
        Binding { role: binding.role_ref.clone(), subjects: binding.subjects.clone().unwrap_or_default() }
    }

    fn binds(&self, user: &User, namespace: &str) -> bool {
        self.subjects.iter().any(|subject| match subject.kind.as_str() {
            "User" => user.name == subject.name,
            "Group" => user.is_in(&subject.name),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref().unwrap_or(namespace);
                !namespace.is_empty() && user.name == service_account_name(namespace, &subject.name)
            }
            _ => false,
        })
    }
}

impl Rbac {
    /// Whether some role bound to the user allows the request; if not, what stood in the way of finding out.
    pub(crate) fn allows(&self, user: &User, asked: &Attributes<'_>) -> Result<(), String> {
        let mut faults = Vec::new();
        let mut allowed = false;
        self.visit(user, asked.namespace, &mut |rules| match rules {
            Ok(rule) => {
                allowed = rule.allows(asked);
                allowed
            }
            Err(fault) => {
                faults.push(fault);
                false
            }
        });
        match (allowed, faults.as_slice()) {
            (true, _) => Ok(()),
            (false, []) => Err(String::new()),
            (false, [fault]) => Err(format!("RBAC: {fault}")),
            (false, _) => Err(format!("RBAC: [{}]", faults.join(", "))),
        }
    }

    /// All rules that hold for the user in a namespace (of the whole cluster, when it is empty), and the roles
    /// that bindings name and that do not exist.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        self.visit(user, namespace, &mut |found| {
            match found {
                Ok(rule) => rules.push(rule.clone()),
                Err(fault) => faults.push(fault),
            }
            false
        });
        (rules, faults)
    }

    /// Shows every rule that holds for the user until `visitor` says that it has seen enough.
    fn visit(&self, user: &User, namespace: &str, visitor: &mut dyn FnMut(Result<&Rule, String>) -> bool) {
        let cluster = self.cluster_bindings.values().filter(|binding| binding.binds(user, ""));
        let namespaced = self.bindings.get(namespace).into_iter().flat_map(BTreeMap::values);
        let namespaced = namespaced.filter(|binding| !namespace.is_empty() && binding.binds(user, namespace));
        for (binding, namespace) in cluster.map(|binding| (binding, "")).chain(namespaced.map(|b| (b, namespace))) {
            if self.visit_role(&binding.role, namespace, visitor) {
                return;
            }
        }
    }

    fn visit_role(
        &self,
        role: &RoleRef,
        namespace: &str,
        visitor: &mut dyn FnMut(Result<&Rule, String>) -> bool,
    ) -> bool {
        let found = match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name),
            "Role" => self.roles.get(&(namespace.to_owned(), role.name.clone())),
            _ => None,
        };
        match found {
            Some(rules) => self.visit_rules(rules, AGGREGATION_DEPTH_MAX, visitor),
            None => {
                let kind = role.kind.to_ascii_lowercase();
                visitor(Err(format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name)))
            }
        }
    }

    fn visit_rules(
        &self,
        role: &RoleRules,
        depth: usize,
        visitor: &mut dyn FnMut(Result<&Rule, String>) -> bool,
    ) -> bool {
        if role.aggregates.is_empty() {
            return role.rules.iter().any(|rule| visitor(Ok(rule)));
        }
        if depth == 0 {
            return false;
        }
        let taken = |other: &&RoleRules| role.aggregates.iter().any(|selector| selector.matches(&other.labels));
        self.cluster_roles.values().filter(taken).any(|other| self.visit_rules(other, depth - 1, visitor))
    }

    /// The rules of a role as decisions see them, aggregated ones included.
    pub(crate) fn role_rules(&self, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, String> {
        let (mut rules, mut fault) = (Vec::new(), None);
        self.visit_role(role, namespace, &mut |found| {
            match found {
                Ok(rule) => rules.push(rule.clone()),
                Err(missing) => fault = Some(missing),
            }
            false
        });
        fault.map_or(Ok(rules), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let split = |text: &str| -> Vec<String> {
            if text == "-" { Vec::new() } else { text.split(' ').map(str::to_owned).collect() }
        };
        let groups = if groups.is_empty() { vec![String::new()] } else { split(groups) };
        Rule { verbs: split(verbs), groups, resources: split(resources), names: split(names), urls: Vec::new() }
    }

    fn check(rule: &Rule, verb: &str, group: &str, resource: &str, name: &str, expected: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = Attributes { verb, group, resource, subresource, name, is_resource: true, ..Attributes::default() };
        assert_eq!(rule.allows(&asked), expected, "{rule:?} {asked:?}");
    }

    #[test]
    fn rules_match_as_upstream() {
        check(&rule("get", "", "pods", "-"), "get", "", "pods", "x", true);
        check(&rule("get", "", "pods", "-"), "list", "", "pods", "", false);
        check(&rule("get", "", "pods", "-"), "get", "apps", "pods", "x", false);
        check(&rule("get", "", "pods", "-"), "get", "", "pods/log", "x", false);
        check(&rule("get", "", "pods/log", "-"), "get", "", "pods/log", "x", true);
        check(&rule("get", "*", "*/scale", "-"), "get", "apps", "deployments/scale", "x", true);
        check(&rule("get", "*", "*/scale", "-"), "get", "apps", "deployments", "x", false);
        check(&rule("*", "*", "*", "-"), "watch", "apps", "deployments/status", "", true);
        check(&rule("get", "", "pods", "a b"), "get", "", "pods", "b", true);
        check(&rule("get", "", "pods", "a b"), "get", "", "pods", "c", false);
        check(&rule("create", "", "pods", "a"), "create", "", "pods", "", false);
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let rule =
            Rule { verbs: vec!["get".into()], urls: vec!["/healthz".into(), "/api/*".into()], ..Rule::default() };
        for (path, expected) in [("/healthz", true), ("/healthz/etcd", false), ("/api/v1", true), ("/api", false)] {
            let asked = Attributes { verb: "get", path, ..Attributes::default() };
            assert_eq!(rule.allows(&asked), expected, "{path}");
        }
    }
}
