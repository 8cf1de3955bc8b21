//! Object keys: two words, no allocation for names that the schema knows.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use crate::schema::names;

/// The name of an object's member. Field names of built-in kinds are interned: they cost nothing to make or clone and
/// compare as integers.
#[derive(Clone)]
pub struct Key(Repr);

// Invariant: `Other` never holds a name that `names` knows, so that differing variants differ as strings.
#[derive(Clone)]
enum Repr {
    Known(names::Name),
    Other(Arc<str>),
}

impl Key {
    /// The key that reads `text`.
    pub fn new(text: &str) -> Self {
        match names::find(text) {
            Some(name) => Self(Repr::Known(name)),
            None => Self(Repr::Other(Arc::from(text))),
        }
    }

    /// The interned name, if this is one.
    pub(crate) fn name(&self) -> Option<names::Name> {
        match self.0 {
            Repr::Known(name) => Some(name),
            Repr::Other(_) => None,
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(name) => name.as_str(),
            Repr::Other(text) => text,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Known(left), Repr::Known(right)) => left == right,
            (Repr::Other(left), Repr::Other(right)) => left == right,
            _ => false,
        }
    }
}

impl Eq for Key {}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Known(left), Repr::Known(right)) => left.cmp(right),
            _ => self.as_str().cmp(other.as_str()),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
