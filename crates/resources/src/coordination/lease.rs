//! Lease: who is alive, who leads.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::coordination::v1::Lease;

use crate::absent::text;
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Writer};
use crate::faults::non_negative;

pub static LEASE: ResourceDef<Lease> = ResourceDef {
    reset,
    validate,
    columns: &[
        name(),
        column("Holder", "string", "Who holds the lease.", |lease| {
            Cell::Text(lease.spec.as_ref().map_or("", |spec| text(&spec.holder_identity)).to_owned())
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        backing: stored("leases"),
        ..CORE
    })
};

/// Coordinated leader election is off by default at this level, and its fields are dropped.
fn reset(new: &mut Lease, _: Option<&Lease>, _: Writer, _: &Rules<'_>) {
    if let Some(spec) = &mut new.spec {
        spec.strategy = None;
        spec.preferred_holder = None;
    }
}

fn validate(new: &Lease, _: Option<&Lease>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let Some(spec) = &new.spec else { return };
    let path = Path::new("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        faults.invalid(&path.child("leaseDurationSeconds"), &seconds, "must be greater than 0");
    }
    non_negative(faults, &path.child("leaseTransitions"), spec.lease_transitions.unwrap_or(0).into());
}
