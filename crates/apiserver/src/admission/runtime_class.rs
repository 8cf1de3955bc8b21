//! RuntimeClass: a pod's runtime class says what running it costs besides its containers, and where it can run.
//! Upstream: `plugin/pkg/admission/runtimeclass`.

use client::Key;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use k8s_openapi::api::node::v1::{RuntimeClass, Scheduling};

use super::Asked;
use crate::refusal::{Outcome, Refusal};

/// Adds what the class says.
pub(crate) fn admit(asked: &Asked<'_>, pod: &mut Pod) -> Outcome<()> {
    let spec = pod.spec.get_or_insert_default();
    let class = match &spec.runtime_class_name {
        None => RuntimeClass::default(),
        Some(name) => {
            let found = asked.object("runtimeclasses", &Key::new("", name));
            let missing = || asked.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"));
            found.ok_or_else(missing)?.typed().map_err(Refusal::internal)?
        }
    };
    merge(spec, class).map_err(|why| asked.forbidden(&why))
}

fn merge(spec: &mut PodSpec, class: RuntimeClass) -> Result<(), String> {
    match (class.overhead, &spec.overhead) {
        (Some(overhead), None) => spec.overhead = overhead.pod_fixed,
        (Some(overhead), given) if overhead.pod_fixed != *given => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (None, Some(given)) if !given.is_empty() => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        _ => {}
    }
    place(spec, class.scheduling.unwrap_or_default())
}

fn place(spec: &mut PodSpec, scheduling: Scheduling) -> Result<(), String> {
    for (key, value) in scheduling.node_selector.unwrap_or_default() {
        let selector = spec.node_selector.get_or_insert_default();
        match selector.get(&key) {
            Some(own) if *own != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            _ => drop(selector.insert(key, value)),
        }
    }
    for toleration in scheduling.tolerations.unwrap_or_default() {
        let own = spec.tolerations.get_or_insert_default();
        if !own.iter().any(|own| covers(own, &toleration)) {
            own.push(toleration);
        }
    }
    Ok(())
}

/// Whether `own` tolerates all that `other` does. Upstream: `tolerations.isSuperset`.
fn covers(own: &Toleration, other: &Toleration) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if own == other {
        return true;
    }
    if text(&own.key) != text(&other.key) && !(text(&own.key).is_empty() && text(&own.operator) == "Exists") {
        return false;
    }
    if text(&own.effect) != text(&other.effect) && !text(&own.effect).is_empty() {
        return false;
    }
    if text(&own.effect) == "NoExecute" && own.toleration_seconds.is_some() {
        let shorter =
            other.toleration_seconds.is_none_or(|other| own.toleration_seconds.is_some_and(|own| own < other));
        if shorter {
            return false;
        }
    }
    match text(&own.operator).as_str() {
        "Exists" => true,
        "Equal" | "" => text(&other.operator) != "Exists" && text(&own.value) == text(&other.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    #[track_caller]
    fn check(spec: Json, class: Json, expected: Result<Json, &str>) {
        let mut class = class;
        class["handler"] = json!("h");
        class["metadata"] = json!({});
        let mut spec = spec;
        spec["containers"] = json!([]);
        let mut typed: PodSpec = serde_json::from_value(spec).expect("a spec");
        let outcome = merge(&mut typed, serde_json::from_value(class).expect("a class"));
        let outcome = outcome.map(|()| {
            let mut made = serde_json::to_value(&typed).expect("JSON");
            made.as_object_mut().expect("an object").remove("containers");
            made
        });
        assert_eq!(outcome, expected.map_err(str::to_owned));
    }

    #[test]
    fn adds_cost_and_place() {
        let overhead = json!({"overhead": {"podFixed": {"memory": "64Mi"}}});
        check(json!({}), overhead.clone(), Ok(json!({"overhead": {"memory": "64Mi"}})));
        check(
            json!({"overhead": {"memory": "1Mi"}}),
            overhead,
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        );
        check(
            json!({"overhead": {"memory": "1Mi"}}),
            json!({}),
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        );
        let place =
            json!({"scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        check(
            json!({"nodeSelector": {"c": "d"}}),
            place.clone(),
            Ok(json!({"nodeSelector": {"a": "b", "c": "d"}, "tolerations": [{"key": "k", "operator": "Exists"}]})),
        );
        check(
            json!({"tolerations": [{"operator": "Exists"}]}),
            place.clone(),
            Ok(json!({"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]})),
        );
        check(
            json!({"nodeSelector": {"a": "x"}}),
            place,
            Err("conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = x"),
        );
    }
}
