//! What somebody tries who means ill, or does not know better.

mod world;

use std::time::Duration;

use http::Method;
use serde_json::{Value as Json, json};
use world::clock::Clock;
use world::{Answer, World};

const DEFAULT: &str = "/api/v1/namespaces/default";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Lets a user do something in the namespace `default`.
async fn allow(world: &World, user: &str, rule: Json) {
    let role = json!({"metadata": {"name": user}, "rules": [rule]});
    world.create(&format!("{RBAC}/namespaces/default/roles"), role).await.ok();
    let binding = json!({"metadata": {"name": user}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    world.create(&format!("{RBAC}/namespaces/default/rolebindings"), binding).await.ok();
}

async fn secret(world: &World, name: &str) {
    let body = json!({"metadata": {"name": name}, "stringData": {"k": format!("treasure-{name}")}});
    world.create(&format!("{DEFAULT}/secrets"), body).await.ok();
}

async fn account(world: &World) {
    world.create(&format!("{DEFAULT}/serviceaccounts"), json!({"metadata": {"name": "default"}})).await.ok();
}

/// A request as the agent of node `n`.
async fn agent(world: &World, method: &str, target: &str, body: Json) -> Answer {
    let headers = [
        ("content-type", if method == "PATCH" { "application/merge-patch+json" } else { "application/json" }),
        ("impersonate-user", "system:node:n"),
        ("impersonate-group", "system:nodes"),
    ];
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    world.send(method, target, &headers, body).await
}

#[tokio::test]
async fn a_name_in_a_selector_is_judged_by_the_parser_that_selects() {
    let world = World::new().await;
    secret(&world, "mine").await;
    secret(&world, "other").await;
    let rule =
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"], "resourceNames": ["mine"]});
    allow(&world, "eve", rule).await;
    let list = |selector: &str| format!("{DEFAULT}/secrets?fieldSelector={selector}");
    let own = world.ask_as("eve", "GET", &list("metadata.name%3Dmine"), Json::Null).await.ok();
    assert_eq!(own.json()["items"].as_array().expect("items").len(), 1);
    // One term with a comma in its value; split at every comma it would look like two, the second pinning the name.
    for selector in [
        "metadata.namespace!%3Dx%5C%2Cmetadata.name%3Dmine",
        "type!%3Dx%5C%2Cmetadata.name%3D%3Dmine",
        "metadata.name%3Dother",
        "metadata.name!%3Dmine",
        "",
    ] {
        let answer = world.ask_as("eve", "GET", &list(selector), Json::Null).await;
        assert_eq!(answer.code, 403, "{selector}: {}", answer.text());
    }
    let target = "/api/v1/pods?fieldSelector=metadata.namespace!%3Dx%5C%2Cspec.nodeName%3Dn";
    assert_eq!(agent(&world, "GET", target, Json::Null).await.code, 403);
}

#[tokio::test]
async fn a_watch_of_one_name_shows_no_other() {
    let world = World::new().await;
    secret(&world, "mine").await;
    secret(&world, "other").await;
    let rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["watch"], "resourceNames": ["mine"]});
    allow(&world, "eve", rule).await;
    let target = "/api/v1/watch/namespaces/default/secrets/mine?fieldSelector=metadata.name%3Dother&timeoutSeconds=1";
    assert_eq!(
        world.ask_as("eve", "GET", target, Json::Null).await.failure(),
        "400 BadRequest fieldSelector metadata.name doesn't match requested name"
    );
    let mut watch = world.watch("/api/v1/watch/namespaces/default/secrets/mine", &[("impersonate-user", "eve")]).await;
    assert_eq!(watch.told().await, "ADDED mine");
}

#[tokio::test]
async fn a_namespace_is_not_reached_through_another_one() {
    let world = World::new().await;
    world.create("/api/v1/namespaces", json!({"metadata": {"name": "victim"}})).await.ok();
    allow(&world, "eve", json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})).await;
    for (method, target) in [
        ("GET", format!("{DEFAULT}/namespaces/victim")),
        ("DELETE", format!("{DEFAULT}/namespaces/victim")),
        ("GET", format!("{DEFAULT}/namespaces")),
        ("GET", format!("{DEFAULT}/nodes")),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles/cluster-admin".to_owned()),
    ] {
        let answer = world.ask_as("eve", method, &target, Json::Null).await;
        assert_eq!(answer.code, 404, "{method} {target}: {}", answer.text());
    }
    let made = world.ask_as("eve", "POST", &format!("{DEFAULT}/namespaces"), json!({"metadata": {"name": "x"}})).await;
    assert_eq!(made.code, 404, "{}", made.text());
    assert_eq!(world.get("/api/v1/namespaces/victim").await.ok().json()["status"]["phase"], "Active");
}

#[tokio::test]
async fn what_lies_in_namespaces_is_only_read_across_them() {
    let world = World::new().await;
    let map = json!({"metadata": {"name": "a"}});
    world.create(&format!("{DEFAULT}/configmaps"), map.clone()).await.ok();
    for (method, target, code) in [
        ("DELETE", "/api/v1/configmaps", 405),
        ("POST", "/api/v1/watch/namespaces/default/configmaps", 405),
        ("DELETE", "/api/v1/watch/namespaces/default/configmaps/a", 405),
        ("POST", "/api/v1/configmaps", 405),
        ("GET", "/api/v1/configmaps/default%2Fa", 404),
        ("DELETE", "/api/v1/configmaps/default%2Fa", 404),
        ("POST", "/api/v1/pods/default%2Fa/eviction", 404),
        ("GET", "/api/v1/namespaces/default/configmaps/a/b/c", 404),
        ("GET", "/api/v1/namespaces/default/pods/a/status/more", 404),
    ] {
        let answer = world.ask(method, target, map.clone()).await;
        assert_eq!(answer.code, code, "{method} {target}: {}", answer.text());
    }
    world.get(&format!("{DEFAULT}/configmaps/a")).await.ok();
}

fn pod(name: &str, node: &str) -> Json {
    json!({"metadata": {"name": name, "labels": {"l": "v"}}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn an_agent_cannot_lie_about_the_node_of_a_pod() {
    let world = World::new().await;
    account(&world).await;
    world.create(&format!("{DEFAULT}/pods"), pod("theirs", "m")).await.ok();
    world.create(&format!("{DEFAULT}/pods"), pod("ours", "n")).await.ok();
    let status = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}});
    let refused = agent(&world, "PATCH", &format!("{DEFAULT}/pods/theirs/status"), status.clone()).await;
    assert_eq!(
        refused.failure(),
        "403 Forbidden pods \"theirs\" is forbidden: node \"n\" can only update pod status for pods with spec.nodeName set to itself"
    );
    let mut whole = world.get(&format!("{DEFAULT}/pods/theirs")).await.ok().json();
    whole["spec"]["nodeName"] = json!("n");
    assert_eq!(agent(&world, "PUT", &format!("{DEFAULT}/pods/theirs/status"), whole).await.code, 403);
    agent(&world, "PATCH", &format!("{DEFAULT}/pods/ours/status"), status).await.ok();
    let relabelled = json!({"metadata": {"labels": {"l": "w"}}});
    assert_eq!(
        agent(&world, "PATCH", &format!("{DEFAULT}/pods/ours/status"), relabelled).await.failure(),
        "403 Forbidden pods \"ours\" is forbidden: node \"n\" cannot update labels through pod status"
    );
    for target in ["pods/theirs", "pods/theirs?gracePeriodSeconds=0"] {
        assert_eq!(agent(&world, "DELETE", &format!("{DEFAULT}/{target}"), Json::Null).await.code, 403, "{target}");
    }
    let eviction = json!({"metadata": {"name": "theirs"}});
    assert_eq!(agent(&world, "POST", &format!("{DEFAULT}/pods/theirs/eviction"), eviction).await.code, 403);
    let binding = json!({"metadata": {"name": "theirs"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(agent(&world, "POST", &format!("{DEFAULT}/pods/theirs/binding"), binding).await.code, 403);
}

#[tokio::test]
async fn a_mirror_pod_opens_nothing_to_its_node() {
    let world = World::new().await;
    account(&world).await;
    secret(&world, "treasure").await;
    let uid = &world.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.ok().json()["metadata"]["uid"];
    let mirror = |volume: Json, controller: bool| {
        json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid, "controller": controller}]},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "volumes": [volume]}})
    };
    for (volume, what) in [
        (json!({"name": "v", "secret": {"secretName": "treasure"}}), "secrets"),
        (json!({"name": "v", "projected": {"sources": [{"secret": {"name": "treasure"}}]}}), "secrets"),
        (json!({"name": "v", "configMap": {"name": "treasure"}}), "configmaps"),
        (json!({"name": "v", "persistentVolumeClaim": {"claimName": "treasure"}}), "persistentvolumeclaims"),
    ] {
        assert_eq!(
            agent(&world, "POST", &format!("{DEFAULT}/pods"), mirror(volume, true)).await.failure(),
            format!("403 Forbidden pods \"m\" is forbidden: node \"n\" can not create pods that reference {what}")
        );
    }
    let harmless = json!({"name": "v", "emptyDir": {}});
    assert_eq!(agent(&world, "POST", &format!("{DEFAULT}/pods"), mirror(harmless.clone(), false)).await.code, 403);
    agent(&world, "POST", &format!("{DEFAULT}/pods"), mirror(harmless, true)).await.ok();
    let unmasked = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": null}}});
    assert_eq!(agent(&world, "PATCH", &format!("{DEFAULT}/pods/m/status"), unmasked).await.code, 422);
    assert_eq!(agent(&world, "GET", &format!("{DEFAULT}/secrets/treasure"), Json::Null).await.code, 403);
}

#[tokio::test]
async fn an_agent_gets_tokens_only_for_audiences_of_the_pod() {
    let world = World::new().await;
    account(&world).await;
    let mut body = pod("p", "n");
    body["spec"]["volumes"] =
        json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]);
    let uid = world.create(&format!("{DEFAULT}/pods"), body).await.ok().json()["metadata"]["uid"].clone();
    let ask = |audiences: Json| {
        let spec = json!({"audiences": audiences, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}});
        let world = &world;
        async move { agent(world, "POST", &format!("{DEFAULT}/serviceaccounts/default/token"), json!({"spec": spec})).await }
    };
    ask(json!([])).await.ok();
    ask(json!(["vault"])).await.ok();
    assert_eq!(
        ask(json!(["bank"])).await.failure(),
        "403 Forbidden serviceaccounts \"default\" is forbidden: audience \"bank\" not found in pod spec volume, system:node:n is not authorized to request tokens for this audience"
    );
    assert_eq!(ask(json!(["vault", "bank"])).await.code, 403);
    let rule = json!({"apiGroups": [""], "resources": ["bank"], "verbs": ["request-serviceaccounts-token-audience"]});
    allow(&world, "system:node:n", rule).await;
    ask(json!(["bank"])).await.ok();
}

#[tokio::test]
async fn an_agent_of_no_node_may_do_nothing() {
    let world = World::new().await;
    let headers = [("impersonate-user", "system:node:"), ("impersonate-group", "system:nodes")];
    for target in ["/api/v1/nodes", "/api/v1/services", "/api/v1/pods?fieldSelector=spec.nodeName%3D"] {
        assert_eq!(world.send("GET", target, &headers, Vec::new()).await.code, 403, "{target}");
    }
}

#[tokio::test]
async fn made_up_words_do_not_become_labels_of_metrics() {
    let world = World::new().await;
    for word in ["zork", "quux"] {
        world
            .send_bare("GET", &format!("/apis/{word}.example/v1/namespaces/{word}/{word}/x/{word}"), &[], Vec::new())
            .await;
        world.send_bare("GET", &format!("{DEFAULT}/pods/x/{word}"), &[], Vec::new()).await;
        world.send_bare(&word.to_uppercase(), "/version", &[], Vec::new()).await;
    }
    world.get(&format!("{DEFAULT}/pods")).await.ok();
    let text = world.get("/metrics").await.ok().text();
    assert!(text.contains("resource=\"pods\""), "{text}");
    for word in ["zork", "quux", "ZORK", "QUUX"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[tokio::test]
async fn what_was_deleted_does_not_rise_again_by_an_update_that_means_it() {
    let world = World::new().await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let target = format!("{DEFAULT}/services/s");
    let created = world.create(&format!("{DEFAULT}/services"), service.clone()).await.ok().json();
    world.ask("DELETE", &target, Json::Null).await.ok();
    let uid = created["metadata"]["uid"].as_str().expect("a uid");
    assert_eq!(
        world.ask("PUT", &target, created.clone()).await.failure(),
        format!(
            "409 Conflict Operation cannot be fulfilled on services \"s\": Precondition failed: UID in precondition: {uid}, UID in object meta: "
        )
    );
    assert_eq!(world.ask("PUT", &target, service).await.ok().code, 201);
}

#[tokio::test]
async fn a_negative_grace_is_a_second() {
    let world = World::new().await;
    account(&world).await;
    world.create(&format!("{DEFAULT}/pods"), pod("p", "n")).await.ok();
    let target = format!("{DEFAULT}/pods/p");
    let delete = |seconds: i64| world.ask("DELETE", &target, json!({"gracePeriodSeconds": seconds}));
    let first = delete(30).await.ok().json();
    let ends = |object: &Json| {
        let text = object["metadata"]["deletionTimestamp"].as_str().expect("a time").to_owned();
        text.parse::<jiff::Timestamp>().expect("a time").as_second()
    };
    let longer = delete(60).await.ok().json();
    assert_eq!(longer["metadata"], first["metadata"], "a deletion is never put off");
    let shorter = delete(-5).await.ok().json();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 1);
    assert_eq!(ends(&first) - ends(&shorter), 29);
    let pushed = json!({"metadata": {"deletionTimestamp": "2099-01-01T00:00:00Z", "deletionGracePeriodSeconds": null}});
    let kept = world.patch(&target, "merge", pushed).await.ok().json();
    assert_eq!(ends(&kept), ends(&shorter));
    delete(0).await.ok();
    assert_eq!(world.get(&target).await.code, 404);
}

#[tokio::test]
async fn warnings_never_outgrow_a_head() {
    let world = World::new().await;
    let mut body = json!({"metadata": {"name": "a"}});
    for at in 0..50 {
        body[format!("{}{at}", "x".repeat(2000))] = json!(1);
    }
    let answer = world.create(&format!("{DEFAULT}/configmaps"), body).await.ok();
    let warnings: Vec<usize> = answer.headers.get_all("warning").iter().map(|value| value.len()).collect();
    assert!(warnings.iter().all(|length| *length < 300) && warnings.iter().sum::<usize>() < 5000, "{warnings:?}");
    assert!(warnings.len() >= 16, "{warnings:?}");
}

#[tokio::test]
async fn a_fault_in_a_secret_does_not_quote_it() {
    let world = World::new().await;
    for data in [r#""hunter2""#, r#"["hunter2"]"#, r#"{"auths": hunter2}"#] {
        let body = json!({"metadata": {"name": "s"}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": data}});
        let refused = world.create(&format!("{DEFAULT}/secrets"), body).await;
        assert_eq!(refused.code, 422);
        assert!(!refused.text().contains("hunter2"), "{}", refused.text());
    }
}

#[tokio::test]
async fn a_watch_from_the_future_is_not_told_the_past() {
    let world = World::new().await;
    let map = |name: &str| json!({"metadata": {"name": name}});
    let maps = format!("{DEFAULT}/configmaps");
    let made = world.create(&maps, map("a")).await.ok().json();
    let now: u64 = made["metadata"]["resourceVersion"].as_str().expect("a revision").parse().expect("a number");
    let mut watch = world.watch(&format!("{maps}?watch=true&resourceVersion={}", now + 2), &[]).await;
    for name in ["b", "c", "d"] {
        world.create(&maps, map(name)).await.ok();
    }
    assert_eq!(watch.told().await, "ADDED d");
}

#[tokio::test]
async fn a_body_that_dribbles_is_not_waited_for() {
    let clock = Clock::new();
    let code = clock.run(async {
        let world = World::new().await;
        let (reads, read) = tokio::sync::oneshot::channel();
        let begun = futures_util::stream::once(async { Ok(bytes::Bytes::from_static(b"{")) });
        let never = futures_util::stream::once(async move {
            reads.send(()).expect("somebody waits for it");
            std::future::pending().await
        });
        let target = format!("{DEFAULT}/configmaps");
        let body = wire::Body::stream(futures_util::StreamExt::chain(begun, never));
        let sent = world.send_body(Method::POST, &target, body);
        let later = async {
            read.await.expect("the body is read");
            clock.advance(Duration::from_secs(61));
        };
        let (answer, ()) = tokio::join!(sent, later);
        answer.failure()
    });
    assert_eq!(code.await, "504 Timeout Timeout: request did not complete within the allotted timeout");
}

#[tokio::test]
async fn no_two_services_get_one_address_and_none_is_lost() {
    let world = World::new().await;
    let services = format!("{DEFAULT}/services");
    let service = |name: String, address: Option<&str>| {
        let mut body = json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}]}});
        if let Some(address) = address {
            body["spec"]["clusterIP"] = json!(address);
        }
        body
    };
    let racers = (0..8).map(|at| world.create(&services, service(format!("s{at}"), Some("10.96.0.77"))));
    let answers = futures_util::future::join_all(racers).await;
    assert_eq!(answers.iter().filter(|answer| answer.code == 201).count(), 1);
    assert!(answers.iter().all(|answer| [201, 422].contains(&answer.code)));
    let winner = answers.iter().position(|answer| answer.code == 201).expect("a winner");
    let target = format!("{services}/s{winner}");
    let next = || service("next".to_owned(), Some("10.96.0.77"));
    assert_eq!(world.create(&services, next()).await.code, 422);
    world.ask("DELETE", &format!("{target}?dryRun=All"), Json::Null).await.ok();
    assert_eq!(world.create(&services, next()).await.code, 422, "a dry run gives nothing back");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": null, "clusterIPs": null, "ports": null}});
    world.patch(&format!("{target}?dryRun=All"), "merge", external.clone()).await.ok();
    assert_eq!(world.create(&services, next()).await.code, 422, "a dry run gives nothing back");
    world.patch(&target, "merge", external).await.ok();
    world.create(&format!("{services}?dryRun=All"), next()).await.ok();
    world.create(&services, next()).await.ok();
    world.ask("DELETE", &format!("{services}/next"), Json::Null).await.ok();
    world.create(&services, next()).await.ok();
    let plain = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
    world.patch(&format!("{services}/next"), "merge", plain).await.ok();
    world.create(&services, service("port".to_owned(), None)).await.ok();
}

#[tokio::test]
async fn an_impersonator_needs_leave_for_every_part() {
    let world = World::new().await;
    let rule = json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"]});
    let role = json!({"metadata": {"name": "imp"}, "rules": [rule]});
    world.create(&format!("{RBAC}/clusterroles"), role).await.ok();
    let binding = json!({"metadata": {"name": "imp"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "imp"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    world.create(&format!("{RBAC}/clusterrolebindings"), binding).await.ok();
    account(&world).await;
    let asked = json!({"spec": {}});
    let token = world.create(&format!("{DEFAULT}/serviceaccounts/default/token"), asked).await.ok().json();
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().expect("a token"));
    for (headers, code) in [
        (vec![("impersonate-user", "bob")], 201),
        (vec![("impersonate-user", "eve")], 403),
        (vec![("impersonate-user", "bob"), ("impersonate-group", "system:masters")], 403),
        (vec![("impersonate-user", "bob"), ("impersonate-uid", "x")], 403),
        (vec![("impersonate-user", "bob"), ("impersonate-extra-scopes", "x")], 403),
        (vec![("impersonate-user", "system:serviceaccount:kube-system:admin")], 403),
        (vec![("impersonate-group", "system:masters")], 500),
    ] {
        let mut all = headers.clone();
        all.extend([("authorization", bearer.as_str()), ("content-type", "application/json")]);
        let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = world.send_bare("POST", review, &all, b"{}".to_vec()).await;
        assert_eq!(answer.code, code, "{headers:?} {}", answer.text());
    }
}

/// CVE-2023-2728: what is refused to a new pod must not come in with a container that is added later.
#[tokio::test]
async fn a_container_added_later_brings_no_secret_that_its_account_does_not_list() {
    let world = World::new().await;
    let limited = json!({"metadata": {"name": "few", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "listed"}]});
    world.create(&format!("{DEFAULT}/serviceaccounts"), limited).await.ok();
    let with = |secret: &str| {
        let mut pod = pod("p", "n");
        pod["spec"]["serviceAccountName"] = json!("few");
        pod["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": secret}}]);
        pod
    };
    let why = "is not allowed because service account few does not reference that secret";
    let refused = world.create(&format!("{DEFAULT}/pods"), with("other")).await;
    assert_eq!(
        refused.failure(),
        format!(
            "403 Forbidden pods \"p\" is forbidden: container c with envFrom referencing secret.secretName=\"other\" {why}"
        )
    );
    world.create(&format!("{DEFAULT}/pods"), with("listed")).await.ok();
    let later = |secret: &str| json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]}]}});
    let target = format!("{DEFAULT}/pods/p/ephemeralcontainers");
    let refused = world.patch(&target, "application/strategic-merge-patch+json", later("other")).await;
    assert_eq!(
        refused.failure(),
        format!(
            "403 Forbidden pods \"p\" is forbidden: ephemeral container e with envFrom referencing secret.secretName=\"other\" {why}"
        )
    );
    world.patch(&target, "application/strategic-merge-patch+json", later("listed")).await.ok();
}
