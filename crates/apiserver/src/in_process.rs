//! The way of the server's own components: the whole pipeline but TLS and credentials, and the server's own objects.

use std::sync::Arc;

use bytes::Bytes;
use client::{ClientError, Object, ObjectList, Request, Response, Transport, TransportError, WatchEvent, WatchStream};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use resources::Backing;
use stdx::BoxFuture;
use wire::Body;

use crate::answer::Answer;
use crate::cache::Told;
use crate::catalog::Served;
use crate::convert;
use crate::negotiate::{Encoding, Form, Shape};
use crate::options::ReadOptions;
use crate::pipeline::{Call, Warnings};
use crate::refusal::{Outcome, Refusal};
use crate::request::{Query, RequestInfo};
use crate::server::ApiServer;
use crate::user::User;
use crate::verbs::watch::{Item, Stream};
use crate::verbs::{self, list, watch};
use crate::{answer, render, stored, usage};

/// The most bytes of an answer; nothing in the API is longer but lists, which have a way of their own.
const ANSWER_BYTES_MAX: usize = 512 << 20;

struct InProcess {
    server: Arc<ApiServer>,
    user: User,
}

impl ApiServer {
    /// A transport that acts as `user`.
    pub fn in_process(self: &Arc<Self>, user: User) -> Arc<dyn Transport> {
        Arc::new(InProcess { server: self.clone(), user })
    }
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> ClientError {
        ClientError::Status(refusal.0)
    }
}

impl InProcess {
    fn call<'a>(&'a self, request: &Request) -> (Call<'a>, Bytes) {
        let (method, path, query) = (request.method(), request.target.path(), Query::parse(&request.query()));
        let info = RequestInfo::new(&method, &path, &query);
        let mut headers = HeaderMap::new();
        let mut body = Bytes::new();
        if let Some((content_type, bytes)) = request.body() {
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
            body = bytes;
        }
        headers.insert(ACCEPT, http::HeaderValue::from_static("application/vnd.kubernetes.protobuf,application/json"));
        let user = self.user.clone();
        (Call { server: &self.server, method, info, query, headers, user, warnings: Warnings::default() }, body)
    }

    async fn answer(&self, request: Request) -> Outcome<Answer> {
        let started = stdx::mono();
        let (call, body) = self.call(&request);
        let outcome = async {
            let _place = self.server.admit(&call)?;
            let served = verbs::served(&call)?;
            verbs::answer(&call, &served, body).await
        }
        .await;
        let code = match &outcome {
            Ok(Answer::Object { code, .. } | Answer::Tree { code, .. } | Answer::Status { code, .. }) => *code,
            Ok(_) => 200,
            Err(refusal) => refusal.code(),
        };
        self.server.measure(&call.info, &call.method, code, stdx::mono() - started);
        outcome
    }

    async fn page(&self, request: Request) -> Outcome<ObjectList> {
        let (call, _) = self.call(&request);
        let _place = self.server.admit(&call)?;
        let served = verbs::served(&call)?;
        let options = ReadOptions::of_list(&call.query)?;
        let page = match served.facts().backing {
            Backing::Measured => usage::page(&call, &served, &options).await?,
            _ => list::page(&call, &served, &options).await?,
        };
        let items = page.items.iter().map(|object| as_served(object, &served)).collect::<Outcome<Vec<_>>>()?;
        let continue_token = (!page.continue_token.is_empty()).then_some(page.continue_token);
        Ok(ObjectList { revision: page.revision, items, continue_token })
    }

    async fn stream(&self, request: Request) -> Outcome<Stream> {
        let (call, _) = self.call(&request);
        self.server.may(&call.user, &crate::authz::Attributes::from(&call.info))?;
        let served = verbs::served(&call)?;
        watch::stream(&call, &served, &ReadOptions::of_watch(&call.query)?).await
    }
}

/// The object as the served version shows it; the cache's own where that is the stored one.
fn as_served(object: &Arc<Object>, served: &Served) -> Outcome<Arc<Object>> {
    if convert::is_stored(served) {
        return Ok(object.clone());
    }
    let mut tree = convert::tree(object, served)?;
    api::meta::clear_resource_version(&mut tree);
    let body = stored::body_of(served.group, served.version, served.kind, &tree)?;
    let kind = Arc::new(client::Gvk::new(served.group, served.version, served.kind));
    Ok(Arc::new(Object::new(kind, object.key().clone(), object.uid(), object.revision(), body)))
}

fn whole(server: &ApiServer, answer: Answer) -> Outcome<Response> {
    let form = Form { encoding: Encoding::Protobuf, shape: Shape::Object, pretty: false, gzip: false };
    let content_type = form.encoding.media_type().to_owned();
    let (code, body) = match answer {
        Answer::Object { code, served, object } => {
            (code, render::body::Pen::new(&served, &server.cache.json)?.object(&object, form.encoding)?)
        }
        Answer::Tree { code, group, version, kind, tree } => {
            (code, render::tree(group, version, kind, &tree, form.encoding)?)
        }
        Answer::Status { code, status } => (code, render::status(&status, form.encoding)),
        Answer::List(_) | Answer::Watch(_) | Answer::Document(_) | Answer::Raw(_) => {
            return Err(Refusal::internal("this answer has a way of its own"));
        }
    };
    Ok(Response { code, content_type, body: body.into() })
}

fn refused(refusal: &Refusal) -> Response {
    let body = render::status(&refusal.0, Encoding::Json);
    Response { code: refusal.code(), content_type: Encoding::Json.media_type().to_owned(), body: body.into() }
}

async fn collected(response: http::Response<Body>) -> Result<Response, TransportError> {
    let (parts, mut body) = response.into_parts();
    let body = body.read(ANSWER_BYTES_MAX).await.map_err(|error| TransportError::Lost(error.to_string()))?;
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(Response { code: parts.status.as_u16(), content_type: content_type.to_owned(), body })
}

impl Transport for InProcess {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            match self.answer(request.clone()).await {
                Ok(Answer::List(page)) => {
                    let (call, _) = self.call(&request);
                    let outcome = Ok((Answer::List(page), None));
                    collected(answer::respond(&call, outcome)).await
                }
                Ok(answer) => Ok(whole(&self.server, answer).unwrap_or_else(|refusal| refused(&refusal))),
                Err(refusal) => Ok(refused(&refusal)),
            }
        })
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>> {
        Box::pin(async move { Ok(self.page(request).await?) })
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>> {
        Box::pin(async move {
            let stream = self.stream(request).await?;
            let events = futures_util::stream::unfold(Some(stream), |stream| async move {
                let mut stream = stream?;
                let item = stream.next().await?;
                let event = told(item, &stream.served);
                // An error is the last item.
                let next = event.is_ok().then_some(stream);
                Some((event, next))
            });
            Ok(Box::pin(events) as WatchStream)
        })
    }

    fn object(&self, request: Request) -> BoxFuture<'_, Result<Arc<Object>, ClientError>> {
        Box::pin(async move {
            match self.answer(request).await? {
                Answer::Object { served, object, .. } => Ok(as_served(&object, &served)?),
                answer => client::decode::object(&whole(&self.server, answer)?).map(Arc::new),
            }
        })
    }
}

fn told(item: Item, served: &Served) -> Result<WatchEvent, ClientError> {
    match item {
        Item::Object { told, object, .. } => {
            let object = as_served(&object, served)?;
            Ok(match told {
                Told::Added => WatchEvent::Added(object),
                Told::Modified => WatchEvent::Modified(object),
                Told::Deleted => WatchEvent::Deleted(object),
            })
        }
        Item::Bookmark { revision, initial_events_end } => Ok(WatchEvent::Bookmark { revision, initial_events_end }),
        Item::Error(status) => Err(ClientError::Status(status)),
    }
}
