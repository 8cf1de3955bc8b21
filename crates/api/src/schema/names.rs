//! The field names of all messages, numbered in alphabetical order.

use std::sync::OnceLock;

use super::table;

/// The number of a field name. Names order as their texts do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Name(u16);

impl Name {
    pub(crate) fn as_str(self) -> &'static str {
        global().texts[usize::from(self.0)]
    }
}

/// The name that reads `text`, if any message has a field so called.
pub(crate) fn find(text: &str) -> Option<Name> {
    global().find(text)
}

/// The names of the built-in table; apart from it because compiling the table needs them.
fn global() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| Names::new(table::field_names()))
}

/// A numbered set of texts with an open-addressing index.
struct Names {
    texts: Box<[&'static str]>,
    slots: Box<[u16]>,
}

const FREE: u16 = u16::MAX;

impl Names {
    /// Numbers `texts`; repeated ones count once.
    fn new(mut texts: Vec<&'static str>) -> Self {
        texts.sort_unstable();
        texts.dedup();
        assert!(texts.len() < usize::from(FREE), "the table's names fit sixteen bits");
        // At most a quarter full: almost every look-up ends at its first slot, found or not.
        let mut slots = vec![FREE; (texts.len() * 4).next_power_of_two()];
        for (number, text) in texts.iter().enumerate() {
            let mut at = hash(text) & (slots.len() - 1);
            while slots[at] != FREE {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = number as u16;
        }
        Self { texts: texts.into(), slots: slots.into() }
    }

    fn find(&self, text: &str) -> Option<Name> {
        let mut at = hash(text) & (self.slots.len() - 1);
        loop {
            match self.slots[at] {
                FREE => return None,
                number if self.texts[usize::from(number)] == text => return Some(Name(number)),
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }
}

/// Multiplicative hash over eight bytes at a time. Hostile collisions cannot fill the index: it is fixed.
fn hash(text: &str) -> usize {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let mut state = text.len() as u64;
    for word in words {
        state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    }
    let tail = rest.iter().fold(0_u64, |tail, byte| (tail << 8) | u64::from(*byte));
    let mixed = (state ^ tail).wrapping_mul(FACTOR);
    (mixed >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_ordered() {
        let names = Names::new(vec!["spec", "metadata", "a", "spec", "containers", "initContainers"]);
        assert_eq!(names.texts.len(), 5);
        assert!(names.find("a") < names.find("metadata") && names.find("metadata") < names.find("spec"));
        for absent in ["", "spe", "specs", "Containers", "initContainer", "xxxxxxxxxxxxxxxxxxxxxxx"] {
            assert_eq!(names.find(absent), None, "{absent}");
        }
    }
}
