//! Nodes are emptied, left and joined: budgets, taints, certificates, tokens; and roll-outs that take themselves back.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::clock::{until, within};
use crate::cluster::{Cluster, Ran, kubectls, ran};
use crate::machine::source;

/// The disk is that of whoever runs the tests: little room on it is not what is tried here.
const ROOM: [&str; 2] = ["--eviction-hard", "nodefs.available<1%"];

/// A Deployment of busybox that runs a line of shell, with more fields of its spec and annotations.
fn deployment(replicas: u32, line: &str, spec: &Value, annotations: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "annotations": annotations},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "main", "image": "busybox:test", "command": ["sh", "-c", line],
                        "envFrom": [{"configMapRef": {"name": "settings", "optional": true}}],
                    }],
                },
            },
        },
    });
    for (name, value) in spec.as_object().expect("fields") {
        object["spec"][name] = value.clone();
    }
    object
}

fn complete(cluster: &Cluster) {
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
}

#[test]
fn a_drain_asks_the_budget_and_a_taint_asks_nobody() {
    let cluster = Cluster::start_with(&ROOM);
    cluster.apply(&deployment(2, "sleep 1000", &json!({}), &json!({})).to_string());
    cluster.apply(
        &json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        })
        .to_string(),
    );
    complete(&cluster);
    until("the budget allows one", || {
        (cluster.get(&["pdb", "web"])["status"]["disruptionsAllowed"] == 1).then_some(())
    });
    let node = cluster.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    // One pod may go; no other can take its place on a node that is cordoned, and so the second has to stay.
    let drain = cluster.try_kubectl(&["drain", &node, "--timeout=4s"]);
    assert_eq!(drain.code, Some(1), "{drain:?}");
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(drain.stderr.contains(refused), "{drain:?}");
    let running = |cluster: &Cluster| {
        let pods = cluster.get(&["pods", "-l", "app=web"]);
        let pods = pods["items"].as_array().expect("a list").clone();
        pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count()
    };
    assert_eq!(running(&cluster), 1);
    cluster.kubectl(&["delete", "pdb", "web"]);
    cluster.kubectl(&["drain", &node, "--timeout=20s"]);
    assert_eq!(running(&cluster), 0);
    cluster.kubectl(&["uncordon", &node]);
    complete(&cluster);
    taints(&cluster, &node);
}

/// Pods leave a tainted node after the time that they tolerate it.
fn taints(cluster: &Cluster, node: &str) {
    let toleration = |seconds: Value| json!([{"key": "leave", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    for (name, seconds) in [("guest", json!(3)), ("resident", Value::Null)] {
        let container = json!({"name": "main", "image": "busybox:test", "command": ["sleep", "1000"]});
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], "tolerations": toleration(seconds)},
        }).to_string());
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/guest", "pod/resident", "--timeout=20s"]);
    cluster.kubectl(&["taint", "nodes", node, "leave=now:NoExecute"]);
    let start = stdx::mono();
    within(std::time::Duration::from_secs(10), "the guest leaves", || {
        (cluster.try_kubectl(&["get", "pod", "guest"]).code != Some(0)).then_some(())
    });
    assert!((stdx::mono() - start).as_secs_f64() > 2.0, "not before its time");
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=guest"]);
    assert!(
        events.contains("TaintManagerEviction") && events.contains("Marking for deletion Pod default/guest"),
        "{events}"
    );
    assert_eq!(cluster.get(&["pod", "resident"])["metadata"]["deletionTimestamp"], Value::Null);
}

/// kubectl as somebody who has only this.
fn kubectl_as(cluster: &Cluster, credentials: &[&str], arguments: &[&str]) -> Ran {
    let mut command = Command::new(&kubectls()[1]);
    let authority = cluster.data().join("pki/ca.crt");
    command.env("HOME", &cluster.machine.folder).env("KUBECONFIG", "/dev/null").stdin(Stdio::null());
    command.args(["--server=https://127.0.0.1:6443", "--certificate-authority"]).arg(authority);
    ran(command.args(credentials).args(arguments))
}

fn request(name: &str, file: &str, signer: &str, usages: &[&str]) -> Value {
    let pem = std::fs::read(source("files").join(file)).expect("read a request");
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": base64(&pem), "signerName": signer, "usages": usages, "expirationSeconds": 3600},
    })
}

pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let number = (0..3).fold(0_u32, |number, at| number << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// Waits for the certificate and writes it where its key is.
fn issued(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    let text = until("the certificate is issued", || {
        let request = cluster.get(&["csr", name]);
        request["status"]["certificate"].as_str().map(str::to_owned)
    });
    let file = cluster.machine.folder.join(format!("{name}.crt"));
    let mut decode = Command::new("base64");
    decode.arg("-d").stdin(Stdio::piped()).stdout(std::fs::File::create(&file).expect("create a file"));
    let mut child = decode.spawn().expect("run base64");
    std::io::Write::write_all(&mut child.stdin.take().expect("it is piped"), text.as_bytes()).expect("write");
    assert!(child.wait().expect("wait for base64").success());
    file
}

fn who(cluster: &Cluster, certificate: &Path) -> String {
    let key = source("files").join("jane.key");
    let credentials =
        [format!("--client-certificate={}", certificate.display()), format!("--client-key={}", key.display())];
    let ran = kubectl_as(cluster, &[&credentials[0], &credentials[1]], &["auth", "whoami"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout
}

#[test]
fn certificates_are_given_by_approval_and_by_token() {
    let cluster = Cluster::absent_and_up();
    let api_client = "kubernetes.io/kube-apiserver-client";
    let usages = ["digital signature", "client auth"];
    cluster.apply(&request("jane", "jane.csr", api_client, &usages).to_string());
    let row = cluster.kubectl(&["get", "csr", "jane"]);
    assert!(row.contains("Pending") && row.contains("60m") && row.contains("kubernetes-admin"), "{row}");
    cluster.kubectl(&["certificate", "approve", "jane"]);
    let certificate = issued(&cluster, "jane");
    let me = who(&cluster, &certificate);
    assert!(me.contains("jane") && me.contains("[dev ops system:authenticated]"), "{me}");
    assert!(cluster.kubectl(&["get", "csr", "jane"]).contains("Approved,Issued"));
    cluster.apply(&request("denied", "jane.csr", api_client, &usages).to_string());
    cluster.kubectl(&["certificate", "deny", "denied"]);
    assert!(cluster.kubectl(&["get", "csr", "denied"]).contains("Denied"));
    token(&cluster);
}

/// A machine that knows a token recognizes the cluster, and gets a node's certificate without anybody's approval.
fn token(cluster: &Cluster) {
    let made = ran(&mut cluster.isopod(&["token", "create", "--description", "a test"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let token = made.stdout.trim().to_owned();
    let (id, _) = token.split_once('.').expect("ID.SECRET");
    let listed = ran(&mut cluster.isopod(&["token", "ls"])).stdout;
    assert!(listed.contains(id) && listed.contains("a test") && !listed.contains(&token), "{listed}");
    let info = until("cluster-info is signed", || {
        let arguments =
            ["--as=system:anonymous", "get", "configmap", "cluster-info", "-n", "kube-public", "-o", "json"];
        let info = cluster.try_kubectl(&arguments);
        assert_eq!(info.code, Some(0), "everybody may read it: {info:?}");
        info.stdout.contains(&format!("jws-kubeconfig-{id}")).then_some(info.stdout)
    });
    assert!(info.contains("certificate-authority-data"), "{info}");
    let bearer = format!("--token={token}");
    let me = kubectl_as(cluster, &[&bearer], &["auth", "whoami"]).stdout;
    assert!(me.contains(&format!("system:bootstrap:{id}")) && me.contains("system:bootstrappers"), "{me}");
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let file = cluster.machine.folder.join("node.json");
    let wanted = request("node", "node.csr", signer, &["digital signature", "key encipherment", "client auth"]);
    std::fs::write(&file, wanted.to_string()).expect("write a file");
    let asked = kubectl_as(cluster, &[&bearer], &["create", "-f", &file.display().to_string()]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let certificate = issued(cluster, "node");
    let me = who(cluster, &certificate);
    assert!(me.contains("system:node:other") && me.contains("system:nodes"), "{me}");
    assert_eq!(ran(&mut cluster.isopod(&["token", "rm", &token])).code, Some(0));
    until("the token is worth nothing", || {
        (kubectl_as(cluster, &[&bearer], &["auth", "whoami"]).code != Some(0)).then_some(())
    });
}

/// What the running pod says that it was told.
fn greeting(cluster: &Cluster) -> String {
    let selector = "--field-selector=status.phase=Running";
    let pods = cluster.get(&["pods", "-l", "app=web", selector]);
    let name = pods["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    cluster.try_kubectl(&["exec", &name, "--", "sh", "-c", "echo $GREETING"]).stdout.trim().to_owned()
}

#[test]
fn a_rollout_that_crashes_takes_itself_back() {
    let cluster = Cluster::start_with(&ROOM);
    let settings = |greeting: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"GREETING": greeting}});
    cluster.apply(&settings("hello").to_string());
    let annotations = json!({"isopod.dev/auto-rollback": "true", "isopod.dev/restart-on-config-change": "true"});
    // Since when a pod is ready is told in whole seconds: one would be over in a moment, before a crash is seen.
    let spec = json!({"progressDeadlineSeconds": 5, "minReadySeconds": 2});
    let line = "test \"$GREETING\" != bad && sleep 1000";
    cluster.apply(&deployment(1, line, &spec, &annotations).to_string());
    complete(&cluster);
    assert_eq!(greeting(&cluster), "hello");
    cluster.apply(&deployment(1, "exit 1", &spec, &annotations).to_string());
    let start = stdx::mono();
    let rolled_back = |what: &str| {
        within(std::time::Duration::from_secs(12), what, || {
            let deployment = cluster.get(&["deployment", "web"]);
            let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.into_iter().find(|condition| condition["type"] == "RolledBack")
        })
    };
    let condition = rolled_back("the crashing image is taken back");
    let took = (stdx::mono() - start).as_secs_f64();
    assert!(took < 7.5 + 1.5, "its deadline and a half, and a look: {took} s");
    assert_eq!(condition["reason"], "ProgressDeadlineExceeded", "{condition}");
    blamed(&cluster, &condition);
    complete(&cluster);
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=web,reason=RolledBack"]);
    assert!(events.contains("which made no progress within 5 seconds"), "{events}");
    // Another good revision, with a configuration that changes.
    cluster.apply(&deployment(1, line, &spec, &annotations).to_string());
    cluster.apply(&settings("welcome").to_string());
    until("pods are replaced", || (greeting(&cluster) == "welcome").then_some(()));
    complete(&cluster);
    cluster.apply(&settings("bad").to_string());
    let start = stdx::mono();
    let condition = rolled_back("the bad configuration is taken back");
    let took = (stdx::mono() - start).as_secs_f64();
    assert!(took < 7.5 + 1.5, "its deadline and a half, and a look: {took} s");
    blamed(&cluster, &condition);
    complete(&cluster);
    assert_eq!(greeting(&cluster), "welcome");
}

/// Condition, event and `isopod why` tell the same: which pod was to blame, and for what.
fn blamed(cluster: &Cluster, condition: &Value) {
    let message = condition["message"].as_str().expect("a message");
    let blame = message.split_once(". Pod ").expect("a pod is to blame").1;
    assert!(blame.contains("container \"main\"") && blame.contains("exit code 1"), "{message}");
    let events = cluster.get(&["events", "--field-selector", "involvedObject.name=web,reason=RolledBack"]);
    let told = events["items"].as_array().expect("a list").iter().any(|event| event["message"] == condition["message"]);
    assert!(told, "{events}");
    let described = cluster.kubectl(&["describe", "deployment", "web"]);
    assert!(described.contains(blame), "{described}");
    let why = ran(&mut cluster.isopod(&["why", "deployment/web"]));
    assert!(
        why.code == Some(0) && why.stdout.contains("taken back by itself") && why.stdout.contains(blame),
        "{why:?}"
    );
}
