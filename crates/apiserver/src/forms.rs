//! What was encoded of an event so far, so that a thousand watchers cost one encoding.

use std::sync::Mutex;

use bytes::Bytes;

use crate::cache::Told;
use crate::negotiate::{Encoding, Shape};

/// Which form of an event: the bytes of its frame depend on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormKey {
    pub told: Told,
    pub encoding: Encoding,
    pub shape: Shape,
    /// Whether the served version is the stored one.
    pub converted: bool,
}

/// The forms of one event; few, so a list.
#[derive(Default)]
pub struct Forms(Mutex<Vec<(FormKey, Bytes)>>);

impl Forms {
    /// The bytes of a form, made by the first who asks.
    pub fn get_or_make<E>(&self, key: FormKey, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Bytes, E> {
        let mut forms = self.0.lock().expect("no holder of this lock panics");
        if let Some((_, bytes)) = forms.iter().find(|(known, _)| *known == key) {
            return Ok(bytes.clone());
        }
        let bytes = Bytes::from(make()?);
        forms.push((key, bytes.clone()));
        Ok(bytes)
    }
}
