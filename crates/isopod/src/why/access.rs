//! `isopod why auth`: asks whether somebody may do something, and which role would let them.

use anyhow::Context as _;
use api::value::Value;
use cli::args::Why;
use cli::why::access::{Question, Roles, denied};
use client::{Client, ListOptions, Target};
use serde_json::json;

use super::{print, tree};

const RBAC: &str = "rbac.authorization.k8s.io";
const REVIEWS: &str = "authorization.k8s.io";
/// Objects of a page of a list.
const PAGE: u32 = 500;

/// Groups of the resources that are served under one of their own, for those who leave the group out.
const GROUPS: [(&str, &str); 14] = [
    ("deployments", "apps"),
    ("replicasets", "apps"),
    ("statefulsets", "apps"),
    ("daemonsets", "apps"),
    ("jobs", "batch"),
    ("cronjobs", "batch"),
    ("ingresses", "networking.k8s.io"),
    ("networkpolicies", "networking.k8s.io"),
    ("poddisruptionbudgets", "policy"),
    ("roles", RBAC),
    ("rolebindings", RBAC),
    ("clusterroles", RBAC),
    ("clusterrolebindings", RBAC),
    ("leases", "coordination.k8s.io"),
];
/// Resources without a namespace.
const CLUSTER: [&str; 7] = [
    "nodes",
    "namespaces",
    "persistentvolumes",
    "clusterroles",
    "clusterrolebindings",
    "priorityclasses",
    "runtimeclasses",
];

/// Asks and prints.
pub(super) async fn run(
    client: &Client,
    verb: &str,
    resource: &str,
    namespace: &str,
    asked: &Why,
) -> anyhow::Result<()> {
    let mut question = Question::parse(verb, resource);
    if let (true, Some((_, group))) =
        (question.group.is_empty(), GROUPS.iter().find(|(plural, _)| *plural == question.resource))
    {
        question.group = (*group).to_owned();
    }
    if !CLUSTER.contains(&question.resource.as_str()) {
        question.namespace = namespace.to_owned();
    }
    let own = who(client).await?;
    question.user = asked.user.clone().unwrap_or(own.0);
    question.groups = if asked.user.is_some() { asked.groups.clone() } else { own.1 };
    let review = review(client, &question, asked.user.is_some()).await?;
    let title = format!("auth {verb} {resource}");
    if review.at(&["status", "allowed"]).and_then(Value::as_bool) == Some(true) {
        let reason = review.str_at(&["status", "reason"]).unwrap_or_default();
        let well = format!(
            "user {:?} may do that{}",
            question.user,
            if reason.is_empty() { String::new() } else { format!(" ({reason})") }
        );
        print(&title, &well, &[], &[], asked.output);
        return Ok(());
    }
    let mut unread = Vec::new();
    let roles = Roles {
        cluster_roles: list(client, Target::new(RBAC, "v1", "clusterroles"), &mut unread).await,
        roles: match question.namespace.as_str() {
            "" => Vec::new(),
            namespace => list(client, Target::new(RBAC, "v1", "roles").namespace(namespace), &mut unread).await,
        },
    };
    let reason = review.str_at(&["status", "reason"]).unwrap_or_default();
    print(&title, "", &[denied(&question, reason, &roles)], &unread, asked.output);
    Ok(())
}

/// Who one is to the server: name and groups.
async fn who(client: &Client) -> anyhow::Result<(String, Vec<String>)> {
    let target = Target::new("authentication.k8s.io", "v1", "selfsubjectreviews");
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let review = client.review(target, &body).await.context("ask who one is")?;
    let user = review.at(&["status", "userInfo"]).cloned().unwrap_or_default();
    let groups = user.get("groups").and_then(Value::as_array).unwrap_or_default();
    let groups = groups.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    Ok((user.str_at(&["username"]).unwrap_or_default().to_owned(), groups))
}

async fn review(client: &Client, question: &Question, of_other: bool) -> anyhow::Result<Value> {
    let attributes = json!({
        "verb": question.verb, "group": question.group, "resource": question.resource, "subresource": question.subresource,
        "name": question.name, "namespace": question.namespace,
    });
    let (plural, kind, spec) = match of_other {
        false => ("selfsubjectaccessreviews", "SelfSubjectAccessReview", json!({"resourceAttributes": attributes})),
        true => {
            let mut groups = question.groups.clone();
            groups.push("system:authenticated".to_owned());
            if let Some((namespace, _)) =
                question.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
            {
                groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
            }
            let spec = json!({"resourceAttributes": attributes, "user": question.user, "groups": groups});
            ("subjectaccessreviews", "SubjectAccessReview", spec)
        }
    };
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    client.review(Target::new(REVIEWS, "v1", plural), &body).await.context("ask whether it is allowed")
}

async fn list(client: &Client, target: Target, unread: &mut Vec<String>) -> Vec<Value> {
    let plural = target.resource.clone();
    match client.list_pages(target, ListOptions::default(), PAGE).await {
        Ok(list) => list.items.iter().map(|object| tree(object)).collect(),
        Err(error) => {
            unread.push(format!("{plural}: {}", stdx::told(&error)));
            Vec::new()
        }
    }
}
