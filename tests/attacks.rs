//! Show 8: faults that were found in the world's kubelets, API servers and pod networks, tried on this cluster. Each test names the
//! CVE of its kind. Those of container runtimes are tried in `crates/runtime/tests/real/attacks.rs`.

use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{until, within};
use crate::cluster::{Cluster, ran};
use crate::machine::source;
use crate::streams::{HANDSHAKE, account};

/// A pod of busybox that runs a script, with more fields of its spec.
fn pod(name: &str, script: &str, container: &Value, spec: &Value) -> String {
    let mut whole = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "busybox:test", "command": ["sh", "-c", script]}]});
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    whole["containers"][0].as_object_mut().expect("a container").extend(fields(container));
    whole.as_object_mut().expect("a spec").extend(fields(spec));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}).to_string()
}

fn ready(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=30s"]);
}

/// CVE-2020-8558: what listens on the node's loopback address is reached by nobody who sends packets there from elsewhere.
/// CVE-2020-10749: no pod makes itself the node's router.
#[test]
fn a_pod_reaches_no_loopback_of_its_node_and_is_not_its_router() {
    let cluster = Cluster::start();
    let private = TcpListener::bind("127.0.0.1:7777").expect("listen");
    let public = TcpListener::bind("0.0.0.0:7778").expect("listen");
    let datagrams = UdpSocket::bind("127.0.0.1:7777").expect("listen");
    for listener in [&private, &public] {
        listener.set_nonblocking(true).expect("listen without waiting");
    }
    datagrams.set_nonblocking(true).expect("listen without waiting");
    let security = json!({"securityContext": {"privileged": true}});
    cluster.apply(&pod("attacker", "sleep 1000", &security, &json!({})));
    ready(&cluster, "attacker");
    let script = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; \
        gateway=$(ip route | awk '/^default/ { print $3 }'); ip addr del 127.0.0.1/8 dev lo; \
        ip route add 127.0.0.1/32 via $gateway dev eth0; ip route get 127.0.0.1 | grep -q eth0 && echo prepared; \
        for port in 7777 10250; do echo attack | timeout 2 nc -w 1 127.0.0.1 $port; done; \
        echo honest | timeout 2 nc -w 1 $gateway 7778; echo done";
    let said = cluster.kubectl(&["exec", "attacker", "--", "sh", "-c", script]);
    assert_eq!(said, "prepared\ndone\n");
    let mut heard = String::new();
    let (mut connection, _) = public.accept().expect("what is open to pods is reached: the attack was tried");
    connection.set_nonblocking(false).expect("wait again");
    connection.read_to_string(&mut heard).expect("read");
    assert_eq!(heard, "honest\n");
    let reached = private.accept().map(|(_, from)| from);
    assert!(reached.is_err(), "the node's loopback address was reached by {reached:?}");

    let process = cluster.machine.shell("pidof -s sleep");
    let inside = format!("nsenter --net=/proc/{}/ns/net /usr/bin/python3", process.trim());
    let send = "import socket; print(socket.socket(2, 2).sendto(b'attack', ('127.0.0.1', 7777)))";
    assert_eq!(cluster.machine.shell(&format!("{inside} -c \"{send}\"")), "6\n");
    assert!(datagrams.recv(&mut [0; 16]).is_err(), "a datagram reached the node's loopback address");
    let advertise = source("files").join("advertise.py");
    let before = cluster.machine.shell("ip -6 route; ip -6 addr");
    assert_eq!(cluster.machine.shell(&format!("{inside} {}", advertise.display())), "sent\n");
    assert_eq!(before, cluster.machine.shell("ip -6 route; ip -6 addr"), "the pod changed the node's routes");
}

/// The read-only port, debugging, and whatever else was ever open to everybody: nothing listens but what is known.
/// CVE-2021-41103: folders of other people's files are entered by nobody.
#[test]
fn nothing_is_open_to_strangers() {
    let cluster = Cluster::start();
    cluster.apply(&pod("one", "sleep 1000", &json!({}), &json!({})));
    ready(&cluster, "one");
    let listening = cluster.machine.shell("ss -Hltnu | awk '{ print $1 \" \" $5 }' | sort -u");
    let known = |line: &str| {
        let port = line.rsplit(':').next().unwrap_or_default();
        // The API, the agent, names with their metrics.
        ["6443", "10250", "53", "9153"].contains(&port)
    };
    // containerd serves its streams to the agent at a port of its choice.
    let (allowed, at) = if cluster.containerd.is_some() { (1, "tcp 127.0.0.1:") } else { (0, "") };
    let unknown: Vec<&str> = listening.lines().filter(|line| !known(line)).collect();
    assert!(unknown.len() <= allowed && unknown.iter().all(|line| line.starts_with(at)), "{unknown:#?}");
    for path in ["/debug/pprof/", "/debug/flags/v", "/checkpoint/default/one/main", "/run/default/one/main", "/spec/"] {
        let mut curl = Command::new("/usr/bin/curl");
        curl.args([
            "--silent",
            "--insecure",
            "--max-time",
            "5",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        assert_eq!(ran(curl.arg(format!("https://127.0.0.1:10250{path}"))).stdout, "401", "{path}");
    }
    let data = cluster.data();
    for folder in [data.display().to_string(), "/run/isopod*".into(), "/etc/isopod*".into()] {
        let modes = cluster.machine.shell(&format!("stat -c '%a %n' {folder}"));
        assert!(modes.lines().all(|line| line.starts_with("700 ")), "{modes}");
    }
    let stranger = format!("setpriv --reuid 65534 --regid 65534 --clear-groups ls {} 2>&1 || true", data.display());
    assert!(cluster.machine.shell(&stranger).contains("Permission denied"));
}

/// CVE-2018-1002105, CVE-2020-8559, CVE-2020-8555, CVE-2022-3162: streams and proxies lead nobody to where they may not go.
#[test]
fn streams_and_proxies_lead_nobody_elsewhere() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=word=swordfish"]);
    let location = "https://127.0.0.1:6443/api/v1/namespaces/default/secrets/hidden";
    let answer = format!(
        "HTTP/1.1 302 Found\\r\\nLocation: {location}\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"
    );
    let script = format!(
        "while true; do nc -l -p 8080 -e sh -c 'while read line && test ${{#line}} -gt 1; do :; done; printf \"{answer}\"'; done"
    );
    cluster.apply(&pod("liar", &script, &json!({"ports": [{"containerPort": 8080}]}), &json!({})));
    ready(&cluster, "liar");
    let token = account(&cluster, "guest", "get,create", "pods/exec,pods/proxy,services/proxy,configmaps");
    let ask = |path: &str, more: &[&str]| {
        let mut curl = Command::new("/usr/bin/curl");
        curl.args(["--silent", "--insecure", "--http1.1", "--path-as-is", "--max-time", "5", "--include"]).args(more);
        curl.args(["--header", &format!("Authorization: Bearer {token}")]);
        ran(curl.arg(format!("https://127.0.0.1:6443{path}"))).stdout
    };
    let space = "/api/v1/namespaces/default";
    until("the binding counts", || {
        ask(&format!("{space}/configmaps/kube-root-ca.crt"), &[]).contains(" 200 ").then_some(())
    });
    // A refused upgrade leaves nothing open to the agent.
    let port = "6443";
    let mut tunnel = Command::new("/usr/bin/python3");
    tunnel.arg(source("files").join("tunnel.py")).args([
        port,
        &token,
        &format!("{space}/pods/liar/exec?command=id&stdout=1"),
    ]);
    let talk = ran(tunnel.args(["/runningpods/", "/pods", "/exec/default/liar/main?command=id&output=1"]));
    assert_eq!(talk.code, Some(0), "{talk:?}");
    assert!(talk.stdout.starts_with("HTTP/1.1 4"), "{}", talk.stdout);
    assert!(!talk.stdout.contains("PodList") && !talk.stdout.contains("uid="), "{}", talk.stdout);
    // A server in a pod sends nobody on with the API server's own credentials, upgraded or not.
    for more in [&[][..], &HANDSHAKE[..]] {
        let answer = until("the pod answers", || {
            let answer = ask(&format!("{space}/pods/liar/proxy/"), more);
            answer.contains(" 302 ").then_some(answer)
        });
        assert!(!answer.contains("swordfish") && !answer.contains("c3dvcmRmaXNo"), "{answer}");
    }
    // Nor do paths lead out of what was allowed.
    for path in [
        "/api/v1/namespaces/default/configmaps/../secrets/hidden",
        "/api/v1/namespaces/default/configmaps/..%2fsecrets%2fhidden",
        "/api/v1/namespaces/default/configmaps/%2e%2e/secrets/hidden",
        "/api/v1/namespaces/default/pods/..%2f..%2f..%2fsecrets/proxy/",
        "/api/v1/namespaces/default/services/..%2Fsecrets%2Fhidden/proxy",
        "/api/v1//namespaces/default/secrets/hidden",
        "/api/v1/namespaces/default/configmaps/kube-root-ca.crt/../../secrets/hidden",
    ] {
        let answer = ask(path, &[]);
        assert!(!answer.contains(" 200 ") && !answer.contains("c3dvcmRmaXNo"), "{path}: {answer}");
    }
    endpoints(&cluster);
}

/// Endpoints written by hand lead no proxy to where only the machine itself may go.
fn endpoints(cluster: &Cluster) {
    cluster
        .apply(r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"bent"},"spec":{"ports":[{"port":6443}]}}"#);
    let slice = |address: &str, kind: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
            "metadata": {"name": "bent", "labels": {"kubernetes.io/service-name": "bent"}},
            "ports": [{"port": 6443}], "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
        .to_string()
    };
    let folder = &cluster.machine.folder;
    for address in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"] {
        let file = folder.join("slice.json");
        std::fs::write(&file, slice(address, "IPv4")).expect("write a file");
        let refused = cluster.try_kubectl(&["create", "-f", &file.display().to_string()]);
        assert!(refused.stderr.contains("endpoints[0].addresses[0]: Invalid value"), "{address}: {refused:?}");
    }
    // The node's own address, and a name that may mean anything tomorrow (CVE-2020-8562).
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"]);
    for (address, kind) in [(node.as_str(), "IPv4"), ("localhost.example", "FQDN")] {
        cluster.apply(&slice(address, kind));
        let through = ["get", "--raw", "/api/v1/namespaces/default/services/https:bent:/proxy/version"];
        let answer = cluster.try_kubectl(&through);
        assert!(answer.code == Some(1) && answer.stderr.contains("no endpoints available"), "{address}: {answer:?}");
        cluster.kubectl(&["delete", "endpointslice", "bent"]);
    }
}

/// CVE-2020-8557: what a container writes counts, be it a folder, its own layer or the files that every pod has. And
/// CVE-2024-10220: nobody's repository is run by the agent.
#[test]
fn a_pod_that_writes_more_than_it_may_is_ended() {
    let cluster = Cluster::start();
    let limited = json!({"resources": {"limits": {"ephemeral-storage": "1Mi"}}});
    let folder = json!({"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]});
    let volume = json!({"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]});
    let write = |path: &str, kilobytes: u32| format!("head -c {kilobytes}000 /dev/zero > {path}; sleep 1000");
    cluster.apply(&pod("folder", &write("/scratch/file", 3000), &folder, &volume));
    cluster.apply(&pod("layer", &write("/tmp/file", 3000), &limited, &json!({})));
    cluster.apply(&pod("hosts", &write("/etc/hosts", 3000), &limited, &json!({})));
    cluster.apply(&pod("log", "head -c 3000000 /dev/zero | tr '\\0' x; sleep 1000", &limited, &json!({})));
    cluster.apply(&pod("modest", &write("/scratch/file", 500), &folder, &volume));
    cluster.apply(&pod(
        "repository",
        "sleep 1",
        &json!({}),
        &json!({"volumes": [{"name": "git", "gitRepo": {"repository": "/x"}}]}),
    ));
    let container = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    for (name, message) in [
        ("folder", "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "),
        ("layer", container),
        ("hosts", container),
        ("log", container),
    ] {
        let ended = within(Duration::from_secs(40), "the pod is ended", || {
            let pod = cluster.get(&["pod", name]);
            (pod["status"]["phase"] == "Failed").then_some(pod)
        });
        assert_eq!(
            (&ended["status"]["reason"], &ended["status"]["message"]),
            (&"Evicted".into(), &message.into()),
            "{name}"
        );
        let conditions = ended["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget");
        assert_eq!(told.map(|condition| &condition["reason"]), Some(&"TerminationByKubelet".into()), "{name}");
    }
    assert_eq!(cluster.get(&["pod", "modest"])["status"]["phase"], "Running");
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=repository"]);
    assert!(events.contains("spec.volumes[0].gitRepo"), "{events}");
}
