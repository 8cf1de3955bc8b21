//! Commands, variables of every source, and accounts.

use serde_json::{Value, json};

use super::{Case, apply, case, check};
use crate::cluster::Cluster;

/// A variable of a source.
fn from(name: &str, source: Value) -> Value {
    json!({"name": name, "valueFrom": source})
}

/// Variables of maps and secrets: all keys at once, or one by one, and those that are not there.
fn of_maps() -> Vec<Case> {
    let missing = json!({"name": "nothing", "optional": true});
    let all = json!([{"prefix": "CM_", "configMapRef": {"name": "words"}}, {"secretRef": {"name": "hidden"}},
        {"configMapRef": missing}, {"prefix": "X_", "secretRef": missing}]);
    let key = |name: &str, key: &str, optional: bool| json!({"name": name, "key": key, "optional": optional});
    let each = json!([
        from("COLOUR", json!({"configMapKeyRef": key("words", "colour", false)})),
        from("WORD", json!({"secretKeyRef": key("hidden", "word", false)})),
        from("A", json!({"configMapKeyRef": key("words", "none", true)})),
        from("B", json!({"configMapKeyRef": key("nothing", "none", true)})),
        from("C", json!({"secretKeyRef": key("hidden", "none", true)})),
        from("D", json!({"secretKeyRef": key("nothing", "none", true)})),
    ]);
    let later = json!([{"name": "word", "value": "own"}, {"name": "SAID", "value": "$(CM_size) $(word)"}]);
    vec![
        case(
            "all",
            "echo $CM_colour $CM_size $word; env | grep -c -e '^X_' -e '^colour'; true",
            &["blue big swordfish", "0"],
        )
        .container(json!({"envFrom": all})),
        case("each", "echo $COLOUR $WORD; echo ${A-no} ${B-no} ${C-no} ${D-no}", &["blue swordfish", "no no no no"])
            .container(json!({"env": each})),
        case("later", "echo $word; echo $SAID", &["own", "big own"]).container(json!({"envFrom": all, "env": later})),
    ]
}

/// Variables that say what the pod is.
fn of_fields() -> Vec<Case> {
    let fields = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels['case']",
        "metadata.annotations['example.com/note']",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let reference = |(index, path): (usize, &&str)| {
        from(&format!("V{index}"), json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}}))
    };
    let env: Vec<Value> = fields.iter().enumerate().map(reference).collect();
    let script: String = (0..fields.len()).map(|index| format!("echo \"$V{index}\";")).collect();
    let says = [
        "fields",
        "default",
        "{/metadata/uid}",
        "yes",
        "two words",
        "{/spec/nodeName}",
        "robot",
        "{/status/hostIP}",
        "{/status/hostIP}",
        "{/status/podIP}",
        "{/status/podIP}",
    ];
    let metadata = json!({"annotations": {"example.com/note": "two words"}});
    vec![
        case("fields", &script, &says)
            .spec(json!({"serviceAccountName": "robot"}))
            .metadata(metadata)
            .container(json!({"env": env})),
    ]
}

/// Variables that say what the containers may use: in units of the divisor, rounded up.
fn of_resources() -> Vec<Case> {
    let resource = |name: &str, resource: &str, divisor: Option<&str>| {
        let mut source = json!({"resource": resource});
        if let Some(divisor) = divisor {
            source["divisor"] = divisor.into();
        }
        from(name, json!({"resourceFieldRef": source}))
    };
    let env = json!([
        resource("A", "limits.cpu", None),
        resource("B", "limits.cpu", Some("1m")),
        resource("C", "requests.cpu", Some("0")),
        resource("D", "limits.memory", None),
        resource("E", "requests.memory", Some("1Mi")),
        resource("F", "limits.ephemeral-storage", Some("1Gi")),
        resource("G", "requests.ephemeral-storage", Some("1M")),
        from(
            "H",
            json!({"resourceFieldRef": {"containerName": "other", "resource": "limits.memory", "divisor": "1k"}})
        ),
    ]);
    let resources = json!({"limits": {"cpu": "1500m", "memory": "64Mi", "ephemeral-storage": "1500Mi"},
        "requests": {"cpu": "10m", "memory": "20M", "ephemeral-storage": "3M"}});
    let other = json!({"name": "other", "image": "busybox:test", "command": ["true"],
        "resources": {"limits": {"memory": "10M"}}});
    let main = json!({"name": "main", "image": "busybox:test", "env": env, "resources": resources,
        "command": ["sh", "-c", "echo $A $B $C $D $E $F $G $H"]});
    vec![case("resources", "", &["2 1500 1 67108864 20 2 3 10000"]).spec(json!({"containers": [main, other]}))]
}

/// Variables of files, which another container of the pod wrote.
fn of_files() -> Vec<Case> {
    let file = |path: &str, key: &str, optional: bool| json!({"fileKeyRef": {"volumeName": "data", "path": path, "key": key, "optional": optional}});
    let env = json!([
        from("ONE", file("env", "ONE", false)),
        from("NONE", file("env", "NONE", true)),
        from("NOWHERE", file("nowhere", "ONE", true)),
    ]);
    let init = json!({"name": "init", "image": "busybox:test", "command": ["sh", "-c", "echo ONE=\\'first\\' >/data/env"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let spec = json!({"initContainers": [init], "volumes": [{"name": "data", "emptyDir": {}}]});
    vec![
        case("of-files", "echo $ONE ${NONE-no} ${NOWHERE-no}", &["first no no"])
            .spec(spec)
            .container(json!({"env": env})),
    ]
}

/// What is run, where, and with what of its variables in it.
fn of_commands() -> Vec<Case> {
    let env = json!([{"name": "FIRST", "value": "1"}, {"name": "SECOND", "value": "$(FIRST)2 $$(FIRST) $(NONE)"}]);
    vec![
        case("words", "", &["12 $(FIRST) $(NONE) 1 $(FIRST) $(NOBODY)"]).container(
            json!({"env": env, "command": ["/bin/echo", "$(SECOND)"], "args": ["$(FIRST)", "$$(FIRST)", "$(NOBODY)"]}),
        ),
        case("args", "", &["of the image"])
            .container(json!({"command": null, "args": ["/bin/sh", "-c", "echo of the image"]})),
        case("place", "pwd; echo $HOSTNAME", &["/made/for/it", "place"])
            .container(json!({"workingDir": "/made/for/it"})),
    ]
}

/// What pods are told of Services, and whom they are to the API.
fn of_accounts() -> Vec<Case> {
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let links = "env | grep -c ^LINKED_; echo ${KUBERNETES_SERVICE_HOST:+known}";
    let who = format!(
        "ls {folder} 2>/dev/null; cut -d. -f2 {folder}/token 2>/dev/null | tr _- /+ | base64 -d 2>/dev/null | grep -o serviceaccount:default:[a-z]*"
    );
    vec![
        case("linked", links, &["7", "known"]),
        case("unlinked", links, &["0", "known"]).spec(json!({"enableServiceLinks": false})),
        case("robot", &who, &["ca.crt", "namespace", "token", "serviceaccount:default:robot"])
            .spec(json!({"serviceAccount": "robot"})),
        case("nobody", &format!("{who}; true"), &[]).spec(json!({"automountServiceAccountToken": false})),
    ]
}

#[test]
fn commands_and_variables_are_as_the_pod_says() {
    let cluster = Cluster::start();
    let object = |kind: &str, name: &str, more: Value| {
        super::with(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}), &more)
    };
    apply(
        &cluster,
        &[
            object("ConfigMap", "words", json!({"data": {"colour": "blue", "size": "big"}})),
            object("Secret", "hidden", json!({"stringData": {"word": "swordfish"}})),
            object("ServiceAccount", "robot", json!({})),
            object("Service", "linked", json!({"spec": {"ports": [{"port": 80}]}})),
        ],
    );
    let cases = [of_maps(), of_fields(), of_resources(), of_files(), of_commands(), of_accounts()];
    check(&cluster, &cases.into_iter().flatten().collect::<Vec<_>>());
}
