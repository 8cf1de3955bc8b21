//! May they: masters bypass, then the node authorizer, then RBAC.

pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod policies;
pub(crate) mod rbac;

use api::status::{Status, Target};

use crate::refusal::Refusal;
use crate::request::RequestInfo;
use crate::user::{MASTERS, User};

/// What is asked for, as authorizers see it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub is_resource: bool,
    pub path: &'a str,
    /// The field selector of a list or watch, as sent.
    pub field_selector: &'a str,
}

impl<'a> From<&'a RequestInfo> for Attributes<'a> {
    fn from(info: &'a RequestInfo) -> Attributes<'a> {
        Attributes {
            verb: &info.verb,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            is_resource: info.is_resource,
            path: &info.path,
            field_selector: &info.field_selector,
        }
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// Nobody allowed it; why, in the words of those who looked.
    Denied(String),
}

/// Asks one authorizer after the other; the first that allows decides.
pub(crate) fn decide(user: &User, asked: &Attributes<'_>, graph: &node::Graph, rbac: &rbac::Rbac) -> Decision {
    if user.is_in(MASTERS) {
        return Decision::Allowed;
    }
    let mut reasons = Vec::new();
    if let Some(node) = user.node_name() {
        match node::allows(node, asked, graph) {
            Ok(()) => return Decision::Allowed,
            Err(reason) => reasons.push(reason),
        }
    }
    match rbac.allows(user, asked) {
        Ok(()) => return Decision::Allowed,
        Err(reason) => reasons.push(reason),
    }
    reasons.retain(|reason| !reason.is_empty());
    Decision::Denied(reasons.join("\n"))
}

/// 403 in upstream's words. Upstream: `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`.
pub(crate) fn forbidden(user: &User, asked: &Attributes<'_>, reason: &str) -> Refusal {
    let mut why = sentence(user, asked).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Status::forbidden(Target { group: asked.group, resource: asked.resource, name: asked.name }, &why).into()
}

fn sentence(user: &User, asked: &Attributes<'_>) -> String {
    let Attributes { verb, group, namespace, path, .. } = asked;
    let name = &user.name;
    if !asked.is_resource {
        return format!("User {name:?} cannot {verb} path {path:?}");
    }
    let mut resource = asked.resource.to_owned();
    if !asked.subresource.is_empty() {
        resource = format!("{resource}/{}", asked.subresource);
    }
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {place}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn words_refusals_as_upstream() {
        let check = |target: &str, reason: &str, expected: &str| {
            let info = RequestInfo::new(&Method::GET, target, &crate::request::Query::default());
            let refusal = forbidden(&User::new("jane", &[]), &Attributes::from(&info), reason);
            assert_eq!(refusal.0.message, expected);
            assert_eq!(refusal.code(), 403);
        };
        check(
            "/api/v1/namespaces/a/pods",
            "",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "a""#,
        );
        check(
            "/apis/apps/v1/namespaces/a/deployments/x/scale",
            "RBAC: because",
            r#"deployments.apps "x" is forbidden: User "jane" cannot get resource "deployments/scale" in API group "apps" in the namespace "a": RBAC: because"#,
        );
        check(
            "/api/v1/nodes",
            "",
            r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope"#,
        );
        check("/metrics", "", r#"forbidden: User "jane" cannot get path "/metrics""#);
    }
}
