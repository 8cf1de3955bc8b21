//! Changes to objects as clients send them: JSON patch, merge patch, strategic merge patch.

pub mod json;
pub mod merge;
pub mod strategic;

/// Objects and lists within one another, in a patch or made by one. What walks trees does so on the stack.
pub const DEPTH_MAX: usize = 256;

/// Whether the value nests no deeper than `levels`.
pub(crate) fn fits(value: &crate::value::Value, levels: usize) -> bool {
    use crate::value::Value;
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| fits(item, levels - 1)),
        Value::Object(members) => levels > 0 && members.values().all(|member| fits(member, levels - 1)),
        _ => true,
    }
}
