//! Requests for certificates: approved where roles say so, signed where the cluster's authority does, and cleaned away.
//!
//! Upstream: `pkg/controller/certificates`.

mod approve;
mod clean;
mod sign;

use std::collections::BTreeSet;

pub use approve::CsrApprover;
pub use clean::CsrCleaner;
pub use sign::CsrSigner;

use api::value::{Value, to_value};
use client::Object;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reconcile::plan::kinds::SIGNING_REQUESTS;
use reconcile::{Change, Now, WantedCertificate};

use crate::{owner, patch};

/// Clients of the API server.
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Node agents as clients of the API server.
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Node agents as servers.
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

fn status(request: &CertificateSigningRequest) -> CertificateSigningRequestStatus {
    request.status.clone().unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    status(request).conditions.iter().flatten().any(|condition| condition.type_ == kind)
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    status(request).certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

fn usages(request: &CertificateSigningRequest) -> Vec<String> {
    request.spec.usages.clone().unwrap_or_default()
}

/// Adds a condition; the list is patched whole, pinned to what was seen.
fn add(
    object: &Object,
    request: &CertificateSigningRequest,
    subresource: &'static str,
    (kind, reason, message): (&str, &str, &str),
    now: Now,
) -> Option<Change> {
    let mut conditions = status(request).conditions.unwrap_or_default();
    conditions.push(Condition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now.wall)),
        last_transition_time: None,
    });
    let conditions = to_value(&conditions).ok()?;
    Some(change(object, subresource, ("conditions", conditions)))
}

fn change(object: &Object, subresource: &'static str, (field, value): (&str, Value)) -> Change {
    let body = patch::object([("status", patch::object([(field, value)]))]);
    let of = owner::reference_to(SIGNING_REQUESTS, object);
    Change::Patch { of, subresource: Some(subresource), body, revision: Some(object.revision()) }
}

/// Why a request is not one of a node agent for a client certificate. Upstream: `ValidateKubeletClientCSR`.
fn kubelet_client_fault(wanted: &WantedCertificate, usages: &[String]) -> Option<String> {
    let fault = match () {
        () if wanted.organizations != ["system:nodes"] => "subject organization is not system:nodes",
        () if !wanted.dns_names.is_empty() => "DNS subjectAltNames are not allowed",
        () if !wanted.emails.is_empty() => "Email subjectAltNames are not allowed",
        () if !wanted.addresses.is_empty() => "IP subjectAltNames are not allowed",
        () if !wanted.uris.is_empty() => "URI subjectAltNames are not allowed",
        () if !wanted.common_name.starts_with("system:node:") => "subject common name does not begin with system:node:",
        () => return usages_fault(usages, "client auth"),
    };
    Some(fault.into())
}

/// Why a request is not one of a node agent for a serving certificate. Upstream: `ValidateKubeletServingCSR`.
fn kubelet_serving_fault(wanted: &WantedCertificate, usages: &[String]) -> Option<String> {
    let fault = match () {
        () if wanted.organizations != ["system:nodes"] => "subject organization is not system:nodes",
        () if wanted.dns_names.is_empty() && wanted.addresses.is_empty() => "DNS or IP subjectAltName is required",
        () if !wanted.emails.is_empty() => "Email subjectAltNames are not allowed",
        () if !wanted.uris.is_empty() => "URI subjectAltNames are not allowed",
        () => {
            return usages_fault(usages, "server auth").or_else(|| {
                let named = wanted.common_name.starts_with("system:node:");
                (!named).then(|| "subject common name does not begin with system:node:".into())
            });
        }
    };
    Some(fault.into())
}

/// Keys that do not encipher need not be allowed to.
fn usages_fault(usages: &[String], purpose: &str) -> Option<String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let without: BTreeSet<&str> = ["digital signature", purpose].into();
    let with: BTreeSet<&str> = ["digital signature", "key encipherment", purpose].into();
    (given != with && given != without).then(|| {
        let mut names: Vec<&str> = with.into_iter().collect();
        names.sort_unstable();
        format!("usages did not match [{}]", names.join(" "))
    })
}

#[cfg(test)]
mod tests;
