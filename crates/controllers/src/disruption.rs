//! Disruption: works out how many pods each PodDisruptionBudget lets go, and takes back what pods were told of
//! disruptions that never came.
//!
//! Upstream: `pkg/controller/disruption`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::decide::conditions::NewCondition;
use api::decide::pod::{is_pod_ready, is_pod_terminated, pod_condition};
use api::projection::PodLite;
use api::selector::Selector;
use api::value::{Value, to_value};
use client::{Key, Object};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use reconcile::plan::kinds::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS};
use reconcile::{Change, Controller, Facts, Note, Now, Outcomes, Plan, Reference, Severity, View, Watch};

use crate::share::{Rounding, resolved};
use crate::{condition, owner, patch};

/// How long after its eviction a pod counts as going although nothing says so. Upstream: `DeletionTimeout`.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(2 * 60);
/// How long a pod may say that it is to be disrupted without being deleted. Upstream: `stalePodDisruptionTimeout`.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(2 * 60);
const ALLOWED: &str = "DisruptionAllowed";

/// The controller of budgets.
pub struct DisruptionController;

/// What is decided about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Budget(Key),
    /// A pod that says it is to be disrupted.
    Pod(Key),
}

/// A budget with its pods and their scale, or a pod.
pub enum Observed {
    Budget { budget: Box<PodDisruptionBudget>, revision: u64, pods: Vec<Arc<Object>>, scale: Result<Scale, String> },
    Pod(Arc<Object>),
    Nothing,
}

/// How many pods those who control them want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    expected: i32,
    /// Whether there are pods that nothing controls.
    unmanaged: bool,
}

impl Controller for DisruptionController {
    const NAME: &'static str = "disruption";
    type Key = Subject;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Subject>> {
        let budget = |_: &View, budget: &Object| vec![Subject::Budget(budget.key().clone())];
        let of_namespace = |view: &View, object: &Object| {
            let budgets = view.in_namespace(POD_DISRUPTION_BUDGETS, object.namespace());
            budgets.map(|budget| Subject::Budget(budget.key().clone())).collect()
        };
        vec![
            Watch::mapped(POD_DISRUPTION_BUDGETS, budget),
            Watch::mapped(PODS, subjects_of_pod),
            Watch::mapped(REPLICA_SETS, of_namespace),
            Watch::mapped(DEPLOYMENTS, of_namespace),
        ]
    }

    fn observe(view: &View, subject: &Subject) -> Observed {
        match subject {
            Subject::Pod(key) => view.get(PODS, key).map_or(Observed::Nothing, Observed::Pod),
            Subject::Budget(key) => observe_budget(view, key).unwrap_or(Observed::Nothing),
        }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        match observed {
            Observed::Nothing => Plan::nothing(),
            Observed::Pod(pod) => cleanup(pod, now),
            Observed::Budget { budget, revision, pods, scale } => keep(budget, *revision, pods, scale, now),
        }
    }
}

fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::from_object(budget.spec.as_ref()?.selector.as_ref()).ok()
}

fn subjects_of_pod(view: &View, pod: &Object) -> Vec<Subject> {
    let selects = |object: &Arc<Object>| {
        let budget: Option<PodDisruptionBudget> = owner::typed(object);
        budget.as_ref().and_then(selector).is_some_and(|selector| selector.matches(&pod.meta().labels))
    };
    let budgets = view.in_namespace(POD_DISRUPTION_BUDGETS, pod.namespace()).filter(selects);
    let mut subjects: Vec<Subject> = budgets.map(|budget| Subject::Budget(budget.key().clone())).collect();
    if is_targeted(pod) {
        subjects.push(Subject::Pod(pod.key().clone()));
    }
    subjects
}

fn is_targeted(pod: &Object) -> bool {
    pod_condition(pod.project::<PodLite>(), condition::DISRUPTION_TARGET).is_some_and(|target| target.is_true())
}

fn observe_budget(view: &View, key: &Key) -> Option<Observed> {
    let object = view.get(POD_DISRUPTION_BUDGETS, key)?;
    let budget: PodDisruptionBudget = owner::typed(&object)?;
    let selector = selector(&budget)?;
    let pods: Vec<Arc<Object>> =
        view.in_namespace(PODS, key.namespace()).filter(|pod| selector.matches(&pod.meta().labels)).collect();
    let scale = scale(view, &pods);
    Some(Observed::Budget { budget: Box::new(budget), revision: object.revision(), pods, scale })
}

/// The sum over all who control any of the pods.
fn scale(view: &View, pods: &[Arc<Object>]) -> Result<Scale, String> {
    let mut scale = Scale::default();
    let (mut looked_at, mut counted) = (BTreeSet::new(), BTreeSet::new());
    for pod in pods {
        let Some(controller) = pod.meta().controller() else {
            scale.unmanaged = true;
            continue;
        };
        if !looked_at.insert(controller.uid.clone()) {
            continue;
        }
        let found = (&*controller.kind == "ReplicaSet")
            .then(|| view.get(REPLICA_SETS, &Key::new(pod.namespace(), &controller.name)))
            .flatten()
            .filter(|set| set.uid() == &*controller.uid)
            .and_then(|set| wanted(view, &set));
        let Some((uid, replicas)) = found else {
            return Err(format!("found no controllers for pod {:?}", pod.name()));
        };
        if counted.insert(uid) {
            scale.expected = scale.expected.saturating_add(replicas);
        }
    }
    Ok(scale)
}

/// Who decides about the size of a ReplicaSet (its Deployment, or itself), and the size.
fn wanted(view: &View, set: &Object) -> Option<(String, i32)> {
    let Some(parent) = set.meta().controller().filter(|owner| &*owner.kind == "Deployment") else {
        let set: ReplicaSet = owner::typed(set)?;
        return Some((set.metadata.uid?, set.spec?.replicas.unwrap_or(1)));
    };
    let deployment = view.get(DEPLOYMENTS, &Key::new(set.namespace(), &parent.name))?;
    let deployment: Deployment = owner::typed(&deployment)?;
    let uid = deployment.metadata.uid.filter(|uid| **uid == *parent.uid)?;
    Some((uid, deployment.spec?.replicas.unwrap_or(1)))
}

/// Brings the status of a budget up to date.
fn keep(
    budget: &PodDisruptionBudget,
    revision: u64,
    pods: &[Arc<Object>],
    scale: &Result<Scale, String>,
    now: Now,
) -> Plan {
    let regarding = owner::reference(POD_DISRUPTION_BUDGETS, &budget.metadata);
    let note = |severity, reason, message: String| note(&regarding, severity, reason, message);
    let spec = budget.spec.clone().unwrap_or_default();
    let mut notes = Vec::new();
    if pods.is_empty() {
        notes.push(note(Severity::Normal, "NoPods", "No matching pods found".into()));
    }
    let (disrupted, recheck) = disrupted(budget, pods, now.wall);
    notes.extend(disrupted.overdue.iter().map(|pod| {
        let of = owner::reference_to(PODS, pod);
        let namespace = pod.namespace();
        let message = format!("Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't");
        self::note(&of, Severity::Warning, "NotDeleted", message)
    }));
    let status = match counts(&spec, pods.len(), scale) {
        Ok((expected, desired, unmanaged)) => {
            if unmanaged {
                notes.push(note(Severity::Warning, "UnmanagedPods", unmanaged_message(spec.selector.as_ref())));
            }
            let healthy = healthy(pods, &disrupted.going);
            status(budget, (healthy, desired, expected), disrupted.going, now.wall)
        }
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            notes.push(note(Severity::Warning, "CalculateExpectedPodCountFailed", message));
            failed(budget, &why, now.wall)
        }
    };
    let mut plan = Plan::nothing();
    let current = budget.status.clone().unwrap_or_default();
    if tree(&current, &status) != tree(&current, &current) {
        plan.notes = notes;
        let body = patch::object([("status", tree(&current, &status))]);
        // An eviction may spend from the budget at any time: what it wrote must not be overwritten.
        let revision = Some(revision);
        plan = plan.then([Change::Patch { of: regarding, subresource: Some("status"), body, revision }.into()]);
    }
    match recheck {
        Some(after) => plan.again_within(after),
        None => plan,
    }
}

fn note(regarding: &Reference, severity: Severity, reason: &'static str, message: String) -> Note {
    Note { regarding: regarding.clone(), field: String::new(), severity, reason, message }
}

fn unmanaged_message(selector: Option<&LabelSelector>) -> String {
    let selector = go_selector(selector);
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

/// As Go prints the selector's struct, which is what users see of it.
fn go_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expression = |requirement: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement| {
        let values = requirement.values.clone().unwrap_or_default().join(" ");
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            requirement.key, requirement.operator
        )
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(expression).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// How many pods there should be, how many of them must be healthy, and whether some of them are nobody's.
fn counts(
    spec: &PodDisruptionBudgetSpec,
    pods: usize,
    scale: &Result<Scale, String>,
) -> Result<(i32, i32, bool), String> {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => {
            let scale = scale.as_ref().map_err(String::clone)?;
            let desired = scale.expected.saturating_sub(resolved(unavailable, scale.expected, Rounding::Up)).max(0);
            Ok((scale.expected, desired, scale.unmanaged))
        }
        (None, Some(IntOrString::Int(available))) => Ok((i32::try_from(pods).unwrap_or(i32::MAX), *available, false)),
        (None, Some(share)) => {
            let scale = scale.as_ref().map_err(String::clone)?;
            Ok((scale.expected, resolved(share, scale.expected, Rounding::Up), scale.unmanaged))
        }
        (None, None) => Ok((0, 0, false)),
    }
}

/// The pods whose eviction was let through.
#[derive(Default)]
struct Disrupted<'a> {
    going: BTreeMap<String, Time>,
    /// Those that are still there although they should long be gone.
    overdue: Vec<&'a Arc<Object>>,
}

fn disrupted<'a>(
    budget: &PodDisruptionBudget,
    pods: &'a [Arc<Object>],
    now: Timestamp,
) -> (Disrupted<'a>, Option<Duration>) {
    let mut found = Disrupted::default();
    let mut recheck: Option<Duration> = None;
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    for pod in pods.iter().filter(|pod| pod.meta().deletion.is_none()) {
        let Some(since) = known.and_then(|known| known.get(pod.name())) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(since.0);
        if left.is_negative() {
            found.overdue.push(pod);
            continue;
        }
        found.going.insert(pod.name().to_owned(), since.clone());
        let left = left.unsigned_abs() + Duration::from_secs(1);
        recheck = Some(recheck.map_or(left, |before| before.min(left)));
    }
    (found, recheck)
}

fn healthy(pods: &[Arc<Object>], going: &BTreeMap<String, Time>) -> i32 {
    let counts = |pod: &&Arc<Object>| {
        pod.meta().deletion.is_none() && !going.contains_key(pod.name()) && is_pod_ready(pod.project::<PodLite>())
    };
    i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX)
}

fn status(
    budget: &PodDisruptionBudget,
    (healthy, desired, expected): (i32, i32, i32),
    going: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    // Without any pods expected nothing is allowed: the first ones may come before they are counted.
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let generation = budget.metadata.generation;
    let mut conditions = budget.status.clone().and_then(|status| status.conditions).unwrap_or_default();
    let (said, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set(&mut conditions, (said, reason, ""), generation, now);
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(going),
        observed_generation: generation,
        conditions: Some(conditions),
    }
}

/// When the counts cannot be known, nothing is let go.
fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let generation = status.observed_generation;
    set(status.conditions.get_or_insert_default(), ("False", "SyncFailed", why), generation, now);
    status
}

fn set(conditions: &mut Vec<Condition>, said: (&str, &str, &str), generation: Option<i64>, now: Timestamp) {
    let (status, reason, message) = said;
    let present = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = present.map(|at| &conditions[at]).filter(|present| present.status == status);
    let new = Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since.map_or(Time(now), |present| present.last_transition_time.clone()),
    };
    match present {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

/// The status with every field named, so that merging it removes what is no longer so.
fn tree(current: &PodDisruptionBudgetStatus, status: &PodDisruptionBudgetStatus) -> Value {
    let count = |count: Option<i32>| Value::from(i64::from(count.unwrap_or(0)));
    let mut pods = api::value::Map::default();
    for name in current.disrupted_pods.iter().flatten().map(|(name, _)| name) {
        pods.insert(name.as_str(), Value::Null);
    }
    for (name, since) in status.disrupted_pods.iter().flatten() {
        pods.insert(name.as_str(), api::meta::rfc3339(since.0));
    }
    let conditions = status.conditions.as_ref().filter(|conditions| !conditions.is_empty());
    patch::object([
        ("currentHealthy", count(status.current_healthy)),
        ("desiredHealthy", count(status.desired_healthy)),
        ("expectedPods", count(status.expected_pods)),
        ("disruptionsAllowed", count(status.disruptions_allowed)),
        ("disruptedPods", Value::Object(pods)),
        ("observedGeneration", status.observed_generation.map_or(Value::Null, Value::from)),
        ("conditions", conditions.and_then(|conditions| to_value(conditions).ok()).unwrap_or(Value::Null)),
    ])
}

/// Takes back that a pod is to be disrupted, when nobody came to delete it. What its node says so, it knows better.
fn cleanup(pod: &Object, now: Now) -> Plan {
    let lite: &PodLite = pod.project();
    let Some(target) = pod_condition(lite, condition::DISRUPTION_TARGET).filter(|target| target.is_true()) else {
        return Plan::nothing();
    };
    if pod.meta().deletion.is_some() || is_pod_terminated(lite) || &*target.reason == "TerminationByKubelet" {
        return Plan::nothing();
    }
    let left = STALE_AFTER - now.wall.duration_since(target.last_transition.unwrap_or(Timestamp::UNIX_EPOCH));
    if left.is_positive() {
        return Plan::nothing().again_within(left.unsigned_abs() + Duration::from_secs(1));
    }
    let taken_back = NewCondition { kind: condition::DISRUPTION_TARGET, status: "False", reason: "", message: "" };
    Plan::nothing().then(condition::of_pod(PODS, pod, &[taken_back], [], now.wall).map(Into::into))
}

#[cfg(test)]
mod tests;
