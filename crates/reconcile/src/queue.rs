//! The keys a controller has to look at: once each, not while in work, later after a failure. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use stdx::{Backoff, Mono};

/// First delay after a failure; it doubles up to [`RETRY_LIMIT`]. Upstream: `DefaultTypedControllerRateLimiter`.
pub const RETRY_BASE: Duration = Duration::from_millis(5);
/// Longest delay after failures. Upstream waits up to 1,000 s; a minute keeps a repaired cluster from looking broken.
pub const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// A queue of keys. A key added while in work is handed out again when that work is done.
#[derive(Debug)]
pub struct Queue<K> {
    ready: VecDeque<K>,
    queued: BTreeSet<K>,
    in_work: BTreeSet<K>,
    /// Added while in work.
    dirty: BTreeSet<K>,
    /// Due moments; one entry a key, the earliest.
    delayed: BTreeMap<K, Mono>,
    failures: BTreeMap<K, Backoff>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Queue {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            in_work: BTreeSet::new(),
            dirty: BTreeSet::new(),
            delayed: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Asks for `key` to be looked at as soon as possible.
    pub fn add(&mut self, key: K) {
        self.delayed.remove(&key);
        if self.in_work.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Asks for `key` to be looked at no later than `due`.
    pub fn add_at(&mut self, key: K, due: Mono) {
        if self.queued.contains(&key) || self.dirty.contains(&key) {
            return;
        }
        let slot = self.delayed.entry(key).or_insert(due);
        *slot = due.min(*slot);
    }

    /// Moves what is due to the ready ones and hands out the next key; it is in work until [`Queue::done`].
    pub fn take(&mut self, now: Mono) -> Option<K> {
        let due: Vec<K> = self.delayed.iter().filter(|(_, due)| **due <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.in_work.insert(key.clone());
        Some(key)
    }

    /// Ends the work on `key`; it becomes ready again if it was added meanwhile.
    pub fn done(&mut self, key: &K) {
        self.in_work.remove(key);
        if self.dirty.remove(key) {
            self.add(key.clone());
        }
    }

    /// Asks for `key` again after its backoff.
    pub fn retry(&mut self, key: &K, now: Mono) {
        let delay = self.failures.entry(key.clone()).or_insert(Backoff::new(RETRY_BASE, RETRY_LIMIT)).fail();
        self.add_at(key.clone(), now + delay);
    }

    /// Forgets the failures of `key`.
    pub fn succeed(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<Mono> {
        self.delayed.values().min().copied()
    }

    /// How many keys wait to be looked at now.
    pub fn depth(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(Duration::from_millis(millis))
    }

    #[test]
    fn hands_a_key_out_once_and_again_when_added_during_work() {
        let mut queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(at(0)), Some("a"));
        assert_eq!(queue.take(at(0)), None);
        queue.add("a");
        assert_eq!(queue.take(at(0)), None, "in work");
        queue.done(&"a");
        assert_eq!(queue.take(at(0)), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.take(at(0)), None);
    }

    #[test]
    fn waits_longer_after_each_failure() {
        let mut queue = Queue::default();
        queue.retry(&"a", at(0));
        assert_eq!(queue.next_due(), Some(at(5)));
        assert_eq!(queue.take(at(4)), None);
        assert_eq!(queue.take(at(5)), Some("a"));
        queue.done(&"a");
        queue.retry(&"a", at(5));
        assert_eq!(queue.next_due(), Some(at(15)));
        queue.add("a");
        assert_eq!(queue.next_due(), None, "a change does not wait for the backoff");
        assert_eq!(queue.take(at(6)), Some("a"));
        queue.done(&"a");
        queue.succeed(&"a");
        queue.retry(&"a", at(6));
        assert_eq!(queue.next_due(), Some(at(11)));
    }

    #[test]
    fn keeps_the_earliest_of_two_due_moments() {
        let mut queue = Queue::default();
        queue.add_at("a", at(10));
        queue.add_at("a", at(20));
        assert_eq!(queue.next_due(), Some(at(10)));
        queue.add_at("a", at(5));
        assert_eq!(queue.next_due(), Some(at(5)));
    }
}
