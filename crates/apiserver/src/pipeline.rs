//! A whole request on one page: what → who (as whom) → is there room → may they → what they asked for → the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use wire::{Body, BodyError, ConnectionInfo};

use crate::answer::{self, Answer};
use crate::authn::{self, Impersonation};
use crate::authz::{self, Attributes, Decision};
use crate::refusal::{Outcome, Refusal};
use crate::request::{Query, RequestInfo};
use crate::room::{Place, is_long_running};
use crate::server::ApiServer;
use crate::user::{AUTHENTICATED, User};
use crate::{paths, verbs};

/// Upstream's limit of a request's body.
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// One request on its way.
pub(crate) struct Call<'a> {
    pub server: &'a Arc<ApiServer>,
    pub method: Method,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub user: User,
    pub warnings: Warnings,
}

/// What is told to the user beside the answer.
#[derive(Default)]
pub(crate) struct Warnings(std::sync::Mutex<Vec<String>>);

/// More warnings than this are not sent, as upstream cuts them.
const WARNINGS_MAX: usize = 100;

impl Warnings {
    /// Adds warnings, each once.
    pub(crate) fn add(&self, warnings: impl IntoIterator<Item = String>) {
        let mut kept = self.0.lock().expect("no holder of this lock panics");
        for warning in warnings {
            if kept.len() < WARNINGS_MAX && !kept.contains(&warning) {
                kept.push(warning);
            }
        }
    }

    /// The warnings so far.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no holder of this lock panics"))
    }
}

impl ApiServer {
    /// Answers a request that came over a connection.
    pub async fn handle(self: &Arc<Self>, mut request: Request<Body>, connection: &ConnectionInfo) -> Response<Body> {
        let started = stdx::mono();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let what = RequestInfo::new(request.method(), request.uri().path(), &query);
        let measured = (what.clone(), request.method().clone());
        let who = authn::take_websocket_token(request.headers_mut())
            .and_then(|()| self.authentication.user(request.headers(), connection, &self.tokens, &self.cache))
            .and_then(|who| self.impersonated(who, request.headers()));
        let response = match who {
            Ok(who) => self.respond(request, what, query, who).await,
            Err(refusal) => answer::refused(&refusal, request.headers()),
        };
        self.measure(&measured.0, &measured.1, response.status().as_u16(), stdx::mono() - started);
        response
    }

    /// Answers the request of a user who is known.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        mut request: Request<Body>,
        info: RequestInfo,
        query: Query,
        user: User,
    ) -> Response<Body> {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        let call = Call { server: self, method, info, query, headers, user, warnings: Warnings::default() };
        let outcome = match self.admit(&call) {
            Ok(place) => self.dispatch(&call, &mut request).await.map(|answer| (answer, place)),
            Err(refusal) => Err(refusal),
        };
        // Who sent too much or too slowly is not waited for once more.
        if matches!(&outcome, Err(refusal) if !matches!(refusal.code(), 413 | 504)) {
            drain(request.body_mut()).await;
        }
        answer::respond(&call, outcome)
    }

    /// Counts a request that was answered.
    pub(crate) fn measure(&self, info: &RequestInfo, method: &Method, code: u16, duration: Duration) {
        let served = self.catalog.find(&info.group, &info.version, &info.resource);
        let known =
            served.is_some_and(|served| info.subresource.is_empty() || served.subresource(&info.subresource).is_some());
        self.documents.metrics.observe(info, method, known, code, duration);
    }

    /// Room and permission.
    pub(crate) fn admit(&self, call: &Call<'_>) -> Outcome<Place> {
        let place = self.room.enter(&call.info, &call.user)?;
        self.may(&call.user, &Attributes::from(&call.info))?;
        Ok(place)
    }

    /// Refuses with 403 what no authorizer allows.
    pub(crate) fn may(&self, user: &User, asked: &Attributes<'_>) -> Outcome<()> {
        if !asked.is_resource && matches!(asked.path, "/healthz" | "/livez" | "/readyz") {
            return Ok(());
        }
        match self.policies.decide(user, asked, &self.cache) {
            Decision::Allowed => Ok(()),
            Decision::Denied(reason) => Err(authz::forbidden(user, asked, &reason)),
        }
    }

    fn impersonated(&self, user: User, headers: &HeaderMap) -> Outcome<User> {
        let Some(wanted) = Impersonation::read(headers)? else { return Ok(user) };
        for asked in wanted.asked() {
            self.may(&user, &asked)?;
        }
        debug_assert!(user.is_in(AUTHENTICATED) || !user.name.is_empty(), "somebody impersonates");
        Ok(wanted.user())
    }

    async fn dispatch(self: &Arc<Self>, call: &Call<'_>, request: &mut Request<Body>) -> Outcome<Answer> {
        if !call.info.is_resource {
            return paths::answer(call);
        }
        let served = verbs::served(call)?;
        if is_long_running(&call.info) && call.info.verb != "watch" {
            return crate::subresources::connect::answer(call, &served, request).await;
        }
        let body = if call.info.is_read() { Bytes::new() } else { body(request.body_mut()).await? };
        verbs::answer(call, &served, body).await
    }
}

/// Takes in the little that is left of a refused request's body: some clients (curl before 8) lose an answer that came before
/// they had sent everything.
async fn drain(body: &mut Body) {
    const DRAINED_BYTES_MAX: usize = 64 << 10;
    const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
    // The answer is the same, whatever comes of it.
    drop(stdx::timeout(DRAIN_TIMEOUT, body.read(DRAINED_BYTES_MAX)).await);
}

/// Who dribbles a body holds one of few places for writes meanwhile; upstream's `--request-timeout`.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

async fn body(body: &mut Body) -> Outcome<Bytes> {
    match stdx::timeout(BODY_TIMEOUT, body.read(BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BodyError::TooLarge { limit })) => Err(Refusal::too_large(limit)),
        Ok(Err(error)) => Err(Refusal::bad_request(format!("read request body: {error}"))),
        Err(stdx::Elapsed) => Err(Refusal::timeout("request did not complete within the allotted timeout")),
    }
}
