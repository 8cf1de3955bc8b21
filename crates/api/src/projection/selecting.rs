//! Whose pods a workload counts as its own.

use std::sync::Arc;

use super::affinity::selector;
use super::{Fields, Meta, Projection, ReadError, Reader, Texts};
use crate::selector::Selector;

/// A ReplicaSet or StatefulSet, by its selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectingLite {
    pub meta: Arc<Meta>,
    pub selector: Selector,
}

impl Default for SelectingLite {
    fn default() -> Self {
        SelectingLite { meta: Arc::default(), selector: Selector::Nothing }
    }
}

/// A ReplicationController, whose selector is labels alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationControllerLite {
    pub meta: Arc<Meta>,
    pub selector: Texts,
}

pub(super) const OBJECT: &Fields = &[(2, "spec")];
pub(super) const SPEC: &Fields = &[(2, "selector")];

impl Projection for SelectingLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(OBJECT, |_, spec| {
            spec.fields(SPEC, |_, value| {
                self.selector = selector(value)?;
                Ok(())
            })
        })
    }
}

impl Projection for ReplicationControllerLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(OBJECT, |_, spec| spec.fields(SPEC, |_, value| self.selector.read(value)))
    }
}
