//! Carries a plan out: stage after stage, creates in growing batches, and tells what came of it.

use api::value::{Map, Value};
use client::{Client, ClientError, DeleteOptions, Deleted, Object, PatchKind, Preconditions, Target};
use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use stdx::Backoff;

use crate::event::Recorder;
use crate::freshness::Awaited;
use crate::plan::{Action, Asker, Change, Failure, Need, Note, Outcomes, Plan, Propagation, Reference, Resource, Verb};

/// Creates begin with one and double, so that a quota or an admission that refuses all is not asked five hundred times.
/// Upstream: `slowStartInitialBatchSize`.
const FIRST_BATCH: usize = 1;
/// Requests of one plan under way at once.
const CONCURRENCY: usize = 64;
/// A write whose connection broke may still be on its way to the store for so long. Who looks what became of it waits, and
/// so does who writes again, lest the older write comes after the newer one.
pub const ON_THE_WAY: Duration = Duration::from_secs(1);
/// The waits between tries to read what became of writes without an answer.
const READ_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// Objects of a page, where a decision has to know of all.
const LIST_PAGE: u32 = 500;

/// What carrying out a plan came to.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    pub outcomes: Outcomes,
    /// The revisions that the caches must show before the next decision.
    pub awaited: Awaited,
    /// Kinds whose writes may have had effects at revisions that no answer told. They are read before the next decision.
    pub unanswered: BTreeSet<Resource>,
    /// Something changed under the decision, or may have: decide anew at once, without counting a failure.
    pub conflict: bool,
}

/// Carries out `plan`'s stages and notes.
pub async fn carry_out(client: &Client, recorder: &Recorder, plan: Plan) -> Carried {
    let mut carried = Carried::default();
    for note in plan.notes {
        recorder.record(note);
    }
    for stage in plan.stages {
        if !run_stage(client, recorder, stage, &mut carried).await {
            break;
        }
    }
    carried
}

/// Runs a stage's actions; false when one failed.
async fn run_stage(client: &Client, recorder: &Recorder, stage: Vec<Action>, carried: &mut Carried) -> bool {
    let (creates, others): (Vec<Action>, Vec<Action>) =
        stage.into_iter().partition(|action| matches!(action.change, Change::Create { .. }));
    let mut good = true;
    for batch in others.chunks(CONCURRENCY) {
        good &= run_batch(client, recorder, batch, carried).await;
    }
    let mut creates = creates.as_slice();
    let mut size = FIRST_BATCH;
    while !creates.is_empty() && good {
        let (batch, rest) = creates.split_at(size.min(creates.len()));
        good &= run_batch(client, recorder, batch, carried).await;
        creates = rest;
        size = (size * 2).min(CONCURRENCY);
    }
    good
}

async fn run_batch(client: &Client, recorder: &Recorder, batch: &[Action], carried: &mut Carried) -> bool {
    let results = join_all(batch.iter().map(|action| request(client, &action.change))).await;
    let mut good = true;
    for (action, result) in batch.iter().zip(results) {
        good &= settle(recorder, action, result, carried);
    }
    good
}

/// Notes what came of one action; false when it failed.
fn settle(
    recorder: &Recorder,
    action: &Action,
    result: Result<Option<Arc<Object>>, ClientError>,
    carried: &mut Carried,
) -> bool {
    let (verb, resource) = identity(&action.change);
    let error = match result {
        Ok(object) => {
            let name =
                object.as_ref().map_or_else(|| name_of(&action.change).to_owned(), |object| object.name().to_owned());
            // A deletion that answers no object left nothing behind: a second one finds nothing, and harms nothing.
            if let Some(object) = object {
                carried.awaited.wrote(resource, object.revision());
            }
            if let Some(note) = &action.on_success {
                recorder.record(filled(note, &name, ""));
            }
            return true;
        }
        Err(error) => error,
    };
    // What was to be deleted or changed is gone: nothing is left to do about it.
    if error.is_not_found() && verb != Verb::Create {
        return true;
    }
    // Nothing can be made in a namespace that goes, and nothing has to be.
    if error.is_namespace_terminating() {
        return false;
    }
    if error.is_unknown() {
        // It may have happened: whoever acted again before seeing whether it did would make a second pod.
        carried.unanswered.insert(resource);
    }
    // A name that is taken is something the caches do not show yet.
    if error.is_conflict() || error.is_already_exists() || error.is_unknown() {
        carried.conflict = true;
        return false;
    }
    let message = stdx::told(&error);
    if let Some(note) = &action.on_failure {
        recorder.record(filled(note, name_of(&action.change), &message));
    }
    let reason = error.status().map(|status| status.reason.clone()).unwrap_or_default();
    carried.outcomes.failures.push(Failure { verb, resource, reason, message });
    false
}

/// A revision that has whatever became of earlier writes of this kind. Asks until there is an answer.
pub async fn revision_after(client: &Client, resource: Resource) -> u64 {
    stdx::sleep(ON_THE_WAY).await;
    let mut backoff = READ_BACKOFF;
    loop {
        match client.current_revision(collection(resource, "")).await {
            Ok(revision) => return revision,
            Err(error) => tracing::debug!(plural = resource.plural, %error, "present revision not read"),
        }
        stdx::sleep(backoff.fail()).await;
    }
}

fn identity(change: &Change) -> (Verb, Resource) {
    match change {
        Change::Create { resource, .. } => (Verb::Create, *resource),
        Change::Patch { of, .. } => (Verb::Patch, of.resource),
        Change::Replace { of, .. } => (Verb::Replace, of.resource),
        Change::Delete { of, .. } | Change::Remove { of } => (Verb::Delete, of.resource),
    }
}

fn name_of(change: &Change) -> &str {
    match change {
        Change::Create { object, .. } => object.at(&["metadata", "name"]).and_then(Value::as_str).unwrap_or_default(),
        Change::Patch { of, .. } | Change::Replace { of, .. } | Change::Delete { of, .. } | Change::Remove { of } => {
            &of.name
        }
    }
}

fn filled(note: &Note, name: &str, error: &str) -> Note {
    Note { message: note.message.replace("{name}", name).replace("{error}", error), ..note.clone() }
}

/// Where an object is.
fn target(of: &Reference) -> Target {
    let target = collection(of.resource, &of.namespace);
    target.name(of.name.as_str())
}

fn collection(resource: Resource, namespace: &str) -> Target {
    let target = Target::new(resource.group, resource.version, resource.plural);
    if namespace.is_empty() { target } else { target.namespace(namespace) }
}

async fn request(client: &Client, change: &Change) -> Result<Option<Arc<Object>>, ClientError> {
    match change {
        Change::Create { resource, namespace, object } => {
            let mut object = object.clone();
            api::meta::set_type(&mut object, &resource.api_version(), resource.kind);
            client.create(collection(*resource, namespace), &object).await.map(Some)
        }
        Change::Patch { of, subresource, body, revision } => {
            let mut target = target(of);
            if let Some(subresource) = subresource {
                target = target.subresource(*subresource);
            }
            client.patch(target, PatchKind::Merge, &pinned(body, of, *revision)).await.map(Some)
        }
        Change::Replace { of, subresource, object } => {
            let mut object = object.clone();
            api::meta::set_type(&mut object, &of.resource.api_version(), of.resource.kind);
            client.replace(target(of).subresource(*subresource), &object).await.map(Some)
        }
        Change::Delete { of, propagation, revision } => {
            let resource_version = revision.map(|revision| revision.to_string());
            let preconditions = Some(Preconditions { uid: Some(of.uid.clone()), resource_version });
            let mut options = DeleteOptions { preconditions, ..DeleteOptions::default() };
            options.propagation = match propagation {
                Propagation::Default => None,
                Propagation::Background => Some(client::Propagation::Background),
                Propagation::Foreground => Some(client::Propagation::Foreground),
                Propagation::Orphan => Some(client::Propagation::Orphan),
            };
            delete(client, of, options).await
        }
        Change::Remove { of } => {
            let mut options = DeleteOptions::of_uid(&of.uid);
            options.grace_period_seconds = Some(0);
            delete(client, of, options).await
        }
    }
}

async fn delete(client: &Client, of: &Reference, options: DeleteOptions) -> Result<Option<Arc<Object>>, ClientError> {
    Ok(match client.delete(target(of), options).await? {
        Deleted::Object(object) => Some(object),
        Deleted::Gone => None,
    })
}

/// The patch with the uid, and the revision where the decision depended on it, as preconditions.
fn pinned(body: &Value, of: &Reference, revision: Option<u64>) -> Value {
    let mut body = body.clone();
    let Value::Object(root) = &mut body else { return body };
    let mut metadata = match root.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::default(),
    };
    metadata.insert("uid", of.uid.as_str());
    if let Some(revision) = revision {
        metadata.insert("resourceVersion", revision.to_string().as_str());
    }
    root.insert("metadata", Value::Object(metadata));
    body
}

/// Asks the API itself about something that caches cannot tell for sure.
pub async fn answer(client: &Client, need: &Need) -> Result<bool, ClientError> {
    match need {
        Need::Exists(reference) => match client.get(target(reference)).await {
            Ok(object) => Ok(object.uid() == reference.uid),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        },
        Need::Lives(reference) => match client.get(target(reference)).await {
            Ok(object) => Ok(object.uid() == reference.uid && object.meta().deletion.is_none()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        },
        Need::Unchanged { of, revision } => match client.get(target(of)).await {
            Ok(object) => Ok(object.uid() == of.uid && object.revision() == *revision),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        },
        Need::Present { resource, namespace, name } => {
            let found = client.find(collection(*resource, namespace).name(name.as_str())).await?;
            Ok(found.is_some())
        }
        Need::Owned { by, resource, namespace } => {
            let options = client::ListOptions::default();
            let list = client.list_pages(collection(*resource, namespace), options, LIST_PAGE).await?;
            let owned =
                |object: &std::sync::Arc<client::Object>| object.meta().owners.iter().any(|owner| *owner.uid == **by);
            Ok(list.items.iter().any(owned))
        }
        Need::Permitted { who, verb, resource, subresource } => {
            permitted(client, who, verb, *resource, subresource).await
        }
        // The loop asks the authority, not the API.
        Need::Certificate { .. } => Ok(false),
        Need::Holds { resource, namespace } => {
            let options = client::ListOptions { limit: Some(1), ..client::ListOptions::default() };
            let list = client.list(collection(*resource, namespace), options).await?;
            Ok(!list.items.is_empty())
        }
    }
}

/// Asks whether somebody else may do something.
async fn permitted(
    client: &Client,
    who: &Asker,
    verb: &str,
    resource: Resource,
    subresource: &str,
) -> Result<bool, ClientError> {
    let text = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let attributes = ResourceAttributes {
        verb: text(verb),
        group: text(resource.group),
        resource: text(resource.plural),
        subresource: text(subresource),
        ..ResourceAttributes::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: text(&who.user),
            uid: text(&who.uid),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let tree = client.review(Target::new("authorization.k8s.io", "v1", "subjectaccessreviews"), &review).await?;
    Ok(tree.at(&["status", "allowed"]).and_then(Value::as_bool) == Some(true))
}

#[cfg(test)]
mod tests;
