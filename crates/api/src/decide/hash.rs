//! A short name for a pod template: `pod-template-hash`.

use crate::meta::safe_encoded;
use crate::value::Value;

/// The hash of a template, in letters that spell no word, with so many collisions counted in.
///
/// It depends on the template's meaning only: neither on the order of its members nor on members that are null.
pub fn template_hash(template: &Value, collision_count: i32) -> String {
    let mut hash = Fnv32::default();
    hash.value(template);
    if collision_count > 0 {
        hash.bytes(&u64::from(collision_count.unsigned_abs()).to_le_bytes());
    }
    safe_encoded(&hash.0.to_string())
}

/// FNV-1a over 32 bits.
struct Fnv32(u32);

impl Default for Fnv32 {
    fn default() -> Self {
        Fnv32(0x811c_9dc5)
    }
}

impl Fnv32 {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    /// Feeds the value in a form that is unambiguous: type, length, content; members sorted.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes(b"n"),
            Value::Bool(truth) => self.bytes(if *truth { b"t" } else { b"f" }),
            Value::Int(number) => self.tagged(b'i', &number.to_le_bytes()),
            Value::Float(number) => match value.as_i64() {
                Some(whole) => self.tagged(b'i', &whole.to_le_bytes()),
                None => self.tagged(b'd', &number.to_bits().to_le_bytes()),
            },
            Value::String(text) => self.tagged(b's', text.as_bytes()),
            Value::Array(items) => {
                self.tagged(b'a', &(items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().filter(|(_, value)| !value.is_null()).collect();
                members.sort_unstable_by(|left, right| left.0.as_str().cmp(right.0.as_str()));
                self.tagged(b'o', &(members.len() as u64).to_le_bytes());
                for (key, value) in members {
                    self.tagged(b'k', key.as_bytes());
                    self.value(value);
                }
            }
        }
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.bytes(&[tag]);
        self.bytes(&(bytes.len() as u64).to_le_bytes());
        self.bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(json: &str, collisions: i32) -> String {
        template_hash(&serde_json::from_str(json).expect("JSON"), collisions)
    }

    #[test]
    fn depends_on_meaning_only() {
        let template = r#"{"spec":{"containers":[{"name":"a","image":"b"}]},"metadata":{"labels":{"x":"y"}}}"#;
        let shuffled = r#"{"metadata":{"creationTimestamp":null,"labels":{"x":"y"}},"spec":{"containers":[{"image":"b","name":"a"}]}}"#;
        assert_eq!(hash(template, 0), hash(shuffled, 0));
        assert_ne!(hash(template, 0), hash(template, 1));
        assert_ne!(hash(template, 1), hash(template, 2));
        for other in [r#"{"a":["b","c"]}"#, r#"{"a":["bc"]}"#, r#"{"a":"b","c":""}"#, r#"{"a":{}}"#, "{}"] {
            assert_ne!(hash(other, 0), hash(template, 0));
        }
    }

    #[test]
    fn stays_the_same_across_releases() {
        // Stored in labels and names: a change would roll every Deployment out anew.
        assert_eq!(hash("{}", 0), HASH_OF_NOTHING);
        assert_eq!(hash(r#"{"spec":{"replicas":1,"x":1.5,"on":true}}"#, 0), HASH_OF_A_FEW);
    }

    const HASH_OF_NOTHING: &str = "747cb484b";
    const HASH_OF_A_FEW: &str = "6f54587dd4";
}
