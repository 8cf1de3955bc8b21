//! By what else than their key objects are found.

use std::fmt;
use std::sync::Arc;

use api::projection::PodLite;

use crate::object::Object;

type Values = dyn Fn(&Object, &mut dyn FnMut(&str)) + Send + Sync;

/// A named way to find objects by values worked out from them.
#[derive(Clone)]
pub struct Index {
    pub name: &'static str,
    values: Arc<Values>,
}

impl Index {
    /// By the values that `values` hands to its second parameter.
    pub fn new(name: &'static str, values: impl Fn(&Object, &mut dyn FnMut(&str)) + Send + Sync + 'static) -> Index {
        Index { name, values: Arc::new(values) }
    }

    /// `uid`: by the object's own uid.
    pub fn uid() -> Index {
        Index::new("uid", |object, found| found(object.uid()))
    }

    /// `owner`: by the uid of each owner.
    pub fn owner() -> Index {
        Index::new("owner", |object, found| object.meta().owners.iter().for_each(|owner| found(&owner.uid)))
    }

    /// `controller`: by the uid of the owner that manages the object.
    pub fn controller() -> Index {
        Index::new("controller", |object, found| {
            if let Some(owner) = object.meta().controller() {
                found(&owner.uid);
            }
        })
    }

    /// `node`: pods by the node they are bound to; the empty name for those that are not.
    pub fn node() -> Index {
        Index::new("node", |object, found| found(&object.project::<PodLite>().spec.node_name))
    }

    /// By the value of a label.
    pub fn label(name: &'static str, label: &'static str) -> Index {
        Index::new(name, move |object, found| {
            if let Some(value) = object.meta().labels.get(label) {
                found(value);
            }
        })
    }

    pub(super) fn each(&self, object: &Object, mut found: impl FnMut(&str)) {
        (self.values)(object, &mut found);
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Index({})", self.name)
    }
}
