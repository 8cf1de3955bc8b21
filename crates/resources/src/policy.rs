//! The group `policy/v1`.

pub mod pod_disruption_budget;

use k8s_openapi::api::policy::v1::Eviction;

use crate::base::computed;
use crate::def::{Facts, ResourceDef, Scope};

/// Eviction: `pods/…/eviction`, a deletion that asks disruption budgets first.
pub static EVICTION: ResourceDef<Eviction> =
    ResourceDef::plain(Facts { scope: Scope::Namespaced, ..computed("policy", "Eviction", "evictions", "eviction") });
