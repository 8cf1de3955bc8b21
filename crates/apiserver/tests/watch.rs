//! What watches are told.

mod world;

use std::time::Duration;

use serde_json::{Value as Json, json};
use world::World;
use world::clock::Clock;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config_map(name: &str, label: &str) -> Json {
    json!({"metadata": {"name": name, "labels": {"l": label}}})
}

fn pod(name: &str) -> Json {
    json!({"metadata": {"name": name}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}})
}

async fn with_account(world: &World) {
    world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await.ok();
}

fn revision(object: &Json) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}

#[tokio::test]
async fn a_watch_from_a_list_tells_all_that_follows() {
    let world = World::new().await;
    world.create(MAPS, config_map("a", "x")).await.ok();
    let listed = revision(&world.get(MAPS).await.ok().json());
    world.create(MAPS, config_map("b", "x")).await.ok();
    let mut watch = world.watch(&format!("{MAPS}?watch=true&resourceVersion={listed}"), &[]).await;
    assert_eq!(watch.told().await, "ADDED b");
    world.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"k": "v"}})).await.ok();
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("MODIFIED"), &json!("ConfigMap")));
    let deleted = world.ask("DELETE", &format!("{MAPS}/a"), Json::Null).await.ok();
    drop(deleted);
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["data"]["k"]), (&json!("DELETED"), &json!("v")));
    assert!(revision(&event["object"]) > listed, "a deletion has a revision of its own");
    world.create("/api/v1/namespaces/kube-system/configmaps", config_map("elsewhere", "x")).await.ok();
    world.create(MAPS, config_map("c", "x")).await.ok();
    assert_eq!(watch.told().await, "ADDED c", "other namespaces are not told");
}

#[tokio::test]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let world = World::new().await;
    world.create(MAPS, config_map("a", "no")).await.ok();
    let mut watch = world.watch(&format!("{MAPS}?watch=1&resourceVersion=0&labelSelector=l%3Dyes"), &[]).await;
    let set = |label: &str| json!({"metadata": {"labels": {"l": label}}});
    for (label, expected) in [("yes", "ADDED a"), ("no", "DELETED a"), ("yes", "ADDED a")] {
        world.patch(&format!("{MAPS}/a"), "merge", set(label)).await.ok();
        assert_eq!(watch.told().await, expected);
    }
    world.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"k": "v"}})).await.ok();
    assert_eq!(watch.told().await, "MODIFIED a");
}

#[tokio::test]
async fn a_watch_of_a_declared_field_is_told_what_enters_and_leaves() {
    let world = World::new().await;
    with_account(&world).await;
    world.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.ok();
    world.create(PODS, pod("p")).await.ok();
    world.create(PODS, pod("q")).await.ok();
    let mut watch = world.watch("/api/v1/pods?watch=1&resourceVersion=0&fieldSelector=spec.nodeName%3Dn", &[]).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    world.create(&format!("{PODS}/p/binding"), binding.clone()).await.ok();
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["spec"]["nodeName"]), (&json!("ADDED"), &json!("n")));
    assert_eq!(event["object"]["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(
        world.create(&format!("{PODS}/p/binding"), binding).await.failure(),
        "409 Conflict Operation cannot be fulfilled on pods \"p\": pod p is already assigned to node \"n\""
    );
    world.patch(&format!("{PODS}/p/status"), "merge", json!({"status": {"phase": "Running"}})).await.ok();
    assert_eq!(watch.told().await, "MODIFIED p");
    let marked = world.ask("DELETE", &format!("{PODS}/p"), json!({"gracePeriodSeconds": 20})).await.ok().json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
    assert_eq!(watch.told().await, "MODIFIED p");
    let gone = world.ask("DELETE", &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.ok().json();
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(watch.told().await, "DELETED p");
    // A pod without a node has nobody to wait for.
    world.ask("DELETE", &format!("{PODS}/q"), Json::Null).await.ok();
    assert_eq!(world.get(&format!("{PODS}/q")).await.code, 404);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let world = World::new().await;
    world.create(MAPS, config_map("a", "x")).await.ok();
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=600";
    let mut watch = world.watch(&format!("{MAPS}?{query}"), &[]).await;
    assert_eq!(watch.told().await, "ADDED a");
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!((&bookmark["object"]["kind"], &bookmark["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    world.create(MAPS, config_map("b", "x")).await.ok();
    assert_eq!(watch.told().await, "ADDED b");
    let refused = world.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn bookmarks_come_by_the_minute_and_the_watch_ends_in_time() {
    let clock = Clock::new();
    let told = clock.run(async {
        let world = World::new().await;
        let target = format!("{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion=0&timeoutSeconds=90");
        let mut watch = world.watch(&target, &[]).await;
        let current = revision(&world.get(MAPS).await.ok().json());
        for seconds in [60, 30] {
            clock.advance(Duration::from_secs(seconds));
            let bookmark = watch.next().await.expect("a bookmark");
            assert_eq!((&bookmark["type"], revision(&bookmark["object"])), (&json!("BOOKMARK"), current.clone()));
        }
        watch.next().await
    });
    assert_eq!(told.await, None);
}

#[tokio::test]
async fn a_watch_from_before_the_window_is_told_to_start_over() {
    let disk = store::disk::Sim::new(5);
    let world = World::on(disk.clone()).await;
    world.create(MAPS, config_map("a", "x")).await.ok();
    world.close().await;
    let world = World::on(disk.process_restart()).await;
    let mut watch = world.watch(&format!("{MAPS}?watch=true&resourceVersion=1"), &[]).await;
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["reason"], &event["object"]["code"]),
        (&json!("ERROR"), &json!("Expired"), &json!(410))
    );
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_tell_their_columns_once() {
    let world = World::new().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let mut watch = world.watch(&format!("{MAPS}?watch=true"), &table).await;
    world.create(MAPS, config_map("a", "x")).await.ok();
    let first = watch.next().await.expect("an event");
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    world.create(MAPS, config_map("b", "x")).await.ok();
    let second = watch.next().await.expect("an event");
    assert_eq!(second["object"]["columnDefinitions"], Json::Null);
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
}

#[tokio::test]
async fn a_thousand_watches_are_told_the_same() {
    let world = World::new().await;
    let mut watches = Vec::new();
    for _ in 0..1000 {
        watches.push(world.watch(&format!("{MAPS}?watch=true"), &[]).await);
    }
    for at in 0..20 {
        world.create(MAPS, config_map(&format!("m{at}"), "x")).await.ok();
    }
    for watch in &mut watches {
        for at in 0..20 {
            assert_eq!(watch.told().await, format!("ADDED m{at}"));
        }
    }
}
