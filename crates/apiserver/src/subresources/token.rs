//! `serviceaccounts/token`: a new token, bound to an audience, a lifetime and an object.
//! Upstream: `pkg/registry/core/serviceaccount/storage/token.go`.

use api::field::{FieldErrors, Path};
use api::meta;
use api::status::{Status, Target};
use api::value::{Value, from_value, to_value};
use bytes::Bytes;
use client::{Key, Object};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pki::Claims;
use pki::token::{Bound, Reference};

use crate::answer::Answer;
use crate::catalog::Served;
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::user::service_account_name;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const HOUR_SECONDS: i64 = 3600;
const LIFETIME_SECONDS_MIN: i64 = 600;
const LIFETIME_SECONDS_MAX: i64 = 1 << 32;
/// Tokens that agents mount last a year, so that clients which never read them again live on, and warn after an hour.
const MOUNTED_SECONDS: i64 = HOUR_SECONDS + 7;
const EXTENDED_SECONDS: i64 = 365 * 24 * HOUR_SECONDS;

/// Signs a token for the service account that the path names.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let expected =
        Expected { group: GROUP, version: "v1", kind: KIND, message: crate::render::schema(GROUP, "v1", KIND)? };
    let encoding = negotiate::body_encoding(&call.headers)?;
    let tree = decode::object(&body, encoding, &expected, options.field_validation, &call.warnings)?;
    let mut request: TokenRequest = from_value(&tree).map_err(Refusal::internal)?;
    let account = call.current(served).await?;
    crate::admission::node_restriction::token(call, served, &tree)?;
    check_request(call, &request)?;
    let spec = request.spec.get_or_insert_default();
    let lifetime = *spec.expiration_seconds.get_or_insert(HOUR_SECONDS);
    let audiences = spec.audiences.get_or_insert_default();
    if audiences.is_empty() {
        audiences.extend_from_slice(call.server.tokens.audiences());
    }
    let audiences = audiences.clone();
    let mut bound = bound_object(call, spec.bound_object_ref.as_ref())?;
    bound.namespace = account.namespace().to_owned();
    bound.serviceaccount = reference(&account);
    let claims = claims(call, audiences, bound, lifetime);
    let expires = stdx::wall().as_second() + lifetime;
    let token = call.server.tokens.sign(&claims).map_err(Refusal::internal)?;
    let expiration = jiff::Timestamp::from_second(expires).map_err(Refusal::internal)?;
    request.status = Some(TokenRequestStatus { expiration_timestamp: Some(Time(expiration)), token: Some(token) });
    request.metadata.name = Some(account.name().to_owned());
    request.metadata.namespace = Some(account.namespace().to_owned());
    let mut tree = to_value(&request).map_err(Refusal::internal)?;
    meta::set_creation_timestamp(&mut tree, stdx::wall());
    meta::set_type(&mut tree, "authentication.k8s.io/v1", KIND);
    Ok(Answer::Tree { code: 201, group: GROUP, version: "v1", kind: KIND, tree })
}

fn check_request(call: &Call<'_>, request: &TokenRequest) -> Outcome<()> {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.info.name {
        let wanted = &call.info.name;
        let why = format!("must match the service account name if specified: expected {wanted:?}, got {name:?}");
        return Err(Refusal::bad_request(why));
    }
    let (spec, mut faults) = (Path::new("spec"), FieldErrors::default());
    let path = spec.child("expirationSeconds");
    let seconds = request.spec.as_ref().and_then(|spec| spec.expiration_seconds).unwrap_or(HOUR_SECONDS);
    if seconds < LIFETIME_SECONDS_MIN {
        faults.invalid(&path, &seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > LIFETIME_SECONDS_MAX {
        faults.invalid(&path, &seconds, "may not specify a duration larger than 2^32 seconds");
    }
    faults.into_status(GROUP, KIND, "").map_or(Ok(()), |status| Err(status.into()))
}

fn reference(object: &Object) -> Reference {
    Reference { name: object.name().to_owned(), uid: object.uid().to_owned() }
}

/// What the token is to be bound to, when it exists and is the one that is meant.
fn bound_object(call: &Call<'_>, wanted: Option<&BoundObjectReference>) -> Outcome<Bound> {
    let mut bound = Bound::default();
    let Some(wanted) = wanted else { return Ok(bound) };
    let name = wanted.name.as_deref().unwrap_or_default();
    let kind = (wanted.api_version.as_deref().unwrap_or_default(), wanted.kind.as_deref().unwrap_or_default());
    let (prefix, plural, namespace) = match kind {
        ("v1", "Pod") => ("pods", "pods", call.info.namespace.as_str()),
        ("v1", "Secret") => ("secrets", "secrets", call.info.namespace.as_str()),
        ("v1", "Node") => ("minions", "nodes", ""),
        (version, kind) => {
            return Err(Refusal::bad_request(format!(
                "cannot bind token for serviceaccount to object type {version}, Kind={kind}"
            )));
        }
    };
    let target = Target { group: "", resource: plural, name };
    let object = find(call, prefix, namespace, name).ok_or_else(|| Refusal::from(Status::not_found(target)))?;
    if let Some(uid) = wanted.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != object.uid()) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(target, &why).into());
    }
    match plural {
        "pods" => {
            let pod: &api::projection::PodLite = object.project();
            let node = &pod.spec.node_name;
            bound.node = find(call, "minions", "", node).map(|node| reference(&node));
            let account = object.tree().map_err(Refusal::internal)?;
            check_pod_account(call, &account)?;
            bound.pod = Some(reference(&object));
        }
        "secrets" => bound.secret = Some(reference(&object)),
        _ => bound.node = Some(reference(&object)),
    }
    Ok(bound)
}

fn check_pod_account(call: &Call<'_>, pod: &Value) -> Outcome<()> {
    if pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default() == call.info.name {
        return Ok(());
    }
    let account = &call.info.name;
    Err(Refusal::bad_request(format!(
        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
    )))
}

fn find(call: &Call<'_>, prefix: &str, namespace: &str, name: &str) -> Option<std::sync::Arc<Object>> {
    if name.is_empty() {
        return None;
    }
    call.server.cache.resource(prefix)?.snapshot().objects.get(&Key::new(namespace, name)).cloned()
}

fn claims(call: &Call<'_>, audiences: Vec<String>, mut bound: Bound, lifetime: i64) -> Claims {
    let now = stdx::wall().as_second();
    let ours = audiences == call.server.tokens.audiences();
    let extended = lifetime == MOUNTED_SECONDS && bound.pod.is_some() && ours;
    if extended {
        bound.warnafter = Some(now + lifetime);
    }
    Claims {
        audiences,
        expires: now + if extended { EXTENDED_SECONDS } else { lifetime },
        issued_at: now,
        issuer: call.server.tokens.issuer().to_owned(),
        id: crate::verbs::attempt::uid(),
        subject: service_account_name(&bound.namespace, &bound.serviceaccount.name),
        bound,
        not_before: now,
    }
}
