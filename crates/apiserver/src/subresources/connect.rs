//! `log`, `exec`, `attach`, `portforward`: handed on to the agent of the pod's node, streams byte by byte.

use std::fmt::Write as _;

use api::meta;
use api::status::Status;
use api::value::Value;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use wire::client::Connection;
use wire::{Body, BodyError};

use super::proxy;
use crate::answer::Answer;
use crate::authz::Attributes;
use crate::catalog::Served;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::target;

/// Bytes of an agent's failure that are read and passed on.
const FAILURE_BYTES_MAX: usize = 10 << 10;
/// Parameters of `log` that mean the same to the agent.
const LOG_PARAMETERS: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// Answers a request for a stream.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, request: &mut Request<Body>) -> Outcome<Answer> {
    if call.info.subresource == "proxy" && served.subresource("proxy").is_some() {
        return proxy::answer(call, served, request).await;
    }
    if served.facts().plural != "pods" || served.subresource(&call.info.subresource).is_none() {
        return Err(Refusal::no_such_path());
    }
    let object = call.current(served).await?;
    let pod = object.tree().map_err(Refusal::internal)?;
    match call.info.subresource.as_str() {
        "log" if matches!(call.method, Method::GET | Method::HEAD) => log(call, served, &pod).await,
        "exec" | "attach" | "portforward" if matches!(call.method, Method::GET | Method::POST) => {
            // A stream into a container changes things, by whatever method it is opened.
            call.server.may(&call.user, &Attributes { verb: "create", ..Attributes::from(&call.info) })?;
            stream(call, &pod, request).await
        }
        "log" | "exec" | "attach" | "portforward" => Err(Refusal::no_such_method()),
        _ => Err(Refusal::no_such_path()),
    }
}

fn names<'v>(pod: &'v Value, list: &str) -> Vec<&'v str> {
    let containers = pod.at(&["spec", list]).and_then(Value::as_array).unwrap_or_default();
    containers.iter().filter_map(|container| container.str_at(&["name"])).collect()
}

/// The container that is meant. Upstream: `pkg/registry/core/pod/strategy.go`.
fn container(call: &Call<'_>, pod: &Value) -> Outcome<String> {
    let name = meta::name(pod);
    let (main, init, ephemeral) =
        (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    if let Some(wanted) = call.query.text("container") {
        let known = main.iter().chain(&init).chain(&ephemeral).any(|container| *container == wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(Refusal::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    if let [only] = main.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut why = format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
    if !init.is_empty() {
        write!(why, " or one of the init containers: [{}]", init.join(" ")).expect("writing to a string cannot fail");
    }
    Err(Refusal::bad_request(why))
}

fn node(pod: &Value) -> &str {
    pod.str_at(&["spec", "nodeName"]).unwrap_or_default()
}

async fn log(call: &Call<'_>, served: &Served, pod: &Value) -> Outcome<Answer> {
    let container = container(call, pod)?;
    if node(pod).is_empty() {
        return Ok(Answer::Raw(crate::answer::text(200, "")));
    }
    let mut path = format!("/containerLogs/{}/{}/{container}", meta::namespace(pod), meta::name(pod));
    let mut query = String::new();
    for name in LOG_PARAMETERS {
        call.query.all(name).for_each(|value| parameter(&mut query, name, value));
    }
    if !query.is_empty() {
        path = format!("{path}?{query}");
    }
    let request = Request::builder().method(Method::GET).uri(&path).body(Body::Empty).map_err(Refusal::internal)?;
    let node = proxy::node_endpoint(call, node(pod))?;
    let response = call.server.dialer.node(&node, request).await?;
    let mut response = succeeded(served, meta::name(pod), response).await?;
    let headers = response.headers_mut();
    headers.remove(CONNECTION);
    headers.remove(http::header::TRANSFER_ENCODING);
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    Ok(Answer::Raw(response))
}

/// An agent's failure becomes a `Status`. Upstream: `k8s.io/apiserver/pkg/registry/generic/rest/response_checker.go`.
async fn succeeded(served: &Served, name: &str, mut response: Response<Body>) -> Outcome<Response<Body>> {
    let code = response.status().as_u16();
    if (200..=206).contains(&code) {
        return Ok(response);
    }
    let text = match response.body_mut().read(FAILURE_BYTES_MAX).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(BodyError::TooLarge { .. }) => "the node's answer was too long".to_owned(),
        Err(error) => return Err(Refusal::internal(error)),
    };
    Err(match code {
        500 => Refusal::internal(text),
        400 => Refusal::bad_request(text),
        404 => Status::not_found(target(served, name)).into(),
        code => Status::failure(code, "", &text).into(),
    })
}

fn parameter(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => query.push(char::from(byte)),
            other => write!(query, "%{other:02X}").expect("writing to a string cannot fail"),
        }
    }
}

/// Path and query at the agent.
fn agent_path(call: &Call<'_>, pod: &Value) -> Outcome<String> {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    if call.info.subresource == "portforward" {
        let mut query = String::new();
        call.query.all("ports").for_each(|port| parameter(&mut query, "port", port));
        let query = if query.is_empty() { query } else { format!("?{query}") };
        return Ok(format!("/portForward/{namespace}/{name}{query}"));
    }
    let container = container(call, pod)?;
    let mut query = String::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        // With a terminal there is no separate error stream.
        if call.query.flag(ours) && !(ours == "stderr" && call.query.flag("tty")) {
            parameter(&mut query, theirs, "1");
        }
    }
    if query.is_empty() || query == "tty=1" {
        return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if call.info.subresource == "exec" {
        call.query.all("command").for_each(|word| parameter(&mut query, "command", word));
        if call.query.get("command").is_none() {
            return Err(Refusal::bad_request("you must specify at least 1 command for the container"));
        }
    }
    Ok(format!("/{}/{namespace}/{name}/{container}?{query}", call.info.subresource))
}

async fn stream(call: &Call<'_>, pod: &Value, request: &mut Request<Body>) -> Outcome<Answer> {
    let path = agent_path(call, pod)?;
    if node(pod).is_empty() {
        return Err(Refusal::bad_request(format!("pod {} does not have a host assigned", meta::name(pod))));
    }
    if !request.headers().contains_key(UPGRADE) {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let node = proxy::node_endpoint(call, node(pod))?;
    let mut onward =
        Request::builder().method(call.method.clone()).uri(&path).body(Body::Empty).map_err(Refusal::internal)?;
    *onward.headers_mut() = onward_headers(&call.headers);
    let ours = wire::upgraded(request);
    let (mut response, theirs) = call.server.dialer.node_upgrade(&node, onward).await?;
    // What the agent says instead of an upgrade, kubectl shows as it is. Upstream: `UpgradeAwareHandler`.
    let Some(theirs) = theirs else { return Ok(Answer::Raw(response)) };
    *response.body_mut() = Body::Empty;
    call.server.state.tasks.spawn("stream into container", async move {
        match ours.await {
            Ok(ours) => relay(ours, theirs).await,
            Err(error) => tracing::debug!(%error, "the client did not take the upgrade"),
        }
    });
    Ok(Answer::Raw(response))
}

/// What the agent may see of the client's headers: not its credentials.
fn onward_headers(headers: &HeaderMap) -> HeaderMap {
    let secret =
        |name: &str| name.starts_with("impersonate-") || name == AUTHORIZATION.as_str() || name == COOKIE.as_str();
    let kept = headers.iter().filter(|(name, _)| !secret(name.as_str()) && **name != http::header::HOST);
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Moves bytes both ways until both are at their end.
pub(super) async fn relay(mut ours: impl Connection, mut theirs: Box<dyn Connection>) {
    if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
        tracing::debug!(%error, "stream into container ended");
    }
}
