//! Fields of a pod that the scheduler does not honour yet: a pod that uses one stays Pending, by the field's name.
//!
//! The table may only shrink. `ARCHITECTURE.md` names it.

use api::value::Value;

/// Paths of the fields.
pub const UNHONOURED: &[&str] = &["spec.resourceClaims", "spec.schedulingGroup", "spec.workloadRef"];

/// The paths of the fields that `pod` uses although they are not honoured.
pub fn used(pod: &Value) -> Vec<&'static str> {
    let says_something = |path: &&&str| {
        let segments: Vec<&str> = path.split('.').collect();
        match pod.at(&segments) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
        }
    };
    UNHONOURED.iter().filter(says_something).copied().collect()
}
