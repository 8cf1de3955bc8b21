//! The verbs of resources.

pub(crate) mod attempt;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::Arc;

use api::status::{Status, Target};
use bytes::Bytes;
use client::{Key, Object};
use http::Method;
use resources::Backing;

use crate::answer::Answer;
use crate::cache::{ResourceCache, Snapshot};
use crate::catalog::{Served, subresource_verbs};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::{reviews, subresources, usage};

/// Finds what serves the path, or refuses with 404.
pub(crate) fn served(call: &Call<'_>) -> Outcome<Served> {
    let info = &call.info;
    let catalog = &call.server.catalog;
    let served = match catalog.find(&info.group, &info.version, &info.resource) {
        Some(served) => served,
        // Known groups answer in JSON, unknown ones like any path that nobody serves.
        None if catalog.of_version(&info.group, &info.version).is_empty() => return Err(crate::paths::unknown()),
        None => return Err(Refusal::no_such_path()),
    };
    // A namespace lies in itself; through any other one it would be judged by the roles of that other one.
    let own = info.resource == "namespaces" && info.namespace == info.name;
    let stray = !info.namespace.is_empty() && !served.is_namespaced() && !own;
    // A selector may have pinned a name; across all namespaces nothing else has one.
    let reads_all = matches!(info.verb.as_str(), "list" | "watch") && info.subresource.is_empty();
    let nowhere = info.namespace.is_empty() && served.is_namespaced() && !reads_all;
    let beyond = !info.rest.is_empty() && info.subresource != "proxy";
    let written_watch = info.verb == "watch" && !matches!(call.method, Method::GET | Method::HEAD);
    match (stray || beyond, nowhere, info.name.is_empty()) {
        (true, _, _) | (_, true, false) => Err(Refusal::no_such_path()),
        (_, true, true) => Err(Refusal::no_such_method()),
        _ if written_watch => Err(Refusal::no_such_method()),
        _ => Ok(served),
    }
}

/// Carries out a request on a resource.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let info = &call.info;
    call.warnings.add(resources::deprecation(served.group, served.version, served.kind).map(str::to_owned));
    if !info.subresource.is_empty() {
        let found = served.subresource(&info.subresource).ok_or_else(Refusal::no_such_path)?;
        let method_verb = if info.verb == "list" { "get" } else { info.verb.as_str() };
        if !subresource_verbs(&found).contains(&method_verb) {
            return Err(Refusal::no_such_method());
        }
        return subresources::answer(call, served, &found, body).await;
    }
    let misplaced = match info.verb.as_str() {
        "create" => !info.name.is_empty(),
        "update" | "patch" => info.name.is_empty(),
        _ => false,
    };
    if !served.serves(&info.verb) || misplaced {
        return Err(Refusal::no_such_method());
    }
    match served.facts().backing {
        Backing::Stored { .. } => {}
        Backing::Computed => return reviews::answer(call, served, body).await,
        Backing::Measured => return usage::answer(call, served).await,
    }
    match info.verb.as_str() {
        "get" => read::get(call, served).await,
        "list" => list::list(call, served).await,
        "watch" => watch::watch(call, served).await,
        "create" => create::create(call, served, body).await,
        "update" => update::update(call, served, body).await,
        "patch" => patch::patch(call, served, body).await,
        "delete" => delete::delete(call, served, body).await,
        "deletecollection" => delete::delete_collection(call, served, body).await,
        _ => Err(Refusal::no_such_method()),
    }
}

impl Call<'_> {
    /// The cache of a stored resource.
    pub(crate) fn resource(&self, served: &Served) -> Outcome<&Arc<ResourceCache>> {
        let resource = served.key_prefix().and_then(|prefix| self.server.cache.resource(prefix));
        resource.ok_or_else(Refusal::no_such_path)
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self, served: &Served) -> Key {
        let namespace = if served.is_namespaced() { self.info.namespace.as_str() } else { "" };
        Key::new(namespace, &self.info.name)
    }

    /// The newest snapshot of a stored resource.
    pub(crate) async fn fresh(&self, served: &Served) -> Outcome<Arc<Snapshot>> {
        self.server.cache.fresh().await?;
        Ok(self.resource(served)?.snapshot())
    }

    /// The newest state of the object that the path names, or 404.
    pub(crate) async fn current(&self, served: &Served) -> Outcome<Arc<Object>> {
        let key = self.key(served);
        let found = self.fresh(served).await?.objects.get(&key).cloned();
        found.ok_or_else(|| not_found(served, key.name()))
    }
}

/// What a `Status` is about.
pub(crate) fn target<'a>(served: &'a Served, name: &'a str) -> Target<'a> {
    Target { group: served.group, resource: served.facts().plural, name }
}

/// 404 for an object.
pub(crate) fn not_found(served: &Served, name: &str) -> Refusal {
    Status::not_found(target(served, name)).into()
}
