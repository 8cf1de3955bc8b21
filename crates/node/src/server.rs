//! The agent's own HTTP server, at upstream's kubelet paths: logs, exec, pods, health.
//!
//! Only the API server reaches it, over a socket that only root may open; it has authorized the user before.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::{ContainerStatus, ExecRequest};
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use wire::Body;
use wire::websocket::{self, MessageLimits};

use crate::agent::Agent;
use crate::exec;
use crate::logs::{self, LogOptions};
use crate::pod::seen::Seen;
use crate::pod::{find_container, spec};
use crate::static_pods::local_uid;

/// Answers one request.
pub async fn handle(agent: Arc<Agent>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => pods(&agent),
        ["containerLogs", namespace, pod, container] => {
            container_logs(&agent, (namespace, pod, container), &request).await
        }
        ["exec", namespace, pod, container] => run(&agent, (namespace, pod, container), request).await,
        segments => match unhonoured(segments) {
            Some(what) => text(StatusCode::NOT_IMPLEMENTED, &format!("not supported yet: {what}")),
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
    }
}

/// What upstream's agents serve at a path and this one does not yet; refused by name, because clients show what they are told.
fn unhonoured(segments: &[&str]) -> Option<&'static str> {
    match segments {
        ["attach", ..] => Some("attach"),
        ["portForward", ..] => Some("port-forward"),
        _ => None,
    }
}

fn text(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Bytes(text.to_owned().into()));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn pods(agent: &Agent) -> Response<Body> {
    let items: Vec<serde_json::Value> = agent
        .pods()
        .iter()
        .filter_map(|pod| pod.tree().ok())
        .filter_map(|tree| serde_json::to_value(&tree).ok())
        .collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut response = Response::new(Body::Bytes(list.to_string().into()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// Decoded parameters of a query, in order.
fn parameters(request: &Request<Body>) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let code = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                let code = std::str::from_utf8(&code).ok().and_then(|code| u8::from_str_radix(code, 16).ok());
                out.push(code.unwrap_or(b'%'));
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The pod and what the runtime has of it.
async fn look_up(agent: &Agent, namespace: &str, name: &str) -> Result<(Pod, Seen), Response<Body>> {
    let missing = || text(StatusCode::NOT_FOUND, &format!("pod {name:?} not found in namespace {namespace:?}\n"));
    let object = agent.pod(namespace, name).ok_or_else(missing)?;
    let pod: Pod = object.typed().map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let seen = Seen::ask(&*agent.context().runtime, local_uid(&pod)).await;
    let seen = seen.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    Ok((pod, seen))
}

fn log_options(parameters: &[(String, String)]) -> Result<LogOptions, String> {
    let map: BTreeMap<&str, &str> = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let truth = |name: &str| matches!(map.get(name), Some(&"true" | &"1"));
    let number = |name: &str| match map.get(name) {
        None => Ok(None),
        Some(value) => value.parse::<u64>().map(Some).map_err(|_| format!("invalid {name}: {value:?}\n")),
    };
    let since = match (number("sinceSeconds")?, map.get("sinceTime")) {
        (Some(seconds), _) => {
            Some(stdx::wall() - jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| format!("invalid sinceTime: {time:?}\n"))?),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: truth("follow"),
        previous: truth("previous"),
        timestamps: truth("timestamps"),
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
        since,
        stream: map.get("stream").filter(|stream| **stream != "All").map(ToString::to_string),
    })
}

async fn container_logs(
    agent: &Agent,
    (namespace, pod, container): (&str, &str, &str),
    request: &Request<Body>,
) -> Response<Body> {
    let options = match log_options(&parameters(request)) {
        Ok(options) => options,
        Err(error) => return text(StatusCode::BAD_REQUEST, &error),
    };
    let (pod_object, seen) = match look_up(agent, namespace, pod).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    if find_container(&spec(&pod_object), container).is_none() {
        return text(StatusCode::BAD_REQUEST, &format!("container {container} is not valid for pod {pod}\n"));
    }
    let status = match (seen.newest(container), options.previous) {
        (Some(newest), false) => newest,
        (Some(newest), true) => match seen.before(newest) {
            Some(before) => before,
            None => {
                let message = format!("previous terminated container {container:?} in pod {pod:?} not found\n");
                return text(StatusCode::BAD_REQUEST, &message);
            }
        },
        (None, _) => return text(StatusCode::BAD_REQUEST, &waits(&pod_object, container, pod)),
    };
    let runtime = agent.context().runtime.clone();
    match logs::stream((&status.log_path).into(), options, runtime, status.id.clone()) {
        Ok(stream) => {
            use futures_util::StreamExt as _;
            let pieces = stream.map(|piece| piece.map_err(|error| wire::BodyError::Produce(error.into())));
            let mut response = Response::new(Body::stream(pieces));
            response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
            response
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("failed to try resolving symlinks in path {:?}: {error}\n", status.log_path),
        ),
    }
}

/// Why a container has no log yet, as upstream says it.
fn waits(pod_object: &Pod, container: &str, pod: &str) -> String {
    let statuses = pod_object.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let waiting = statuses.into_iter().flatten().find(|status| status.name == container);
    let reason = waiting.and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match reason {
        Some(reason) => format!("container {container:?} in pod {pod:?} is waiting to start: {reason}\n"),
        None => format!("container {container:?} in pod {pod:?} is not available\n"),
    }
}

async fn run(
    agent: &Agent,
    (namespace, pod, container): (&str, &str, &str),
    mut request: Request<Body>,
) -> Response<Body> {
    let (_, seen) = match look_up(agent, namespace, pod).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    let running: Option<&ContainerStatus> =
        seen.newest(container).filter(|status| status.state == cri::ContainerState::Running);
    let Some(status) = running else {
        return text(StatusCode::NOT_FOUND, &format!("container not found ({container:?})\n"));
    };
    let parameters = parameters(&request);
    let truth =
        |name: &str| parameters.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"));
    let cmd: Vec<String> =
        parameters.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect();
    if cmd.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command\n");
    }
    let exec_request = ExecRequest { cmd, tty: truth("tty"), stdin: truth("input") || truth("stdin") };
    if !websocket::is_handshake(&request) {
        return text(StatusCode::BAD_REQUEST, "only websocket connections are supported\n");
    }
    let (response, accepted) = match websocket::accept(&mut request, &exec::PROTOCOLS, MessageLimits::default()) {
        Ok(accepted) => accepted,
        Err(error) => return text(StatusCode::FORBIDDEN, &format!("{error}\n")),
    };
    let session = agent.context().runtime.exec(&status.id, exec_request).await;
    agent.context().tasks.spawn("exec", async move {
        match (accepted.open().await, session) {
            (Ok(socket), Ok(session)) => exec::serve(socket, session).await,
            // Told on the socket: a client takes a refused upgrade for a server without WebSockets.
            (Ok(socket), Err(error)) => exec::refuse(socket, error).await,
            (Err(error), _) => tracing::debug!(%error, "exec without a connection"),
        }
    });
    response
}

/// The service for `wire::serve`.
pub fn service(agent: Arc<Agent>) -> wire::Service {
    Arc::new(move |request, _| Box::pin(handle(agent.clone(), request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_are_not_built_yet_have_a_name() {
        let check = |path: &str, expected| assert_eq!(unhonoured(&path.split('/').collect::<Vec<_>>()), expected);
        check("attach/default/p/c", Some("attach"));
        check("portForward/default/p", Some("port-forward"));
        check("exec/default/p/c", None);
        check("nowhere", None);
    }
}
