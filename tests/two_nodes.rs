//! Two machines and a cable: a node joins, pods reach one another, a node dies and comes back, a drain costs no request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{until, within};
use crate::cluster::{Cluster, Ran, ran};
use crate::load::{Aim, Connections, Load, request};

pub const ONE: &str = "192.0.2.1";
pub const TWO: &str = "192.0.2.2";
/// The shortest that goes with how often nodes tell that they live, with some room.
pub const GRACE: &str = "16s";

/// A cluster on the first machine that other machines reach, and a second machine that is no node yet.
pub fn machines() -> (Cluster, Cluster) {
    let two = Cluster::absent();
    let mut one = Cluster::absent();
    one.machine.connect(ONE, &two.machine, TWO);
    for machine in [&one, &two] {
        machine.load("ISOPOD_BUSYBOX_IMAGE");
    }
    one.up(&["--node-name", "one", "--bind", ONE, "--node-monitor-grace-period", GRACE]);
    (one, two)
}

/// The same, and the second machine has joined.
pub fn nodes() -> (Cluster, Cluster) {
    let (one, mut two) = machines();
    let command = join_command(&one);
    let words: Vec<&str> = command.split(' ').skip(2).chain(["--node-name", "two"]).collect();
    two.agent(&words);
    one.node_is_ready();
    (one, two)
}

/// What the first machine says that the second has to run.
pub fn join_command(one: &Cluster) -> String {
    let made = ran(&mut one.isopod(&["token", "create", "--print-join-command"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let command = made.stdout.trim().to_owned();
    let expected = format!("isopod agent --server https://{ONE}:6443 --token ");
    assert!(command.starts_with(&expected) && command.contains(" --ca-cert-hash sha256:"), "{command}");
    command
}

/// A Deployment whose pods tell their names on port 8080, spread over the nodes. One that is asked to end ends what it has
/// begun and takes nothing new.
pub fn web(replicas: u32, tolerated_seconds: u32) -> Value {
    let line = "mkdir -p /tmp/www; hostname > /tmp/www/index.html; httpd -p 8080 -h /tmp/www; \
                trap 'sleep 1; exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": tolerated_seconds});
    let tolerations = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(toleration);
    let spread = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 5, "topologySpreadConstraints": [spread],
                    "tolerations": tolerations,
                    "containers": [{
                        "name": "web", "image": "busybox:test", "command": ["sh", "-c", line],
                        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                        "ports": [{"containerPort": 8080, "name": "http"}],
                    }],
                },
            },
        },
    })
}

pub fn service(name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    for (field, value) in spec.as_object().expect("fields") {
        object["spec"][field] = value.clone();
    }
    object
}

/// What there is to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub address: String,
    pub ending: bool,
    /// When its container was started, and how often again.
    pub started: String,
    pub restarts: u64,
}

pub fn pods(cluster: &Cluster) -> Vec<Pod> {
    let list = cluster.get(&["pods", "-l", "app=web"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pod = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        Pod {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            address: text(&pod["status"]["podIP"]),
            ending: pod["metadata"].get("deletionTimestamp").is_some(),
            started: text(&container["state"]["running"]["startedAt"]),
            restarts: container["restartCount"].as_u64().unwrap_or_default(),
        }
    };
    list["items"].as_array().expect("a list").iter().map(pod).collect()
}

pub fn on<'a>(pods: &'a [Pod], node: &str) -> Vec<&'a Pod> {
    pods.iter().filter(|pod| pod.node == node && !pod.ending).collect()
}

pub fn from_pod(cluster: &Cluster, pod: &str, url: &str) -> String {
    let ran = cluster.try_kubectl(&["exec", pod, "--", "wget", "-qO-", url]);
    format!("{}{}", ran.stdout, ran.stderr).trim().to_owned()
}

pub fn complete(cluster: &Cluster) {
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
}

#[test]
fn pods_of_two_nodes_are_in_one_network_and_one_cluster() {
    let (one, two) = nodes();
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    one.apply(&service("exposed", &json!({"type": "NodePort"})).to_string());
    complete(&one);
    let pods = pods(&one);
    assert_eq!((on(&pods, "one").len(), on(&pods, "two").len()), (2, 2), "{pods:#?}");
    let names: Vec<&str> = pods.iter().map(|pod| &*pod.name).collect();
    for pod in &pods {
        for other in &pods {
            let got = from_pod(&one, &pod.name, &format!("http://{}:8080", other.address));
            assert_eq!(got, other.name, "{} on {} to {} on {}", pod.name, pod.node, other.name, other.node);
        }
    }
    let address = one.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    for node in ["one", "two"] {
        let client = &on(&pods, node)[0].name;
        for url in
            [format!("http://{address}"), "http://web".to_owned(), "http://web.default.svc.cluster.local".to_owned()]
        {
            let mut seen = BTreeMap::<String, usize>::new();
            until(&format!("{url} from node {node} leads to every pod"), || {
                *seen.entry(from_pod(&one, client, &url)).or_default() += 1;
                assert!(seen.keys().all(|name| names.contains(&&**name)), "{url} from node {node}: {seen:?}");
                (seen.len() == names.len()).then_some(())
            });
        }
        // Every pod is told where the API is, and gets there.
        let api = one.try_kubectl(&[
            "exec",
            client,
            "--",
            "sh",
            "-c",
            "echo | nc -w 3 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT",
        ]);
        assert_eq!(api.code, Some(0), "the API from node {node}: {api:?}");
    }
    ports(&one, &two, &names);
    streams(&one, on(&pods, "two")[0]);
    leave(&one, two);
}

/// Ports of nodes lead to pods of both, from both machines; those for a node's own pods only to these.
pub fn ports(one: &Cluster, two: &Cluster, names: &[&str]) {
    let port = |name: &str| one.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let exposed = port("exposed");
    for machine in [&two.machine, &one.machine] {
        machine.move_here();
        for node in [ONE, TWO] {
            let at: SocketAddr = format!("{node}:{exposed}").parse().expect("an address");
            for _ in 0..8 {
                let got = request(at, "GET", "/").unwrap_or_else(|error| panic!("{at}: {error}"));
                assert!(names.contains(&got.trim()), "{got}");
            }
        }
    }
    let keep = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    one.apply(&service("own", &keep).to_string());
    let own = port("own");
    let all = pods(one);
    for (client, node, address) in [(&two.machine, "one", ONE), (&one.machine, "two", TWO)] {
        client.move_here();
        let there: Vec<&str> = on(&all, node).into_iter().map(|pod| &*pod.name).collect();
        let at: SocketAddr = format!("{address}:{own}").parse().expect("an address");
        until("the rules are there", || request(at, "GET", "/").ok());
        for _ in 0..8 {
            let got = request(at, "GET", "/").expect("an answer");
            assert!(there.contains(&got.trim()), "{got} does not run on {node}");
        }
    }
    one.machine.move_here();
}

/// What goes through the API server to the agent of the other machine.
pub fn streams(one: &Cluster, pod: &Pod) {
    assert_eq!(one.kubectl(&["exec", &pod.name, "--", "hostname"]).trim(), pod.name);
    one.kubectl(&["exec", &pod.name, "--", "sh", "-c", "echo told > /proc/1/fd/1"]);
    until("the log is shown", || one.kubectl(&["logs", &pod.name]).contains("told").then_some(()));
    let mut forward = one.kubectl_command(&crate::cluster::kubectls()[1]);
    let mut forward =
        forward.args(["port-forward", &format!("pod/{}", pod.name), "18080:8080"]).spawn().expect("run kubectl");
    let got = until("the port is forwarded", || request("127.0.0.1:18080".parse().ok()?, "GET", "/").ok());
    assert_eq!(got.trim(), pod.name);
    forward.kill().and_then(|()| forward.wait()).expect("end kubectl");
    let stats = one.kubectl(&["get", "--raw", "/api/v1/nodes/two/proxy/stats/summary"]);
    assert!(stats.contains(&pod.name), "{stats}");
}

/// An agent that ends leaves everything on, comes back without a token, is alone on its folder; `down` takes all away.
fn leave(one: &Cluster, mut two: Cluster) {
    let pods_before = pods(one);
    let client = &on(&pods_before, "one")[0].name;
    let there = on(&pods_before, "two")[0];
    two.interrupt();
    assert_eq!(
        from_pod(one, client, &format!("http://{}:8080", there.address)),
        there.name,
        "containers and routes go on"
    );
    two.agent(&["--node-name", "two"]);
    let second = ran(&mut two.isopod(&["agent", "--node-name", "two"]));
    assert!(second.code == Some(1) && second.stderr.contains("runs a cluster on it already"), "{second:?}");
    assert_eq!(pods(one), pods_before);
    let key = two.machine.shell(&format!("stat -c %a {}", two.data().join("pki/kubelet-client.pem").display()));
    assert_eq!(key.trim(), "600");
    let down = ran(&mut two.isopod(&["down", "--purge"]));
    assert_eq!(down.code, Some(0), "{down:?}");
    two.ended();
    let left = two.machine.shell("ip -o link; ip route; nft list tables; ls /run /etc | grep isopod || true");
    let ours = |line: &&str| ["isopod", "isov", "10.244."].iter().any(|word| line.contains(word));
    assert_eq!(left.lines().filter(ours).collect::<Vec<_>>(), [""; 0], "nothing is left");
    one.kubectl(&["delete", "node", "two"]);
    until("the way to it goes with the node", || (!one.machine.shell("ip route").contains(TWO)).then_some(()));
}

fn refused(two: &Cluster, arguments: &[&str]) -> Ran {
    let ran = ran(two.isopod(&["agent", "--node-name", "two"]).args(arguments));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran
}

#[test]
fn a_machine_joins_no_cluster_that_it_does_not_recognize() {
    let (one, two) = machines();
    let made = ran(&mut one.isopod(&["token", "create"])).stdout;
    let (id, secret) = made.trim().split_once('.').expect("ID.SECRET");
    let server = format!("https://{ONE}:6443");
    let wrong = format!("{id}.{}", secret.chars().rev().collect::<String>());
    let told = refused(&two, &["--server", &server, "--token", &wrong]).stderr;
    assert!(told.contains("does not know the secret"), "{told}");
    let pin = format!("sha256:{}", "00".repeat(32));
    let told = refused(&two, &["--server", &server, "--token", made.trim(), "--ca-cert-hash", &pin]).stderr;
    assert!(told.contains("which --ca-cert-hash does not name"), "{told}");
    let told = refused(&two, &[]).stderr;
    assert!(told.contains("--server and --token"), "{told}");
    let told = refused(&two, &["--server", "http://h", "--token", "abc", "--ca-cert-hash", "x"]).stderr;
    let all = ["--server:", "--token:", "--ca-cert-hash"].iter().all(|word| told.contains(word));
    assert!(all, "everything wrong is told at once: {told}");
    let name = |name: &str, token: &str| {
        ran(&mut two.isopod(&["agent", "--node-name", name, "--server", &server, "--token", token]))
    };
    let told = name("one", made.trim()).stderr;
    assert!(told.contains("the cluster has a node \"one\" already, and it is ready"), "{told}");
    assert_eq!(ran(&mut one.isopod(&["token", "rm", id])).code, Some(0));
    let told = name("two", made.trim());
    let expected = format!("knows no token {id}, or it has ended");
    assert!(
        told.code == Some(1) && told.stderr.trim().lines().count() == 1 && told.stderr.contains(&expected),
        "{told:?}"
    );
    assert!(told.stdout.contains("trying for "), "it is told before it is given up: {told:?}");
    assert_eq!(one.get(&["nodes"])["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_pods_of_a_node_that_dies_are_replaced_and_nothing_else_moves() {
    let (one, two) = nodes();
    one.apply(&web(4, 2).to_string());
    one.apply(&service("web", &json!({})).to_string());
    complete(&one);
    let before = pods(&one);
    let resident: Vec<Pod> = on(&before, "one").into_iter().cloned().collect();
    let lost: Vec<Pod> = on(&before, "two").into_iter().cloned().collect();
    assert_eq!((resident.len(), lost.len()), (2, 2), "{before:#?}");
    two.machine.shell("ip link set cable down");
    within(Duration::from_secs(40), "four pods run on the node that is left", || {
        let now = pods(&one);
        let all_run = on(&now, "one").iter().all(|pod| !pod.started.is_empty());
        (all_run && on(&now, "one").len() == 4).then_some(())
    });
    let now = pods(&one);
    for pod in &resident {
        assert!(now.contains(pod), "{pod:?} is as it was: {now:#?}");
    }
    two.machine.shell("ip link set cable up");
    within(Duration::from_secs(30), "the node is ready, and what was replaced is gone", || {
        let ready = one.try_kubectl(&["wait", "--for=condition=Ready", "node/two", "--timeout=1s"]).code == Some(0);
        let now = pods(&one);
        let gone = lost.iter().all(|pod| !now.iter().any(|now| now.uid == pod.uid));
        let free = one.get(&["node", "two"])["spec"].get("taints").is_none();
        (ready && gone && free).then_some(())
    });
    let processes = two.machine.shell(
        "for folder in /proc/[0-9]*; do tr '\\0' ' ' <$folder/cmdline; echo; done | grep -c '[h]ttpd -p 8080' || true",
    );
    assert_eq!(processes.trim(), "0", "nothing of them runs any more");
    let links =
        two.machine.shell("ip -o link | grep -c isov || true; ls /run/isopod*/runtime/sandboxes 2>/dev/null | wc -l");
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["0", "0"], "nor is anything left of them");
    let now = pods(&one);
    for pod in &resident {
        assert!(now.contains(pod), "{pod:?} is as it was: {now:#?}");
    }
    // And it takes pods again.
    one.kubectl(&["scale", "deployment", "web", "--replicas=8"]);
    complete(&one);
    let all = pods(&one);
    let client = &resident[0].name;
    let new = on(&all, "two");
    assert!(!new.is_empty(), "{all:#?}");
    assert_eq!(from_pod(&one, client, &format!("http://{}:8080", new[0].address)), new[0].name);
}

#[test]
fn a_drain_within_a_budget_costs_no_request() {
    let (one, _two) = nodes();
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}},
    });
    one.apply(&budget.to_string());
    complete(&one);
    let address = one.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let address: SocketAddr = format!("{address}:80").parse().expect("an address");
    let dns = "10.96.0.10:53".parse().expect("an address");
    let name = Aim::Name { dns, name: "web.default.svc.cluster.local".into(), port: 80 };
    let load = Load::start(&[
        (Aim::Address(address), Connections::New),
        (Aim::Address(address), Connections::Kept),
        (name, Connections::New),
    ]);
    one.kubectl(&["drain", "two", "--timeout=40s"]);
    let all = pods(&one);
    assert_eq!((on(&all, "one").len(), on(&all, "two").len()), (4, 0), "{all:#?}");
    complete(&one);
    load.end_without_failures();
}

#[test]
fn certificates_that_get_old_are_renewed_without_a_token() {
    let (one, mut two) = nodes();
    two.interrupt();
    let read =
        |cluster: &Cluster, name: &str| std::fs::read_to_string(cluster.data().join("pki").join(name)).expect("a file");
    let authority = pki::Authority::read(&read(&one, "ca.crt"), &read(&one, "ca.key")).expect("the authority");
    let day = Duration::from_secs(24 * 3600);
    let purpose = pki::Purpose::Client { organization: Some("system:nodes".into()) };
    let begun = stdx::wall().checked_sub(8 * day).expect("a time");
    let old = authority.sign("system:node:two", &purpose, begun, 10 * day).expect("a certificate");
    let old = format!("{}{}", old.certificate_pem, old.key_pem);
    std::fs::write(two.data().join("pki/kubelet-client.pem"), &old).expect("write a file");
    // The other is lost, and asked for anew as well.
    std::fs::remove_file(two.data().join("pki/kubelet-server.pem")).expect("remove a file");
    two.agent(&["--node-name", "two"]);
    until("the certificate is another", || (read(&two, "kubelet-client.pem") != old).then_some(()));
    let requests = one.get(&["csr"]);
    let of_node = |request: &&Value| request["spec"]["username"] == "system:node:two";
    let mut signers: Vec<&str> = requests["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(of_node)
        .filter_map(|request| request["spec"]["signerName"].as_str())
        .collect();
    signers.sort_unstable();
    let (client, server) = ("kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving");
    assert_eq!(signers, [client, server, server], "one of them when it joined");
    assert_eq!(one.kubectl(&["get", "--raw", "/api/v1/nodes/two/proxy/healthz"]), "ok");
    // What is said over new connections is believed as well.
    let renewed = || one.get(&["lease", "two", "-n", "kube-node-lease"])["spec"]["renewTime"].clone();
    let before = renewed();
    until("the node tells that it lives", || (renewed() != before).then_some(()));
}
