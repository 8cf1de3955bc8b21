//! `proxy`: requests handed on to a node's agent, to a pod or to an endpoint of a Service.
//!
//! Links in pages are not rewritten, other than upstream does it; redirections are.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONNECTION, HOST, LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use serde::de::DeserializeOwned;
use wire::Body;

use super::connect::relay;
use crate::answer::Answer;
use crate::authz::Attributes;
use crate::catalog::Served;
use crate::dial::{self, NodeEndpoint, Place, may_be_dialed};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::not_found;

/// Where a request goes on to.
enum Backend {
    Node(NodeEndpoint),
    Direct(Place),
}

/// `[SCHEME:]NAME[:PORT]`, as it stands in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named<'p> {
    secure: bool,
    name: &'p str,
    port: &'p str,
}

/// Upstream: `k8s.io/apimachinery/pkg/util/net/port_split.go`.
fn named(text: &str) -> Option<Named<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Named { secure: scheme == "https", name, port })
}

fn unavailable(message: String) -> Refusal {
    api::status::Status::failure(503, "ServiceUnavailable", &message).into()
}

fn not_allowed() -> Refusal {
    Refusal::bad_request("address not allowed")
}

/// Answers a request that is to be handed on.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, request: &mut Request<Body>) -> Outcome<Answer> {
    let kind = served.facts().singular;
    let invalid = || Refusal::bad_request(format!("invalid {kind} request {:?}", call.info.name));
    let named = named(&call.info.name).ok_or_else(invalid)?;
    call.server.cache.fresh().await?;
    let backend = match served.facts().plural {
        "nodes" => node(call, served, named)?,
        "pods" => pod(call, served, named)?,
        "services" => service(call, served, named)?,
        _ => return Err(Refusal::no_such_path()),
    };
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    if wants_upgrade && matches!(backend, Backend::Node(_)) {
        // A stream of a node's agent leads into containers: by whatever method it is opened, it is no reading.
        call.server.may(&call.user, &Attributes { verb: "create", ..Attributes::from(&call.info) })?;
    }
    let (prefix, rest) = split(request.uri().path(), !call.info.namespace.is_empty());
    if rest.is_empty() && !wants_upgrade {
        return Ok(Answer::Raw(to_the_folder(request.uri())));
    }
    let prefix = prefix.to_owned();
    let mut onward = onward(call, request, rest)?;
    if wants_upgrade {
        return upgrade(call, &backend, request, onward).await;
    }
    remove_hops(onward.headers_mut());
    *onward.body_mut() = std::mem::take(request.body_mut());
    let host = onward.headers().get(HOST).cloned();
    let dialer = &call.server.dialer;
    let answered = match &backend {
        Backend::Node(node) => dialer.node(node, onward).await,
        Backend::Direct(place) => dialer.direct(place, onward).await,
    };
    let mut response =
        answered.map_err(|error| unavailable(format!("error trying to reach service: {}", error.reason)))?;
    remove_hops(response.headers_mut());
    clean(response.headers_mut(), &backend, &prefix, host.as_ref());
    Ok(Answer::Raw(response))
}

/// The part of a path up to `…/proxy`, and what follows it, as sent.
fn split(path: &str, namespaced: bool) -> (&str, &str) {
    let segments = if namespaced { 7 } else { 5 };
    let start = path.len() - path.trim_start_matches('/').len();
    let end = path[start..].match_indices('/').nth(segments - 1).map_or(path.len(), |(at, _)| start + at);
    path.split_at(end)
}

/// Relative links of a page at `…/proxy` would lead beside it. Upstream: kubernetes/kubernetes#4958.
fn to_the_folder(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn object<T: DeserializeOwned>(call: &Call<'_>, prefix: &str, namespace: &str, name: &str) -> Outcome<Option<T>> {
    let Some(resource) = call.server.cache.resource(prefix) else { return Ok(None) };
    let found = resource.snapshot().objects.get(&client::Key::new(namespace, name)).cloned();
    found.map(|object| object.typed::<T>().map_err(Refusal::internal)).transpose()
}

/// Where the agent of a node is.
pub(crate) fn node_endpoint(call: &Call<'_>, name: &str) -> Outcome<NodeEndpoint> {
    let target = api::status::Target { group: "", resource: "nodes", name };
    let found = object::<Node>(call, "minions", "", name)?;
    let node = found.ok_or_else(|| Refusal::from(api::status::Status::not_found(target)))?;
    dial::endpoint(&node).map_err(Refusal::bad_request)
}

/// The agent, or with another port whatever listens there.
fn node(call: &Call<'_>, served: &Served, named: Named<'_>) -> Outcome<Backend> {
    let node = object::<Node>(call, "minions", "", named.name)?.ok_or_else(|| not_found(served, named.name))?;
    let endpoint = dial::endpoint(&node).map_err(Refusal::bad_request)?;
    if named.port.is_empty() || named.port == endpoint.port.to_string() {
        return Ok(Backend::Node(endpoint));
    }
    let port = number(named.port, "node", &call.info.name)?;
    Ok(Backend::Direct(Place { secure: named.secure, address: endpoint.address, port }))
}

fn number(port: &str, kind: &str, request: &str) -> Outcome<u16> {
    port.parse().map_err(|_| Refusal::bad_request(format!("invalid {kind} request {request:?}")))
}

/// A pod's port: the one named, else the first that it declares, else the scheme's.
fn pod(call: &Call<'_>, served: &Served, named: Named<'_>) -> Outcome<Backend> {
    let found = object::<Pod>(call, "pods", &call.info.namespace, named.name)?;
    let pod = found.ok_or_else(|| not_found(served, named.name))?;
    let declared =
        pod.spec.iter().flat_map(|spec| &spec.containers).find_map(|container| container.ports.as_ref()?.first());
    let declared = declared.and_then(|port| u16::try_from(port.container_port).ok());
    let port = match (named.port, declared) {
        ("", Some(port)) => port,
        ("", None) => {
            if named.secure {
                443
            } else {
                80
            }
        }
        (port, _) => number(port, "pod", &call.info.name)?,
    };
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    let address = address.filter(|address| may_be_dialed(*address)).ok_or_else(not_allowed)?;
    Ok(Backend::Direct(Place { secure: named.secure, address, port }))
}

/// One of a Service's endpoints, at random.
fn service(call: &Call<'_>, served: &Served, named: Named<'_>) -> Outcome<Backend> {
    let namespace = &call.info.namespace;
    let found = object::<Service>(call, "services/specs", namespace, named.name)?;
    let service = found.ok_or_else(|| not_found(served, named.name))?;
    let name = port_name(&service, named)?;
    let Some(slices) = call.server.cache.resource("endpointslices") else { return Err(Refusal::no_such_path()) };
    let mut places = Vec::new();
    for object in slices.snapshot().objects.values().filter(|object| object.namespace() == namespace) {
        let slice = object.typed::<EndpointSlice>().map_err(Refusal::internal)?;
        let labels = slice.metadata.labels.as_ref();
        if labels.and_then(|labels| labels.get("kubernetes.io/service-name")).map(String::as_str) != Some(named.name) {
            continue;
        }
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == name);
        let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if let Some(address) = address_of(call, endpoint)? {
                places.push(Place { secure: named.secure, address, port });
            }
        }
    }
    if places.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {:?}", call.info.name)));
    }
    let chosen = usize::try_from(stdx::random_u64() % places.len() as u64).unwrap_or(0);
    Ok(Backend::Direct(places.swap_remove(chosen)))
}

/// Endpoints call their ports by name; a number is the Service's.
fn port_name(service: &Service, named: Named<'_>) -> Outcome<String> {
    let Ok(number) = named.port.parse::<i64>() else { return Ok(named.port.to_owned()) };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let found = ports.into_iter().find(|port| i64::from(port.port) == number);
    let missing = || unavailable(format!("no service port {number} found for service {:?}", named.name));
    Ok(found.ok_or_else(missing)?.name.clone().unwrap_or_default())
}

/// The address of a ready endpoint that is a pod of the same namespace, really. Whoever may write slices must not lead
/// requests elsewhere.
fn address_of(call: &Call<'_>, endpoint: &Endpoint) -> Outcome<Option<IpAddr>> {
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
    let Some(target) = endpoint.target_ref.as_ref().filter(|_| ready) else { return Ok(None) };
    let Some(address) = endpoint.addresses.first() else { return Ok(None) };
    let of_pod = target.kind.as_deref() == Some("Pod");
    if !of_pod || target.namespace.as_deref().is_some_and(|namespace| namespace != call.info.namespace) {
        return Ok(None);
    }
    let pod = object::<Pod>(call, "pods", &call.info.namespace, target.name.as_deref().unwrap_or_default())?;
    let status = pod.as_ref().and_then(|pod| pod.status.as_ref());
    let own = status.is_some_and(|status| {
        let further = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
        status.pod_ip.iter().chain(further).any(|ip| ip == address)
    });
    Ok(address.parse().ok().filter(|address| own && may_be_dialed(*address)))
}

/// The request as it goes on: with the client's headers, but not with its credentials.
fn onward(call: &Call<'_>, request: &Request<Body>, rest: &str) -> Outcome<Request<Body>> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { rest };
    let target = format!("{path}{query}");
    let mut onward =
        Request::builder().method(call.method.clone()).uri(&target).body(Body::Empty).map_err(Refusal::internal)?;
    let headers = onward.headers_mut();
    for (name, value) in request.headers() {
        if *name != AUTHORIZATION && !name.as_str().starts_with("impersonate-") {
            headers.append(name.clone(), value.clone());
        }
    }
    // HTTP/2 has it in the URI.
    let authority = request.uri().authority().map(Authority::as_str).and_then(|text| HeaderValue::from_str(text).ok());
    if let (Some(authority), false) = (authority, headers.contains_key(HOST)) {
        headers.insert(HOST, authority);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert("x-forwarded-host", host);
    }
    if let Ok(path) = HeaderValue::from_str(request.uri().path()) {
        headers.insert("x-forwarded-uri", path);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    Ok(onward)
}

/// What belongs to one connection only.
fn remove_hops(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in [CONNECTION, UPGRADE, TE, TRAILER, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"] {
        headers.remove(name);
    }
}

/// What a backend must not say in the API server's name, and where its redirections lead.
fn clean(headers: &mut HeaderMap, backend: &Backend, prefix: &str, host: Option<&HeaderValue>) {
    let shared: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in shared {
        headers.remove(name);
    }
    let own = match backend {
        Backend::Node(node) => std::net::SocketAddr::new(node.address, node.port).to_string(),
        Backend::Direct(place) => place.authority(),
    };
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    if let Some(Ok(location)) = location.and_then(|location| moved(location, prefix, &own, host)).map(|to| to.parse()) {
        headers.insert(LOCATION, location);
    }
}

/// A redirection within the backend, as the client has to follow it; none when it stays as it is.
fn moved(location: &str, prefix: &str, own: &str, host: &str) -> Option<String> {
    let path = match location.parse::<Uri>().ok()?.into_parts() {
        parts if parts.authority.as_ref().is_some_and(|to| to.as_str() != own && to.as_str() != host) => return None,
        parts => parts.path_and_query?.to_string(),
    };
    (path.starts_with('/') && !path.starts_with(prefix)).then(|| format!("{prefix}{path}"))
}

async fn upgrade(
    call: &Call<'_>,
    backend: &Backend,
    request: &mut Request<Body>,
    onward: Request<Body>,
) -> Outcome<Answer> {
    let ours = wire::upgraded(request);
    let dialer = &call.server.dialer;
    let (mut response, theirs) = match backend {
        Backend::Node(node) => dialer.node_upgrade(node, onward).await?,
        Backend::Direct(place) => dialer.direct_upgrade(place, onward).await?,
    };
    let Some(theirs) = theirs else {
        remove_hops(response.headers_mut());
        return Ok(Answer::Raw(response));
    };
    *response.body_mut() = Body::Empty;
    call.server.state.tasks.spawn("proxied stream", async move {
        match ours.await {
            Ok(ours) => relay(ours, theirs).await,
            Err(error) => tracing::debug!(%error, "the client did not take the upgrade"),
        }
    });
    Ok(Answer::Raw(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_scheme_and_port() {
        let check = |text: &str, expected: Option<(bool, &str, &str)>| {
            let found = named(text).map(|named| (named.secure, named.name, named.port));
            assert_eq!(found, expected, "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("https:web:443", Some((true, "web", "443")));
        check("https:web:", Some((true, "web", "")));
        check(":web:http", Some((false, "web", "http")));
        for bad in ["", ":80", "ftp:web:21", "a:b:c:d"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_follows_proxy_goes_on_as_it_was_sent() {
        let check = |path: &str, namespaced, rest: &str| assert_eq!(split(path, namespaced).1, rest, "{path}");
        check("/api/v1/nodes/n/proxy", false, "");
        check("/api/v1/nodes/n/proxy/", false, "/");
        check("/api/v1/nodes/n/proxy/stats/summary", false, "/stats/summary");
        check("/api/v1/namespaces/a/pods/p:80/proxy/a%2Fb//c/", true, "/a%2Fb//c/");
        check("/api/v1/namespaces/a/services/https:s:443/proxy/x/proxy/y", true, "/x/proxy/y");
    }

    #[test]
    fn redirections_stay_within_the_backend() {
        let check = |location: &str, expected: Option<&str>| {
            let found = moved(location, "/api/v1/nodes/n/proxy", "10.0.0.7:10250", "cluster:6443");
            assert_eq!(found.as_deref(), expected, "{location}");
        };
        check("/logs/", Some("/api/v1/nodes/n/proxy/logs/"));
        check("http://10.0.0.7:10250/logs/?a=b", Some("/api/v1/nodes/n/proxy/logs/?a=b"));
        check("https://cluster:6443/logs/", Some("/api/v1/nodes/n/proxy/logs/"));
        check("/api/v1/nodes/n/proxy/logs/", None);
        check("https://elsewhere.example/logs/", None);
        check("logs/", None);
    }

    #[test]
    fn what_belongs_to_a_connection_ends_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Own"), ("x-own", "1"), ("te", "trailers"), ("x-other", "2")] {
            headers.insert(name, value.parse().expect("a header"));
        }
        remove_hops(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }
}
