//! Show 8: tokens in pods, private registries, fields that are not honoured yet.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::clock::until;
use crate::cluster::{Cluster, named, ran};
use crate::runtime::{Runtime, on};

/// A pod that holds kubectl.
const CLIENT: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"client"},"spec":{"terminationGracePeriodSeconds":0,
    "containers":[{"name":"client","image":"kubectl:test","command":["sh","-c","sleep 1000"]}]}}"#;

#[test]
fn a_client_in_a_pod_uses_its_token_against_kubernetes_default() {
    let cluster = Cluster::start();
    cluster.load("ISOPOD_KUBECTL_IMAGE");
    cluster.apply(CLIENT);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]);
    let inside = |line: &str| cluster.try_kubectl(&["exec", "client", "--", "sh", "-c", line]);
    // By the usual variables: what every client library does in a pod.
    let who = inside("kubectl auth whoami -o jsonpath='{.status.userInfo.username} {.status.userInfo.extra}'");
    assert!(who.stdout.starts_with("system:serviceaccount:default:default "), "{who:?}");
    assert!(who.stdout.contains(r#""authentication.kubernetes.io/pod-name":["client"]"#), "{who:?}");
    let refused = inside("kubectl get pods");
    assert_eq!(refused.code, Some(1));
    let why = r#"pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert!(refused.stderr.contains(why), "{refused:?}");
    cluster.kubectl(&["create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount=default:default"]);
    // By name, with the authority that is in the pod.
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let line = format!(
        "kubectl --server=https://kubernetes.default --certificate-authority={folder}/ca.crt --token=$(cat {folder}/token) get pods -o name"
    );
    let seen = until("the binding counts", || {
        let seen = inside(&line);
        (seen.code == Some(0)).then_some(seen)
    });
    assert_eq!(seen.stdout, "pod/client\n");
    let nobody = inside(
        "kubectl --server=https://kubernetes.default.svc --certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt --token=wrong get pods",
    );
    assert!(nobody.stderr.contains("error: You must be logged in to the server"), "{nobody:?}");
    // The token dies with its pod.
    let token = inside(&format!("cat {folder}/token")).stdout;
    cluster.kubectl(&["delete", "pod", "client"]);
    let server = ["--kubeconfig=/dev/null", "--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify"];
    let late = cluster.try_kubectl(&[&server[..], &["--token", token.trim(), "get", "pods"]].concat());
    assert!(late.stderr.contains("error: You must be logged in to the server"), "{late:?}");
}

/// Debian's registry in the machine, asking for a password.
fn start_registry(cluster: &Cluster) {
    let folder = &cluster.machine.folder;
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n\
         auth: {{htpasswd: {{realm: test, path: {0}/passwords}}}}\n",
        folder.display()
    );
    std::fs::write(folder.join("registry.yml"), config).expect("write a file");
    // bcrypt of "swordfish".
    std::fs::write(folder.join("passwords"), PASSWORDS).expect("write a file");
    let mut registry = cluster.machine.command("registry", Path::new("/usr/bin/docker-registry"));
    registry
        .arg("serve")
        .arg(folder.join("registry.yml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = registry.spawn().expect("run docker-registry");
    until("the registry listens", || std::net::TcpStream::connect("127.0.0.1:5000").ok());
    // It ends with the machine; this is only the process that waits for it.
    drop(child);
}

/// One user, `reader`.
const PASSWORDS: &str = "reader:$2y$05$CSy56fB1NIOJwhkgfBidG.nVh/AkiGm0KcYZXyZzYAK9qiGLyPMau\n";

fn push(cluster: &Cluster) {
    let archive = format!("docker-archive:{}", named("ISOPOD_EXAMPLE_IMAGE").display());
    let to = "docker://127.0.0.1:5000/private/api:1";
    let mut skopeo = Command::new("/usr/bin/skopeo");
    skopeo.args([
        "copy",
        "--insecure-policy",
        "--dest-tls-verify=false",
        "--dest-creds=reader:swordfish",
        &archive,
        to,
    ]);
    let pushed = ran(skopeo.env("HOME", &cluster.machine.folder).env("TMPDIR", &cluster.machine.folder));
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
}

/// Where the registries of other runtimes are, their own files say.
#[test]
fn a_private_registry_needs_its_pull_secret() {
    on(Runtime::BuiltIn, private_registry);
}

fn private_registry() {
    let cluster = Cluster::start_with(&["--insecure-registry=127.0.0.1:5000"]);
    start_registry(&cluster);
    push(&cluster);
    let pod = |name: &str, secrets: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"imagePullSecrets":{secrets},
            "terminationGracePeriodSeconds":0,"containers":[{{"name":"api","image":"127.0.0.1:5000/private/api:1"}}]}}}}"#
        )
    };
    cluster.apply(&pod("without", "[]"));
    let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    until("the pull fails", || {
        let reason = cluster.kubectl(&["get", "pod", "without", "-o", reason]);
        ["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()).then_some(())
    });
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=without"]);
    assert!(events.contains("Failed to pull image \"127.0.0.1:5000/private/api:1\""), "{events}");
    let credentials = ["--docker-server=127.0.0.1:5000", "--docker-username=reader", "--docker-password=swordfish"];
    cluster.kubectl(&[&["create", "secret", "docker-registry", "key"], &credentials[..]].concat());
    cluster.apply(&pod("with", r#"[{"name":"key"}]"#));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/with", "--timeout=30s"]);
    let image = cluster.kubectl(&["get", "pod", "with", "-o", "jsonpath={.status.containerStatuses[0].imageID}"]);
    assert!(image.starts_with("127.0.0.1:5000/private/api@sha256:"), "{image}");
}

#[test]
fn a_field_that_is_not_honoured_is_refused_service_by_name() {
    let cluster = Cluster::start();
    cluster.apply(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"asks"},"spec":{"containers":[
        {"name":"api","image":"my-registry/api:v1.2.3"}],"volumes":[{"name":"far","nfs":{"server":"s","path":"/p"}}]}}"#,
    );
    let pod = until("the pod is refused service", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=asks"]);
        events.contains("spec.volumes[0].nfs").then(|| cluster.get(&["pod", "asks"]))
    });
    assert_eq!(pod["status"]["phase"], "Pending");
}

#[test]
fn a_secret_is_not_to_be_read_in_the_data_folder() {
    let cluster = Cluster::start();
    let word = "correct-horse-battery-staple";
    cluster.kubectl(&["create", "secret", "generic", "hidden", &format!("--from-literal=word={word}")]);
    cluster.kubectl(&["create", "configmap", "plain", &format!("--from-literal=word=in-{word}")]);
    let store = cluster.data().join("store");
    let holds = |text: &str| ran(Command::new("/bin/grep").args(["-rlaF", text]).arg(&store)).stdout;
    assert_ne!(holds(&format!("in-{word}")), "", "what is not sealed is seen: this test looks in the right place");
    let encoded = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ";
    assert_eq!(holds(encoded), "");
    let files =
        ran(Command::new("/bin/sh").arg("-c").arg(format!("cat {}/* | grep -aoF '{word}' | wc -l", store.display())));
    let plain = ran(Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("cat {}/* | grep -aoF 'in-{word}' | wc -l", store.display())));
    assert_eq!(files.stdout, plain.stdout, "the word stands in the store more often than the plain one");
}
