//! Conditions in status: reading them of a node, setting them in a tree.

use jiff::Timestamp;

use crate::meta::rfc3339;
use crate::projection::{NodeLite, condition};
use crate::value::{Map, Value};

/// Whether the node says that it can run pods.
pub fn is_node_ready(node: &NodeLite) -> bool {
    condition(&node.conditions, "Ready").is_some_and(|ready| ready.is_true())
}

/// A condition to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCondition<'a> {
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Sets a condition in a list of them; tells whether anything changed. The transition time moves with the status only.
pub fn set_condition(conditions: &mut Vec<Value>, new: NewCondition<'_>, now: Timestamp) -> bool {
    let position = conditions.iter().position(|condition| condition.str_at(&["type"]) == Some(new.kind));
    let Some(position) = position else {
        conditions.push(Value::Object(fresh(new, now)));
        return true;
    };
    let Value::Object(present) = &mut conditions[position] else {
        conditions[position] = Value::Object(fresh(new, now));
        return true;
    };
    let text = |present: &Map, key: &str| present.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_same = |present: &Map, key: &str, value: &str| text(present, key) == value;
    if !is_same(present, "status", new.status) {
        present.insert("status", new.status);
        present.insert("lastTransitionTime", rfc3339(now));
    } else if is_same(present, "reason", new.reason) && is_same(present, "message", new.message) {
        return false;
    }
    present.insert("reason", new.reason);
    present.insert("message", new.message);
    true
}

fn fresh(new: NewCondition<'_>, now: Timestamp) -> Map {
    let mut condition = Map::with_capacity(5);
    condition.insert("type", new.kind);
    condition.insert("status", new.status);
    condition.insert("lastTransitionTime", rfc3339(now));
    condition.insert("reason", new.reason);
    condition.insert("message", new.message);
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        let moment = |second| Timestamp::from_second(second).expect("in range");
        let condition = |status, reason| NewCondition { kind: "Ready", status, reason, message: "" };
        assert!(set_condition(&mut conditions, condition("False", "A"), moment(1)));
        assert!(!set_condition(&mut conditions, condition("False", "A"), moment(2)));
        assert!(set_condition(&mut conditions, condition("False", "B"), moment(3)));
        assert_eq!(conditions[0].str_at(&["lastTransitionTime"]), Some("1970-01-01T00:00:01Z"));
        assert!(set_condition(&mut conditions, condition("True", "B"), moment(4)));
        assert_eq!(conditions[0].str_at(&["lastTransitionTime"]), Some("1970-01-01T00:00:04Z"));
        assert_eq!(conditions.len(), 1);
    }
}
