//! `metrics.k8s.io`: what nodes and pods use, as clients see it.

mod world;

use std::sync::Arc;
use std::time::Duration;

use apiserver::{DialError, Dialer, NoNodes, NodeEndpoint, Place, Upgrade};
use http::{Request, Response};
use serde_json::{Value as Json, json};
use stdx::BoxFuture;
use store::disk::Sim;
use wire::Body;
use world::World;
use world::clock::Clock;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// Agents on which container `busy` of pod `a` uses half a core since second 10, and `idle` nothing; that of node `mute` does not answer.
struct Agents;

impl Dialer for Agents {
    fn node<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        assert_eq!(request.uri().path(), "/metrics/resource");
        Box::pin(async move {
            if node.name == "mute" {
                return Err(DialError { reason: "connection refused".into() });
            }
            let at = stdx::wall().as_millisecond();
            let start = at / 1_000_000 * 1_000 + 10;
            let seconds = (at as f64) / 1000.0 - start as f64;
            let mut text = format!(
                "node_cpu_usage_seconds_total {:.3} {at}\nnode_memory_working_set_bytes 1048576 {at}\n",
                seconds * 1.5
            );
            for (container, cpu) in [("busy", seconds / 2.0), ("idle", 0.0)] {
                let labels = format!("{{container=\"{container}\",namespace=\"default\",pod=\"a\"}}");
                text.push_str(&format!(
                    "container_cpu_usage_seconds_total{labels} {cpu:.3} {at}\ncontainer_memory_working_set_bytes{labels} 2048 {at}\ncontainer_start_time_seconds{labels} {start}\n"
                ));
            }
            Ok(Response::new(Body::from(text.into_bytes())))
        })
    }

    fn node_upgrade<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        NoNodes.node_upgrade(node, request)
    }

    fn direct<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        NoNodes.direct(place, request)
    }

    fn direct_upgrade<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        NoNodes.direct_upgrade(place, request)
    }
}

/// Two nodes, and pods `a` and `b` on the one that answers, of which the agent knows `a`, and `far` on the other.
async fn world() -> World {
    let world = World::with(Sim::new(1), Arc::new(Agents)).await;
    world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    for node in ["told", "mute"] {
        let labels = json!({"kind": node});
        world.create("/api/v1/nodes", json!({"metadata": {"name": node, "labels": labels}})).await.ok();
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        });
        world.patch(&format!("/api/v1/nodes/{node}/status"), "merge", json!({"status": status})).await.ok();
    }
    for (pod, node) in [("a", "told"), ("b", "told"), ("far", "mute")] {
        let spec = json!({"nodeName": node, "containers": [{"name": "busy", "image": "i"}]});
        let pods = "/api/v1/namespaces/default/pods";
        world.create(pods, json!({"metadata": {"name": pod, "labels": {"app": pod}}, "spec": spec})).await.ok();
        let status = json!({"status": {"phase": "Running"}});
        world.patch(&format!("{pods}/{pod}/status"), "merge", status).await.ok();
    }
    world
}

/// Answers while the clock goes on.
async fn get(world: &World, clock: &Clock, target: &str, accept: &str) -> world::Answer {
    let headers = [("accept", accept)];
    let mut answer = std::pin::pin!(world.send("GET", target, &headers, Vec::new()));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = tokio::task::yield_now() => clock.advance(Duration::from_millis(10)),
        }
    }
}

fn run(test: impl AsyncFnOnce(&World, &Clock)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let clock = Clock::new();
    runtime.block_on(clock.clone().run(async {
        let world = world().await;
        clock.advance(Duration::from_secs(60));
        test(&world, &clock).await;
    }));
}

fn shown(items: &Json) -> Vec<String> {
    let item = |item: &Json| {
        let containers = item["containers"].as_array().cloned().unwrap_or_else(|| vec![item.clone()]);
        let amounts: Vec<String> = containers
            .iter()
            .map(|of| {
                format!(
                    "{}={}/{}",
                    of["name"].as_str().unwrap_or("node"),
                    of["usage"]["cpu"].as_str().expect("cpu"),
                    of["usage"]["memory"].as_str().expect("memory")
                )
            })
            .collect();
        format!("{} {}", item["metadata"]["name"].as_str().expect("a name"), amounts.join(" "))
    };
    items.as_array().expect("a list").iter().map(item).collect()
}

#[test]
fn use_is_a_rate_between_two_questions() {
    run(async |world, clock| {
        let before = stdx::mono();
        let list = get(world, clock, &format!("{METRICS}/pods"), "application/json").await.ok().json();
        let took = stdx::mono() - before;
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(2), "{took:?}");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodMetricsList"), &json!("metrics.k8s.io/v1beta1")));
        assert_eq!(list["metadata"], json!({}));
        assert_eq!(shown(&list["items"]), ["a busy=500m/2Ki idle=0/2Ki"]);
        let pod = &list["items"][0];
        assert_eq!(pod["metadata"]["labels"], json!({"app": "a"}));
        let window = pod["window"].as_str().expect("a window");
        assert!(window.starts_with("1.") || window == "1s", "{window}");
        // At hand now, for a moment.
        let before = stdx::mono();
        let nodes = world.get(&format!("{METRICS}/nodes")).await.ok().json();
        assert_eq!(stdx::mono(), before);
        assert_eq!(shown(&nodes["items"]), ["told node=1500m/1Mi"]);
    });
}

#[test]
fn selectors_names_and_refusals_are_those_of_the_metrics_server() {
    run(async |world, clock| {
        let names = async |target: &str| {
            let list = get(world, clock, &format!("{METRICS}/{target}"), "application/json").await.ok().json();
            shown(&list["items"]).len()
        };
        assert_eq!(names("namespaces/default/pods?labelSelector=app%3Da").await, 1);
        assert_eq!(names("namespaces/default/pods?labelSelector=app%3Db").await, 0);
        assert_eq!(names("namespaces/kube-system/pods").await, 0);
        assert_eq!(names("pods?fieldSelector=metadata.name%3Da,metadata.namespace%3Ddefault").await, 1);
        assert_eq!(names("nodes?labelSelector=kind%3Dmute").await, 0);
        let get = async |target: &str| get(world, clock, &format!("{METRICS}/{target}"), "application/json").await;
        assert_eq!(get("namespaces/default/pods/a").await.ok().json()["metadata"]["name"], "a");
        assert_eq!(get("nodes/told").await.ok().json()["usage"]["memory"], "1Mi");
        let failures = [
            ("namespaces/default/pods/b", "404 NotFound pods.metrics.k8s.io \"default/b\" not found"),
            ("namespaces/default/pods/c", "404 NotFound pods \"c\" not found"),
            ("nodes/mute", "404 NotFound nodes.metrics.k8s.io \"mute\" not found"),
            ("nodes/none", "404 NotFound node \"none\" not found"),
            (
                "pods?fieldSelector=spec.nodeName%3Da",
                "400 BadRequest \"spec.nodeName\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
            ("pods?watch=true", "405 MethodNotAllowed the server does not allow this method on the requested resource"),
        ];
        for (target, expected) in failures {
            assert_eq!(get(target).await.failure(), expected, "{target}");
        }
        let refused = world.ask_as("jane", "GET", &format!("{METRICS}/nodes"), Json::Null).await;
        let forbidden = "403 Forbidden nodes.metrics.k8s.io is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"metrics.k8s.io\" at the cluster scope";
        assert_eq!(refused.failure(), forbidden);
    });
}

#[test]
fn forms_are_those_of_every_kind() {
    run(async |world, clock| {
        let target = format!("{METRICS}/namespaces/default/pods");
        let kubectl_top = "application/vnd.kubernetes.protobuf, */*";
        let protobuf = get(world, clock, &target, kubectl_top).await.ok();
        assert_eq!(protobuf.header("content-type"), "application/vnd.kubernetes.protobuf");
        assert!(protobuf.body.starts_with(b"k8s\0"));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = get(world, clock, &target, table).await.ok().json();
        let columns: Vec<_> =
            table["columnDefinitions"].as_array().expect("columns").iter().map(|column| &column["name"]).collect();
        assert_eq!(columns, ["Name", "cpu", "memory", "Window"]);
        assert_eq!(
            table["rows"][0]["cells"].as_array().expect("cells")[..3],
            [json!("a"), json!("500m"), json!("4Ki")]
        );
        let yaml = get(world, clock, &target, "application/yaml").await.ok().text();
        assert!(yaml.contains("kind: PodMetricsList"), "{yaml}");
        let discovery = world.get(METRICS).await.ok().json();
        let expected = json!({"kind": "PodMetrics", "name": "pods", "namespaced": true, "singularName": "", "verbs": ["get", "list"]});
        assert_eq!(discovery["resources"][1], expected);
        let groups = world.get("/apis").await.ok().json();
        let group = groups["groups"].as_array().and_then(|groups| groups.last()).expect("groups");
        assert_eq!(group["name"], "metrics.k8s.io");
        let openapi = world.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.ok().json();
        assert!(
            openapi["paths"].get("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods").is_some(),
            "{openapi}"
        );
    });
}
