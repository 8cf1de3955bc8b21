//! Components in the server's own process, and streams that go on to nodes.

mod world;

use std::sync::{Arc, Mutex};

use apiserver::{DialError, Dialer, NodeEndpoint, Place, Upgrade, User};
use client::{Client, ListOptions, PatchKind, Target, WatchEvent, WatchOptions};
use futures_util::StreamExt;
use http::{Request, Response};
use serde_json::{Value as Json, json};
use stdx::BoxFuture;
use store::disk::Sim;
use wire::Body;
use world::World;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn maps() -> Target {
    Target::new("", "v1", "configmaps").namespace("default")
}

#[tokio::test]
async fn components_share_the_servers_own_objects() {
    let world = World::new().await;
    let client = Client::new(world.server.in_process(User::master("system:test")), "test");
    let listed = client.list(maps(), ListOptions::default()).await.expect("a list");
    assert!(listed.items.is_empty() && listed.revision > 0);
    let options = WatchOptions { resource_version: Some(listed.revision.to_string()), ..WatchOptions::default() };
    let mut watch = client.watch(maps(), options).await.expect("a watch");
    let made = client.create(maps(), &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.expect("an object");
    let Some(Ok(WatchEvent::Added(told))) = watch.next().await else { panic!("an addition") };
    assert_eq!((told.name(), told.revision(), told.uid()), ("a", made.revision(), made.uid()));
    let got = client.get(maps().name("a")).await.expect("an object");
    assert!(Arc::ptr_eq(&got, &told), "the watch and the read give the same object");
    let patch = serde_json::from_str(r#"{"data":{"k":"w"}}"#).expect("a patch");
    let patched = client.patch(maps().name("a"), PatchKind::Merge, &patch).await.expect("an object");
    assert!(patched.revision() > made.revision());
    client.delete(maps().name("a"), client::DeleteOptions::of_uid(made.uid())).await.expect("a deletion");
    let Some(Ok(WatchEvent::Modified(_))) = watch.next().await else { panic!("a change") };
    let Some(Ok(WatchEvent::Deleted(gone))) = watch.next().await else { panic!("a deletion") };
    assert!(gone.revision() > patched.revision());
    assert!(client.get(maps().name("a")).await.expect_err("gone").is_not_found());
}

#[tokio::test]
async fn components_obey_authorization() {
    let world = World::new().await;
    let client = Client::new(world.server.in_process(User::node("n")), "test");
    let secrets = Target::new("", "v1", "secrets").namespace("default");
    assert!(client.list(secrets.clone(), ListOptions::default()).await.expect_err("forbidden").is_forbidden());
    assert!(client.watch(secrets, WatchOptions::default()).await.err().expect("forbidden").is_forbidden());
}

/// A node that notes what it is asked and answers what it is told.
struct Node {
    asked: Mutex<Vec<String>>,
    answer: Mutex<(u16, &'static str)>,
}

impl Node {
    fn hear(&self, place: String, request: &Request<Body>) -> Response<Body> {
        let secret = request.headers().contains_key("authorization");
        self.asked.lock().expect("a lock").push(format!(
            "{place} {} {}{}",
            request.method(),
            request.uri(),
            if secret { "!" } else { "" }
        ));
        let (code, text) = *self.answer.lock().expect("a lock");
        Response::builder().status(code).body(Body::from(text)).expect("a response")
    }
}

impl Dialer for Node {
    fn node<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        Box::pin(async move { Ok(self.hear(format!("{} {}:{}", node.name, node.address, node.port), &request)) })
    }

    fn node_upgrade<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move { Ok((self.node(node, request).await?, None)) })
    }

    fn direct<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        let scheme = if place.secure { "https" } else { "http" };
        Box::pin(async move { Ok(self.hear(format!("{scheme} {}", place.authority()), &request)) })
    }

    fn direct_upgrade<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move { Ok((self.direct(place, request).await?, None)) })
    }
}

/// A node `n` whose agent listens at an address.
async fn register(world: &World, name: &str, address: &str) {
    world.create("/api/v1/nodes", json!({"metadata": {"name": name}})).await.ok();
    let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }});
    world.ask("PUT", &format!("/api/v1/nodes/{name}/status"), status).await.ok();
}

#[tokio::test]
async fn logs_and_streams_go_on_to_the_pods_node() {
    let node = Arc::new(Node { asked: Mutex::default(), answer: Mutex::new((200, "one\ntwo\n")) });
    let world = World::with(Sim::new(1), node.clone()).await;
    let asked = || node.asked.lock().expect("a lock").drain(..).collect::<Vec<_>>();
    register(&world, "n", "10.0.0.7").await;
    world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await.ok();
    let pod = |name: &str, containers: Json| json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": containers}});
    world.create(PODS, pod("one", json!([{"name": "c", "image": "i"}]))).await.ok();
    world.create(PODS, pod("two", json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]))).await.ok();
    let log = world.get(&format!("{PODS}/one/log?tailLines=5&timestamps=true&pretty=x")).await.ok();
    assert_eq!((log.text().as_str(), log.header("content-type")), ("one\ntwo\n", "text/plain"));
    assert_eq!(asked(), ["n 10.0.0.7:10250 GET /containerLogs/default/one/c?timestamps=true&tailLines=5"]);
    for (target, expected) in [
        ("two/log", "400 BadRequest a container name must be specified for pod two, choose one of: [c d]"),
        ("two/log?container=x", "400 BadRequest container x is not valid for pod two"),
        ("none/log", "404 NotFound pods \"none\" not found"),
        ("one/exec?command=ls&stdout=1", "400 BadRequest Upgrade request required"),
        ("one/exec?command=ls", "400 BadRequest you must specify at least 1 of stdin, stdout, stderr"),
        ("one/exec?stdout=1", "400 BadRequest you must specify at least 1 command for the container"),
        ("one/proxy/", "400 BadRequest address not allowed"),
    ] {
        assert_eq!(world.get(&format!("{PODS}/{target}")).await.failure(), expected, "{target}");
    }
    assert_eq!(asked(), Vec::<String>::new());
    *node.answer.lock().expect("a lock") =
        (400, "container \"c\" in pod \"one\" is waiting to start: ContainerCreating");
    assert_eq!(
        world.get(&format!("{PODS}/one/log")).await.failure(),
        "400 BadRequest container \"c\" in pod \"one\" is waiting to start: ContainerCreating"
    );
    asked();
    *node.answer.lock().expect("a lock") = (500, "no such container");
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket"), ("authorization", "Bearer x")];
    let exec = format!(
        "{PODS}/two/exec?command=sh&command=-c&command=a%20b&container=d&stdin=true&stdout=true&stderr=true&tty=true"
    );
    // What the agent says instead of a stream comes as it is.
    let refused = world.send("GET", &exec, &upgrade, Vec::new()).await;
    assert_eq!((refused.code, refused.text().as_str()), (500, "no such container"));
    *node.answer.lock().expect("a lock") = (404, "pod does not exist");
    let refused = world.send("POST", &format!("{PODS}/one/portforward?ports=80"), &upgrade, Vec::new()).await;
    assert_eq!((refused.code, refused.text().as_str()), (404, "pod does not exist"));
    assert_eq!(
        asked(),
        [
            "n 10.0.0.7:10250 GET /exec/default/two/d?input=1&output=1&tty=1&command=sh&command=-c&command=a%20b",
            "n 10.0.0.7:10250 POST /portForward/default/one?port=80",
        ],
        "credentials stay here"
    );
}

#[tokio::test]
async fn proxied_requests_go_where_the_cluster_says_and_nowhere_else() {
    let node = Arc::new(Node { asked: Mutex::default(), answer: Mutex::new((200, "hello")) });
    let world = World::with(Sim::new(1), node.clone()).await;
    let asked = || node.asked.lock().expect("a lock").drain(..).collect::<Vec<_>>();
    register(&world, "n", "10.0.0.7").await;
    register(&world, "self", "127.0.0.1").await;
    world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await.ok();
    for (name, address) in [("web", "10.1.0.2"), ("bad", "169.254.169.254")] {
        let containers = json!([{"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}]);
        world
            .create(PODS, json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": containers}}))
            .await
            .ok();
        let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
        let merge = [("content-type", "application/merge-patch+json")];
        world.send("PATCH", &format!("{PODS}/{name}/status"), &merge, status.to_string().into_bytes()).await.ok();
    }
    let spec = json!({"ports": [{"name": "http", "port": 80}]});
    world.create("/api/v1/namespaces/default/services", json!({"metadata": {"name": "web"}, "spec": spec})).await.ok();
    let endpoint = |pod: &str, address: &str| json!({"addresses": [address], "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}});
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        // One of these is a pod's; one is another pod's, one nobody's.
        "endpoints": [endpoint("web", "10.1.0.2"), endpoint("web", "10.1.0.9"), endpoint("absent", "10.1.0.2"), {"addresses": ["10.9.9.9"]}],
    });
    world.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.ok();
    for (target, expected) in [
        ("/api/v1/nodes/n/proxy/stats/summary?x=%20y", "n 10.0.0.7:10250 GET /stats/summary?x=%20y"),
        ("/api/v1/nodes/n:10250/proxy/pods", "n 10.0.0.7:10250 GET /pods"),
        ("/api/v1/nodes/https:n:443/proxy/", "https 10.0.0.7:443 GET /"),
        ("/api/v1/namespaces/default/pods/web/proxy/a%2Fb/", "http 10.1.0.2:8080 GET /a%2Fb/"),
        ("/api/v1/namespaces/default/pods/https:web:9/proxy/", "https 10.1.0.2:9 GET /"),
        ("/api/v1/namespaces/default/services/web:80/proxy/x", "http 10.1.0.2:8080 GET /x"),
        ("/api/v1/namespaces/default/services/https:web:http/proxy/x", "https 10.1.0.2:8080 GET /x"),
    ] {
        let sent = world.send("GET", target, &[("authorization", "Bearer x")], Vec::new()).await.ok();
        assert_eq!((sent.text().as_str(), asked()), ("hello", vec![expected.to_owned()]), "{target}");
    }
    let moved = world.get("/api/v1/namespaces/default/pods/web/proxy?a=b").await;
    assert_eq!((moved.code, moved.header("location")), (301, "/api/v1/namespaces/default/pods/web/proxy/?a=b"));
    for (target, expected) in [
        ("/api/v1/nodes/self/proxy/pods", "400 BadRequest address not allowed"),
        ("/api/v1/nodes/self:6443/proxy/", "400 BadRequest address not allowed"),
        ("/api/v1/nodes/absent/proxy/", "404 NotFound nodes \"absent\" not found"),
        ("/api/v1/nodes/ftp:n:21/proxy/", "400 BadRequest invalid node request \"ftp:n:21\""),
        ("/api/v1/namespaces/default/pods/bad/proxy/", "400 BadRequest address not allowed"),
        (
            "/api/v1/namespaces/default/services/web/proxy/",
            "503 ServiceUnavailable no endpoints available for service \"web\"",
        ),
        (
            "/api/v1/namespaces/default/services/web:81/proxy/",
            "503 ServiceUnavailable no service port 81 found for service \"web\"",
        ),
    ] {
        assert_eq!(world.get(target).await.failure(), expected, "{target}");
    }
    assert_eq!(asked(), Vec::<String>::new());
}
