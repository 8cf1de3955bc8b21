//! The transactions since the last compaction, and through them every revision since.
//!
//! A root per revision would keep alive all tree nodes that any transaction of the last minutes replaced. So roots are
//! kept at some revisions only, and any other is made from the next newer root by undoing what lies between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::contract::Batch;
use crate::error::StoreError;
use crate::index::Index;

/// A root is kept every so many revisions. Undoing one takes about a microsecond, so that reading at an old revision
/// costs at most a few milliseconds more than at the newest.
const ROOT_EVERY: u64 = 4096;

/// So many roots of lists that are being continued are kept, so that not each of their pages undoes anew.
const PAGED_MAX: usize = 32;

/// How much history is kept at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most transactions.
    pub(crate) batches_max: usize,
    /// The most bytes of superseded entries.
    pub(crate) superseded_bytes_max: u64,
}

/// The root of `revision`, if it is one of those to keep.
pub(crate) fn root_to_keep(revision: u64, index: &Index) -> Option<Index> {
    revision.is_multiple_of(ROOT_EVERY).then(|| index.clone())
}

/// Transactions from the one after the compacted revision to the newest, which follow each other without a gap.
pub(crate) struct History {
    compact_revision: u64,
    batches: VecDeque<Arc<Batch>>,
    superseded_bytes: u64,
    roots: BTreeMap<u64, Index>,
    paged: VecDeque<(u64, Index)>,
}

impl History {
    /// A history that begins after `revision`.
    pub(crate) fn after(revision: u64) -> Self {
        History {
            compact_revision: revision,
            batches: VecDeque::new(),
            superseded_bytes: 0,
            roots: BTreeMap::new(),
            paged: VecDeque::new(),
        }
    }

    /// Reads work from this revision on, watches from the one above.
    pub(crate) fn compact_revision(&self) -> u64 {
        self.compact_revision
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.compact_revision + self.batches.len() as u64
    }

    /// The transaction of `revision`, if it is in the history.
    pub(crate) fn batch(&self, revision: u64) -> Option<&Arc<Batch>> {
        let offset = revision.checked_sub(self.compact_revision + 1)?;
        self.batches.get(usize::try_from(offset).ok()?)
    }

    /// Adds the next transaction, with the root it leaves behind if that is to be kept (see [`root_to_keep`]).
    pub(crate) fn push(&mut self, batch: Arc<Batch>, root: Option<Index>) {
        debug_assert_eq!(batch.revision, self.revision() + 1, "revisions follow each other");
        if let Some(root) = root {
            self.roots.insert(batch.revision, root);
        }
        self.superseded_bytes += superseded_bytes(&batch);
        self.batches.push_back(batch);
    }

    /// Forgets everything up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: u64) {
        while self.compact_revision < revision {
            let Some(batch) = self.batches.pop_front() else {
                self.compact_revision = revision;
                break;
            };
            self.superseded_bytes -= superseded_bytes(&batch);
            self.compact_revision += 1;
        }
        self.roots = self.roots.split_off(&self.compact_revision);
        self.paged.retain(|(paged, _)| *paged >= revision);
    }

    /// The revision to compact to when the history has outgrown its limits. It then falls to seven eighths of them, so
    /// that this is not due again with the next transaction.
    pub(crate) fn overgrown(&self, limits: &Limits) -> Option<u64> {
        if self.batches.len() <= limits.batches_max && self.superseded_bytes <= limits.superseded_bytes_max {
            return None;
        }
        let (batches_max, bytes_max) = (limits.batches_max / 8 * 7, limits.superseded_bytes_max / 8 * 7);
        let (mut left, mut bytes) = (self.batches.len(), self.superseded_bytes);
        for batch in &self.batches {
            if left <= batches_max && bytes <= bytes_max {
                break;
            }
            left -= 1;
            bytes -= superseded_bytes(batch);
        }
        Some(self.revision() - left as u64)
    }

    /// What is needed to show `revision`: the next newer root and the transactions to undo, newest first.
    pub(crate) fn way_back(&self, revision: u64, newest: &Index) -> Result<WayBack, StoreError> {
        if revision < self.compact_revision {
            return Err(StoreError::Compacted { compact_revision: self.compact_revision });
        }
        if revision > self.revision() {
            return Err(StoreError::FutureRevision { current: self.revision() });
        }
        if let Some((_, index)) = self.paged.iter().find(|(paged, _)| *paged == revision) {
            return Ok(WayBack { index: index.clone(), undo: Vec::new() });
        }
        let root = self.roots.range(revision..).next();
        let (from, index) = root.map_or((self.revision(), newest), |(from, index)| (*from, index));
        let undo = (revision + 1..=from).rev().filter_map(|revision| self.batch(revision).cloned()).collect();
        Ok(WayBack { index: index.clone(), undo })
    }

    /// Keeps the root of a revision that somebody is going to read again.
    pub(crate) fn keep(&mut self, revision: u64, index: Index) {
        if revision < self.compact_revision || self.paged.iter().any(|(paged, _)| *paged == revision) {
            return;
        }
        if self.paged.len() == PAGED_MAX {
            self.paged.pop_front();
        }
        self.paged.push_back((revision, index));
    }
}

/// How to get from a kept root to the wanted one.
pub(crate) struct WayBack {
    index: Index,
    undo: Vec<Arc<Batch>>,
}

impl WayBack {
    /// The index at the wanted revision.
    pub(crate) fn walk(mut self) -> Index {
        for event in self.undo.iter().flat_map(|batch| batch.events.iter().rev()) {
            self.index.undo(event);
        }
        self.index
    }
}

fn superseded_bytes(batch: &Batch) -> u64 {
    batch.events.iter().filter_map(|event| event.prev.as_ref()).map(|entry| entry.size_bytes()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Event, RangeRequest};
    use crate::entry::Entry;
    use bytes::Bytes;

    /// Revision r writes its number to the key r modulo 5; every seventh deletes instead.
    fn grow(history: &mut History, index: &mut Index, revisions: u64) {
        for revision in history.revision() + 1..=history.revision() + revisions {
            let key = Bytes::from(format!("key-{}", revision % 5));
            let value = Bytes::from(revision.to_string());
            let entry =
                Entry { key: key.clone(), value, mod_revision: revision, create_revision: 1, version: 1, expiry: None };
            let value = (revision % 7 != 0).then(|| Arc::new(entry));
            let event = Event { prev: index.get(&key).cloned(), key, value };
            index.redo(&event);
            history.push(Arc::new(Batch { revision, events: vec![event] }), root_to_keep(revision, index));
        }
    }

    fn shown(history: &History, index: &Index, revision: u64) -> Vec<Arc<Entry>> {
        let index = history.way_back(revision, index).unwrap().walk();
        index.page(&RangeRequest::prefix(""), revision).entries
    }

    #[test]
    fn every_revision_since_the_compacted_one_can_be_shown() {
        let (mut history, mut index) = (History::after(0), Index::default());
        let mut expected = vec![shown(&history, &index, 0)];
        for revision in 1..=2 * ROOT_EVERY + 10 {
            grow(&mut history, &mut index, 1);
            expected.push(index.page(&RangeRequest::prefix(""), revision).entries);
        }
        history.compact(100);
        for revision in (100..=history.revision()).step_by(97) {
            assert_eq!(shown(&history, &index, revision), expected[revision as usize], "{revision}");
        }
        let error = history.way_back(99, &index).err();
        assert_eq!(error, Some(StoreError::Compacted { compact_revision: 100 }));
        let (error, current) = (history.way_back(1 << 40, &index).err(), history.revision());
        assert_eq!(error, Some(StoreError::FutureRevision { current }));
    }

    #[test]
    fn kept_roots_are_used_and_forgotten_with_their_revision() {
        let (mut history, mut index) = (History::after(0), Index::default());
        grow(&mut history, &mut index, 10);
        let at_ten = shown(&history, &index, 10);
        history.keep(10, index.clone());
        grow(&mut history, &mut index, 10);
        assert!(history.way_back(10, &index).unwrap().undo.is_empty());
        assert_eq!(shown(&history, &index, 10), at_ten);
        history.compact(11);
        assert!(history.way_back(10, &index).is_err());
        assert_eq!(history.paged.len(), 0);
    }

    #[test]
    fn an_overgrown_history_falls_below_both_limits() {
        let (mut history, mut index) = (History::after(0), Index::default());
        grow(&mut history, &mut index, 1000);
        assert_eq!(history.overgrown(&Limits { batches_max: 1000, superseded_bytes_max: u64::MAX }), None);
        let by_count = Limits { batches_max: 800, superseded_bytes_max: u64::MAX };
        assert_eq!(history.overgrown(&by_count), Some(300));
        let by_bytes = Limits { batches_max: usize::MAX, superseded_bytes_max: history.superseded_bytes / 2 };
        let revision = history.overgrown(&by_bytes).unwrap();
        history.compact(revision);
        assert!(history.superseded_bytes <= by_bytes.superseded_bytes_max / 8 * 7);
        history.compact(1000);
        assert_eq!((history.superseded_bytes, history.revision(), history.compact_revision()), (0, 1000, 1000));
    }
}
