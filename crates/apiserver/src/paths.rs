//! Paths that name no resource: discovery, health, version, metrics, OpenAPI, and what verifies tokens.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response};
use serde_json::json;
use wire::Body;

use crate::answer::{Answer, text};
use crate::discovery::Document;
use crate::negotiate;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::{health, openapi};

/// 404 for a path that nothing serves, by the words of Go's server.
pub(crate) fn unknown() -> Refusal {
    Refusal::from(api::status::Status::failure(404, "", "404 page not found"))
}

/// Answers a request whose path names no resource.
pub(crate) fn answer(call: &Call<'_>) -> Outcome<Answer> {
    let path = call.info.path.as_str();
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return match find(call, path) {
            Ok(_) => Err(Refusal::no_such_method()),
            Err(_) => Ok(not_found()),
        };
    }
    find(call, path).or_else(|refusal| if refusal.0.reason.is_empty() { Ok(not_found()) } else { Err(refusal) })
}

fn not_found() -> Answer {
    Answer::Raw(text(404, "404 page not found\n"))
}

fn find(call: &Call<'_>, path: &str) -> Outcome<Answer> {
    let server = call.server;
    let documents = &server.documents;
    let fixed = match path {
        "/" => Some(Answer::Document(roots(call))),
        "/version" | "/version/" => Some(Answer::Document(documents.version.clone())),
        "/metrics" => Some(Answer::Raw(metrics(call))),
        "/openapi/v2" => Some(Answer::Document(documents.openapi.swagger(&server.catalog, &call.headers)?)),
        "/openapi/v3" | "/openapi/v3/" => Some(Answer::Document(documents.openapi.index(&server.catalog))),
        "/.well-known/openid-configuration" => Some(Answer::Raw(json_response(&openid(call)))),
        "/openid/v1/jwks" => Some(Answer::Raw(keys(call))),
        _ => None,
    };
    if let Some(answer) = fixed {
        return Ok(answer);
    }
    for probe in ["/healthz", "/livez", "/readyz"] {
        if let Some(rest) = path.strip_prefix(probe).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Ok(Answer::Raw(health::answer(server, probe, rest.trim_start_matches('/'), &call.query)));
        }
    }
    if let Some(group_version) = path.strip_prefix("/openapi/v3/") {
        let document = openapi::response(call, group_version).ok_or_else(unknown)?;
        return Ok(Answer::Raw(document));
    }
    discovery(call, path).map(Answer::Document).ok_or_else(unknown)
}

fn discovery(call: &Call<'_>, path: &str) -> Option<Document> {
    let discovery = &call.server.documents.discovery;
    let aggregated = negotiate::wants_aggregated_discovery(&call.headers);
    aggregated.and_then(|version| discovery.aggregated(path, version)).or_else(|| discovery.plain(path)).cloned()
}

/// The list of paths at `/`.
fn roots(call: &Call<'_>) -> Document {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics"]
            .into_iter()
            .chain(["/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"])
            .map(str::to_owned)
            .collect();
    for (group, versions) in call.server.catalog.groups() {
        if group.is_empty() {
            paths.extend(versions.iter().map(|version| format!("/api/{version}")));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
        }
    }
    paths.sort_unstable();
    let body = serde_json::to_vec_pretty(&json!({ "paths": paths })).expect("texts are JSON");
    Document::new("application/json", body)
}

fn metrics(call: &Call<'_>) -> Response<Body> {
    let mut response = text(200, call.server.documents.metrics.text(&call.server.object_counts()));
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn json_response(document: &serde_json::Value) -> Response<Body> {
    let mut response = text(200, document.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// What OpenID providers tell of themselves. Upstream: `pkg/routes/openidmetadata.go`.
fn openid(call: &Call<'_>) -> serde_json::Value {
    let issuer = call.server.tokens.issuer();
    json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{}/openid/v1/jwks", call.server.advertise),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn keys(call: &Call<'_>) -> Response<Body> {
    let mut response = json_response(&call.server.tokens.jwks());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    response
}
