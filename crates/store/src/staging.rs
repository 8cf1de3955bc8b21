//! Decides transactions, one after the other, on a picture that only the committer sees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stdx::Mono;

use crate::contract::{Batch, Compare, Event, Op, TXN_BYTES_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX};
use crate::entry::{Entry, Expiry};
use crate::error::StoreError;
use crate::index::Index;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) mono: Mono,
    pub(crate) wall_milliseconds: i64,
}

impl Now {
    /// The clocks of the machine, or of the simulated node.
    pub(crate) fn read() -> Self {
        Now { mono: stdx::mono(), wall_milliseconds: stdx::wall().as_millisecond() }
    }

    /// The end of a key that is written now to live for `ttl`, to whole seconds, so that ends fall together.
    pub(crate) fn expiry(&self, ttl: Duration) -> Expiry {
        let end = (self.mono + ttl).0;
        let at = Mono(Duration::from_secs(end.as_secs().saturating_add(u64::from(end.subsec_nanos() > 0))));
        let milliseconds = i64::try_from((at - self.mono).as_millis()).unwrap_or(i64::MAX);
        Expiry { ttl, wall_milliseconds: self.wall_milliseconds.saturating_add(milliseconds), at }
    }

    /// The end of a key that an earlier run wrote. The wall clock may have jumped since: a key lives no longer than its
    /// whole time again.
    pub(crate) fn expiry_restored(&self, ttl: Duration, wall_milliseconds: i64) -> Expiry {
        let left = u64::try_from(wall_milliseconds.saturating_sub(self.wall_milliseconds)).unwrap_or(0);
        let at = self.mono + Duration::from_millis(left).min(ttl + Duration::from_secs(1));
        Expiry { ttl, wall_milliseconds, at }
    }
}

/// Everything decided so far, durable or not.
#[derive(Clone)]
pub(crate) struct Staging {
    pub(crate) index: Index,
    pub(crate) revision: u64,
    /// How large the index may grow.
    pub(crate) quota_bytes: u64,
}

/// What becomes of one transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It has the next revision.
    Change(Arc<Batch>),
    /// It changes nothing and needs no revision.
    Nothing,
    /// A comparison does not hold.
    Failed(Vec<Option<Arc<Entry>>>),
    /// It would exceed the quota.
    NoSpace,
}

impl Staging {
    /// Decides a transaction and, when it changes something, stages the change.
    pub(crate) fn decide(&mut self, compares: &[Compare], ops: &[Op], now: &Now) -> Decision {
        if !compares.iter().all(|compare| self.holds(compare)) {
            return Decision::Failed(compares.iter().map(|compare| self.index.get(&compare.key).cloned()).collect());
        }
        let events: Vec<Event> = ops.iter().filter_map(|op| self.event(op, now)).collect();
        if events.is_empty() {
            return Decision::Nothing;
        }
        if self.exceeds_quota(&events) {
            return Decision::NoSpace;
        }
        self.revision += 1;
        for event in &events {
            self.index.redo(event);
        }
        Decision::Change(Arc::new(Batch { revision: self.revision, events }))
    }

    fn holds(&self, compare: &Compare) -> bool {
        self.index.get(&compare.key).map_or(0, |entry| entry.mod_revision) == compare.mod_revision
    }

    /// What the operation does at the next revision, if anything.
    fn event(&self, op: &Op, now: &Now) -> Option<Event> {
        let prev = self.index.get(op.key()).cloned();
        match op {
            Op::Delete { key } => prev.is_some().then(|| Event { key: key.clone(), value: None, prev }),
            Op::Put { key, value, ttl } => {
                let expiry = ttl.map(|ttl| Box::new(now.expiry(ttl)));
                let entry = successor(prev.as_deref(), key.clone(), value.clone(), self.revision + 1, expiry);
                Some(Event { key: key.clone(), value: Some(Arc::new(entry)), prev })
            }
        }
    }

    /// A transaction that makes the index smaller is let through even above the quota: it is the way out.
    fn exceeds_quota(&self, events: &[Event]) -> bool {
        let size = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.size_bytes());
        let added: u64 = events.iter().map(|event| size(&event.value)).sum();
        let removed: u64 = events.iter().map(|event| size(&event.prev)).sum();
        added > removed && self.index.size_bytes() + added - removed > self.quota_bytes
    }
}

/// The version of a key that a write at `revision` makes.
pub(crate) fn successor(
    prev: Option<&Entry>,
    key: Bytes,
    value: Bytes,
    revision: u64,
    expiry: Option<Box<Expiry>>,
) -> Entry {
    let (create_revision, version) = prev.map_or((revision, 0), |prev| (prev.create_revision, prev.version));
    Entry { key, value, mod_revision: revision, create_revision, version: version + 1, expiry }
}

/// Whether a transaction keeps the limits that do not depend on what is stored.
pub(crate) fn check(compares: &[Compare], ops: &[Op]) -> Result<(), StoreError> {
    let invalid = |reason: String| Err(StoreError::Invalid { reason });
    if ops.len() > TXN_OPS_MAX || compares.len() > TXN_OPS_MAX {
        let (compares, ops) = (compares.len(), ops.len());
        return invalid(format!("{ops} operations and {compares} comparisons, at most {TXN_OPS_MAX} each are allowed"));
    }
    let mut keys = BTreeSet::new();
    let mut bytes: usize = compares.iter().map(|compare| compare.key.len()).sum();
    for op in ops {
        let key = op.key();
        if key.is_empty() || !keys.insert(key) {
            return invalid(format!("key {} is empty or given twice", key.escape_ascii()));
        }
        bytes += key.len();
        if let Op::Put { value, .. } = op {
            bytes += value.len();
            if value.len() > VALUE_BYTES_MAX {
                let length = value.len();
                return invalid(format!("value of {} has {length} bytes, limit {VALUE_BYTES_MAX}", key.escape_ascii()));
            }
        }
    }
    if bytes > TXN_BYTES_MAX {
        return invalid(format!("transaction has {bytes} bytes of keys and values, limit {TXN_BYTES_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { mono: Mono(Duration::from_millis(1500)), wall_milliseconds: 1_000_000 };

    fn staging() -> Staging {
        Staging { index: Index::default(), revision: 0, quota_bytes: 10_000 }
    }

    fn revision(decision: Decision) -> u64 {
        match decision {
            Decision::Change(batch) => batch.revision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn versions_count_from_creation_and_deletion_starts_over() {
        let mut staging = staging();
        let put = [Op::put("a", "1")];
        for _ in 0..3 {
            staging.decide(&[], &put, &NOW);
        }
        let entry = staging.index.get(b"a").unwrap();
        assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (1, 3, 3));
        assert_eq!(revision(staging.decide(&[], &[Op::delete("a")], &NOW)), 4);
        assert_eq!(staging.decide(&[], &[Op::delete("a")], &NOW), Decision::Nothing);
        assert_eq!(revision(staging.decide(&[], &put, &NOW)), 5);
        let entry = staging.index.get(b"a").unwrap();
        assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (5, 5, 1));
    }

    #[test]
    fn a_failed_comparison_changes_nothing_and_shows_what_is_there() {
        let mut staging = staging();
        staging.decide(&[], &[Op::put("a", "1")], &NOW);
        let compares = [Compare::absent("b"), Compare::unchanged("a", 2)];
        let Decision::Failed(current) = staging.decide(&compares, &[Op::put("b", "2")], &NOW) else { panic!() };
        assert_eq!(current[0], None);
        assert_eq!(current[1].as_ref().unwrap().mod_revision, 1);
        assert_eq!((staging.revision, staging.index.len()), (1, 1));
        let compares = [Compare::absent("b"), Compare::unchanged("a", 1)];
        assert_eq!(revision(staging.decide(&compares, &[Op::put("b", "2")], &NOW)), 2);
    }

    #[test]
    fn above_the_quota_only_what_shrinks_is_let_through() {
        let mut staging = staging();
        let large = vec![b'x'; 9_000];
        revision(staging.decide(&[], &[Op::put("a", large.clone())], &NOW));
        assert_eq!(staging.decide(&[], &[Op::put("b", large.clone())], &NOW), Decision::NoSpace);
        assert_eq!(staging.revision, 1);
        staging.quota_bytes = 100;
        revision(staging.decide(&[], &[Op::put("a", &b"small"[..])], &NOW));
        assert_eq!(staging.decide(&[], &[Op::put("a", &b"larger"[..])], &NOW), Decision::NoSpace);
        revision(staging.decide(&[], &[Op::delete("a")], &NOW));
    }

    #[test]
    fn ends_fall_on_whole_seconds_and_survive_jumps_of_the_wall_clock() {
        let expiry = NOW.expiry(Duration::from_secs(10));
        assert_eq!((expiry.at, expiry.wall_milliseconds), (Mono(Duration::from_secs(12)), 1_010_500));
        let restored = |wall| NOW.expiry_restored(Duration::from_secs(10), wall).at - NOW.mono;
        assert_eq!(restored(1_003_000), Duration::from_secs(3));
        assert_eq!(restored(5), Duration::ZERO);
        assert_eq!(restored(i64::MAX), Duration::from_secs(11));
    }

    #[test]
    fn limits_are_checked() {
        let refused = |compares: &[Compare], ops: &[Op], part: &str| match check(compares, ops) {
            Err(StoreError::Invalid { reason }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{other:?}"),
        };
        let puts = |count: usize, bytes: usize| -> Vec<Op> {
            (0..count).map(|number| Op::put(format!("{number:03}"), vec![0; bytes])).collect()
        };
        assert_eq!(check(&[], &puts(128, 1)), Ok(()));
        assert_eq!(check(&[], &puts(1, VALUE_BYTES_MAX - 3)), Ok(()));
        refused(&[], &puts(129, 1), "129 operations");
        refused(&vec![Compare::absent("a"); 129], &[], "129 comparisons");
        refused(&[], &puts(1, VALUE_BYTES_MAX + 1), "value of 000 has 1572865 bytes");
        refused(&[], &puts(2, VALUE_BYTES_MAX / 2), "transaction has 1572870 bytes");
        refused(&[], &[Op::put("a", "1"), Op::delete("a")], "key a is empty or given twice");
        refused(&[], &[Op::put("", "1")], "empty");
    }
}
