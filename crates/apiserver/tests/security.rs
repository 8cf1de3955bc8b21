//! Who is let in, and what they may do.

mod world;

use serde_json::{Value as Json, json};
use world::{Answer, World};

const DEFAULT: &str = "/api/v1/namespaces/default";

async fn account(world: &World, name: &str) -> Json {
    world.create(&format!("{DEFAULT}/serviceaccounts"), json!({"metadata": {"name": name}})).await.ok().json()
}

async fn token(world: &World, name: &str, spec: Json) -> Answer {
    world.create(&format!("{DEFAULT}/serviceaccounts/{name}/token"), json!({"spec": spec})).await
}

async fn with_token(world: &World, token: &str, method: &str, target: &str, body: Json) -> Answer {
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    world.send_bare(method, target, &headers, body).await
}

#[tokio::test]
async fn strangers_see_health_and_version_and_no_more() {
    let world = World::new().await;
    for target in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(world.send_bare("GET", target, &[], Vec::new()).await.code, 200, "{target}");
    }
    let refused = world.send_bare("GET", &format!("{DEFAULT}/pods"), &[], Vec::new()).await;
    assert_eq!(
        refused.failure(),
        r#"403 Forbidden pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let refused = world.send_bare("GET", "/metrics", &[], Vec::new()).await;
    assert_eq!(refused.failure(), r#"403 Forbidden forbidden: User "system:anonymous" cannot get path "/metrics""#);
    let refused = world.send_bare("GET", "/version", &[("authorization", "Bearer junk")], Vec::new()).await;
    assert_eq!(refused.failure(), "401 Unauthorized Unauthorized");
}

#[tokio::test]
async fn roles_allow_what_their_bindings_bind() {
    let world = World::new().await;
    let pods = format!("{DEFAULT}/pods");
    assert_eq!(world.ask_as("jane", "GET", &pods, Json::Null).await.code, 403);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
    world.create(&format!("{rbac}/namespaces/default/roles"), role).await.ok();
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    world.create(&format!("{rbac}/namespaces/default/rolebindings"), binding).await.ok();
    world.ask_as("jane", "GET", &pods, Json::Null).await.ok();
    assert_eq!(world.ask_as("jane", "GET", &format!("{DEFAULT}/secrets"), Json::Null).await.code, 403);
    assert_eq!(world.ask_as("jane", "GET", "/api/v1/namespaces/kube-system/pods", Json::Null).await.code, 403);
    let asked = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let allowed = world.ask_as("jane", "POST", review, asked.clone()).await.ok().json();
    assert_eq!(allowed["status"]["allowed"], true);
    assert_eq!(world.ask_as("joe", "POST", review, asked).await.ok().json()["status"]["allowed"], false);
    let rules = world.ask_as(
        "jane",
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        json!({"spec": {"namespace": "default"}}),
    );
    let rules = rules.await.ok().json();
    let found = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
    assert!(rules["status"]["resourceRules"].as_array().expect("rules").contains(&found), "{rules}");
    world.ask("DELETE", &format!("{rbac}/namespaces/default/rolebindings/jane"), Json::Null).await.ok();
    assert_eq!(world.ask_as("jane", "GET", &pods, Json::Null).await.code, 403);
}

#[tokio::test]
async fn default_roles_aggregate_and_nobody_grants_what_they_lack() {
    let world = World::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let binding = json!({"metadata": {"name": "admin"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    world.create(&format!("{rbac}/namespaces/default/rolebindings"), binding).await.ok();
    let ann = |method: &'static str, target: String, body: Json| {
        let world = &world;
        async move { world.ask_as("ann", method, &target, body).await }
    };
    ann("POST", format!("{DEFAULT}/configmaps"), json!({"metadata": {"name": "a"}})).await.ok();
    ann("GET", format!("{DEFAULT}/secrets"), Json::Null).await.ok();
    let role = |resource: &str| json!({"metadata": {"name": resource}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
    ann("POST", format!("{rbac}/namespaces/default/roles"), role("pods")).await.ok();
    let refused = ann("POST", format!("{rbac}/namespaces/default/roles"), role("nodes")).await;
    assert_eq!(
        refused.failure(),
        "403 Forbidden roles.rbac.authorization.k8s.io \"nodes\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
    );
}

#[tokio::test]
async fn a_bound_token_lives_as_long_as_what_it_is_bound_to() {
    let world = World::new().await;
    let robot = account(&world, "robot").await;
    let answer = token(&world, "robot", json!({"audiences": []})).await.ok();
    assert_eq!(answer.code, 201);
    let value = answer.json()["status"]["token"].as_str().expect("a token").to_owned();
    let who = with_token(&world, &value, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({}))
        .await
        .ok()
        .json();
    let user = &who["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(user["uid"], robot["metadata"]["uid"]);
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let review = json!({"spec": {"token": value}});
    let reviewed = world.create("/apis/authentication.k8s.io/v1/tokenreviews", review.clone()).await.ok().json();
    assert_eq!(reviewed["status"]["authenticated"], true);
    assert_eq!(reviewed["status"]["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    let foreign = token(&world, "robot", json!({"audiences": ["vault"]})).await.ok().json();
    let foreign = foreign["status"]["token"].as_str().expect("a token").to_owned();
    assert_eq!(with_token(&world, &foreign, "GET", "/version", Json::Null).await.code, 401);
    assert_eq!(token(&world, "robot", json!({"audiences": [], "expirationSeconds": 5})).await.code, 422);
    world.ask("DELETE", &format!("{DEFAULT}/serviceaccounts/robot"), Json::Null).await.ok();
    assert_eq!(with_token(&world, &value, "GET", "/version", Json::Null).await.code, 401);
    let reviewed = world.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await.ok().json();
    assert_eq!(reviewed["status"].get("authenticated"), None);
    assert!(reviewed["status"]["error"].is_string());
}

fn pod(name: &str) -> Json {
    json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "mine"}}]}]}})
}

#[tokio::test]
async fn an_agent_acts_for_its_node_alone() {
    let world = World::new().await;
    let headers = [
        ("content-type", "application/json"),
        ("impersonate-user", "system:node:n"),
        ("impersonate-group", "system:nodes"),
    ];
    let agent = |method: &'static str, target: &str, body: Json| {
        let (world, target) = (&world, target.to_owned());
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        async move { world.send(method, &target, &headers, body).await }
    };
    let created = agent("POST", "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.ok().json();
    assert_eq!(created["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    assert_eq!(agent("POST", "/api/v1/nodes", json!({"metadata": {"name": "m"}})).await.code, 403);
    account(&world, "default").await;
    for name in ["mine", "other"] {
        world
            .create(&format!("{DEFAULT}/secrets"), json!({"metadata": {"name": name}, "stringData": {"k": "v"}}))
            .await
            .ok();
    }
    assert_eq!(agent("GET", &format!("{DEFAULT}/secrets/mine"), Json::Null).await.code, 403);
    world.create(&format!("{DEFAULT}/pods"), pod("p")).await.ok();
    agent("GET", &format!("{DEFAULT}/secrets/mine"), Json::Null).await.ok();
    assert_eq!(
        agent("GET", &format!("{DEFAULT}/secrets/other"), Json::Null).await.failure(),
        "403 Forbidden secrets \"other\" is forbidden: User \"system:node:n\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between node 'n' and this object"
    );
    agent("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn", Json::Null).await.ok();
    assert_eq!(agent("GET", "/api/v1/pods", Json::Null).await.code, 403);
    let status = agent("PATCH", &format!("{DEFAULT}/pods/p/status"), json!({"status": {"phase": "Running"}})).await;
    assert_eq!(status.code, 415, "a patch says which kind it is");
    let mut running = world.get(&format!("{DEFAULT}/pods/p")).await.ok().json();
    running["status"]["phase"] = json!("Running");
    agent("PUT", &format!("{DEFAULT}/pods/p/status"), running).await.ok();
    assert_eq!(agent("POST", &format!("{DEFAULT}/pods"), pod("q")).await.code, 403, "agents create only mirror pods");
    let lease = json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "n"}});
    agent("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease.clone()).await.ok();
    let foreign = json!({"metadata": {"name": "m"}});
    assert_eq!(
        agent("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", foreign).await.code,
        403
    );
    let uid = &world.get(&format!("{DEFAULT}/pods/p")).await.ok().json()["metadata"]["uid"];
    let unbound = json!({"spec": {"audiences": []}});
    assert_eq!(
        agent("POST", &format!("{DEFAULT}/serviceaccounts/default/token"), unbound).await.failure(),
        "403 Forbidden serviceaccounts \"default\" is forbidden: node requested token not bound to a pod"
    );
    let bound = json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}, "expirationSeconds": 3607}});
    let token = agent("POST", &format!("{DEFAULT}/serviceaccounts/default/token"), bound).await.ok().json();
    let value = token["status"]["token"].as_str().expect("a token").to_owned();
    let who = with_token(&world, &value, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({}))
        .await
        .ok()
        .json();
    let extra = &who["status"]["userInfo"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["n"]));
}

#[tokio::test]
async fn secrets_lie_sealed_on_the_disk() {
    let disk = store::disk::Sim::new(9);
    let world = World::on(disk.clone()).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "hunter2-hunter2"}});
    let created = world.create(&format!("{DEFAULT}/secrets"), secret).await.ok().json();
    assert_eq!(created["data"]["k"], "aHVudGVyMi1odW50ZXIy");
    world
        .create(&format!("{DEFAULT}/configmaps"), json!({"metadata": {"name": "c"}, "data": {"k": "plain-plain"}}))
        .await
        .ok();
    let holds =
        |needle: &[u8]| disk.files().values().any(|file| file.windows(needle.len()).any(|window| window == needle));
    assert!(!holds(b"hunter2-hunter2"));
    assert!(holds(b"k8s:enc:aesgcm:v1:key1:") && holds(b"plain-plain"));
}
