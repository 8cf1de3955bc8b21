//! Approves requests of node agents for client certificates, when roles let the asker have one.
//!
//! Upstream: `pkg/controller/certificates/approver`.

use std::sync::Arc;

use client::{Key, Object};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use reconcile::plan::kinds::SIGNING_REQUESTS;
use reconcile::{Asker, Controller, Facts, Need, Now, Outcomes, Plan, View, Watch};

use super::{KUBELET_CLIENT, add, has, is_issued, kubelet_client_fault, usages};
use crate::owner;

/// The controller that approves by roles.
pub struct CsrApprover;

impl Controller for CsrApprover {
    const NAME: &'static str = "certificatesigningrequest-approving";
    type Key = Key;
    type Observed<'c> = Option<Arc<Object>>;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![Watch::primary(SIGNING_REQUESTS)]
    }

    fn observe(view: &View, key: &Key) -> Option<Arc<Object>> {
        view.get(SIGNING_REQUESTS, key)
    }

    fn reconcile(observed: &Option<Arc<Object>>, now: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some(object) = observed else { return Plan::nothing() };
        let Some(request) = owner::typed::<CertificateSigningRequest>(object) else { return Plan::nothing() };
        if is_issued(&request) || has(&request, "Approved") || has(&request, "Denied") {
            return Plan::nothing();
        }
        let mut needs = Vec::new();
        for (subresource, message) in recognized(&request, facts) {
            let need = need(&request, subresource);
            match facts.answers.get(&need) {
                Some(true) => {
                    let approved = ("Approved", "AutoApproved", message);
                    let change = add(object, &request, "approval", approved, now);
                    return Plan::nothing().then(change.map(Into::into));
                }
                Some(false) => {}
                None => needs.push(need),
            }
        }
        Plan { needs, ..Plan::default() }
    }
}

/// What the request is taken for: which permission lets it through, and what is then said.
fn recognized(request: &CertificateSigningRequest, facts: &Facts) -> Vec<(&'static str, &'static str)> {
    let Some(authority) = &facts.authority else { return Vec::new() };
    let Ok(wanted) = authority.read(&request.spec.request.0) else { return Vec::new() };
    let fault = kubelet_client_fault(&wanted, &usages(request));
    if request.spec.signer_name != KUBELET_CLIENT || fault.is_some() {
        return Vec::new();
    }
    let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let any = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    let is_own = request.spec.username.as_deref() == Some(wanted.common_name.as_str());
    if is_own { vec![own, any] } else { vec![any] }
}

fn need(request: &CertificateSigningRequest, subresource: &str) -> Need {
    let spec = &request.spec;
    let who = Asker {
        user: spec.username.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    Need::Permitted { who, verb: "create".into(), resource: SIGNING_REQUESTS, subresource: subresource.into() }
}
