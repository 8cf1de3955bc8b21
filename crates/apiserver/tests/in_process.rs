//! Components in the server's own process, and streams that go on to nodes.

mod world;

use std::sync::{Arc, Mutex};

use apiserver::{DialError, Dialer, Upgrade, User};
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

impl Dialer for Node {
    fn node<'a>(&'a self, node: &'a str, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        let secret = request.headers().contains_key("authorization");
        self.asked.lock().expect("a lock").push(format!(
            "{node} {} {}{}",
            request.method(),
            request.uri(),
            if secret { "!" } else { "" }
        ));
        let (code, text) = *self.answer.lock().expect("a lock");
        Box::pin(async move { Ok(Response::builder().status(code).body(Body::from(text)).expect("a response")) })
    }

    fn node_upgrade<'a>(&'a self, node: &'a str, request: Request<Body>) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move { Ok((self.node(node, request).await?, None)) })
    }
}

#[tokio::test]
async fn logs_and_streams_go_on_to_the_pods_node() {
    let node = Arc::new(Node { asked: Mutex::default(), answer: Mutex::new((200, "one\ntwo\n")) });
    let world = World::with(Sim::new(1), node.clone()).await;
    let asked = || node.asked.lock().expect("a lock").drain(..).collect::<Vec<_>>();
    world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await.ok();
    let pod = |name: &str, containers: Json| json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": containers}});
    world.create(PODS, pod("one", json!([{"name": "c", "image": "i"}]))).await.ok();
    world.create(PODS, pod("two", json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]))).await.ok();
    let log = world.get(&format!("{PODS}/one/log?tailLines=5&timestamps=true&pretty=x")).await.ok();
    assert_eq!((log.text().as_str(), log.header("content-type")), ("one\ntwo\n", "text/plain"));
    assert_eq!(asked(), ["n GET /containerLogs/default/one/c?timestamps=true&tailLines=5"]);
    for (target, expected) in [
        ("two/log", "400 BadRequest a container name must be specified for pod two, choose one of: [c d]"),
        ("two/log?container=x", "400 BadRequest container x is not valid for pod two"),
        ("none/log", "404 NotFound pods \"none\" not found"),
        ("one/exec?command=ls&stdout=1", "400 BadRequest Upgrade request required"),
        ("one/exec?command=ls", "400 BadRequest you must specify at least 1 of stdin, stdout, stderr"),
        ("one/exec?stdout=1", "400 BadRequest you must specify at least 1 command for the container"),
        ("one/proxy", "404 NotFound the server could not find the requested resource"),
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
    assert_eq!(
        world.send("GET", &exec, &upgrade, Vec::new()).await.failure(),
        "500 InternalError Internal error occurred: no such container"
    );
    *node.answer.lock().expect("a lock") = (501, "not supported yet: portforward");
    let refused = world.send("POST", &format!("{PODS}/one/portforward?ports=80"), &upgrade, Vec::new()).await;
    assert_eq!(refused.failure(), "501  not supported yet: portforward");
    assert_eq!(
        asked(),
        [
            "n GET /exec/default/two/d?input=1&output=1&tty=1&command=sh&command=-c&command=a%20b",
            "n POST /portForward/default/one?port=80",
        ],
        "credentials stay here"
    );
}
