//! The members of an object by the position of their field.

use crate::schema::Message;
use crate::value::{Map, Value};

/// No built-in message has more fields.
pub(crate) const FIELDS_MAX: usize = 64;

/// For each field of a message the value that an object has for it; null counts as none.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is nearly always it, and lives on the stack for one object"
)]
pub(crate) enum Slots<'a> {
    Few([Option<&'a Value>; FIELDS_MAX]),
    /// For messages made at run time.
    Many(Vec<Option<&'a Value>>),
}

impl<'a> Slots<'a> {
    pub(crate) fn new(members: &'a Map, message: &Message) -> Self {
        let mut slots = match message.fields().len() {
            0..=FIELDS_MAX => Self::Few([None; FIELDS_MAX]),
            many => Self::Many(vec![None; many]),
        };
        let places = match &mut slots {
            Self::Few(places) => &mut places[..],
            Self::Many(places) => places,
        };
        for (key, value) in members {
            if let Some(at) = message.position_of(key)
                && !value.is_null()
            {
                places[at] = Some(value);
            }
        }
        slots
    }

    pub(crate) fn get(&self, at: usize) -> Option<&'a Value> {
        match self {
            Self::Few(places) => places[at],
            Self::Many(places) => places[at],
        }
    }
}
