//! Requests for streams: which container or pod, which protocol.

use std::sync::Arc;

use cri::{AttachRequest, ContainerState, ExecRequest, ExecSession};
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::{Container, Pod};
use wire::Body;
use wire::websocket::{self, MessageLimits};

use super::{Query, look_up, text};
use crate::agent::Agent;
use crate::pod::seen::Seen;
use crate::pod::{find_container, spec, uid as uid_of};
use crate::streams::session::Of;
use crate::streams::{self, Wanted, port_forward, session, spdy};

/// What a path names.
struct Named<'p> {
    namespace: &'p str,
    pod: &'p str,
    /// Which pod of that name; empty is whichever.
    uid: &'p str,
    /// Empty for what is about the whole pod.
    container: &'p str,
}

/// Reads `NAMESPACE/POD[/UID]/CONTAINER`, for ports without the container.
fn named<'p>(segments: &[&'p str]) -> Option<Named<'p>> {
    let (namespace, pod, uid, container) = match segments {
        ["portForward", namespace, pod] => (namespace, pod, &"", &""),
        ["portForward", namespace, pod, uid] => (namespace, pod, uid, &""),
        ["exec" | "attach", namespace, pod, container] => (namespace, pod, &"", container),
        ["exec" | "attach", namespace, pod, uid, container] => (namespace, pod, uid, container),
        _ => return None,
    };
    Some(Named { namespace, pod, uid, container })
}

/// Answers a request for streams.
pub(super) async fn answer(
    agent: &Arc<Agent>,
    segments: &[&str],
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let Some(named) = named(segments) else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
    let (pod, seen) = match look_up(agent, named.namespace, named.pod).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    if !named.uid.is_empty() && named.uid != uid_of(&pod) {
        return text(StatusCode::NOT_FOUND, "pod does not exist\n");
    }
    match segments[0] {
        "portForward" => forward(agent, &seen, query, request),
        "exec" => exec(agent, &named, &seen, query, request),
        _ => attach(agent, &named, (&pod, &seen), query, request),
    }
}

fn running<'s>(seen: &'s Seen, container: &str) -> Option<&'s str> {
    let newest = seen.newest(container).filter(|status| status.state == ContainerState::Running);
    newest.map(|status| status.id.as_str())
}

/// A container that does not run; kubectl shows the text. Upstream: `GetExec` and `GetAttach`, whose errors are 500.
fn no_container(words: &str) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, words)
}

fn no_streams() -> Response<Body> {
    text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr\n")
}

fn exec(agent: &Arc<Agent>, named: &Named<'_>, seen: &Seen, query: &Query, request: Request<Body>) -> Response<Body> {
    let Some(id) = running(seen, named.container).map(str::to_owned) else {
        return no_container(&format!("container not found ({:?})", named.container));
    };
    let Some(wanted) = Wanted::read(query) else { return no_streams() };
    let cmd: Vec<String> = query.all("command").map(str::to_owned).collect();
    if cmd.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command\n");
    }
    let asked = ExecRequest { cmd, tty: wanted.tty, stdin: wanted.stdin };
    let runtime = agent.context().runtime.clone();
    // Started only once there is a connection: a client that left starts nothing.
    let begin = async move { runtime.exec(&id, asked).await };
    carry(agent, request, wanted, begin, Of::Exec)
}

fn attach(
    agent: &Arc<Agent>,
    named: &Named<'_>,
    (pod, seen): (&Pod, &Seen),
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let Some(id) = running(seen, named.container).map(str::to_owned) else {
        let Named { namespace, pod, container, .. } = named;
        return no_container(&format!("container {container} not found in pod {pod}_{namespace}"));
    };
    let Some(mut wanted) = Wanted::read(query) else { return no_streams() };
    let container = find_container(&spec(pod), named.container).map(|(_, container)| container);
    let says = |flag: fn(&Container) -> Option<bool>| container.as_ref().and_then(flag).unwrap_or(false);
    let (tty, has_input) = (says(|container| container.tty), says(|container| container.stdin));
    let once = says(|container| container.stdin_once);
    let of = if wanted.stdin && has_input && (tty || !once) { Of::SharedInput } else { Of::Container };
    // The container's own terminal counts: with one, its errors come on it.
    wanted.stderr &= !tty;
    let asked = AttachRequest { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr, tty };
    let runtime = agent.context().runtime.clone();
    let begin = async move { runtime.attach(&id, asked).await };
    carry(agent, request, wanted, begin, of)
}

/// Accepts the upgrade, and joins the client with what `begin` starts.
fn carry(
    agent: &Arc<Agent>,
    mut request: Request<Body>,
    wanted: Wanted,
    begin: impl Future<Output = cri::Result<ExecSession>> + Send + 'static,
    of: Of,
) -> Response<Body> {
    if websocket::is_handshake(&request) {
        let limits = MessageLimits::default();
        return match websocket::accept(&mut request, &streams::websocket::PROTOCOLS, limits) {
            Ok((response, accepted)) => {
                agent.context().tasks.spawn("stream", async move {
                    match accepted.open().await {
                        // Told on the socket: a client takes a refused upgrade for a server without WebSockets.
                        Ok(socket) => {
                            session::serve(streams::websocket::ends(socket, wanted).await, begin.await, of).await;
                        }
                        Err(error) => tracing::debug!(%error, "stream without a connection"),
                    }
                });
                response
            }
            Err(error) => text(StatusCode::FORBIDDEN, &format!("{error}\n")),
        };
    }
    if !spdy::is_handshake(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n");
    }
    match spdy::accept(&mut request, &spdy::PROTOCOLS) {
        Ok((response, accepted)) => {
            agent.context().tasks.spawn("stream", async move {
                let protocol = accepted.protocol.clone();
                let Some(connection) = accepted.open().await else { return };
                if let Some(connected) = spdy::ends(connection, protocol.as_deref(), wanted).await {
                    session::serve(connected, begin.await, of).await;
                }
            });
            response
        }
        Err(refusal) => refusal,
    }
}

fn forward(agent: &Arc<Agent>, seen: &Seen, query: &Query, mut request: Request<Body>) -> Response<Body> {
    let Some(sandbox) = seen.ready_sandbox() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "unable to do port forwarding: sandbox is not running\n");
    };
    let tasks = &agent.context().tasks;
    let pod = port_forward::Pod { runtime: agent.context().runtime.clone(), sandbox_id: sandbox.id.clone() };
    if websocket::is_handshake(&request) {
        let offered = websocket::offered_protocols(&request);
        let tunnelled = offered.iter().any(|offer| offer == streams::websocket::TUNNEL);
        let ports = if tunnelled { Ok(Vec::new()) } else { port_forward::ports(query) };
        let ports = match ports {
            Ok(ports) => ports,
            Err(why) => return text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        };
        let tunnel = [streams::websocket::TUNNEL];
        let spoken = if tunnelled { &tunnel[..] } else { &streams::websocket::PORT_PROTOCOLS };
        return match websocket::accept(&mut request, spoken, MessageLimits::default()) {
            Ok((response, accepted)) => {
                tasks.spawn("port-forward", async move {
                    match accepted.open().await {
                        Ok(socket) if tunnelled => port_forward::serve_tunnel(socket, pod).await,
                        Ok(socket) => port_forward::serve_channels(socket, pod, &ports).await,
                        Err(error) => tracing::debug!(%error, "port-forward without a connection"),
                    }
                });
                response
            }
            Err(error) => text(StatusCode::FORBIDDEN, &format!("{error}\n")),
        };
    }
    if !spdy::is_handshake(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n");
    }
    match spdy::accept(&mut request, &[spdy::PORT_PROTOCOL]) {
        Ok((response, accepted)) => {
            tasks.spawn("port-forward", async move {
                if let Some(connection) = accepted.open().await {
                    port_forward::serve_spdy(connection, pod).await;
                }
            });
            response
        }
        Err(refusal) => refusal,
    }
}
