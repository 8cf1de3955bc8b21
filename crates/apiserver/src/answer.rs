//! The answer on its way out: status code, headers, and a body in the form that was asked for.

use std::sync::Arc;

use api::status::Status;
use api::value::Value;
use bytes::Bytes;
use client::Object;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use wire::Body;

use crate::catalog::Served;
use crate::discovery::Document;
use crate::negotiate::{self, Encoding, Form, Kind};
use crate::paths;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::render;
use crate::room::Place;
use crate::verbs::list::Page;
use crate::verbs::watch::Stream;

/// What a verb answers, before it is written in a form.
pub(crate) enum Answer {
    /// An object of the cache, or one that a dry run would have stored.
    Object {
        code: u16,
        served: Served,
        object: Arc<Object>,
    },
    /// An object that is worked out: group, version, kind and tree.
    Tree {
        code: u16,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        tree: Value,
    },
    Status {
        code: u16,
        status: Box<Status>,
    },
    List(Page),
    Watch(Box<Stream>),
    Document(Document),
    /// Complete already.
    Raw(Response<Body>),
}

/// Bodies longer than this are compressed when the client takes that, as upstream does.
const GZIP_BYTES_MIN: usize = 128 * 1024;

/// Makes the response.
pub(crate) fn respond(call: &Call<'_>, outcome: Outcome<(Answer, Place)>) -> Response<Body> {
    let written = outcome.and_then(|(answer, place)| write(call, answer, place));
    let mut response = written.unwrap_or_else(|refusal| refused(&refusal, &call.headers));
    for warning in shortened(call.warnings.take()) {
        let text =
            format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " "));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(WARNING, value);
        }
    }
    if call.method == Method::HEAD {
        *response.body_mut() = Body::Empty;
    }
    response
}

/// Many servers and clients refuse long heads, so warnings are cut as upstream cuts them: each, when they are too long together.
fn shortened(mut warnings: Vec<String>) -> Vec<String> {
    const TOGETHER_CHARS_MAX: usize = 4 << 10;
    const EACH_CHARS_MAX: usize = 256;
    let chars = |warning: &String| warning.chars().count();
    if warnings.iter().map(chars).sum::<usize>() <= TOGETHER_CHARS_MAX {
        return warnings;
    }
    let mut left = TOGETHER_CHARS_MAX;
    for warning in &mut warnings {
        *warning = warning.chars().take(EACH_CHARS_MAX.min(left)).collect();
        left -= chars(warning);
    }
    warnings.retain(|warning| !warning.is_empty());
    warnings
}

fn write(call: &Call<'_>, answer: Answer, place: Place) -> Outcome<Response<Body>> {
    let form = |kind| negotiate::form(&call.headers, &call.query, kind);
    match answer {
        Answer::Object { code, served, object } => {
            let form = form(Kind::Object)?;
            Ok(whole(code, form, render::object(call, &served, &object, form)?))
        }
        Answer::Tree { code, group, version, kind, tree } => {
            let form = form(Kind::Plain)?;
            Ok(whole(code, form, render::tree(group, version, kind, &tree, form.encoding)?))
        }
        Answer::Status { code, status } => {
            let form = form(Kind::Plain)?;
            Ok(whole(code, form, render::status(&status, form.encoding)))
        }
        Answer::List(page) => render::list(call, page, form(Kind::List)?, place),
        Answer::Watch(stream) => Ok(render::watch(call, *stream, form(Kind::Stream)?, place)),
        Answer::Document(document) => Ok(document_response(&document, &call.headers)),
        Answer::Raw(response) => Ok(response),
    }
}

/// A response with a whole body.
pub(crate) fn whole(code: u16, form: Form, body: Vec<u8>) -> Response<Body> {
    let body = if form.pretty && form.encoding == Encoding::Json { render::indented(&body) } else { body };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.encoding.media_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if form.gzip && body.len() > GZIP_BYTES_MIN {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        *response.body_mut() = Body::from(render::gzipped(&body));
    } else {
        *response.body_mut() = Body::from(body);
    }
    response
}

/// The response that refuses.
pub(crate) fn refused(refusal: &Refusal, headers: &HeaderMap) -> Response<Body> {
    let status = &refusal.0;
    if *refusal == paths::unknown() {
        return text(404, "404 page not found\n");
    }
    let form = negotiate::form(headers, &crate::request::Query::default(), Kind::Plain).unwrap_or_default();
    let mut response = whole(status.code, form, render::status(status, form.encoding));
    let seconds = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A document that clients keep: `304` when they have it already.
pub(crate) fn document_response(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let known = document.is_known(headers);
    let out = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&document.etag) {
        out.insert(ETAG, tag);
    }
    out.insert(VARY, HeaderValue::from_static("Accept"));
    out.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    out.insert(CONTENT_TYPE, HeaderValue::from_static(document.content_type));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let accepts_gzip =
        negotiate::form(headers, &crate::request::Query::default(), Kind::Plain).is_ok_and(|form| form.gzip);
    if accepts_gzip && document.body.len() > GZIP_BYTES_MIN {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        *response.body_mut() = Body::from(render::gzipped(&document.body));
    } else {
        *response.body_mut() = Body::from(document.body.clone());
    }
    response
}

/// A response of plain text.
pub(crate) fn text(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
