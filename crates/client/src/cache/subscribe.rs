//! Who is told what changed. Changes of one object between two reads become one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::Snapshot;
use crate::object::{Key, Object};

/// What became of one object since the last time. At least one of both is there; their uids differ when the object was
/// deleted and another made of the same name.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Key,
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

/// Changes waiting to be read: one per object at most, which bounds them by the objects there are and were.
#[derive(Default)]
struct Waiting {
    changes: Mutex<BTreeMap<Key, Change>>,
    arrived: Notify,
}

impl Waiting {
    fn add(&self, change: Change) {
        let mut changes = self.changes.lock().expect("no holder of this lock panics");
        let old = match changes.remove(&change.key) {
            Some(earlier) => earlier.old,
            None => change.old,
        };
        // What came and went unseen leaves nothing to say.
        if old.is_some() || change.new.is_some() {
            changes.insert(change.key.clone(), Change { old, ..change });
        }
    }

    fn take(&self) -> Vec<Change> {
        let mut changes = self.changes.lock().expect("no holder of this lock panics");
        std::mem::take(&mut *changes).into_values().collect()
    }
}

/// The changes of a cache since the subscription. Ends by being dropped.
pub struct Changes(Arc<Waiting>);

impl Changes {
    /// Waits for changes; one per object, in the order of keys. Giving up waiting loses none.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let changes = self.0.take();
            if !changes.is_empty() {
                return changes;
            }
            self.0.arrived.notified().await;
        }
    }

    /// The changes at hand; none if there are none.
    pub fn take(&mut self) -> Vec<Change> {
        self.0.take()
    }
}

/// All subscriptions of a cache.
#[derive(Default)]
pub(super) struct Subscribers(Vec<Weak<Waiting>>);

impl Subscribers {
    pub(super) fn add(&mut self, present: &Snapshot) -> Changes {
        let waiting = Arc::new(Waiting::default());
        for object in present.iter() {
            waiting.add(Change { key: object.key().clone(), old: None, new: Some(object.clone()) });
        }
        self.0.push(Arc::downgrade(&waiting));
        Changes(waiting)
    }

    pub(super) fn tell(&mut self, changes: Vec<Change>) {
        self.0.retain(|subscriber| subscriber.strong_count() > 0);
        if changes.is_empty() {
            return;
        }
        for waiting in self.0.iter().filter_map(Weak::upgrade) {
            changes.iter().for_each(|change| waiting.add(change.clone()));
            waiting.arrived.notify_one();
        }
    }
}
