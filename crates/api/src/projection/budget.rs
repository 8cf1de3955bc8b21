//! What is decided by of a disruption budget.

use std::sync::Arc;

use super::affinity::selector;
use super::{Fields, Meta, Projection, ReadError, Reader};
use crate::selector::Selector;

/// A PodDisruptionBudget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetLite {
    pub meta: Arc<Meta>,
    /// Nothing when absent.
    pub selector: Selector,
    /// How many pods may be disrupted now.
    pub disruptions_allowed: i32,
    /// Pods whose eviction was allowed and which are not gone yet.
    pub disrupted_pods: Vec<Box<str>>,
}

impl Default for BudgetLite {
    fn default() -> Self {
        BudgetLite {
            meta: Arc::default(),
            selector: Selector::Nothing,
            disruptions_allowed: 0,
            disrupted_pods: Vec::new(),
        }
    }
}

pub(super) const BUDGET: &Fields = &[(2, "spec"), (3, "status")];
pub(super) const SPEC: &Fields = &[(2, "selector")];
pub(super) const STATUS: &Fields = &[(2, "disruptedPods"), (3, "disruptionsAllowed")];

impl Projection for BudgetLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(BUDGET, |name, value| match name {
            "spec" => value.fields(SPEC, |_, value| {
                self.selector = selector(value)?;
                Ok(())
            }),
            _ => value.fields(STATUS, |name, value| match name {
                "disruptedPods" => value.entries(|pod, _| {
                    self.disrupted_pods.push(pod.into());
                    Ok(())
                }),
                _ => {
                    self.disruptions_allowed = value.int32()?;
                    Ok(())
                }
            }),
        })
    }
}
