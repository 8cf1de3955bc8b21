//! `list`: objects as they were at one revision, in chunks if asked.

use std::ops::Bound;
use std::sync::Arc;

use api::status::Status;
use client::{Key, Object};

use crate::answer::Answer;
use crate::cache::{ContinueToken, ResourceCache, Selection, Snapshot};
use crate::catalog::Served;
use crate::options::{ReadOptions, RevisionMatch};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};

/// One chunk of a list.
pub(crate) struct Page {
    pub served: Served,
    pub revision: u64,
    pub items: Vec<Arc<Object>>,
    /// Where the list goes on; empty at its end.
    pub continue_token: String,
    /// How many objects follow, where that is known.
    pub remaining: Option<u64>,
}

/// Answers a list.
pub(crate) async fn list(call: &Call<'_>, served: &Served) -> Outcome<Answer> {
    let options = ReadOptions::of_list(&call.query)?;
    page(call, served, &options).await.map(Answer::List)
}

/// One chunk, as the options say.
pub(crate) async fn page(call: &Call<'_>, served: &Served, options: &ReadOptions) -> Outcome<Page> {
    let namespace = if served.is_namespaced() { call.info.namespace.as_str() } else { "" };
    let selection = Selection::new(served, namespace, options, call.server)?;
    let resource = call.resource(served)?;
    let (snapshot, revision, start) = if options.continue_token.is_empty() {
        let (snapshot, revision) = snapshot(call, resource, options).await?;
        (snapshot, revision, None)
    } else {
        continued(call, resource, options).await?
    };
    let prefix = prefix(&selection);
    let start = start.map(|start| format!("{prefix}{start}"));
    let narrowed = selection.exact().and_then(|(place, value)| resource.narrowed(&snapshot, place, value));
    let chunk = Chunk { served: *served, revision, selection: &selection, limit: options.limit };
    let lower = start.as_deref().unwrap_or(&prefix);
    Ok(match narrowed {
        Some(narrowed) => chunk.cut(narrowed.iter().filter(|object| object.key().as_str() >= lower), prefix.len()),
        None if selection.name.is_some() => chunk.named(&snapshot),
        None => {
            let range = (Bound::Included(lower), Bound::<&str>::Unbounded);
            chunk.cut(snapshot.objects.range::<_, str>(range).map(|(_, object)| object), prefix.len())
        }
    })
}

/// What the keys of the selected objects begin with.
fn prefix(selection: &Selection) -> String {
    if selection.namespace.is_empty() { String::new() } else { format!("{}/", selection.namespace) }
}

/// The snapshot for a list from its start, and the revision that the list is said to have.
async fn snapshot(
    call: &Call<'_>,
    resource: &Arc<ResourceCache>,
    options: &ReadOptions,
) -> Outcome<(Arc<Snapshot>, u64)> {
    let cache = &call.server.cache;
    let exact = options.revision_match == Some(RevisionMatch::Exact)
        || (options.revision_match.is_none()
            && options.limit > 0
            && options.revision.is_some_and(|revision| revision > 0));
    match options.revision {
        Some(revision) if exact => {
            cache.wait_for(revision).await?;
            let too_old = |_| Refusal::expired("The resourceVersion for the provided list is too old.");
            Ok((Arc::new(resource.snapshot_at(revision).map_err(too_old)?), revision))
        }
        given => {
            let reached = match given {
                None => cache.fresh().await?,
                Some(revision) => cache.wait_for(revision).await?,
            };
            // Everything up to `reached` is in the snapshot; it may be newer, and is then exactly as of its own revision.
            let snapshot = resource.snapshot();
            let revision = reached.max(snapshot.revision);
            Ok((snapshot, revision))
        }
    }
}

async fn continued(
    call: &Call<'_>,
    resource: &Arc<ResourceCache>,
    options: &ReadOptions,
) -> Outcome<(Arc<Snapshot>, u64, Option<String>)> {
    if options.revision.is_some_and(|revision| revision != 0) {
        return Err(Refusal::bad_request("specifying resource version is not allowed when using continue"));
    }
    let token = ContinueToken::decode(&options.continue_token)?;
    match token.revision {
        None => {
            let reached = call.server.cache.fresh().await?;
            let snapshot = resource.snapshot();
            let revision = reached.max(snapshot.revision);
            Ok((snapshot, revision, Some(token.start)))
        }
        Some(revision) => {
            call.server.cache.wait_for(revision).await?;
            let too_old = |_| too_old_to_continue(&token.start);
            let snapshot = resource.snapshot_at(revision).map_err(too_old)?;
            Ok((Arc::new(snapshot), revision, Some(token.start)))
        }
    }
}

/// 410, with a token to go on inconsistently. Upstream: `k8s.io/apiserver/pkg/storage/etcd3/errors.go`.
fn too_old_to_continue(start: &str) -> Refusal {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
         continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with \
         the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the \
         first chunk was returned and now may show up in the list.",
    );
    status.metadata.continue_token = ContinueToken { revision: None, start: start.to_owned() }.encode();
    status.into()
}

/// A chunk of a list that is to be made.
struct Chunk<'a> {
    served: Served,
    revision: u64,
    selection: &'a Selection,
    limit: usize,
}

impl Chunk<'_> {
    fn page(&self, items: Vec<Arc<Object>>) -> Page {
        Page { served: self.served, revision: self.revision, items, continue_token: String::new(), remaining: None }
    }

    /// The selected objects of one name.
    fn named(&self, snapshot: &Snapshot) -> Page {
        let Chunk { served, selection, .. } = self;
        let name = selection.name.as_deref().unwrap_or_default();
        let is_it = |object: &&Arc<Object>| selection.matches(object);
        if served.is_namespaced() && selection.namespace.is_empty() {
            return self.page(snapshot.objects.values().filter(is_it).cloned().collect());
        }
        let found = snapshot.objects.get(&Key::new(&selection.namespace, name));
        self.page(found.filter(is_it).cloned().into_iter().collect())
    }

    /// Cuts the chunk out of `candidates`, which come in the order of their keys and are selected ones and others; those of the
    /// namespace, if one is selected, come first. `prefix` bytes of the keys are the namespace's.
    fn cut<'o>(&self, candidates: impl Iterator<Item = &'o Arc<Object>>, prefix: usize) -> Page {
        let selection = self.selection;
        let mut candidates = candidates.take_while(|object| prefix == 0 || object.namespace() == selection.namespace);
        let mut page = self.page(Vec::new());
        for object in candidates.by_ref().filter(|object| selection.is_plain() || selection.matches(object)) {
            page.items.push(object.clone());
            if self.limit > 0 && page.items.len() == self.limit {
                break;
            }
        }
        if self.limit > 0 && page.items.len() == self.limit {
            let left = if selection.is_plain() { candidates.count() } else { usize::from(candidates.next().is_some()) };
            if left > 0 {
                let last = page.items.last().map_or("", |object| object.key().as_str());
                let start = format!("{}\0", &last[prefix..]);
                page.continue_token = ContinueToken { revision: Some(self.revision), start }.encode();
                page.remaining = selection.is_plain().then_some(left as u64);
            }
        }
        page
    }
}
