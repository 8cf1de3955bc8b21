//! `pods/eviction`: a deletion that asks disruption budgets first. Upstream: `pkg/registry/core/pod/storage/eviction.go`.

use api::meta;
use api::selector::Selector;
use api::status::{Cause, Details, Status, Target};
use api::value::{Value, from_value, to_value};
use bytes::Bytes;
use client::{Key, Object};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, DeleteOptions as WireDeleteOptions, Time};
use resources::Writer;

use crate::answer::Answer;
use crate::catalog::Served;
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{DeleteOptions, WriteOptions};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::attempt::Write;
use crate::verbs::delete;

/// How often an eviction starts over when others were faster, as often as upstream.
const ATTEMPTS_MAX: usize = 20;
/// More evictions than this that the disruption controller has not seen yet are not let through.
const DISRUPTED_PODS_MAX: usize = 2000;
const PREFIX: &str = "poddisruptionbudgets";
/// The condition of a budget that says whether it allows disruptions.
const ALLOWED: &str = "DisruptionAllowed";

/// Deletes the pod as the eviction's options say, unless that would break its budget.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let options = options(call, &body)?;
    for attempt in 1.. {
        let object = call.current(served).await?;
        let pod: Pod = object.typed().map_err(Refusal::internal)?;
        // A revision that the client named is not looked beyond.
        let free = options.revision.is_none();
        let (wanted, on_conflict) = match need(&pod) {
            Need::None => (options.clone(), OnConflict::Answer),
            Need::Unchanged => (pinned(&options, &object), if free { OnConflict::Again } else { OnConflict::Answer }),
            Need::Budget => match budget(call, &pod)? {
                None => (options.clone(), OnConflict::Answer),
                Some(budget) if spares(&budget, &pod) => {
                    let name = budget.metadata.name.unwrap_or_default();
                    (pinned(&options, &object), if free { OnConflict::Busy(name) } else { OnConflict::Answer })
                }
                Some(budget) => {
                    spend(call, &budget, &options).await?;
                    (options.clone(), OnConflict::Answer)
                }
            },
        };
        match (evict(call, served, &wanted).await, on_conflict) {
            (Ok(()), _) => break,
            (Err(refusal), OnConflict::Busy(name)) if refusal.0.is("Conflict") => return Err(busy(&name)),
            (Err(refusal), OnConflict::Again) if refusal.0.is("Conflict") && attempt < ATTEMPTS_MAX => {}
            (Err(refusal), _) => return Err(refusal),
        }
    }
    let status = Status { status: "Success".to_owned(), code: 201, ..Status::default() };
    Ok(Answer::Status { code: 201, status: Box::new(status) })
}

/// The deletion that the eviction asks for. Its dry run may be said in the request or in the body.
fn options(call: &Call<'_>, body: &[u8]) -> Outcome<DeleteOptions> {
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let message = crate::render::schema("policy", "v1", "Eviction")?;
    let expected = Expected { group: "policy", version: "v1", kind: "Eviction", message };
    let encoding = negotiate::body_encoding(&call.headers)?;
    let eviction = decode::object(body, encoding, &expected, options.field_validation, &call.warnings)?;
    let named = meta::name(&eviction);
    if named != call.info.name {
        return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
    }
    let wire = match eviction.get("deleteOptions") {
        Some(options) => from_value(options).map_err(|error| Refusal::bad_request(error.to_string()))?,
        None => WireDeleteOptions::default(),
    };
    let mut wanted = DeleteOptions::of_wire(wire)?;
    wanted.dry_run |= options.dry_run;
    Ok(wanted)
}

/// What becomes of an eviction of a pod that changed meanwhile.
enum OnConflict {
    Answer,
    Again,
    /// It may have become ready, and then it counts: the client is to ask again.
    Busy(String),
}

/// What an eviction of a pod depends on.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// The pod is over, or its deletion has begun: nothing more is disrupted.
    None,
    /// It serves nobody yet; it must be so still when it is deleted.
    Unchanged,
    Budget,
}

fn need(pod: &Pod) -> Need {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    match phase {
        _ if pod.metadata.deletion_timestamp.is_some() => Need::None,
        "Succeeded" | "Failed" => Need::None,
        "Pending" => Need::Unchanged,
        _ => Need::Budget,
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether an unready pod may go without being counted.
fn spares(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    if is_ready(pod) {
        return false;
    }
    let always = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (current, desired) = (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    always == Some("AlwaysAllow") || (current >= desired && desired > 0)
}

fn pinned(options: &DeleteOptions, pod: &Object) -> DeleteOptions {
    let revision = options.revision.clone().or_else(|| Some(pod.revision().to_string()));
    DeleteOptions { revision, ..options.clone() }
}

/// The one budget that selects the pod.
fn budget(call: &Call<'_>, pod: &Pod) -> Outcome<Option<PodDisruptionBudget>> {
    let Some(budgets) = call.server.cache.resource(PREFIX) else { return Ok(None) };
    let snapshot = budgets.snapshot();
    let namespace = call.info.namespace.as_str();
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let mut found = None;
    let mine = snapshot.objects.range(Key::new(namespace, "")..).take_while(|(key, _)| key.namespace() == namespace);
    for (_, object) in mine {
        let budget: PodDisruptionBudget = object.typed().map_err(Refusal::internal)?;
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let Ok(selector) = Selector::from_object(selector) else { continue };
        // A budget that selects everything came in through a back door; it counts for nothing.
        if selector.is_everything() || !selector.matches(&labels) {
            continue;
        }
        if found.replace(budget).is_some() {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Refusal::unknown(why));
        }
    }
    Ok(found)
}

/// Takes one disruption off the budget, and tells the disruption controller which pod it was for.
async fn spend(call: &Call<'_>, budget: &PodDisruptionBudget, options: &DeleteOptions) -> Outcome<()> {
    let served =
        call.server.catalog.find("policy", "v1", PREFIX).ok_or_else(|| Refusal::internal("budgets are not served"))?;
    let writing = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
    let name = budget.metadata.name.clone().unwrap_or_default();
    let key = Key::new(&call.info.namespace, &name);
    let write = Write { call, served: &served, options: &writing, writer: Writer::Status, key };
    let spent = write.update(|current| {
        let budget: PodDisruptionBudget = from_value(current).map_err(Refusal::internal)?;
        let mut new = current.clone();
        let status = to_value(&spent(budget, &call.info.name, stdx::wall())?.status).map_err(Refusal::internal)?;
        if let Some(members) = new.as_object_mut() {
            members.insert("status", status);
        }
        Ok(new)
    });
    match spent.await {
        Err(refusal) if refusal.0.is("Conflict") => {
            let why = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
            let mut refusal = Refusal::timeout(&why);
            refusal.0.details = Some(Details { retry_after_seconds: Some(10), ..Details::default() });
            Err(refusal)
        }
        outcome => outcome.map(drop),
    }
}

/// The budget with one disruption less, or why it has none.
fn spent(mut budget: PodDisruptionBudget, pod: &str, now: Timestamp) -> Outcome<PodDisruptionBudget> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    let observed = status.observed_generation.unwrap_or(0);
    if observed < generation {
        return Err(busy(&name));
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return Err(forbidden(&name, "pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(&name, why));
    }
    if allowed == 0 {
        return Err(denied(0, denial(&budget)));
    }
    status.disruptions_allowed = Some(allowed - 1);
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), Time(now));
    if allowed == 1 {
        exhaust(status.conditions.get_or_insert_default(), observed, now);
    }
    Ok(budget)
}

/// Says of the budget that it has nothing left.
fn exhaust(conditions: &mut Vec<Condition>, generation: i64, now: Timestamp) {
    let present = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = present.map(|at| &conditions[at]).filter(|present| present.status == "False");
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: "False".to_owned(),
        reason: "InsufficientPods".to_owned(),
        message: String::new(),
        observed_generation: Some(generation),
        last_transition_time: since.map_or(Time(now), |present| present.last_transition_time.clone()),
    };
    match present {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Why the budget allows no disruption. Upstream looks for a failed sync first, since its counts mean nothing then.
fn denial(budget: &PodDisruptionBudget) -> String {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    let status = budget.status.clone().unwrap_or_default();
    let (current, desired) = (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    let condition =
        status.conditions.into_iter().flatten().find(|condition| {
            condition.type_ == ALLOWED && condition.status == "False" && !condition.message.is_empty()
        });
    let refuses = format!("The disruption budget {name} does not allow evicting pods currently");
    match condition {
        Some(failed) if failed.reason == "SyncFailed" => {
            format!("{refuses} because it failed sync: {}", failed.message)
        }
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some(condition) => format!("{refuses} ({}): {}", condition.reason, condition.message),
        None => refuses,
    }
}

fn cause(message: String) -> Cause {
    Cause { reason: "DisruptionBudget".to_owned(), message, ..Cause::default() }
}

/// 429: the budget is not to be broken.
fn denied(retry_after_seconds: u32, why: String) -> Refusal {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(message, retry_after_seconds);
    status.details.get_or_insert_default().causes.push(cause(why));
    status.into()
}

/// 429: the budget was changed, and the disruption controller has not worked it out yet.
fn busy(name: &str) -> Refusal {
    denied(10, format!("The disruption budget {name} is still being processed by the server."))
}

fn forbidden(name: &str, why: &str) -> Refusal {
    let mut status = Status::forbidden(Target { group: "policy", resource: "poddisruptionbudget", name }, why);
    let refuses = format!("The disruption budget {name} does not allow evicting pods currently: {why}");
    status.details.get_or_insert_default().causes.push(cause(refuses));
    status.into()
}

/// Marks the pod as the target of a disruption and deletes it.
async fn evict(call: &Call<'_>, served: &Served, options: &DeleteOptions) -> Outcome<()> {
    let mut options = options.clone();
    let writing = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
    let write = Write::new(call, served, &writing, Writer::Status);
    let marked = write
        .update(|current| {
            check_preconditions(call, served, current, &options)?;
            let mut new = current.clone();
            mark(&mut new, stdx::wall())?;
            Ok(new)
        })
        .await?;
    if options.revision.is_some() && !options.dry_run {
        // The mark itself made a new revision, which is the one to delete.
        options.revision = Some(marked.object().revision().to_string());
    }
    delete::delete_named(call, served, &options).await
}

fn check_preconditions(call: &Call<'_>, served: &Served, pod: &Value, options: &DeleteOptions) -> Outcome<()> {
    let revision = meta::resource_version(pod);
    delete::check_preconditions(served, &call.info.name, (meta::uid(pod), revision), options)
}

/// Sets the condition that says why the pod goes.
fn mark(pod: &mut Value, now: Timestamp) -> Outcome<()> {
    let typed: Pod = from_value(pod).map_err(Refusal::internal)?;
    let mut conditions = typed.status.and_then(|status| status.conditions).unwrap_or_default();
    let present = conditions.iter().position(|condition| condition.type_ == "DisruptionTarget");
    let since = present.and_then(|at| {
        let present = &conditions[at];
        present.last_transition_time.clone().filter(|_| present.status == "True")
    });
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        message: Some("Eviction API: evicting".to_owned()),
        observed_generation: typed.metadata.generation,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        last_probe_time: None,
    };
    match present {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    if let Some(members) = pod.as_object_mut() {
        let conditions = to_value(&conditions).map_err(Refusal::internal)?;
        members.get_or_insert_object("status").insert("conditions", conditions);
    }
    Ok(())
}
