//! TaintNodesByCondition: a new node takes no pods before it is known to be ready.
//! Upstream: `plugin/pkg/admission/nodetaint`.

use api::value::Value;

const KEY: &str = "node.kubernetes.io/not-ready";

/// Adds the taint unless it is there.
pub(crate) fn admit(node: &mut Value) {
    let Some(members) = node.as_object_mut() else { return };
    let taints = members.get_or_insert_object("spec").get_or_insert_array("taints");
    let present =
        |taint: &Value| taint.str_at(&["key"]) == Some(KEY) && taint.str_at(&["effect"]) == Some("NoSchedule");
    if !taints.iter().any(present) {
        taints.push(Value::from([("key", KEY), ("effect", "NoSchedule")]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_a_new_node_once() {
        let mut node = Value::object();
        admit(&mut node);
        admit(&mut node);
        let expected = r#"{"spec":{"taints":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]}}"#;
        assert_eq!(node.to_string(), expected);
    }
}
