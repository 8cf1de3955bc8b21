//! `delete` and `deletecollection`: at once, gracefully, or when the finalizers are done.

use std::sync::Arc;

use api::meta;
use api::status::{Details, Status, Target};
use api::value::Value;
use bytes::Bytes;
use client::{Gvk, Key, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as WireDeleteOptions;
use store::{Compare, Op, TxnOutcome};

use crate::admission::{self, Operation};
use crate::allocate;
use crate::answer::Answer;
use crate::cache::{store_refusal, stored_version};
use crate::catalog::Served;
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{DeleteOptions, FieldValidation, Propagation, ReadOptions};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::stored;
use crate::verbs::attempt::MODIFIED;
use crate::verbs::{list, not_found, target};

/// Kinds whose deletion answers the object even when it is gone. Upstream: each store's `ReturnDeletedObject`.
const ANSWERED_AS_OBJECT: &[&str] = &[
    "pods",
    "services",
    "serviceaccounts",
    "persistentvolumeclaims",
    "persistentvolumes",
    "podtemplates",
    "resourcequotas",
    "csidrivers",
    "csinodes",
    "storageclasses",
    "volumeattachments",
];

const ATTEMPTS_MAX: usize = 16;

/// What a deletion did.
enum Deleted {
    /// It is gone; this is how it was last.
    Gone(Arc<Object>),
    /// It is still there, marked.
    Marked(Arc<Object>),
}

/// Deletes the object that the path names.
pub(crate) async fn delete(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let options = options(call, &body)?;
    let key = call.key(served);
    match delete_key(call, served, &key, &options).await? {
        Deleted::Gone(object) if !ANSWERED_AS_OBJECT.contains(&served.facts().plural) => {
            let details = Details {
                name: key.name().to_owned(),
                group: served.group.to_owned(),
                kind: served.facts().plural.to_owned(),
                uid: object.uid().to_owned(),
                ..Details::default()
            };
            let status = Status { status: "Success".to_owned(), details: Some(details), ..Status::default() };
            Ok(Answer::Status { code: 200, status: Box::new(status) })
        }
        Deleted::Gone(object) | Deleted::Marked(object) => Ok(Answer::Object { code: 200, served: *served, object }),
    }
}

/// Deletes the object that the path names, for another verb's sake.
pub(crate) async fn delete_named(call: &Call<'_>, served: &Served, options: &DeleteOptions) -> Outcome<()> {
    delete_key(call, served, &call.key(served), options).await.map(drop)
}

/// Deletes every selected object; answers those that it deleted or marked.
pub(crate) async fn delete_collection(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let options = options(call, &body)?;
    let selected = list::page(call, served, &ReadOptions::of_list(&call.query)?).await?;
    let mut items = Vec::with_capacity(selected.items.len());
    for object in selected.items {
        match delete_key(call, served, object.key(), &options).await {
            Ok(Deleted::Gone(object) | Deleted::Marked(object)) => items.push(object),
            Err(refusal) if refusal.0.is("NotFound") => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let revision = call.server.cache.revision();
    Ok(Answer::List(list::Page { served: *served, revision, items, continue_token: String::new(), remaining: None }))
}

/// The options of a deletion: its body, or without one its parameters.
fn options(call: &Call<'_>, body: &[u8]) -> Outcome<DeleteOptions> {
    if body.is_empty() {
        return DeleteOptions::of_query(&call.query);
    }
    let encoding = negotiate::body_encoding(&call.headers)?;
    let message =
        api::schema::kind("", "v1", "DeleteOptions").ok_or_else(|| Refusal::internal("no schema for DeleteOptions"))?;
    let expected = Expected { group: "", version: "v1", kind: "DeleteOptions", message };
    let tree = decode::object(body, encoding, &expected, FieldValidation::Ignore, &call.warnings)?;
    let wire: WireDeleteOptions =
        api::value::from_value(&tree).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let dry_run = wire.dry_run.is_none() && call.query.text("dryRun").is_some();
    let mut options = DeleteOptions::of_wire(wire)?;
    options.dry_run |= dry_run;
    Ok(options)
}

async fn delete_key(call: &Call<'_>, served: &Served, key: &Key, options: &DeleteOptions) -> Outcome<Deleted> {
    for _ in 0..ATTEMPTS_MAX {
        call.server.cache.fresh().await?;
        let found = call.resource(served)?.snapshot().objects.get(key).cloned();
        let current = found.ok_or_else(|| not_found(served, key.name()))?;
        admit(call, served, &current)?;
        if let Some(deleted) = try_delete(call, served, &current, options).await? {
            return Ok(deleted);
        }
    }
    Err(Status::conflict(target(served, key.name()), MODIFIED).into())
}

fn admit(call: &Call<'_>, served: &Served, current: &Object) -> Outcome<()> {
    let asked = admission::Asked {
        call,
        served,
        operation: Operation::Delete,
        subresource: "",
        namespace: current.namespace().to_owned(),
        name: current.name().to_owned(),
    };
    admission::admit(&asked, None, None).map(drop)
}

/// Upstream: `k8s.io/apiserver/pkg/registry/rest/delete.go`. `is` has the uid and the revision of what is there.
pub(crate) fn check_preconditions(
    served: &Served,
    name: &str,
    is: (&str, &str),
    options: &DeleteOptions,
) -> Outcome<()> {
    let conflict = |why: String| {
        let target = Target { group: served.group, resource: served.kind, name };
        Err(Refusal::from(Status::conflict(target, &why)))
    };
    let (is, revision) = is;
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != is) {
        let recreated = "The object might have been deleted and then recreated";
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({is}). {recreated}"
        ));
    }
    if let Some(wanted) = options.revision.as_deref().filter(|wanted| *wanted != revision) {
        let modified = "The object might have been modified";
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({revision}). {modified}"
        ));
    }
    Ok(())
}

/// What a deletion means for an object.
#[derive(Debug, PartialEq)]
enum Verdict {
    Remove,
    /// The object with its marks.
    Mark(Value),
    /// It is marked already, and nothing changes.
    Nothing,
}

/// Decides without acting.
fn verdict(served: &Served, tree: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Outcome<Verdict> {
    if served.facts().plural == "namespaces" {
        return Ok(namespace_verdict(tree, now));
    }
    let mut marked = tree.clone();
    let finalizers = finalizers_after(tree, options.propagation);
    let changes_finalizers = finalizers != meta::finalizers(tree);
    meta::set_finalizers(&mut marked, finalizers.iter().copied());
    let grace = served.def.grace_seconds(tree, options.grace_seconds).map_err(Refusal::internal)?;
    if meta::is_terminating(tree) {
        return Ok(verdict_again(tree, marked, options, grace.is_some(), changes_finalizers));
    }
    let grace = grace.unwrap_or(0).max(0);
    if grace == 0 && finalizers.is_empty() {
        return Ok(Verdict::Remove);
    }
    let ends = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    meta::set_deletion(&mut marked, ends, grace);
    if meta::generation(&marked) > 0 {
        let generation = meta::generation(&marked) + 1;
        meta::set_generation(&mut marked, generation);
    }
    Ok(Verdict::Mark(marked))
}

/// A deletion of what is being deleted already may only shorten the time that is left.
fn verdict_again(tree: &Value, mut marked: Value, options: &DeleteOptions, graceful: bool, changed: bool) -> Verdict {
    let before = meta::deletion_grace_seconds(tree).unwrap_or(0);
    // Upstream takes a negative time for one second, here as at the first deletion.
    let asked = options.grace_seconds.map(|asked| if asked < 0 { 1 } else { asked });
    let shortened = asked.filter(|asked| graceful && *asked < before);
    let grace = shortened.unwrap_or(before);
    if grace == 0 && !meta::has_finalizers(&marked) {
        return Verdict::Remove;
    }
    if let (Some(grace), Some(ends)) = (shortened, meta::deletion_timestamp(tree)) {
        let ends = ends.checked_sub(jiff::SignedDuration::from_secs(before - grace)).unwrap_or(ends);
        meta::set_deletion(&mut marked, ends, grace);
        return Verdict::Mark(marked);
    }
    if changed { Verdict::Mark(marked) } else { Verdict::Nothing }
}

/// A namespace is held by finalizers of its own. Upstream: `pkg/registry/core/namespace/storage/storage.go`.
fn namespace_verdict(tree: &Value, now: jiff::Timestamp) -> Verdict {
    let held = tree.at(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !held && !meta::has_finalizers(tree) {
        return Verdict::Remove;
    }
    if meta::is_terminating(tree) {
        return Verdict::Nothing;
    }
    let mut marked = tree.clone();
    if let Some(metadata) = meta::metadata_mut(&mut marked) {
        metadata.insert("deletionTimestamp", meta::rfc3339(now));
    }
    if let Some(members) = marked.as_object_mut() {
        members.get_or_insert_object("status").insert("phase", "Terminating");
    }
    Verdict::Mark(marked)
}

/// The finalizers of the garbage collector follow the propagation policy; all others stay.
fn finalizers_after(tree: &Value, propagation: Option<Propagation>) -> Vec<&str> {
    const ORPHAN: &str = "orphan";
    const FOREGROUND: &str = "foregroundDeletion";
    let present = meta::finalizers(tree);
    let Some(propagation) = propagation else { return present };
    let wanted = match propagation {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    let keep = |finalizer: &&str| (*finalizer != ORPHAN && *finalizer != FOREGROUND) || Some(*finalizer) == wanted;
    let mut finalizers: Vec<&str> = present.into_iter().filter(keep).collect();
    finalizers.extend(wanted.filter(|wanted| !finalizers.contains(wanted)));
    finalizers
}

/// One attempt; nothing when somebody else was faster.
async fn try_delete(
    call: &Call<'_>,
    served: &Served,
    current: &Arc<Object>,
    options: &DeleteOptions,
) -> Outcome<Option<Deleted>> {
    let revision = current.revision().to_string();
    check_preconditions(served, current.name(), (current.uid(), &revision), options)?;
    let mut tree = current.tree().map_err(Refusal::internal)?;
    meta::clear_resource_version(&mut tree);
    let prefix = served.key_prefix().ok_or_else(Refusal::no_such_path)?;
    let store_key = stored::store_key(prefix, current.key());
    let mut compares = vec![Compare::unchanged(store_key.clone(), current.revision())];
    let (op, marked) = match verdict(served, &tree, options, stdx::wall())? {
        Verdict::Nothing => return Ok(Some(Deleted::Marked(current.clone()))),
        Verdict::Remove => (Op::delete(store_key), None),
        Verdict::Mark(marked) => {
            let facts = served.facts();
            let kind = Arc::new(Gvk::new(facts.group, stored_version(facts), facts.kind));
            let body = stored::body(served, &marked)?;
            let object = Object::new(kind, current.key().clone(), current.uid(), current.revision(), body.clone());
            (Op::put(store_key, body), Some(object))
        }
    };
    if options.dry_run {
        return Ok(Some(
            marked.map_or_else(|| Deleted::Gone(current.clone()), |object| Deleted::Marked(Arc::new(object))),
        ));
    }
    let mut ops = vec![op];
    if marked.is_none() {
        let records = allocate::release(served, &tree);
        compares.extend(records.compares);
        ops.extend(records.ops);
    }
    match call.server.store.txn(compares, ops).await.map_err(store_refusal)? {
        TxnOutcome::Failed { .. } => Ok(None),
        TxnOutcome::Committed { revision } => {
            call.server.cache.catch_up(revision).await;
            Ok(Some(match marked {
                Some(object) => Deleted::Marked(Arc::new(object.at_revision(revision))),
                None => Deleted::Gone(Arc::new(current.at_revision(revision))),
            }))
        }
    }
}
