//! Who asks, and whether they may: client certificates and tokens, judged by the API server's reviews.
//!
//! Upstream: `pkg/kubelet/server/auth.go`, with webhook authentication and authorization, without anonymous access.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, ClientError, Target};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use wire::tls::CertificateDer;
use wire::{Body, ConnectionInfo};

use super::text;

/// Requests that are judged at once; a flood of them must not become one of the API server.
const REVIEWS_MAX: usize = 32;

/// Somebody who is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Tells whose a chain of client certificates is; nobody's unless it is trusted.
pub type Certificates = Arc<dyn Fn(&[CertificateDer<'static>]) -> Option<Asker> + Send + Sync>;

/// What stands before every path.
pub struct Gate {
    certificates: Certificates,
    client: Client,
    node: String,
    reviews: Semaphore,
}

/// What must be allowed: a verb on subresources of this node, one of which suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    verb: &'static str,
    subresources: Vec<&'static str>,
}

/// What a request needs. A stream changes what it leads to, by whatever method it is opened.
fn asked(method: &Method, path: &str) -> Asked {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let is_stream = matches!(first, "exec" | "attach" | "portForward" | "run");
    let verb = match *method {
        _ if is_stream => "create",
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let subresources = match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        // KubeletFineGrainedAuthz: the narrow one, or what has always allowed everything.
        "healthz" => vec!["healthz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    };
    Asked { verb, subresources }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Gate {
    /// A gate of node `node`; `client` asks for reviews.
    pub fn new(certificates: Certificates, client: Client, node: &str) -> Gate {
        Gate { certificates, client, node: node.into(), reviews: Semaphore::new(REVIEWS_MAX) }
    }

    /// Lets a request pass, or refuses it.
    // A refusal is a response as well, and no rarity.
    #[allow(clippy::result_large_err)]
    pub async fn admit(&self, request: &Request<Body>, connection: &ConnectionInfo) -> Result<(), Response<Body>> {
        let asker = self.asker(request.headers(), connection).await;
        let asker = asker.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
        let asked = asked(request.method(), request.uri().path());
        for subresource in &asked.subresources {
            match self.allowed(&asker, asked.verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = stdx::told(&error), "access not reviewed");
                    let why = format!(
                        "Authorization error (user={}, verb={}, resource=nodes, subresource={subresource})",
                        asker.name, asked.verb
                    );
                    return Err(text(StatusCode::INTERNAL_SERVER_ERROR, &why));
                }
            }
        }
        let why = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
            asker.name,
            asked.verb,
            asked.subresources.join(" ")
        );
        Err(text(StatusCode::FORBIDDEN, &why))
    }

    /// A trusted certificate, else a token that the API server knows. There is no anonymous access.
    async fn asker(&self, headers: &HeaderMap, connection: &ConnectionInfo) -> Option<Asker> {
        if !connection.client_chain.is_empty()
            && let Some(asker) = (self.certificates)(&connection.client_chain)
        {
            return Some(asker);
        }
        let spec = TokenReviewSpec { token: bearer(headers)?.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let target = Target::new("authentication.k8s.io", "v1", "tokenreviews");
        let review: TokenReview = match self.review(target, &review).await {
            Ok(review) => review,
            Err(error) => {
                tracing::warn!(error = stdx::told(&error), "token not reviewed");
                return None;
            }
        };
        let status = review.status.filter(|status| status.authenticated == Some(true))?;
        let user = status.user?;
        Some(Asker {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })
    }

    async fn allowed(&self, asker: &Asker, verb: &str, subresource: &str) -> Result<bool, ClientError> {
        let attributes = ResourceAttributes {
            verb: Some(verb.into()),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(subresource.into()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user: Some(asker.name.clone()),
            uid: (!asker.uid.is_empty()).then(|| asker.uid.clone()),
            groups: Some(asker.groups.clone()),
            extra: Some(asker.extra.clone()),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let target = Target::new("authorization.k8s.io", "v1", "subjectaccessreviews");
        let review: SubjectAccessReview = self.review(target, &review).await?;
        Ok(review.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    async fn review<T: Serialize + DeserializeOwned>(&self, target: Target, review: &T) -> Result<T, ClientError> {
        let _place = self.reviews.acquire().await;
        let answer = self.client.create(target, review).await?;
        let tree = answer.tree()?;
        api::value::from_value(&tree)
            .map_err(|error| ClientError::Decode { what: "review", message: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_needs_its_own_permission() {
        let check = |method: Method, path: &str, verb: &str, subresources: &[&str]| {
            let found = asked(&method, path);
            assert_eq!((found.verb, &*found.subresources), (verb, subresources), "{method} {path}");
        };
        check(Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(Method::GET, "/runningpods/", "get", &["pods", "proxy"]);
        check(Method::GET, "/healthz", "get", &["healthz", "proxy"]);
        check(Method::GET, "/configz", "get", &["configz", "proxy"]);
        check(Method::GET, "/stats/summary", "get", &["stats"]);
        check(Method::GET, "/metrics/cadvisor", "get", &["metrics"]);
        check(Method::GET, "/logs/", "get", &["log"]);
        check(Method::GET, "/statsx", "get", &["proxy"]);
        check(Method::GET, "//stats", "get", &["stats"]);
        check(Method::GET, "/containerLogs/a/b/c", "get", &["proxy"]);
        check(Method::DELETE, "/pods", "delete", &["pods", "proxy"]);
    }

    #[test]
    fn a_stream_needs_more_than_reading() {
        for path in ["/exec/a/b/c", "/attach/a/b/c", "/portForward/a/b", "/run/a/b/c", "//exec/a/b/c"] {
            assert_eq!(asked(&Method::GET, path), Asked { verb: "create", subresources: vec!["proxy"] }, "{path}");
        }
    }
}
