//! Requests and the answers they get: reads, writes, patches and deletions.

mod world;

use serde_json::{Value as Json, json};
use store::disk::Sim;
use world::World;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn config_map(name: &str, value: &str) -> Json {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

fn deployment(name: &str) -> Json {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
    }})
}

fn names(list: &Json) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let world = World::new().await;
    let created = world.create(MAPS, config_map("a", "1")).await.ok();
    assert_eq!(created.code, 201);
    let created = created.json();
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(created["metadata"]["uid"].as_str().is_some_and(|uid| uid.len() == 36), "{created}");
    let got = world.get(&format!("{MAPS}/a")).await.ok().json();
    assert_eq!(got, created);
    assert_eq!(
        world.create(MAPS, config_map("a", "1")).await.failure(),
        "409 AlreadyExists configmaps \"a\" already exists"
    );
    let mut changed = got.clone();
    changed["data"]["k"] = json!("2");
    let updated = world.ask("PUT", &format!("{MAPS}/a"), changed.clone()).await.ok().json();
    assert_ne!(updated["metadata"]["resourceVersion"], got["metadata"]["resourceVersion"]);
    let again = world.ask("PUT", &format!("{MAPS}/a"), updated.clone()).await.ok().json();
    assert_eq!(again, updated, "equal bytes are no write");
    assert_eq!(
        world.ask("PUT", &format!("{MAPS}/a"), changed).await.failure(),
        "409 Conflict Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let deleted = world.ask("DELETE", &format!("{MAPS}/a"), Json::Null).await.ok().json();
    assert_eq!(
        deleted,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}})
    );
    assert_eq!(world.get(&format!("{MAPS}/a")).await.failure(), "404 NotFound configmaps \"a\" not found");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_upstreams_words() {
    let world = World::new().await;
    let json_type = [("content-type", "application/json")];
    for (body, expected) in [
        (
            "",
            "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
        ),
        (
            "{\"a\":",
            "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"a\":)",
        ),
        (
            "xyz",
            "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value (78797a)",
        ),
        (
            r#"{"kind":"ConfigMap","apiVersion":"v1","data":[]}"#,
            "400 BadRequest ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
        ),
        (
            r#"{"apiVersion":1,"kind":"ConfigMap"}"#,
            "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .apiVersion of type string ({\"apiVersion\":1,\"kind\":\"Config ...)",
        ),
        (
            r#"{"kind":"Nonsense","apiVersion":"v1"}"#,
            "400 BadRequest Nonsense in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nonsense\" is registered for version \"v1\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#,
            "400 BadRequest Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        ),
        (
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"other"}}"#,
            "400 BadRequest the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            r#"{"metadata":{}}"#,
            "422 Invalid ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
    ] {
        assert_eq!(world.send("POST", MAPS, &json_type, body.into()).await.failure(), expected, "{body}");
    }
    let answer = world.send("POST", MAPS, &[("content-type", "text/plain")], b"x".to_vec()).await;
    assert_eq!(
        answer.failure(),
        "415 UnsupportedMediaType the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    let answer = world.send("POST", MAPS, &json_type, vec![b' '; 3 * 1024 * 1024 + 1]).await;
    assert_eq!(answer.failure(), "413 RequestEntityTooLarge Request entity too large: limit is 3145728");
    let answer =
        world.send("POST", MAPS, &[("content-type", "application/vnd.kubernetes.protobuf")], b"junk".to_vec()).await;
    assert_eq!(
        answer.failure(),
        "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (6a756e6b)"
    );
    let mut cut = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x02".to_vec();
    for (raw, expected) in [
        (
            &b""[..],
            "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): unexpected EOF (6b3873000a0f0a0276311209436f6e6669674d61701202)",
        ),
        (
            &b"\x0a\x05"[..],
            "400 BadRequest ConfigMap in version \"v1\" cannot be handled as a ConfigMap: unexpected EOF",
        ),
    ] {
        cut.extend_from_slice(raw);
        let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
        assert_eq!(world.send("POST", MAPS, &headers, cut.clone()).await.failure(), expected);
    }
    let answer = world.send("GET", MAPS, &[("accept", "text/html")], Vec::new()).await;
    assert_eq!(
        answer.failure(),
        "406 NotAcceptable only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
}

#[tokio::test]
async fn paths_and_methods_that_nothing_serves_are_refused() {
    let world = World::new().await;
    for (method, target, expected) in [
        ("GET", "/api/v1/foos", "404 NotFound the server could not find the requested resource"),
        (
            "GET",
            "/api/v1/namespaces/default/pods/x/foo",
            "404 NotFound the server could not find the requested resource",
        ),
        ("PUT", MAPS, "405 MethodNotAllowed the server does not allow this method on the requested resource"),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps/x",
            "405 MethodNotAllowed the server does not allow this method on the requested resource",
        ),
        ("POST", "/version", "405 MethodNotAllowed the server does not allow this method on the requested resource"),
    ] {
        assert_eq!(world.ask(method, target, Json::Null).await.failure(), expected, "{method} {target}");
    }
    for target in ["/apis/nowhere/v1/things", "/nowhere", "/apis/nowhere"] {
        let answer = world.get(target).await;
        assert_eq!((answer.code, answer.text().as_str()), (404, "404 page not found\n"), "{target}");
    }
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_refused_told_or_dropped() {
    let world = World::new().await;
    let body = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","nam":"b"},"data":{"k":"1","k":"2"}}"#;
    let headers = [("content-type", "application/json")];
    let strict = world.send("POST", &format!("{MAPS}?fieldValidation=Strict"), &headers, body.into()).await;
    assert_eq!(
        strict.failure(),
        "400 BadRequest ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"metadata.nam\", duplicate field \"data.k\""
    );
    let ignored =
        world.send("POST", &format!("{MAPS}?fieldValidation=Ignore&dryRun=All"), &headers, body.into()).await.ok();
    assert_eq!(ignored.headers.get_all("warning").iter().count(), 0);
    let warned = world.send("POST", MAPS, &headers, body.into()).await.ok();
    let warnings: Vec<_> =
        warned.headers.get_all("warning").iter().map(|value| value.to_str().expect("text")).collect();
    assert_eq!(warnings, [r#"299 - "unknown field \"metadata.nam\"""#, r#"299 - "duplicate field \"data.k\"""#]);
    assert_eq!(warned.json()["data"], json!({"k": "2"}));
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let world = World::new().await;
    let before = world.get(MAPS).await.ok().json();
    let created = world.create(&format!("{MAPS}?dryRun=All"), config_map("a", "1")).await.ok().json();
    assert_eq!(created["metadata"]["name"], "a");
    assert_eq!(created["metadata"].get("resourceVersion"), None);
    assert_eq!(world.get(MAPS).await.ok().json(), before);
    let kept = world.create(MAPS, config_map("a", "1")).await.ok().json();
    let patched = world.patch(&format!("{MAPS}/a?dryRun=All"), "merge", json!({"data": {"k": "2"}})).await.ok().json();
    assert_eq!(patched["data"]["k"], "2");
    world.ask("DELETE", &format!("{MAPS}/a?dryRun=All"), Json::Null).await.ok();
    assert_eq!(world.get(&format!("{MAPS}/a")).await.ok().json(), kept);
    let refused = world.create(&format!("{MAPS}?dryRun=Some"), config_map("b", "1")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn names_are_generated_and_drawn_anew() {
    let world = World::new().await;
    let body = json!({"metadata": {"generateName": "job-"}});
    for _ in 0..3 {
        let created = world.create(MAPS, body.clone()).await.ok().json();
        let name = created["metadata"]["name"].as_str().expect("a name").to_owned();
        assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    }
}

#[tokio::test]
async fn patches_of_all_three_kinds_apply() {
    let world = World::new().await;
    world.create(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let patched = world.patch(&path, "merge", json!({"spec": {"replicas": 3}})).await.ok().json();
    assert_eq!((&patched["spec"]["replicas"], &patched["metadata"]["generation"]), (&json!(3), &json!(2)));
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}, {"name": "d", "image": "j"}]}}}});
    let patched = world.patch(&path, "strategic", change).await.ok().json();
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    let images: Vec<_> = containers.iter().map(|container| container["image"].as_str().expect("an image")).collect();
    assert_eq!(images, ["i:2", "j"]);
    assert_eq!(containers[0]["terminationMessagePath"], "/dev/termination-log", "the rest of the container stays");
    let change = json!([{"op": "test", "path": "/spec/replicas", "value": 3}, {"op": "replace", "path": "/spec/replicas", "value": 4}]);
    assert_eq!(world.patch(&path, "json", change.clone()).await.ok().json()["spec"]["replicas"], 4);
    assert_eq!(
        world.patch(&path, "json", change).await.failure(),
        "422 Invalid the server rejected our request due to an error in our request"
    );
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 5}});
    assert_eq!(
        world.patch(&path, "merge", stale).await.failure(),
        "409 Conflict Operation cannot be fulfilled on deployments.apps \"d\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        world.patch(&path, "merge", json!({"metadata": {"name": "e"}})).await.failure(),
        "400 BadRequest the name of the object (e) does not match the name on the URL (d)"
    );
    for path in [&path, &format!("{DEPLOYMENTS}/absent"), &format!("{DEPLOYMENTS}/absent/scale")] {
        let answer = world.patch(path, "application/apply-patch+yaml", json!({})).await;
        assert_eq!(
            answer.failure(),
            "415 UnsupportedMediaType the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
        );
    }
    assert_eq!(
        world.patch(&format!("{DEPLOYMENTS}/x"), "merge", json!({})).await.failure(),
        "404 NotFound deployments.apps \"x\" not found"
    );
    let wrong = world.patch(&path, "strategic", json!({"spec": {"replicas": "2"}})).await;
    assert_eq!(
        wrong.failure(),
        "422 Invalid  \"\" is invalid: patch: Invalid value: \"map[spec:map[replicas:2]]\": unrecognized type: int32"
    );
    for (kind, why) in
        [("merge-", "error decoding patch: "), ("json-", "error decoding patch: "), ("strategic-merge-", "")]
    {
        let media_type = format!("application/{kind}patch+json");
        let headers = [("content-type", media_type.as_str())];
        let answer = world.send("PATCH", &path, &headers, b"{\"spec\":".to_vec()).await;
        assert_eq!(answer.failure(), format!("400 BadRequest {why}unexpected end of JSON input"));
    }
    let strict = world.patch(&format!("{path}?fieldValidation=Strict"), "strategic", json!({"spec": {"foo": 1}})).await;
    assert_eq!(
        strict.failure(),
        "422 Invalid  \"\" is invalid: patch: Invalid value: \"map[spec:map[foo:1]]\": strict decoding error: unknown field \"spec.foo\""
    );
}

#[tokio::test]
async fn patches_at_once_all_arrive() {
    let world = World::new().await;
    world.create(MAPS, config_map("a", "1")).await.ok();
    let path = format!("{MAPS}/a");
    let patches: Vec<_> = (0..8).map(|at| json!({"data": {format!("k{at}"): "v"}})).collect();
    let sent = patches.iter().map(|patch| world.patch(&path, "merge", patch.clone()));
    for answer in futures_util::future::join_all(sent).await {
        answer.ok();
    }
    let data = world.get(&path).await.ok().json()["data"].clone();
    assert_eq!(data.as_object().expect("data").len(), 9);
}

#[tokio::test]
async fn status_and_scale_change_only_their_part() {
    let world = World::new().await;
    world.create(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let change = json!({"spec": {"replicas": 9}, "status": {"replicas": 2, "observedGeneration": 1}});
    let patched = world.patch(&format!("{path}/status"), "merge", change.clone()).await.ok().json();
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(1), &json!(2)));
    let patched = world.patch(&path, "merge", change).await.ok().json();
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(9), &json!(2)));
    let scale = world.get(&format!("{path}/scale")).await.ok().json();
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(scale["spec"], json!({"replicas": 9}));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=d"}));
    let scaled = world.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": 4}})).await.ok().json();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let mut stale = scale.clone();
    stale["spec"]["replicas"] = json!(5);
    assert_eq!(world.ask("PUT", &format!("{path}/scale"), stale).await.code, 409);
    assert_eq!(world.get(&path).await.ok().json()["spec"]["replicas"], 4);
    assert_eq!(world.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": -1}})).await.code, 422);
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let table = world.send("GET", &format!("{path}/scale"), &headers, Vec::new()).await.ok().json();
    let columns: Vec<_> = table["columnDefinitions"].as_array().expect("columns").iter().collect();
    assert_eq!(
        columns.iter().map(|column| &column["name"]).collect::<Vec<_>>(),
        ["Name", "Desired", "Available", "Age"]
    );
    assert_eq!(table["rows"][0]["cells"].as_array().expect("cells")[..3], [json!("d"), json!(4), json!(2)]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn a_revision_that_is_no_number_is_told_so() {
    let world = World::new().await;
    world.create(MAPS, config_map("a", "1")).await.ok();
    let mut map = config_map("a", "2");
    map["metadata"]["resourceVersion"] = json!("abc");
    assert_eq!(
        world.ask("PUT", &format!("{MAPS}/a"), map).await.failure(),
        "500  resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax"
    );
    assert_eq!(
        world.get(&format!("{MAPS}?continue=foo")).await.failure(),
        "400 BadRequest continue key is not valid: invalid character '~' looking for beginning of value"
    );
}

#[tokio::test]
async fn booleans_are_booleans_in_tables() {
    let world = World::new().await;
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    let table = world.send("GET", classes, &headers, Vec::new()).await.ok().json();
    assert_eq!(table["columnDefinitions"][2]["type"], "boolean");
    assert_eq!(table["rows"][0]["cells"][2], false);
}

#[tokio::test]
async fn lists_come_in_chunks_of_one_revision() {
    let world = World::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.create(MAPS, config_map(name, name)).await.ok();
    }
    let first = world.get(&format!("{MAPS}?limit=2")).await.ok().json();
    assert_eq!((first["kind"].as_str(), names(&first)), (Some("ConfigMapList"), vec!["a", "b"]));
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    world.ask("DELETE", &format!("{MAPS}/c"), Json::Null).await.ok();
    world.create(MAPS, config_map("cc", "new")).await.ok();
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = world.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok().json();
    assert_eq!(names(&second), ["c", "d"], "as it was at the first chunk");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = world.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok().json();
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["e"], None));
    let revision = first["metadata"]["resourceVersion"].as_str().expect("a revision");
    let exact = world.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await.ok().json();
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);
    let now =
        world.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan")).await.ok().json();
    assert_eq!(names(&now), ["a", "b", "cc", "d", "e"]);
    let future = world.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!((future.code, future.json()["reason"].as_str()), (504, Some("Timeout")));
    assert_eq!(world.get(&format!("{MAPS}?continue=junk")).await.code, 400);
}

#[tokio::test]
async fn a_restarted_server_knows_what_it_no_longer_knows() {
    let disk = Sim::new(3);
    let world = World::on(disk.clone()).await;
    for name in ["a", "b", "c"] {
        world.create(MAPS, config_map(name, name)).await.ok();
    }
    let first = world.get(&format!("{MAPS}?limit=2")).await.ok().json();
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    world.create(MAPS, config_map("d", "new")).await.ok();
    world.close().await;
    let world = World::on(disk.process_restart()).await;
    assert_eq!(names(&world.get(MAPS).await.ok().json()), ["a", "b", "c", "d"]);
    let old = world.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert_eq!(old.failure(), "410 Expired The resourceVersion for the provided list is too old.");
    let expired = world.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, expired.json()["reason"].as_str()), (410, Some("Expired")));
    let status = expired.json();
    let token = status["metadata"]["continue"].as_str().expect("a token to go on inconsistently");
    assert_eq!(names(&world.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok().json()), ["c", "d"]);
}

#[tokio::test]
async fn selectors_select_by_labels_and_declared_fields() {
    let world = World::new().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut map = config_map(name, "1");
        map["metadata"]["labels"] = json!({"l": label});
        world.create(MAPS, map).await.ok();
    }
    for (query, expected) in [
        ("labelSelector=l%3Dx", vec!["a", "c"]),
        ("labelSelector=l%21%3Dx", vec!["b"]),
        ("labelSelector=l%20in%20(x,y)&fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
    ] {
        assert_eq!(names(&world.get(&format!("{MAPS}?{query}")).await.ok().json()), expected, "{query}");
    }
    assert_eq!(
        world.get(&format!("{MAPS}?fieldSelector=data.k%3D1")).await.failure(),
        "400 BadRequest \"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    assert_eq!(
        world.get("/api/v1/pods?fieldSelector=spec.foo%3D1").await.failure(),
        "400 BadRequest field label not supported: spec.foo"
    );
    assert_eq!(world.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.code, 400);
}

#[tokio::test]
async fn finalizers_hold_what_is_deleted() {
    let world = World::new().await;
    let mut map = config_map("a", "1");
    map["metadata"]["finalizers"] = json!(["acme.com/hold"]);
    world.create(MAPS, map).await.ok();
    let path = format!("{MAPS}/a");
    let marked = world.ask("DELETE", &path, Json::Null).await.ok().json();
    assert_eq!(marked["kind"], "ConfigMap");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let again = world.ask("DELETE", &path, Json::Null).await.ok().json();
    assert_eq!(again, marked);
    let added =
        world.patch(&path, "merge", json!({"metadata": {"finalizers": ["acme.com/hold", "acme.com/more"]}})).await;
    assert_eq!(added.code, 422);
    let released = world.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await.ok().json();
    assert_eq!(released["metadata"]["name"], "a");
    assert_eq!(world.get(&path).await.code, 404);
}

#[tokio::test]
async fn deletion_obeys_propagation_and_preconditions() {
    let world = World::new().await;
    for (name, policy, finalizers) in
        [("fore", "Foreground", json!(["foregroundDeletion"])), ("orphan", "Orphan", json!(["orphan"]))]
    {
        world.create(DEPLOYMENTS, deployment(name)).await.ok();
        let marked = world
            .ask("DELETE", &format!("{DEPLOYMENTS}/{name}"), json!({"propagationPolicy": policy}))
            .await
            .ok()
            .json();
        assert_eq!(marked["metadata"]["finalizers"], finalizers);
        assert_eq!(marked["metadata"]["generation"], 2);
    }
    let created = world.create(DEPLOYMENTS, deployment("d")).await.ok().json();
    let path = format!("{DEPLOYMENTS}/d");
    let uid = created["metadata"]["uid"].as_str().expect("a uid");
    assert_eq!(
        world.ask("DELETE", &path, json!({"preconditions": {"uid": "other"}})).await.failure(),
        format!(
            "409 Conflict Operation cannot be fulfilled on Deployment.apps \"d\": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        )
    );
    assert_eq!(world.ask("DELETE", &path, json!({"preconditions": {"resourceVersion": "1"}})).await.code, 409);
    assert_eq!(world.ask("DELETE", &path, json!({"propagationPolicy": "Never"})).await.code, 422);
    let gone = world
        .ask("DELETE", &path, json!({"propagationPolicy": "Background", "preconditions": {"uid": uid}}))
        .await
        .ok()
        .json();
    assert_eq!(gone["details"], json!({"name": "d", "group": "apps", "kind": "deployments", "uid": uid}));
    for name in ["a", "b", "c"] {
        let mut map = config_map(name, "1");
        map["metadata"]["labels"] = json!({"go": if name == "b" { "no" } else { "yes" }});
        world.create(MAPS, map).await.ok();
    }
    let deleted = world.ask("DELETE", &format!("{MAPS}?labelSelector=go%3Dyes"), Json::Null).await.ok().json();
    assert_eq!(names(&deleted), ["a", "c"]);
    assert_eq!(names(&world.get(MAPS).await.ok().json()), ["b"]);
}

#[tokio::test]
async fn a_namespace_goes_only_when_its_finalizer_is_gone() {
    let world = World::new().await;
    world.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.ok();
    let inside = "/api/v1/namespaces/n/configmaps";
    world.create(inside, config_map("a", "1")).await.ok();
    let marked = world.ask("DELETE", "/api/v1/namespaces/n", Json::Null).await.ok().json();
    assert_eq!((&marked["kind"], &marked["status"]["phase"]), (&json!("Namespace"), &json!("Terminating")));
    let refused = world.create(inside, config_map("b", "1")).await;
    assert_eq!(
        refused.failure(),
        "403 Forbidden configmaps \"b\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    assert_eq!(
        refused.json()["details"]["causes"],
        json!([{"reason": "NamespaceTerminating", "message": "namespace n is being terminated", "field": "metadata.namespace"}])
    );
    let mut finalized = marked.clone();
    finalized["spec"] = json!({});
    world.ask("PUT", "/api/v1/namespaces/n/finalize", finalized).await.ok();
    assert_eq!(world.get("/api/v1/namespaces/n").await.code, 404);
    assert_eq!(
        world.create("/api/v1/namespaces/none/configmaps", config_map("a", "1")).await.failure(),
        "404 NotFound namespaces \"none\" not found"
    );
    assert_eq!(
        world.ask("DELETE", "/api/v1/namespaces/default", Json::Null).await.failure(),
        "403 Forbidden namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn events_are_one_thing_in_two_versions() {
    let world = World::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "it runs", "type": "Normal", "count": 1,
        "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:00:00Z"});
    world.create("/api/v1/namespaces/default/events", event).await.ok();
    let other = world.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok().json();
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    assert_eq!((&other["note"], &other["regarding"]["name"]), (&json!("it runs"), &json!("p")));
    let listed = world.get("/apis/events.k8s.io/v1/events").await.ok().json();
    assert_eq!(listed["items"][0]["note"], "it runs");
    let found = world.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await.ok().json();
    assert_eq!(names(&found), ["e"]);
    let newer = json!({"metadata": {"name": "f"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "acme.com/c", "reportingInstance": "c-1",
        "action": "Started", "reason": "Started", "note": "it runs", "type": "Normal"});
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let made = world.create(events, newer).await.ok().json();
    assert_eq!((&made["apiVersion"], &made["note"]), (&json!("events.k8s.io/v1"), &json!("it runs")));
    let series = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:01:00.000000Z"}});
    let patched = world.patch(&format!("{events}/f"), "merge", series).await.ok().json();
    assert_eq!((&patched["series"]["count"], &patched["regarding"]["name"]), (&json!(2), &json!("p")));
    let core = world.get("/api/v1/namespaces/default/events/f").await.ok().json();
    assert_eq!((&core["message"], &core["reportingComponent"]), (&json!("it runs"), &json!("acme.com/c")));
}
