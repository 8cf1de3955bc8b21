//! Forms of answers, and the documents that tell what is served.

mod world;

use serde_json::{Value as Json, json};
use world::World;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn with_map(world: &World) -> Json {
    let map = json!({"metadata": {"name": "a", "labels": {"l": "x"}}, "data": {"k": "1", "j": "2"}});
    world.create(MAPS, map).await.ok().json()
}

async fn accepting(world: &World, target: &str, accept: &str) -> world::Answer {
    world.send("GET", target, &[("accept", accept)], Vec::new()).await.ok()
}

#[tokio::test]
async fn json_stands_in_the_order_of_gos_structs() {
    let world = World::new().await;
    let created = with_map(&world).await;
    let (uid, revision) = (&created["metadata"]["uid"], &created["metadata"]["resourceVersion"]);
    let time = &created["metadata"]["creationTimestamp"];
    let metadata = format!(
        r#"{{"name":"a","namespace":"default","uid":{uid},"resourceVersion":{revision},"creationTimestamp":{time},"labels":{{"l":"x"}}}}"#
    );
    let one = world.get(&format!("{MAPS}/a")).await.ok().text();
    assert_eq!(
        one,
        format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{metadata},"data":{{"j":"2","k":"1"}}}}"#)
    );
    let list = world.get(MAPS).await.ok().text();
    assert_eq!(
        list,
        format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":{revision}}},"items":[{{"metadata":{metadata},"data":{{"j":"2","k":"1"}}}}]}}"#
        )
    );
}

#[tokio::test]
async fn protobuf_goes_out_and_comes_in() {
    let world = World::new().await;
    let created = with_map(&world).await;
    let body = accepting(&world, &format!("{MAPS}/a"), PROTOBUF).await;
    assert_eq!(body.header("content-type"), PROTOBUF);
    let opened = api::codec::envelope::unwrap(&body.body).expect("an envelope");
    assert_eq!((&*opened.api_version, &*opened.kind), ("v1", "ConfigMap"));
    let message = api::schema::kind("", "v1", "ConfigMap").expect("a schema");
    let mut tree = api::codec::protobuf::decode(opened.raw, message).expect("a message");
    assert_eq!(
        api::meta::resource_version(&tree),
        created["metadata"]["resourceVersion"].as_str().expect("a revision")
    );
    api::meta::set_name(&mut tree, "b");
    api::meta::clear_resource_version(&mut tree);
    let raw = api::codec::protobuf::encode(&tree, message).expect("a message");
    let sent = api::codec::envelope::wrap("v1", "ConfigMap", &raw);
    world.send("POST", MAPS, &[("content-type", PROTOBUF)], sent).await.ok();
    assert_eq!(world.get(&format!("{MAPS}/b")).await.ok().json()["data"], created["data"]);
    let list = accepting(&world, MAPS, PROTOBUF).await;
    let opened = api::codec::envelope::unwrap(&list.body).expect("an envelope");
    assert_eq!(&*opened.kind, "ConfigMapList");
    let message = api::schema::kind("", "v1", "ConfigMapList").expect("a schema");
    let tree = api::codec::protobuf::decode(opened.raw, message).expect("a message");
    assert_eq!(tree.get("items").and_then(|items| items.as_array()).map(<[_]>::len), Some(2));
    assert!(!api::meta::resource_version(&tree).is_empty());
}

#[tokio::test]
async fn yaml_goes_out_and_comes_in() {
    let world = World::new().await;
    with_map(&world).await;
    let yaml = accepting(&world, &format!("{MAPS}/a"), "application/yaml").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(
        yaml.text().starts_with("apiVersion: v1\ndata:\n  j: \"2\"\n  k: \"1\"\nkind: ConfigMap\nmetadata:\n"),
        "{}",
        yaml.text()
    );
    let body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\ndata:\n  k: \"yes\"\n".to_vec();
    world.send("POST", MAPS, &[("content-type", "application/yaml")], body).await.ok();
    assert_eq!(world.get(&format!("{MAPS}/b")).await.ok().json()["data"], json!({"k": "yes"}));
}

#[tokio::test]
async fn tables_have_columns_and_rows() {
    let world = World::new().await;
    with_map(&world).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = accepting(&world, MAPS, accept).await.json();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("a"), &json!(2)));
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("a"))
    );
    let whole = accepting(&world, &format!("{MAPS}/a?includeObject=Object"), accept).await.json();
    assert_eq!(whole["rows"][0]["object"]["data"]["k"], "1");
    let none = accepting(&world, &format!("{MAPS}?includeObject=None"), accept).await.json();
    assert_eq!(none["rows"][0]["object"], Json::Null);
}

#[tokio::test]
async fn metadata_alone_is_given_when_asked() {
    let world = World::new().await;
    with_map(&world).await;
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = accepting(&world, MAPS, accept).await.json();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
    let item = &list["items"][0];
    assert_eq!(
        (&item["kind"], item.get("data"), &item["metadata"]["labels"]["l"]),
        (&json!("PartialObjectMetadata"), None, &json!("x"))
    );
}

#[tokio::test]
async fn long_answers_are_compressed_and_streamed() {
    let world = World::new().await;
    let text = "x".repeat(200 << 10);
    for at in 0..8 {
        world.create(MAPS, json!({"metadata": {"name": format!("m{at}")}, "data": {"k": text}})).await.ok();
    }
    let headers = [("accept-encoding", "gzip"), ("accept", "application/json")];
    let plain = world.get(MAPS).await.ok().body;
    let packed = world.send("GET", MAPS, &headers, Vec::new()).await.ok();
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() < plain.len() / 50, "{} of {}", packed.body.len(), plain.len());
    let one = world.send("GET", &format!("{MAPS}/m0"), &headers, Vec::new()).await.ok();
    assert_eq!(one.header("content-encoding"), "gzip");
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut unpacked).expect("gzip");
    assert_eq!(unpacked, plain);
}

#[tokio::test]
async fn discovery_tells_what_is_served() {
    let world = World::new().await;
    let versions = world.get("/api").await.ok().json();
    assert_eq!(versions["versions"], json!(["v1"]));
    let groups = world.get("/apis").await.ok().json();
    let names: Vec<_> = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .map(|group| group["name"].as_str().expect("a name"))
        .collect();
    assert!(names.starts_with(&["apps", "events.k8s.io"]), "{names:?}");
    let core = world.get("/api/v1").await.ok().json();
    let find = |name: &str| {
        core["resources"].as_array().expect("resources").iter().find(|entry| entry["name"] == name).cloned()
    };
    let pods = find("pods").expect("pods");
    assert_eq!(
        (&pods["shortNames"], &pods["categories"], &pods["singularName"]),
        (&json!(["po"]), &json!(["all"]), &json!("pod"))
    );
    assert_eq!(find("pods/eviction").expect("evictions")["group"], "policy");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = accepting(&world, "/apis", accept).await;
    assert_eq!(
        aggregated.header("content-type"),
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(aggregated.json()["items"][0]["metadata"]["name"], "apps");
    let tag = aggregated.header("etag").to_owned();
    let again = world.send("GET", "/apis", &[("accept", accept), ("if-none-match", &tag)], Vec::new()).await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    assert_eq!(world.get("/version").await.ok().json()["minor"], "36");
}

#[tokio::test]
async fn openapi_names_kinds_parameters_and_merge_keys() {
    let world = World::new().await;
    let index = world.get("/openapi/v3").await.ok().json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a URL").to_owned();
    let answer = world.get(&url).await.ok();
    assert_eq!(answer.header("cache-control"), "public, immutable");
    let document = answer.json();
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let parameters = patch["parameters"].as_array().expect("parameters");
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation" && parameter["in"] == "query"));
    let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(
        (&containers["x-kubernetes-patch-merge-key"], &containers["x-kubernetes-list-type"]),
        (&json!("name"), &json!("map"))
    );
    let moved = world.get("/openapi/v3/apis/apps/v1?hash=old").await;
    assert_eq!((moved.code, moved.header("location")), (301, url.as_str()));
    assert_eq!(world.get("/openapi/v3/apis/none/v1").await.code, 404);
    let every = document.to_string();
    for part in every.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().expect("a name");
        assert!(document["components"]["schemas"].get(name).is_some(), "{name} is referred to and missing");
    }
}

#[tokio::test]
async fn openapi_of_version_2_is_json_or_protobuf() {
    const OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let world = World::new().await;
    let get = async |headers: &[(&str, &str)]| world.send("GET", "/openapi/v2", headers, Vec::new()).await;
    let json = get(&[]).await.ok();
    let document = json.json();
    let metadata = &document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["metadata"];
    assert_eq!(metadata["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert!(document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"].is_object());
    let every = document.to_string();
    for part in every.split("\"#/").skip(1) {
        let name = part.strip_prefix("definitions/").and_then(|rest| rest.split('"').next()).expect("a definition");
        assert!(document["definitions"].get(name).is_some(), "{name} is referred to and missing");
    }
    // As many of the words of JSON Schema as the protobuf is made of.
    let words =
        ["$ref", "format", "description", "required", "enum", "additionalProperties", "type", "items", "properties"];
    for (name, schema) in document["definitions"].as_object().expect("definitions") {
        let properties = schema["properties"].as_object().into_iter().flat_map(|properties| properties.values());
        for key in properties.chain([schema]).filter_map(Json::as_object).flat_map(|schema| schema.keys()) {
            assert!(words.contains(&key.as_str()) || key.starts_with("x-kubernetes-"), "{name}: {key}");
        }
    }
    let protobuf = get(&[("accept", OLD)]).await.ok();
    assert_eq!(protobuf.header("content-type"), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert_eq!(protobuf.header("etag"), json.header("etag"));
    assert!(protobuf.body.starts_with(b"\x0a\x032.0"));
    let again = get(&[("accept", OLD), ("if-none-match", json.header("etag"))]).await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    assert_eq!(again.header("content-type"), protobuf.header("content-type"));
    assert_eq!(get(&[("accept", "text/html")]).await.code, 406);
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let world = World::new().await;
    assert_eq!(world.get("/readyz").await.ok().text(), "ok");
    let verbose = world.get("/readyz?verbose").await.ok().text();
    assert!(verbose.contains("[+]informer-sync ok\n") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(world.get("/livez/ping").await.ok().text(), "ok");
    assert_eq!(world.get("/livez/nothing").await.code, 404);
    world.server.unready();
    let unready = world.get("/readyz").await;
    assert_eq!(unready.code, 500);
    assert!(unready.text().contains("[-]informer-sync failed: reason withheld\n"));
    assert_eq!(world.get("/livez/ping").await.code, 200);
    let metrics = world.get("/metrics").await.ok().text();
    assert!(metrics.contains("apiserver_storage_objects{resource=\"namespaces\"} 4\n"), "{metrics}");
    assert!(metrics.contains("apiserver_request_duration_seconds_bucket"), "{metrics}");
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Json) -> Json {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().expect("an object") {
        service["spec"][key] = value.clone();
    }
    service
}

#[tokio::test]
async fn services_get_addresses_and_ports_and_give_them_back() {
    let world = World::new().await;
    let kubernetes = world.get(&format!("{SERVICES}/kubernetes")).await.ok().json();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let slice = world.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.ok().json();
    assert_eq!(
        (&slice["endpoints"][0]["addresses"][0], &slice["ports"][0]["port"]),
        (&json!("192.0.2.1"), &json!(6443))
    );
    let first = world.create(SERVICES, service("a", json!({}))).await.ok().json();
    let spec = &first["spec"];
    assert_eq!(
        (&spec["clusterIPs"][0], &spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&spec["clusterIP"], &json!(["IPv4"]), &json!("SingleStack"))
    );
    let wanted = json!({"clusterIP": "10.96.0.77"});
    world.create(SERVICES, service("b", wanted.clone())).await.ok();
    assert_eq!(
        world.create(SERVICES, service("c", wanted.clone())).await.failure(),
        "422 Invalid Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.77\"]: failed to allocate IP 10.96.0.77: provided IP is already allocated"
    );
    assert_eq!(
        world.create(SERVICES, service("c", json!({"clusterIP": "192.168.1.1"}))).await.failure(),
        "422 Invalid Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"192.168.1.1\"]: failed to allocate IP 192.168.1.1: the provided IP (192.168.1.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"
    );
    world.ask("DELETE", &format!("{SERVICES}/b"), Json::Null).await.ok();
    world.create(SERVICES, service("c", wanted)).await.ok();
    let headless = world.create(SERVICES, service("h", json!({"clusterIP": "None"}))).await.ok().json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let port = world.create(SERVICES, service("n", json!({"type": "NodePort"}))).await.ok().json();
    let number = port["spec"]["ports"][0]["nodePort"].as_i64().expect("a port");
    assert!((30_000..=32_767).contains(&number));
    let taken = service("m", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]}));
    assert_eq!(
        world.create(SERVICES, taken).await.failure(),
        format!(
            "422 Invalid Service \"m\" is invalid: spec.ports[0].nodePort: Invalid value: {number}: provided port is already allocated"
        )
    );
    let replaced = world
        .ask("PUT", &format!("{SERVICES}/n"), service("n", json!({"type": "NodePort", "selector": {"a": "b"}})))
        .await
        .ok()
        .json();
    assert_eq!(
        (&replaced["spec"]["clusterIP"], &replaced["spec"]["ports"][0]["nodePort"]),
        (&port["spec"]["clusterIP"], &json!(number))
    );
}

#[tokio::test]
async fn services_created_at_once_have_different_addresses() {
    let world = World::new().await;
    let bodies: Vec<_> = (0..16).map(|at| service(&format!("s{at}"), json!({"type": "NodePort"}))).collect();
    let made = futures_util::future::join_all(bodies.iter().map(|body| world.create(SERVICES, body.clone()))).await;
    let made: Vec<Json> = made.into_iter().map(|answer| answer.ok().json()).collect();
    let addresses: std::collections::BTreeSet<_> =
        made.iter().map(|made| made["spec"]["clusterIP"].to_string()).collect();
    let ports: std::collections::BTreeSet<_> =
        made.iter().map(|made| made["spec"]["ports"][0]["nodePort"].to_string()).collect();
    assert_eq!((addresses.len(), ports.len()), (16, 16));
}

/// Whoever does not read what they asked for keeps their place among the running requests, and others wait for it.
#[tokio::test]
async fn a_long_list_keeps_its_place_until_it_is_sent() {
    const READS_MAX: usize = 400;
    let world = World::new().await;
    for index in 0..12 {
        let map = json!({"metadata": {"name": format!("long-{index}")}, "data": {"k": "x".repeat(100 << 10)}});
        world.create(MAPS, map).await.ok();
    }
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    world.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.ok();
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "slow"}],
    });
    world.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let mut begun = Vec::new();
    for _ in 0..READS_MAX {
        let (code, body) = world.begin_as("slow", MAPS).await;
        assert_eq!(code, 200);
        begun.push(body);
    }
    assert_eq!(world.begin_as("slow", MAPS).await.0, 429);
    begun.pop();
    let (code, mut body) = world.begin_as("slow", MAPS).await;
    assert_eq!(code, 200);
    assert_eq!(world.begin_as("slow", MAPS).await.0, 429);
    body.read(64 << 20).await.expect("a whole list");
    drop(body);
    assert_eq!(world.begin_as("slow", MAPS).await.0, 200);
}

#[tokio::test]
async fn pods_of_a_node_are_found_without_the_others_and_in_chunks() {
    let world = World::new().await;
    world.create("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await.ok();
    for namespace in ["default", "other"] {
        world
            .create(
                &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                json!({"metadata": {"name": "default"}}),
            )
            .await;
    }
    let create = async |namespace: &str, name: &str, node: &str| {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": false},
        });
        world.create(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await.ok();
    };
    let names = |list: &Json| -> Vec<String> {
        let items = list["items"].as_array().expect("a list").iter();
        items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    const ON_A: &str = "fieldSelector=spec.nodeName%3Da";
    create("default", "one", "a").await;
    create("default", "two", "b").await;
    // Asked before and after the index is there.
    assert_eq!(names(&world.get(&format!("/api/v1/pods?{ON_A}")).await.ok().json()), ["one"]);
    create("default", "three", "a").await;
    create("default", "none", "").await;
    create("other", "four", "a").await;
    assert_eq!(names(&world.get(&format!("/api/v1/pods?{ON_A}")).await.ok().json()), ["one", "three", "four"]);
    let in_other = world.get(&format!("/api/v1/namespaces/other/pods?{ON_A}")).await.ok().json();
    assert_eq!(names(&in_other), ["four"]);
    let in_default = world.get(&format!("/api/v1/namespaces/default/pods?{ON_A}")).await.ok().json();
    assert_eq!(names(&in_default), ["one", "three"]);
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let chunk = world.get(&format!("/api/v1/pods?{ON_A}&limit=1&continue={token}")).await.ok().json();
        found.extend(names(&chunk));
        token = chunk["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["one", "three", "four"]);
    let gone = "/api/v1/namespaces/default/pods/one?gracePeriodSeconds=0";
    world.ask("DELETE", gone, Json::Null).await.ok();
    assert_eq!(names(&world.get(&format!("/api/v1/pods?{ON_A}")).await.ok().json()), ["three", "four"]);
    let unbound = world.get("/api/v1/pods?fieldSelector=spec.nodeName%3D").await.ok().json();
    assert_eq!(names(&unbound), ["none"]);
}

fn ports(service: &Json) -> Vec<i64> {
    let ports = service["spec"]["ports"].as_array().expect("ports");
    ports.iter().map(|port| port["nodePort"].as_i64().unwrap_or(0)).collect()
}

#[tokio::test]
async fn ports_of_nodes_are_given_kept_and_taken_back_as_upstream_does() {
    let world = World::new().await;
    let port = |protocol: &str, port: i64, node_port: i64| {
        let name = format!("{}-{port}", protocol.to_lowercase());
        json!({"name": name, "port": port, "protocol": protocol, "nodePort": node_port})
    };
    let of = |name: &str, ports: &[Json]| service(name, json!({"type": "NodePort", "ports": ports}));
    let dns = world.create(SERVICES, of("dns", &[port("TCP", 53, 0), port("UDP", 53, 0), port("TCP", 80, 0)])).await;
    let dns = ports(&dns.ok().json());
    assert!(dns[0] == dns[1] && dns[0] != dns[2], "one number and two protocols share: {dns:?}");
    assert!(dns.iter().all(|number| *number >= 30_086), "the first ones are for those who ask: {dns:?}");
    let asked = world.create(SERVICES, of("asked", &[port("TCP", 53, 0), port("UDP", 53, 30_053)])).await.ok().json();
    assert_eq!(ports(&asked), [30_053, 30_053]);
    assert_eq!(
        world.create(SERVICES, of("other", &[port("SCTP", 9, 30_053)])).await.failure(),
        "422 Invalid Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"
    );
    assert_eq!(
        world.create(SERVICES, of("other", &[port("TCP", 9, 80)])).await.failure(),
        "422 Invalid Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    let path = format!("{SERVICES}/asked");
    let dry = world.ask("POST", &format!("{SERVICES}?dryRun=All"), of("dry", &[port("TCP", 9, 30_060)])).await.ok();
    assert_eq!(ports(&dry.json()), [30_060]);
    world.create(SERVICES, of("dry", &[port("TCP", 9, 30_060)])).await.ok();
    let moved = world.patch(&path, "merge", json!({"spec": {"ports": [port("TCP", 53, 30_054)]}})).await.ok().json();
    assert_eq!(ports(&moved), [30_054]);
    world.create(SERVICES, of("freed", &[port("TCP", 9, 30_053)])).await.ok();
    let plain = world.patch(&path, "merge", json!({"spec": {"type": "ClusterIP"}})).await.ok().json();
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    let taken = world.create(SERVICES, of("taken", &[port("TCP", 9, 30_054)])).await.ok().json();
    assert_eq!(ports(&taken), [30_054], "a type without ports of nodes gives them back");
    world.ask("DELETE", &format!("{SERVICES}/taken"), Json::Null).await.ok();
    let again =
        world.patch(&path, "merge", json!({"spec": {"type": "NodePort", "ports": [port("TCP", 53, 30_054)]}})).await;
    assert_eq!(ports(&again.ok().json()), [30_054]);
}

#[tokio::test]
async fn a_balanced_service_has_a_port_to_ask_for_its_health_while_it_needs_one() {
    let world = World::new().await;
    let path = format!("{SERVICES}/a");
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_011});
    let made = world.create(SERVICES, service("a", local.clone())).await.ok().json();
    assert_eq!(made["spec"]["healthCheckNodePort"], 30_011);
    assert_eq!(
        world.create(SERVICES, service("b", local)).await.failure(),
        "500 InternalError Internal error occurred: failed to allocate requested HealthCheck NodePort 30011: provided port is already allocated"
    );
    assert_eq!(
        world.patch(&path, "merge", json!({"spec": {"healthCheckNodePort": 30_012}})).await.failure(),
        "422 Invalid Service \"a\" is invalid: spec.healthCheckNodePort: Forbidden: field is immutable"
    );
    let cluster = world.patch(&path, "merge", json!({"spec": {"externalTrafficPolicy": "Cluster"}})).await.ok().json();
    assert_eq!(cluster["spec"].get("healthCheckNodePort"), None);
    let back = world.patch(&path, "merge", json!({"spec": {"externalTrafficPolicy": "Local"}})).await.ok().json();
    assert!(back["spec"]["healthCheckNodePort"].as_i64().is_some_and(|number| number >= 30_086), "{back}");
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    let none = world.create(SERVICES, service("none", none)).await.ok().json();
    assert_eq!(ports(&none), [0]);
}
