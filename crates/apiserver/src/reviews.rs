//! Requests whose answer is worked out and not stored: who am I, may I, what may I, whose token is this.

use api::meta;
use api::status::Status;
use api::value::{Value, from_value, to_value};
use bytes::Bytes;
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule, SelfSubjectRulesReview,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::authn::user_of_claims;
use crate::authz::{Attributes, Decision};
use crate::catalog::Served;
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::user::{MASTERS, User};
use crate::verbs::create::{decoded, place};

/// Answers a review.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    if (served.group, served.kind) == ("", "Binding") {
        return crate::subresources::binding::answer(call, body).await;
    }
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let mut tree = decoded(call, served, &body, &options)?;
    place(call, served, &mut tree)?;
    let faults = {
        let rules = resources::Rules { now: stdx::wall(), user: &call.user.name, dry_run: options.dry_run };
        let mut checked = tree.clone();
        served.def.prepare(&mut checked, None, resources::Writer::Create, &rules).map_err(Refusal::internal)?
    };
    if let Some(status) = faults.into_status(served.group, served.kind, meta::name(&tree)) {
        return Err(status.into());
    }
    let mut answered = match served.kind {
        "SelfSubjectReview" => self_review(call)?,
        "SelfSubjectAccessReview" => access_review(call, tree, Whose::Own)?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access_review(call, tree, Whose::Named)?,
        "SelfSubjectRulesReview" => rules_review(call, &tree)?,
        "TokenReview" => token_review(call, &tree)?,
        _ => return Err(Refusal::no_such_path()),
    };
    meta::set_type(&mut answered, &served.api_version(), served.kind);
    Ok(Answer::Tree { code: 201, group: served.group, version: served.version, kind: served.kind, tree: answered })
}

fn user_info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()),
        uid: (!user.uid.is_empty()).then(|| user.uid.clone()),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
    }
}

fn tree<T: Serialize>(typed: &T) -> Outcome<Value> {
    to_value(typed).map_err(Refusal::internal)
}

fn typed<T: for<'de> Deserialize<'de>>(tree: &Value) -> Outcome<T> {
    from_value(tree).map_err(Refusal::internal)
}

fn self_review(call: &Call<'_>) -> Outcome<Value> {
    let status = Some(SelfSubjectReviewStatus { user_info: Some(user_info(&call.user)) });
    let mut answered = tree(&SelfSubjectReview { status, ..SelfSubjectReview::default() })?;
    meta::set_creation_timestamp(&mut answered, stdx::wall());
    Ok(answered)
}

enum Whose {
    Own,
    Named,
}

/// What the specs of the three access reviews have in common.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

fn access_review(call: &Call<'_>, mut review: Value, whose: Whose) -> Outcome<Value> {
    let spec: AccessSpec = review.get("spec").map_or(Ok(AccessSpec::default()), typed)?;
    let user = match whose {
        Whose::Own => call.user.clone(),
        Whose::Named => User {
            name: spec.user.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
        },
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let decision = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(asked), _) => {
            let [verb, group] = [text(&asked.verb), text(&asked.group)];
            let [resource, subresource] = [text(&asked.resource), text(&asked.subresource)];
            let [namespace, name] = [text(&asked.namespace), text(&asked.name)];
            let attributes = Attributes {
                verb: &verb,
                group: &group,
                resource: &resource,
                subresource: &subresource,
                namespace: &namespace,
                name: &name,
                is_resource: true,
                ..Attributes::default()
            };
            call.server.policies.decide(&user, &attributes, &call.server.cache)
        }
        (None, Some(asked)) => {
            let (verb, path) = (text(&asked.verb), text(&asked.path));
            let attributes = Attributes { verb: &verb, path: &path, ..Attributes::default() };
            call.server.policies.decide(&user, &attributes, &call.server.cache)
        }
        (None, None) => {
            return Err(Refusal::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    let status = match decision {
        Decision::Allowed => SubjectAccessReviewStatus { allowed: true, ..SubjectAccessReviewStatus::default() },
        Decision::Denied(reason) => SubjectAccessReviewStatus {
            reason: (!reason.is_empty()).then_some(reason),
            ..SubjectAccessReviewStatus::default()
        },
    };
    let status = tree(&status)?;
    if let Some(members) = review.as_object_mut() {
        members.insert("status", status);
    }
    Ok(review)
}

fn rules_review(call: &Call<'_>, review: &Value) -> Outcome<Value> {
    let namespace = review.str_at(&["spec", "namespace"]).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Refusal::bad_request("no namespace on request"));
    }
    let star = || vec!["*".to_owned()];
    let (mut resource_rules, mut non_resource_rules) = (Vec::new(), Vec::new());
    if call.user.is_in(MASTERS) {
        resource_rules.push(ResourceRule {
            verbs: star(),
            api_groups: Some(star()),
            resources: Some(star()),
            resource_names: None,
        });
        non_resource_rules.push(NonResourceRule { verbs: star(), non_resource_urls: Some(star()) });
    }
    let (rules, faults) = call.server.policies.rbac(&call.server.cache).rules(&call.user, namespace);
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    for rule in rules {
        if rule.resources.is_empty() {
            non_resource_rules.push(NonResourceRule { verbs: rule.verbs, non_resource_urls: some(rule.urls) });
        } else {
            let (api_groups, resource_names) = (some(rule.groups), some(rule.names));
            resource_rules.push(ResourceRule {
                verbs: rule.verbs,
                api_groups,
                resources: some(rule.resources),
                resource_names,
            });
        }
    }
    let status = SubjectRulesReviewStatus {
        evaluation_error: (!faults.is_empty()).then(|| faults.join(", ")),
        incomplete: !faults.is_empty(),
        non_resource_rules,
        resource_rules,
    };
    let mut answered: SelfSubjectRulesReview = typed(review)?;
    answered.status = Some(status);
    tree(&answered)
}

fn token_review(call: &Call<'_>, review: &Value) -> Outcome<Value> {
    let mut answered: TokenReview = typed(review)?;
    let token = answered.spec.token.clone();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication").into());
    }
    let server = call.server;
    let audiences = match answered.spec.audiences.clone().unwrap_or_default() {
        none if none.is_empty() => server.tokens.audiences().to_vec(),
        audiences => audiences,
    };
    let verified = server.tokens.verify(&token, &audiences, &server.cache);
    answered.status = Some(match verified {
        Ok(claims) => {
            let common = claims.audiences.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
            TokenReviewStatus {
                authenticated: Some(true),
                user: Some(user_info(&user_of_claims(&claims))),
                audiences: Some(common),
                error: None,
            }
        }
        Err(error) => TokenReviewStatus { error: Some(error.to_string()), ..TokenReviewStatus::default() },
    });
    tree(&answered)
}
