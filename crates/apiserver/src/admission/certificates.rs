//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for a signer's name,
//! and which subjects nobody gets. Upstream: `plugin/pkg/admission/certificates`.
//!
//! A new request also gets here who asks, and is read for the first time, since only here its signature can be checked.

use api::field::{FieldErrors, Path};
use api::value::{Value, from_value, to_value};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use pki::CertificateRequest;

use super::{Asked, Operation};
use crate::authz::{Attributes, Decision};
use crate::refusal::{Outcome, Refusal};
use crate::user::MASTERS;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Completes new requests, and decides about approvals and signatures.
pub(crate) fn admit(asked: &Asked<'_>, new: &mut Value, old: Option<&Value>) -> Outcome<()> {
    if !asked.is(GROUP, PLURAL) {
        return Ok(());
    }
    // Judged by what is stored: the signer's name cannot be changed on the way.
    let signer = old.and_then(|old| old.str_at(&["spec", "signerName"])).unwrap_or_default();
    match (asked.operation, asked.subresource) {
        (Operation::Create, "") => create(asked, new),
        (Operation::Update, "approval") if !may(asked, "approve", signer) => {
            Err(asked.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
        }
        (Operation::Update, "status") if signs(new, old) && !may(asked, "sign", signer) => {
            Err(asked.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
        }
        _ => Ok(()),
    }
}

fn create(asked: &Asked<'_>, new: &mut Value) -> Outcome<()> {
    let mut request: CertificateSigningRequest = from_value(new).map_err(Refusal::internal)?;
    let user = &asked.call.user;
    let spec = &mut request.spec;
    spec.username = Some(user.name.clone());
    spec.uid = Some(user.uid.clone()).filter(|uid| !uid.is_empty());
    spec.groups = Some(user.groups.clone()).filter(|groups| !groups.is_empty());
    spec.extra = Some(user.extra.clone()).filter(|extra| !extra.is_empty());
    let wanted = CertificateRequest::read(&spec.request.0).map_err(|error| malformed(asked, new, &error))?;
    if spec.signer_name == API_CLIENT && wanted.organizations.iter().any(|group| group == MASTERS) {
        return Err(asked.forbidden(&format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed")));
    }
    *new = to_value(&request).map_err(Refusal::internal)?;
    api::meta::set_type(new, &asked.served.api_version(), asked.served.kind);
    Ok(())
}

fn malformed(asked: &Asked<'_>, new: &Value, error: &pki::Error) -> Refusal {
    let mut faults = FieldErrors::default();
    let given = new.str_at(&["spec", "request"]).unwrap_or_default();
    faults.invalid(&Path::new("spec").child("request"), given, error.to_string());
    let status = faults.into_status(asked.served.group, asked.served.kind, &asked.name);
    status.map_or_else(|| Refusal::internal(error), Refusal::from)
}

/// Whether a certificate or a condition is set.
fn signs(new: &Value, old: Option<&Value>) -> bool {
    let part = |request: &Value, field: &str| request.at(&["status", field]).cloned();
    old.is_none_or(|old| ["certificate", "conditions"].iter().any(|field| part(new, field) != part(old, field)))
}

/// Whether the user may do this for the signer, or for all signers of its domain.
fn may(asked: &Asked<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    let call = asked.call;
    [signer, &format!("{domain}/*")].iter().any(|name| {
        let attributes =
            Attributes { verb, group: GROUP, resource: "signers", name, is_resource: true, ..Attributes::default() };
        call.server.policies.decide(&call.user, &attributes, &call.server.cache) == Decision::Allowed
    })
}
