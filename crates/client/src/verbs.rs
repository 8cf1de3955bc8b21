//! The verbs of the API, over any transport.

use std::borrow::Cow;
use std::sync::Arc;

use api::value::Value;
use bytes::Bytes;
use serde::Serialize;

use crate::error::ClientError;
use crate::object::Object;
use crate::request::{
    Action, Body, DeleteOptions, GetOptions, ListOptions, LogOptions, PatchKind, Request, Target, WatchOptions,
    WriteOptions,
};
use crate::transport::{ObjectList, Transport, WatchStream, call};

/// A user's view of one API server. Clones share the transport.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    field_manager: Cow<'static, str>,
}

/// What a deletion led to.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is being deleted, or this is how it was last.
    Object(Arc<Object>),
    /// It is gone; the server said no more.
    Gone,
}

impl Client {
    /// A client whose writes are recorded under `field_manager`.
    pub fn new(transport: Arc<dyn Transport>, field_manager: impl Into<Cow<'static, str>>) -> Client {
        Client { transport, field_manager: field_manager.into() }
    }

    /// The same under another name.
    #[must_use]
    pub fn with_field_manager(&self, field_manager: impl Into<Cow<'static, str>>) -> Client {
        Client { transport: self.transport.clone(), field_manager: field_manager.into() }
    }

    /// What carries the requests.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Options that say who writes.
    pub fn write_options(&self) -> WriteOptions {
        WriteOptions { field_manager: Some(self.field_manager.clone()), ..WriteOptions::default() }
    }

    /// One object as it is now.
    pub async fn get(&self, target: Target) -> Result<Arc<Object>, ClientError> {
        self.send(target, Action::Get(GetOptions::default())).await
    }

    /// One object as it is now, or `None` if there is none.
    pub async fn find(&self, target: Target) -> Result<Option<Arc<Object>>, ClientError> {
        match self.get(target).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The last lines of a pod's log, as text.
    pub async fn log(&self, pod: Target, options: LogOptions) -> Result<String, ClientError> {
        let response = call(&*self.transport, Request::new(pod.subresource("log"), Action::Log(options))).await?;
        Ok(String::from_utf8_lossy(&response.body).into_owned())
    }

    /// One page of objects.
    pub async fn list(&self, target: Target, options: ListOptions) -> Result<ObjectList, ClientError> {
        self.transport.list(Request::new(target, Action::List(options))).await
    }

    /// All objects, fetched in pages of `page` (0: at once). All pages show the same revision; when that is compacted
    /// before the last page, the list starts over in one go.
    pub async fn list_pages(&self, target: Target, options: ListOptions, page: u32) -> Result<ObjectList, ClientError> {
        let mut options = ListOptions { limit: (page > 0).then_some(page), ..options };
        let mut whole = ObjectList::default();
        loop {
            match self.list(target.clone(), options.clone()).await {
                Ok(part) => {
                    whole.revision = part.revision;
                    whole.items.extend(part.items);
                    let Some(token) = part.continue_token else { return Ok(whole) };
                    // A revision may be given with the first page only; the token carries it on.
                    (options.resource_version, options.resource_version_match) = (None, None);
                    options.continue_token = Some(token);
                }
                Err(error) if error.is_expired() && options.continue_token.is_some() => {
                    whole.items.clear();
                    (options.limit, options.continue_token) = (None, None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Events of objects.
    pub async fn watch(&self, target: Target, options: WatchOptions) -> Result<WatchStream, ClientError> {
        self.transport.watch(Request::new(target, Action::Watch(options))).await
    }

    /// The store's present revision, read through this kind: at least that of every write acknowledged before.
    pub async fn current_revision(&self, target: Target) -> Result<u64, ClientError> {
        let options = ListOptions { limit: Some(1), ..ListOptions::default() };
        Ok(self.list(Target { name: None, subresource: None, ..target }, options).await?.revision)
    }

    /// Creates an object. The target names no object, except for subresources such as `binding`.
    pub async fn create<T: Serialize + ?Sized>(&self, target: Target, object: &T) -> Result<Arc<Object>, ClientError> {
        self.send(target, Action::Create(json_body(object)?, self.write_options())).await
    }

    /// Posts to a subresource and gives the answer as a tree: `binding`, `eviction`, `token`.
    pub async fn create_subresource<T: Serialize + ?Sized>(
        &self,
        target: Target,
        subresource: &'static str,
        object: &T,
    ) -> Result<Value, ClientError> {
        let action = Action::Create(json_body(object)?, self.write_options());
        self.raw(target.subresource(subresource), action).await
    }

    /// Posts something that is answered rather than kept, such as an access review.
    pub async fn review<T: Serialize + ?Sized>(&self, target: Target, review: &T) -> Result<Value, ClientError> {
        self.raw(target, Action::Create(json_body(review)?, self.write_options())).await
    }

    /// Replaces an object; its resourceVersion, if it has one, must still be the present one.
    pub async fn replace<T: Serialize + ?Sized>(&self, target: Target, object: &T) -> Result<Arc<Object>, ClientError> {
        self.send(target, Action::Replace(json_body(object)?, self.write_options())).await
    }

    /// Patches an object, or what the target's subresource shows of it.
    pub async fn patch(&self, target: Target, kind: PatchKind, patch: &Value) -> Result<Arc<Object>, ClientError> {
        self.send(target, Action::Patch(kind, json_bytes(patch)?, self.write_options())).await
    }

    /// Patches an object's status.
    pub async fn patch_status(
        &self,
        target: Target,
        kind: PatchKind,
        patch: &Value,
    ) -> Result<Arc<Object>, ClientError> {
        self.patch(target.subresource("status"), kind, patch).await
    }

    /// Server-side apply of the fields in `object`; `force` takes them from other managers.
    pub async fn apply<T: Serialize + ?Sized>(
        &self,
        target: Target,
        object: &T,
        force: bool,
    ) -> Result<Arc<Object>, ClientError> {
        let options = WriteOptions { force, ..self.write_options() };
        self.send(target, Action::Patch(PatchKind::Apply, json_bytes(object)?, options)).await
    }

    /// Deletes an object.
    pub async fn delete(&self, target: Target, options: DeleteOptions) -> Result<Deleted, ClientError> {
        let request = Request::new(target, Action::Delete(options));
        let response = call(&*self.transport, request).await?;
        let object = crate::decode::object(&response)?;
        Ok(if object.kind().kind == "Status" { Deleted::Gone } else { Deleted::Object(Arc::new(object)) })
    }

    /// Deletes what the list options select.
    pub async fn delete_collection(
        &self,
        target: Target,
        options: DeleteOptions,
        selected: ListOptions,
    ) -> Result<(), ClientError> {
        call(&*self.transport, Request::new(target, Action::DeleteCollection(options, selected))).await.map(drop)
    }

    /// Carries out any action whose answer is an object.
    pub async fn send(&self, target: Target, action: Action) -> Result<Arc<Object>, ClientError> {
        self.transport.object(Request::new(target, action)).await
    }

    /// Carries out any action and gives its answer as a tree, whatever kind it has.
    pub async fn raw(&self, target: Target, action: Action) -> Result<Value, ClientError> {
        let response = call(&*self.transport, Request::new(target, action)).await?;
        crate::decode::object(&response)?.tree()
    }
}

fn json_bytes<T: Serialize + ?Sized>(object: &T) -> Result<Bytes, ClientError> {
    match serde_json::to_vec(object) {
        Ok(json) => Ok(json.into()),
        Err(error) => Err(ClientError::Encode { what: "body", message: error.to_string() }),
    }
}

fn json_body<T: Serialize + ?Sized>(object: &T) -> Result<Body, ClientError> {
    json_bytes(object).map(Body::json)
}
