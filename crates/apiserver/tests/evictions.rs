//! Evictions, and who approves certificates: requests and answers as clients see them.

mod world;

use serde_json::{Value as Json, json};
use world::{Answer, World};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod `a` that runs, ready or not, under a budget whose status says this.
async fn world(ready: &str, budget: Json) -> World {
    let world = World::new().await;
    world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
    let pod = json!({"metadata": {"name": "a", "labels": {"app": "a"}}, "spec": spec});
    world.create(PODS, pod).await.ok();
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    world.patch(&format!("{PODS}/a/status"), "merge", status).await.ok();
    if budget.is_object() {
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}});
        world.create(BUDGETS, json!({"metadata": {"name": "b"}, "spec": spec})).await.ok();
        world.patch(&format!("{BUDGETS}/b/status"), "merge", json!({"status": budget})).await.ok();
    }
    world
}

async fn evict(world: &World, query: &str, options: Json) -> Answer {
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}, "deleteOptions": options});
    world.create(&format!("{PODS}/a/eviction{query}"), eviction).await
}

fn status(allowed: i32, current: i32, desired: i32) -> Json {
    json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": current, "desiredHealthy": desired, "expectedPods": 2})
}

#[tokio::test]
async fn a_budget_that_allows_nothing_refuses_and_says_why() {
    let world = world("True", status(0, 1, 1)).await;
    let refused = evict(&world, "", Json::Null).await;
    assert_eq!(
        refused.failure(),
        "429 TooManyRequests Cannot evict pod as it would violate the pod's disruption budget."
    );
    let cause = json!({"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods and has 1 currently"});
    assert_eq!(refused.json()["details"], json!({"causes": [cause]}));
    world.get(&format!("{PODS}/a")).await.ok();
}

#[tokio::test]
async fn a_budget_that_was_not_worked_out_yet_asks_to_come_again() {
    let world = world("True", json!({"observedGeneration": 0, "disruptionsAllowed": 1})).await;
    let refused = evict(&world, "", Json::Null).await;
    assert_eq!((refused.code, refused.header("retry-after")), (429, "10"));
    let why = &refused.json()["details"]["causes"][0]["message"];
    assert_eq!(why, "The disruption budget b is still being processed by the server.");
}

#[tokio::test]
async fn an_eviction_takes_one_disruption_and_tells_the_pod() {
    let world = world("True", status(1, 2, 1)).await;
    evict(&world, "?dryRun=All", Json::Null).await.ok();
    let budget = world.get(&format!("{BUDGETS}/b")).await.ok().json();
    assert_eq!(budget["status"]["disruptionsAllowed"], 1, "a dry run spends nothing");
    let evicted = evict(&world, "", Json::Null).await.ok();
    assert_eq!((evicted.code, &evicted.json()["status"]), (201, &json!("Success")));
    let budget = world.get(&format!("{BUDGETS}/b")).await.ok().json();
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["a"].is_string(), "{budget}");
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    let pod = world.get(&format!("{PODS}/a")).await.ok().json();
    assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").expect("a condition");
    assert_eq!(
        (&target["reason"], &target["message"]),
        (&json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting"))
    );
}

#[tokio::test]
async fn an_unready_pod_goes_uncounted_where_others_suffice() {
    let gone = |world: World, allowed: bool| async move {
        assert_eq!(evict(&world, "", Json::Null).await.code, if allowed { 201 } else { 429 });
        let left = world.get(&format!("{BUDGETS}/b")).await.ok().json()["status"]["disruptedPods"].clone();
        assert_eq!(left, Json::Null);
    };
    gone(world("False", status(0, 1, 1)).await, true).await;
    gone(world("False", status(0, 0, 1)).await, false).await;
    let always = world("False", status(0, 0, 1)).await;
    let spec = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    always.patch(&format!("{BUDGETS}/b"), "merge", spec).await.ok();
    gone(always, true).await;
}

#[tokio::test]
async fn preconditions_hold_for_evictions() {
    let world = world("True", Json::Null).await;
    let other = evict(&world, "", json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(other.code, 409);
    let old = evict(&world, "", json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert!(old.failure().contains("The object might have been modified"), "{}", old.failure());
    let pod = world.get(&format!("{PODS}/a")).await.ok().json();
    assert_eq!(pod["metadata"]["deletionTimestamp"], Json::Null);
    let revision = pod["metadata"]["resourceVersion"].clone();
    evict(&world, "", json!({"preconditions": {"resourceVersion": revision}})).await.ok();
}

#[tokio::test]
async fn two_budgets_over_a_pod_are_one_too_many() {
    let world = world("True", status(1, 2, 1)).await;
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}});
    world.create(BUDGETS, json!({"metadata": {"name": "c"}, "spec": spec})).await.ok();
    let refused = evict(&world, "", Json::Null).await;
    let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert!(refused.code == 500 && refused.failure().ends_with(why), "{}", refused.failure());
}

#[tokio::test]
async fn one_priority_class_is_the_default() {
    let world = World::new().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 7, "globalDefault": true});
    world.create(classes, class("a")).await.ok();
    let refused = world.create(classes, class("b")).await;
    let why = "PriorityClass a is already marked as default. Only one default can exist";
    assert!(refused.code == 403 && refused.failure().ends_with(why), "{}", refused.failure());
    world.patch(&format!("{classes}/a"), "merge", json!({"description": "still the default"})).await.ok();
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_masters_are_not_signed() {
    let world = World::new().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = |text: &str| json!({"metadata": {"name": "r"}, "spec": {"request": text, "signerName": "example.com/x", "usages": ["client auth"]}});
    let refused = world.create(requests, request("eA==")).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused.failure().contains("spec.request")
            && refused.failure().contains("PEM block type must be CERTIFICATE REQUEST"),
        "{}",
        refused.failure()
    );
}
