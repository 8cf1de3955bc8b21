//! Signs approved requests for the signers that are the cluster's own.
//!
//! Upstream: `pkg/controller/certificates/signer`.

use std::sync::Arc;

use client::{Key, Object};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use reconcile::plan::kinds::SIGNING_REQUESTS;
use reconcile::{Controller, Facts, Need, Now, Outcomes, Plan, View, WantedCertificate, Watch};

use super::{
    API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, add, change, has, is_issued, kubelet_client_fault,
    kubelet_serving_fault, usages,
};
use crate::owner;

/// How long certificates are valid when nobody asks for less. Upstream: `--cluster-signing-duration`.
const LIFETIME_SECONDS: u64 = 365 * 24 * 3600;

/// The controller that signs.
pub struct CsrSigner;

impl Controller for CsrSigner {
    const NAME: &'static str = "certificatesigningrequest-signing";
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
        let approved = has(&request, "Approved") && !has(&request, "Denied");
        let (Some(authority), true) = (&facts.authority, approved && !has(&request, "Failed")) else {
            return Plan::nothing();
        };
        if is_issued(&request) || ![API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&&*request.spec.signer_name) {
            return Plan::nothing();
        }
        let fault = match authority.read(&request.spec.request.0) {
            Ok(wanted) => fault(&request.spec.signer_name, &wanted, &usages(&request)),
            Err(why) => Some(why),
        };
        let fail = |why: &str| {
            let failed = ("Failed", "SignerValidationFailure", why);
            Plan::nothing().then(add(object, &request, "status", failed, now).map(Into::into))
        };
        if let Some(why) = fault {
            return fail(&why);
        }
        let need = need(&request);
        match facts.certificates.get(&need) {
            None => Plan { needs: vec![need], ..Plan::default() },
            Some(Err(why)) => fail(why),
            Some(Ok(certificate)) => {
                let bytes = api::value::to_value(&ByteString(certificate.clone().into_bytes())).unwrap_or_default();
                Plan::nothing().then([change(object, "status", ("certificate", bytes)).into()])
            }
        }
    }
}

fn need(request: &CertificateSigningRequest) -> Need {
    let asked = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Need::Certificate {
        request: request.spec.request.0.clone(),
        usages: usages(request),
        seconds: asked.unwrap_or(LIFETIME_SECONDS).min(LIFETIME_SECONDS),
    }
}

/// Why the signer does not sign this.
fn fault(signer: &str, wanted: &WantedCertificate, usages: &[String]) -> Option<String> {
    match signer {
        KUBELET_CLIENT => kubelet_client_fault(wanted, usages),
        KUBELET_SERVING => kubelet_serving_fault(wanted, usages),
        _ => client_usages_fault(usages),
    }
}

/// Upstream: `validAPIServerClientUsages`.
fn client_usages_fault(usages: &[String]) -> Option<String> {
    const CLIENT: &str = "client auth";
    let strange =
        usages.iter().find(|usage| !["digital signature", "key encipherment", CLIENT].contains(&usage.as_str()));
    match strange {
        Some(usage) => Some(format!("invalid usage for client certificate: {usage}")),
        None if !usages.iter().any(|usage| usage == CLIENT) => {
            Some(format!("missing required usage for client certificate: {CLIENT}"))
        }
        None => None,
    }
}
