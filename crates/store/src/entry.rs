//! One version of one key.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stdx::Mono;

/// One version of one key. The bytes are shared by everyone who holds the entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value in plaintext; empty when only keys were asked for.
    pub value: Bytes,
    /// The revision that wrote this version.
    pub mod_revision: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// How often the key was written since its creation, that included.
    pub version: u64,
    /// When the key is to be deleted. Few entries have it, so it does not take its room in all.
    pub(crate) expiry: Option<Box<Expiry>>,
}

/// When a key is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// How long the key was to live.
    pub(crate) ttl: Duration,
    /// The end by the wall clock, in milliseconds since 1970, which a restarted store goes by.
    pub(crate) wall_milliseconds: i64,
    /// The end by the monotonic clock, which a running store goes by.
    pub(crate) at: Mono,
}

impl Entry {
    /// How long the key was to live, when it was written with an end.
    pub fn ttl(&self) -> Option<Duration> {
        self.expiry.as_ref().map(|expiry| expiry.ttl)
    }

    /// The entry without its value.
    pub(crate) fn key_only(&self) -> Entry {
        Entry { value: Bytes::new(), ..self.clone() }
    }

    /// What the entry counts for in quotas: its bytes and about what the index spends on it.
    pub(crate) fn size_bytes(&self) -> u64 {
        const OVERHEAD: u64 = 128;
        (self.key.len() + self.value.len()) as u64 + OVERHEAD
    }
}

impl std::fmt::Debug for Entry {
    /// Shows everything but the value, which may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Entry")
            .field("key", &self.key)
            .field("value_bytes", &self.value.len())
            .field("mod_revision", &self.mod_revision)
            .field("create_revision", &self.create_revision)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// An entry in an ordered set, found by its key.
#[derive(Clone)]
pub(crate) struct Slot(pub(crate) Arc<Entry>);

impl Borrow<[u8]> for Slot {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}
