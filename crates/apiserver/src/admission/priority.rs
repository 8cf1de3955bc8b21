//! Priority: a pod's priority class becomes its priority. Upstream: `plugin/pkg/admission/priority`.

use std::sync::Arc;

use api::value::Value;
use client::{Key, Object};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::Asked;
use crate::refusal::{Outcome, Refusal};

const PREEMPT: &str = "PreemptLowerPriority";

/// Sets priority and preemption policy.
pub(crate) fn admit(asked: &Asked<'_>, pod: &mut Pod) -> Outcome<()> {
    let spec = pod.spec.get_or_insert_default();
    let named = spec.priority_class_name.clone().filter(|name| !name.is_empty());
    let class = match &named {
        Some(name) => {
            let found = asked.object("priorityclasses", &Key::new("", name));
            let missing = || asked.forbidden(&format!("no PriorityClass with name {name} was found"));
            Some(typed(&found.ok_or_else(missing)?)?)
        }
        None => default_class(asked)?,
    };
    let (value, policy) = match &class {
        Some(class) => (class.value.unwrap_or_default(), class.preemption_policy.clone()),
        None => (0, None),
    };
    if let (None, Some(class)) = (named, &class) {
        spec.priority_class_name.clone_from(&class.metadata.name);
    }
    if spec.priority.is_some_and(|given| given != value) {
        return Err(asked.forbidden(&format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
            spec.priority.unwrap_or_default()
        )));
    }
    spec.priority = Some(value);
    let policy = policy.unwrap_or_else(|| PREEMPT.to_owned());
    match &spec.preemption_policy {
        Some(given) if *given != policy => Err(asked.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ))),
        _ => {
            spec.preemption_policy = Some(policy);
            Ok(())
        }
    }
}

/// Only one class may be the default.
pub(crate) fn admit_class(asked: &Asked<'_>, new: &Value) -> Outcome<()> {
    let marked = new.get("globalDefault").and_then(Value::as_bool) == Some(true);
    if !asked.is("scheduling.k8s.io", "priorityclasses") || !marked {
        return Ok(());
    }
    let other = default_class(asked)?.and_then(|class| class.metadata.name).filter(|name| *name != asked.name);
    match other {
        Some(name) => {
            Err(asked
                .forbidden(&format!("PriorityClass {name} is already marked as default. Only one default can exist")))
        }
        None => Ok(()),
    }
}

fn typed(object: &Arc<Object>) -> Outcome<PriorityClass> {
    object.typed().map_err(Refusal::internal)
}

/// The class that is marked as default; of several the one with the lowest value.
fn default_class(asked: &Asked<'_>) -> Outcome<Option<PriorityClass>> {
    let Some(resource) = asked.call.server.cache.resource("priorityclasses") else { return Ok(None) };
    let snapshot = resource.snapshot();
    let mut classes = snapshot.objects.values().map(typed).collect::<Outcome<Vec<_>>>()?;
    classes.retain(|class| class.global_default == Some(true));
    Ok(classes.into_iter().min_by_key(|class| class.value))
}
