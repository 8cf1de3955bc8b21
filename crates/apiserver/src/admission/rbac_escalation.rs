//! Nobody grants what they do not have: roles and bindings may hold only what their writer may do, unless the writer may
//! `escalate` or `bind`. Upstream: `pkg/registry/rbac/*/policybased`.

use api::value::{Value, from_value};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};

use super::{Asked, Operation};
use crate::authz::escalation::{missing, quoted};
use crate::authz::rbac::Rule;
use crate::authz::{Attributes, Decision};
use crate::refusal::{Outcome, Refusal};
use crate::user::MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses writes of roles and bindings that would grant more than their writer has.
pub(crate) fn admit(asked: &Asked<'_>, new: &Value, old: Option<&Value>) -> Outcome<()> {
    if asked.served.group != GROUP || asked.operation == Operation::Delete || asked.call.user.is_in(MASTERS) {
        return Ok(());
    }
    match asked.served.facts().plural {
        plural @ ("roles" | "clusterroles") => role(asked, plural, new, old),
        "rolebindings" | "clusterrolebindings" => binding(asked, new, old),
        _ => Ok(()),
    }
}

fn may(asked: &Asked<'_>, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let attributes =
        Attributes { verb, group: GROUP, resource, namespace, name, is_resource: true, ..Attributes::default() };
    let call = asked.call;
    call.server.policies.decide(&call.user, &attributes, &call.server.cache) == Decision::Allowed
}

fn same(new: &Value, old: Option<&Value>, fields: &[&str]) -> bool {
    old.is_some_and(|old| fields.iter().all(|field| new.get(field) == old.get(field)))
}

fn rules_of(role: &Value) -> Outcome<Vec<Rule>> {
    let rules: Vec<PolicyRule> = role.get("rules").map_or(Ok(Vec::new()), from_value).map_err(Refusal::internal)?;
    Ok(rules.iter().map(Rule::from).collect())
}

fn role(asked: &Asked<'_>, plural: &str, new: &Value, old: Option<&Value>) -> Outcome<()> {
    if same(new, old, &["rules", "aggregationRule"]) || may(asked, "escalate", plural, &asked.namespace, &asked.name) {
        return Ok(());
    }
    confirm(asked, &rules_of(new)?)?;
    if new.get("aggregationRule").is_some() {
        let star = || vec!["*".to_owned()];
        let everything = [
            Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
            Rule { verbs: star(), urls: star(), ..Rule::default() },
        ];
        if confirm(asked, &everything).is_err() {
            return Err(asked.forbidden("must have cluster-admin privileges to use the aggregationRule"));
        }
    }
    Ok(())
}

fn binding(asked: &Asked<'_>, new: &Value, old: Option<&Value>) -> Outcome<()> {
    if same(new, old, &["subjects", "roleRef"]) {
        return Ok(());
    }
    let role: RoleRef = new.get("roleRef").map_or(Ok(RoleRef::default()), from_value).map_err(Refusal::internal)?;
    let resource = if role.kind == "Role" { "roles" } else { "clusterroles" };
    if may(asked, "bind", resource, &asked.namespace, &role.name) {
        return Ok(());
    }
    let call = asked.call;
    let granted = call.server.policies.rbac(&call.server.cache).role_rules(&role, &asked.namespace);
    // A role that does not exist grants nothing yet, but may later: upstream refuses in its words.
    let granted = granted.map_err(|fault| asked.forbidden(&fault))?;
    confirm(asked, &granted)
}

fn confirm(asked: &Asked<'_>, wanted: &[Rule]) -> Outcome<()> {
    let call = asked.call;
    let (held, faults) = call.server.policies.rbac(&call.server.cache).rules(&call.user, &asked.namespace);
    let missing = missing(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let (name, groups, list) = (&call.user.name, quoted(&call.user.groups), missing.join("\n"));
    let mut why =
        format!("user {name:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{list}");
    if !faults.is_empty() {
        why = format!("{why}; resolution errors: [{}]", faults.join(", "));
    }
    Err(asked.forbidden(&why))
}
