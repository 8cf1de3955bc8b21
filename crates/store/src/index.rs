//! The newest version of every key, as a persistent ordered set: a copy is one root, made in constant time.

use std::ops::Bound;
use std::sync::Arc;

use crate::contract::{Event, RangeRequest, RangeResponse};
use crate::entry::{Entry, Slot};

/// All keys as of one revision.
#[derive(Clone, Default)]
pub(crate) struct Index {
    entries: imbl::OrdSet<Slot>,
    size_bytes: u64,
}

impl Index {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|slot| &slot.0)
    }

    /// What all entries count for in quotas.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn insert(&mut self, entry: Arc<Entry>) {
        self.size_bytes += entry.size_bytes();
        if let Some(old) = self.entries.insert(Slot(entry)) {
            self.size_bytes -= old.0.size_bytes();
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let Some(old) = self.entries.remove(key) {
            self.size_bytes -= old.0.size_bytes();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().map(|slot| &slot.0)
    }

    /// Makes the index what it was after the event.
    pub(crate) fn redo(&mut self, event: &Event) {
        match &event.value {
            Some(entry) => self.insert(entry.clone()),
            None => self.remove(&event.key),
        }
    }

    /// Makes the index what it was before the event.
    pub(crate) fn undo(&mut self, event: &Event) {
        match &event.prev {
            Some(entry) => self.insert(entry.clone()),
            None => self.remove(&event.key),
        }
    }

    /// The page that `request` asks for, of this index, which shows `revision`.
    pub(crate) fn page(&self, request: &RangeRequest, revision: u64) -> RangeResponse {
        let mut response = RangeResponse { revision, entries: Vec::new(), count: 0, more: false };
        for entry in self.between(request) {
            response.count += 1;
            if request.limit != 0 && response.entries.len() == request.limit {
                response.more = true;
            } else if request.keys_only {
                response.entries.push(Arc::new(entry.key_only()));
            } else {
                response.entries.push(entry.clone());
            }
        }
        response
    }

    fn between<'a>(&'a self, request: &'a RangeRequest) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from = match &request.after {
            Some(after) if *after >= request.start => Bound::Excluded(&after[..]),
            _ => Bound::Included(&request.start[..]),
        };
        let end = request.end.as_deref();
        // The end is looked at here, because a range whose end is below its start is empty, not a mistake.
        let entries = self.entries.range::<_, [u8]>((from, Bound::Unbounded)).map(|slot| &slot.0);
        entries.take_while(move |entry| end.is_none_or(|end| entry.key[..] < *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn index(keys: &[&str]) -> Index {
        let mut index = Index::default();
        for key in keys {
            index.insert(entry(key, "value"));
        }
        index
    }

    fn entry(key: &str, value: &str) -> Arc<Entry> {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        Arc::new(Entry { key, value, mod_revision: 1, create_revision: 1, version: 1, expiry: None })
    }

    fn check(request: RangeRequest, keys: &[&str], count: usize, more: bool) {
        let response = index(&["/a/1", "/a/2", "/a/3", "/b/1", "/b0"]).page(&request, 7);
        let found: Vec<&[u8]> = response.entries.iter().map(|entry| &entry.key[..]).collect();
        assert_eq!(found, keys.iter().map(|key| key.as_bytes()).collect::<Vec<_>>());
        assert_eq!((response.count, response.more, response.revision), (count, more, 7));
    }

    #[test]
    fn pages_hold_the_range_in_key_order() {
        let after = |key: &'static str, limit| RangeRequest {
            after: Some(Bytes::from_static(key.as_bytes())),
            limit,
            ..RangeRequest::prefix("/a/")
        };
        check(RangeRequest::prefix("/a/"), &["/a/1", "/a/2", "/a/3"], 3, false);
        check(RangeRequest::prefix(""), &["/a/1", "/a/2", "/a/3", "/b/1", "/b0"], 5, false);
        check(RangeRequest { limit: 2, ..RangeRequest::prefix("/a/") }, &["/a/1", "/a/2"], 3, true);
        check(RangeRequest { limit: 3, ..RangeRequest::prefix("/a/") }, &["/a/1", "/a/2", "/a/3"], 3, false);
        check(after("/a/1", 1), &["/a/2"], 2, true);
        check(after("/a/2x", 0), &["/a/3"], 1, false);
        check(after("/", 1), &["/a/1"], 3, true);
        check(after("/z", 1), &[], 0, false);
        check(RangeRequest::key("/b/1"), &["/b/1"], 1, false);
        check(RangeRequest::key("/b"), &[], 0, false);
    }

    #[test]
    fn size_follows_what_is_inside() {
        let mut index = index(&["a", "b"]);
        let full = index.size_bytes();
        index.insert(entry("a", "longer value"));
        assert_eq!(index.size_bytes(), full + 7);
        index.remove(b"a");
        index.remove(b"a");
        index.remove(b"b");
        assert_eq!((index.size_bytes(), index.len()), (0, 0));
    }
}
