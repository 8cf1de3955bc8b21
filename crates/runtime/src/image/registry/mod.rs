//! Talks to registries: resolves names, fetches manifests and blobs, answers their challenges.
//!
//! Messages are worded as containerd words them: they end up in pods' events, where people and tools know them.

mod challenge;
mod endpoint;
mod fault;

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::{AuthConfig, PullFailure};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;
use wire::Body;

pub use endpoint::{HostConfig, RegistryConfig};
pub(super) use fault::PullFault;

use super::digest::Digest;
use super::manifest::{INDEX_TYPES, MANIFEST_TYPES};
use super::reference::Reference;
use challenge::Challenge;
use endpoint::{Endpoint, Endpoints};

/// Bytes of a manifest or index, as registries themselves limit them.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
const TOKEN_BYTES_MAX: usize = 1 << 20;
const REDIRECTS_MAX: usize = 10;
/// Challenges answered for one request: one for the credentials, one for a token that expired on the way.
const CHALLENGES_MAX: usize = 3;
/// How long a body may stand still.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// All registries, as configured.
pub(super) struct Registry(Endpoints);

/// What a name leads to in its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

impl Registry {
    pub(super) fn new(config: RegistryConfig) -> Self {
        Registry(Endpoints::new(config))
    }

    /// Asks what `reference` leads to, of its mirrors first, and gives whom to fetch it from.
    pub(super) async fn resolve(
        &self,
        reference: &Reference,
        credentials: Option<&AuthConfig>,
    ) -> Result<(Resolved, Repository<'_>), PullFault> {
        let mut first = None;
        for endpoint in self.0.of(reference.domain()) {
            let repository = Repository {
                endpoints: &self.0,
                endpoint,
                path: reference.path().to_owned(),
                domain: reference.domain().to_owned(),
                credentials: credentials.cloned(),
                authorization: Mutex::new(None),
            };
            match repository.head(reference).await {
                Ok(resolved) => return Ok((resolved, repository)),
                // The first that is more than an absence tells the most.
                Err(fault) if fault.failure != PullFailure::NotFound => drop(first.get_or_insert(fault)),
                Err(_) => {}
            }
        }
        let fault = first.unwrap_or_else(|| PullFault::new(PullFailure::NotFound, format!("{reference}: not found")));
        Err(fault.within(&format!("failed to resolve reference \"{reference}\"")))
    }
}

/// One repository of one registry or mirror, with the authorization obtained so far.
pub(super) struct Repository<'a> {
    endpoints: &'a Endpoints,
    endpoint: Endpoint,
    path: String,
    domain: String,
    credentials: Option<AuthConfig>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// A response together with where it came from after redirects.
struct Answer {
    response: Response<Body>,
    method: Method,
    url: String,
}

impl Answer {
    fn unexpected(&self) -> PullFault {
        let status = self.response.status();
        let failure = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PullFailure::Unauthorized,
            StatusCode::NOT_FOUND => PullFailure::NotFound,
            StatusCode::TOO_MANY_REQUESTS => PullFailure::RegistryUnavailable,
            status if status.is_server_error() => PullFailure::RegistryUnavailable,
            _ => PullFailure::Other,
        };
        let (method, url) = (&self.method, &self.url);
        PullFault::new(failure, format!("unexpected status from {method} request to {url}: {}", fault::status(status)))
    }
}

impl Repository<'_> {
    /// A manifest or index by digest, checked.
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, PullFault> {
        let answer = self.request(Method::GET, &self.url(&format!("manifests/{digest}")), None).await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            return Err(PullFault::new(PullFailure::NotFound, missing(digest)));
        }
        if !answer.response.status().is_success() {
            return Err(answer.unexpected());
        }
        let content = read(answer, MANIFEST_BYTES_MAX).await?;
        let actual = Digest::of(&content);
        if actual != *digest {
            let why = format!(
                "failed commit on ref \"manifest-{digest}\": unexpected commit digest {actual}, expected {digest}"
            );
            return Err(PullFault::new(PullFailure::Other, why));
        }
        Ok(content)
    }

    /// A blob's content from byte `start` on, or from the beginning where the registry cannot continue: the position it
    /// starts at comes with it.
    pub(super) async fn blob(&self, digest: &Digest, start: u64) -> Result<(Response<Body>, u64), PullFault> {
        let answer = self.request(Method::GET, &self.url(&format!("blobs/{digest}")), Some(start)).await?;
        match answer.response.status() {
            StatusCode::OK => Ok((answer.response, 0)),
            StatusCode::PARTIAL_CONTENT if starts_at(answer.response.headers(), start) => Ok((answer.response, start)),
            StatusCode::NOT_FOUND => Err(PullFault::new(PullFailure::NotFound, missing(digest))),
            _ => Err(answer.unexpected()),
        }
    }

    /// Asks for the name alone: an image that is present already costs no more than this.
    async fn head(&self, reference: &Reference) -> Result<Resolved, PullFault> {
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let url = self.url(&format!("manifests/{name}"));
        let answer = self.request(Method::HEAD, &url, None).await?;
        if !answer.response.status().is_success() {
            return Err(answer.unexpected());
        }
        let wanted = reference.digest().map(str::parse::<Digest>).transpose();
        let wanted = wanted.map_err(|error| PullFault::new(PullFailure::InvalidReference, error.to_string()))?;
        let headers = answer.response.headers();
        let said = headers.get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
        let media_type = media_type(headers);
        if let Some(digest) = wanted.or(said)
            && is_manifest(&media_type)
        {
            return Ok(Resolved { digest, media_type });
        }
        // A registry that does not say: the content does.
        let answer = self.request(Method::GET, &url, None).await?;
        if !answer.response.status().is_success() {
            return Err(answer.unexpected());
        }
        let mut media_type = self::media_type(answer.response.headers());
        let content = read(answer, MANIFEST_BYTES_MAX).await?;
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Named {
            media_type: String,
        }
        if !is_manifest(&media_type)
            && let Ok(named) = serde_json::from_slice::<Named>(&content)
        {
            media_type = named.media_type;
        }
        Ok(Resolved { digest: wanted.unwrap_or_else(|| Digest::of(&content)), media_type })
    }

    fn url(&self, rest: &str) -> String {
        let url = format!("{}/v2/{}/{rest}", self.endpoint.base(), self.path);
        // How a mirror of several registries is told which one is meant.
        if self.endpoint.is_mirror { format!("{url}?ns={}", self.domain) } else { url }
    }

    /// Sends a request, answering challenges.
    async fn request(&self, method: Method, url: &str, start: Option<u64>) -> Result<Answer, PullFault> {
        let mut challenges = 0;
        loop {
            let answer = self.follow(method.clone(), url, start).await?;
            if answer.response.status() != StatusCode::UNAUTHORIZED || challenges == CHALLENGES_MAX {
                return Ok(answer);
            }
            challenges += 1;
            let values = answer.response.headers().get_all(WWW_AUTHENTICATE);
            let values = values.iter().filter_map(|value| value.to_str().ok());
            let Some(challenge) = Challenge::strongest(values) else { return Ok(answer) };
            if !self.authorize(challenge, challenges).await? {
                return Ok(answer);
            }
        }
    }

    /// Follows redirects. What authorizes us towards the registry is for the registry alone.
    async fn follow(&self, method: Method, url: &str, start: Option<u64>) -> Result<Answer, PullFault> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            let accepted = INDEX_TYPES.iter().chain(&MANIFEST_TYPES).copied().chain(["*/*"]);
            let accepted: Vec<&str> = accepted.collect();
            headers.insert(ACCEPT, HeaderValue::try_from(accepted.join(", ")).expect("constants are header values"));
            if let Some(start) = start.filter(|start| *start > 0) {
                headers.insert(
                    RANGE,
                    HeaderValue::try_from(format!("bytes={start}-")).expect("digits are a header value"),
                );
            }
            if url.starts_with(&format!("{}/", self.endpoint.base()))
                && let Some(authorization) = self.authorization.lock().expect("no holder of this lock panics").clone()
            {
                headers.insert(AUTHORIZATION, authorization);
            }
            let answer = send(self.endpoints, method.clone(), &url, headers).await?;
            let status = answer.response.status();
            let redirects = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
            let Some(location) = answer.response.headers().get(LOCATION).filter(|_| redirects) else {
                return Ok(answer);
            };
            url = location
                .to_str()
                .ok()
                .and_then(|location| endpoint::join(&url, location))
                .ok_or_else(|| answer.unexpected())?;
        }
        let why = format!("{} \"{url}\": stopped after {REDIRECTS_MAX} redirects", fault::verb(&method));
        Err(PullFault::new(PullFailure::Other, format!("failed to do request: {why}")))
    }

    /// Obtains what a challenge asks for; `false` when there is nothing more to show.
    async fn authorize(&self, challenge: Challenge, round: usize) -> Result<bool, PullFault> {
        let value = match challenge {
            Challenge::Bearer { error: Some(error), .. } if round > 1 => {
                return Err(denied(&format!("server message: {error}: authorization failed")));
            }
            Challenge::Bearer { realm, service, scope, .. } => {
                let registry_token = self.credentials.as_ref().map(|auth| auth.registry_token.as_str());
                let token = match registry_token.filter(|token| !token.is_empty()) {
                    Some(token) if round == 1 => token.to_owned(),
                    Some(_) => return Ok(false),
                    None => {
                        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.path));
                        self.token(&realm, service.as_deref(), &scope).await?
                    }
                };
                format!("Bearer {token}")
            }
            Challenge::Basic if round > 1 => return Ok(false),
            Challenge::Basic => match self.basic()? {
                Some(pair) => format!("Basic {}", STANDARD.encode(pair)),
                None => return Err(denied("no basic auth credentials: authorization failed")),
            },
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| denied("credentials cannot be sent"))?;
        value.set_sensitive(true);
        *self.authorization.lock().expect("no holder of this lock panics") = Some(value);
        Ok(true)
    }

    /// `user:password` for this registry, if there are any.
    fn basic(&self) -> Result<Option<String>, PullFault> {
        let Some(auth) = &self.credentials else { return Ok(None) };
        if !auth.server_address.is_empty() && !self.endpoint.is_named(&auth.server_address, &self.domain) {
            return Ok(None);
        }
        if !auth.username.is_empty() {
            return Ok(Some(format!("{}:{}", auth.username, auth.password)));
        }
        if auth.auth.is_empty() {
            return Ok(None);
        }
        let unreadable = || PullFault::new(PullFailure::Unauthorized, "invalid auth config: auth is not base64".into());
        let decoded = STANDARD.decode(auth.auth.trim()).map_err(|_| unreadable())?;
        let pair = String::from_utf8(decoded).map_err(|_| unreadable())?;
        Ok(Some(pair.trim_end_matches('\0').to_owned()))
    }

    /// A bearer token from the registry's token server.
    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, PullFault> {
        let basic = self.basic()?;
        let identity = self.credentials.as_ref().map(|auth| auth.identity_token.as_str());
        let kind =
            if basic.is_some() || identity.is_some_and(|token| !token.is_empty()) { "oauth" } else { "anonymous" };
        let failed = |fault: PullFault| fault.within(&format!("failed to authorize: failed to fetch {kind} token"));
        let mut query: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
        query.extend(scope.split(' ').map(|scope| ("scope", scope)));
        let answer = match identity.filter(|token| !token.is_empty()) {
            Some(identity) => {
                query.extend([("grant_type", "refresh_token"), ("refresh_token", identity), ("client_id", "isopod")]);
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                post(self.endpoints, realm, headers, challenge::query(&query)).await
            }
            None => {
                let mut headers = HeaderMap::new();
                if let Some(basic) = basic {
                    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(basic)));
                    headers.insert(AUTHORIZATION, value.expect("base64 is a header value"));
                }
                let joint = if realm.contains('?') { '&' } else { '?' };
                let url = format!("{realm}{joint}{}", challenge::query(&query));
                send(self.endpoints, Method::GET, &url, headers).await
            }
        };
        let answer = answer.map_err(failed)?;
        if !answer.response.status().is_success() {
            return Err(failed(answer.unexpected()));
        }
        let content = read(answer, TOKEN_BYTES_MAX).await.map_err(failed)?;
        challenge::token(&content).ok_or_else(|| {
            failed(PullFault::new(
                PullFailure::Unauthorized,
                "authorization server did not include a token in the response".into(),
            ))
        })
    }
}

async fn send(endpoints: &Endpoints, method: Method, url: &str, headers: HeaderMap) -> Result<Answer, PullFault> {
    exchange(endpoints, method, url, headers, Body::Empty).await
}

async fn post(endpoints: &Endpoints, url: &str, headers: HeaderMap, form: String) -> Result<Answer, PullFault> {
    exchange(endpoints, Method::POST, url, headers, Body::from(form)).await
}

async fn exchange(
    endpoints: &Endpoints,
    method: Method,
    url: &str,
    mut headers: HeaderMap,
    body: Body,
) -> Result<Answer, PullFault> {
    let within = |fault: PullFault| fault.within(&format!("failed to do request: {} \"{url}\"", fault::verb(&method)));
    let invalid = || PullFault::new(PullFailure::Other, "invalid URL".into());
    let uri: Uri = url.parse().map_err(|_| within(invalid()))?;
    let client = endpoints.client(&uri).map_err(within)?;
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("isopod/", env!("CARGO_PKG_VERSION"))));
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let response = client.send(request).await.map_err(|error| within(PullFault::of_client(&error)))?;
    Ok(Answer { response, method, url: url.to_owned() })
}

async fn read(mut answer: Answer, bytes_max: usize) -> Result<Vec<u8>, PullFault> {
    let broken = |why: String| PullFault::new(PullFailure::RegistryUnavailable, format!("read {}: {why}", answer.url));
    match stdx::timeout(STALL_TIMEOUT, answer.response.body_mut().read(bytes_max)).await {
        Ok(Ok(content)) => Ok(content.to_vec()),
        Ok(Err(error)) => Err(broken(error.to_string())),
        Err(stdx::Elapsed) => Err(broken("no more content arrives".into())),
    }
}

fn denied(why: &str) -> PullFault {
    let message = format!("pull access denied, repository does not exist or may require authorization: {why}");
    PullFault::new(PullFailure::Unauthorized, message)
}

fn missing(digest: &Digest) -> String {
    format!("could not fetch content descriptor {digest} from remote: not found")
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

fn is_manifest(media_type: &str) -> bool {
    INDEX_TYPES.contains(&media_type) || MANIFEST_TYPES.contains(&media_type)
}

/// Whether partial content is the part asked for.
fn starts_at(headers: &HeaderMap, start: u64) -> bool {
    let range = headers.get(http::header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// The length a response announces.
pub(super) fn announced(response: &Response<Body>) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
