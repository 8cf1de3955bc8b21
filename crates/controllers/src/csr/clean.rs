//! Cleans requests away that are done or that nobody answers.
//!
//! Upstream: `pkg/controller/certificates/cleaner`.

use std::sync::Arc;
use std::time::Duration;

use client::{Key, Object};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use reconcile::plan::kinds::SIGNING_REQUESTS;
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, Propagation, View, Watch};

use super::{is_issued, status};
use crate::owner;

const DONE_KEPT: SignedDuration = SignedDuration::from_hours(1);
const PENDING_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// The controller that cleans.
pub struct CsrCleaner;

impl Controller for CsrCleaner {
    const NAME: &'static str = "certificatesigningrequest-cleaner";
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
        let Some(object) = observed.as_ref().filter(|object| object.meta().deletion.is_none()) else {
            return Plan::nothing();
        };
        let Some(end) = owner::typed(object).and_then(|request| end(&request, facts)) else { return Plan::nothing() };
        let left = end.duration_since(now.wall);
        if left.is_positive() {
            return Plan::nothing().again_within(left.unsigned_abs() + Duration::from_secs(1));
        }
        let of = owner::reference_to(SIGNING_REQUESTS, object);
        Plan::nothing().then([Change::Delete { of, propagation: Propagation::Default, revision: None }.into()])
    }
}

/// Until when the request is kept.
fn end(request: &CertificateSigningRequest, facts: &Facts) -> Option<Timestamp> {
    let status = status(request);
    let conditions = status.conditions.unwrap_or_default();
    if conditions.is_empty() {
        return request.metadata.creation_timestamp.as_ref()?.0.checked_add(PENDING_KEPT).ok();
    }
    let issued = is_issued(request);
    let done = conditions.iter().filter(|condition| match condition.type_.as_str() {
        "Denied" | "Failed" => true,
        "Approved" => issued,
        _ => false,
    });
    let kept = done.filter_map(|condition| condition.last_update_time.as_ref()?.0.checked_add(DONE_KEPT).ok()).min();
    let expires = facts
        .authority
        .as_ref()
        .zip(status.certificate)
        .and_then(|(authority, certificate)| authority.valid_until(&certificate.0));
    kept.into_iter().chain(expires).min()
}
