//! How containers are asked whether they are well, and what follows.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use super::{Case, apply, case, check, event, pod};
use crate::clock::until;
use crate::cluster::Cluster;

/// A web server whose pages tell whether the request has a cookie and a host name, and one that takes its time.
const SERVER: &str = "mkdir -p /tmp/www/cgi-bin; cd /tmp/www/cgi-bin; echo here >/tmp/www/index.html; \
    printf '#!/bin/sh\\n[ \"$HTTP_COOKIE $HTTP_HOST\" = \"word named.test\" ] && echo HTTP/1.0 200 OK || echo HTTP/1.0 403 Forbidden\\necho\\n' >check; \
    printf '#!/bin/sh\\nsleep 4\\n' >slow; chmod +x check slow; exec httpd -f -p 8080 -h /tmp/www";

/// A pod with this server, or of the node's network, that is asked in this way every second.
fn asked(name: &str, mut probe: Value) -> Value {
    let of_node = !probe["grpc"].is_null();
    probe["periodSeconds"] = 1.into();
    let ports = if of_node { json!([]) } else { json!([{"name": "web", "containerPort": 8080}]) };
    let container = json!({"readinessProbe": probe, "ports": ports});
    let script = if of_node { "exec sleep 1000" } else { SERVER };
    pod(name, script, json!({"hostNetwork": of_node}), container)
}

/// Probes that find that all is well.
fn good(port: u16) -> Vec<(&'static str, Value)> {
    let headers = json!([{"name": "Cookie", "value": "word"}, {"name": "Host", "value": "named.test"}]);
    vec![
        ("exec", json!({"exec": {"command": ["test", "-f", "/tmp/www/index.html"]}})),
        ("http", json!({"httpGet": {"path": "/index.html", "port": 8080}})),
        ("http-headers", json!({"httpGet": {"path": "/cgi-bin/check", "port": "web", "httpHeaders": headers}})),
        ("https-host", json!({"httpGet": {"host": "127.0.0.1", "port": 6443, "scheme": "HTTPS", "path": "/readyz"}})),
        ("tcp", json!({"tcpSocket": {"port": "web"}})),
        ("tcp-host", json!({"tcpSocket": {"host": "127.0.0.1", "port": 6443}})),
        ("grpc", json!({"grpc": {"port": port}})),
        ("grpc-service", json!({"grpc": {"port": port, "service": "well"}})),
    ]
}

/// What is said of a server that takes too long.
const SLOW: &str =
    "Get \"http://IP:8080/cgi-bin/slow\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)";

/// Probes that find fault, and with what; `IP` is the pod's address.
fn bad(port: u16) -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("bad-exec", json!({"exec": {"command": ["sh", "-c", "echo why; exit 3"]}}), "why"),
        ("bad-http", json!({"httpGet": {"path": "/none", "port": 8080}}), "HTTP probe failed with statuscode: 404"),
        (
            "bad-http-headers",
            json!({"httpGet": {"path": "/cgi-bin/check", "port": 8080}}),
            "HTTP probe failed with statuscode: 403",
        ),
        (
            "bad-https",
            json!({"httpGet": {"port": 8080, "scheme": "HTTPS"}}),
            "Get \"https://IP:8080/\": http: server gave HTTP response to HTTPS client",
        ),
        ("bad-tcp", json!({"tcpSocket": {"port": 9}}), "dial tcp IP:9: connect: connection refused"),
        (
            "bad-grpc",
            json!({"grpc": {"port": port, "service": "ill"}}),
            "service unhealthy (responded with \"NOT_SERVING\")",
        ),
        (
            "late-exec",
            json!({"exec": {"command": ["sleep", "4"]}, "timeoutSeconds": 1}),
            "command timed out: \"sleep 4\" timed out after 1s",
        ),
        ("late-http", json!({"httpGet": {"path": "/cgi-bin/slow", "port": 8080}, "timeoutSeconds": 1}), SLOW),
    ]
}

#[test]
fn every_kind_of_probe_asks_as_the_pod_says() {
    let cluster = Cluster::start();
    let port = serve_health();
    let (good, bad) = (good(port), bad(port));
    let probes = good.iter().map(|(name, probe)| (name, probe)).chain(bad.iter().map(|(name, probe, _)| (name, probe)));
    apply(&cluster, &probes.map(|(name, probe)| asked(name, probe.clone())).collect::<Vec<_>>());
    for (name, _) in &good {
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=30s"]);
    }
    for (name, _, why) in &bad {
        let address = cluster.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"]);
        let expected = format!("Readiness probe failed: {}", why.replace("IP", &address));
        // A server that is not up yet is found fault with, too.
        let selector = format!("involvedObject.name={name},reason=Unhealthy");
        let told = until("the fault is told", || {
            let events = cluster.get(&["events", "--field-selector", &selector])["items"].as_array().cloned()?;
            let told: Vec<String> =
                events.iter().filter_map(|event| Some(event["message"].as_str()?.trim_end().to_owned())).collect();
            let starting = |message: &String| *name != "bad-tcp" && message.ends_with("connection refused");
            told.iter().any(|message| !starting(message)).then_some(told)
        });
        assert!(told.contains(&expected), "{name}: {told:?} and not {expected:?}");
        assert_eq!(cluster.get(&["pod", name])["status"]["containerStatuses"][0]["ready"], false, "{name}");
    }
}

/// A server of gRPC's health protocol in the node's network; its port. The service `ill` does not serve.
fn serve_health() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("listen");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Whoever asks may go away in the middle.
            drop(answer_health(stream));
        }
    });
    port
}

/// HTTP/2 as far as one call needs it: frames are a length, a kind, flags, a stream and so many bytes.
fn answer_health(mut stream: TcpStream) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    let send = |kind: u8, flags: u8, stream_id: u32, body: &[u8], to: &mut TcpStream| {
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream_id.to_be_bytes());
        frame.extend(body);
        to.write_all(&frame)
    };
    let (data, headers, settings) = (0, 1, 4);
    send(settings, 0, 0, &[], &mut stream)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut body)?;
        let (kind, flags, id) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        if kind == settings && flags & 1 == 0 {
            send(settings, 1, 0, &[], &mut stream)?;
        }
        if kind == data && flags & 1 != 0 {
            let ill = body.ends_with(b"ill");
            // `:status 200` is number 8 of the known headers; the others are written out.
            send(headers, 4, id, b"\x88\x00\x0ccontent-type\x10application/grpc", &mut stream)?;
            send(data, 0, id, &[0, 0, 0, 0, 2, 8, if ill { 2 } else { 1 }], &mut stream)?;
            send(headers, 5, id, b"\x00\x0bgrpc-status\x010", &mut stream)?;
        }
    }
}

/// A pod that starts again, where it fails, with a folder that stays.
fn again(name: &'static str, script: &str, says: &[&str], container: Value) -> Case {
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    case(name, script, says)
        .spec(json!({"restartPolicy": "OnFailure", "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 1000}))
        .container(super::with(container, &mount))
}

fn shell(line: &str) -> Value {
    json!({"command": ["sh", "-c", line]})
}

/// Pods that see for themselves when they are asked.
fn of_timing() -> Vec<Case> {
    let second = "[ -f /v/n ] && { wc -l </v/n; exit 0; }; trap 'exit 1' TERM; sleep 1000 & wait";
    let counts = |field: &str, threshold: u32| json!({field: {"exec": shell("echo x >>/v/n; exit 1"), "periodSeconds": 1, "failureThreshold": threshold}});
    let stubborn = "[ -f /v/n ] && { echo again; exit 0; }; touch /v/n; trap '' TERM; while :; do sleep 1; done";
    let impatient = |field: &str| json!({field: {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1}});
    let first = "s=$(date +%s); until [ -s /tmp/first ]; do sleep 0.1; done; d=$(($(cat /tmp/first) - s)); [ $d -ge 2 ] && [ $d -le 6 ] && echo in time || echo $d";
    let delayed = |field: &str| {
        let note = shell("[ -s /tmp/first ] || date +%s >/tmp/first");
        json!({field: {"exec": note, "initialDelaySeconds": 3, "periodSeconds": 1}})
    };
    let regular = "until [ $(cat /tmp/n 2>/dev/null | wc -l) -ge 3 ]; do sleep 0.1; done; \
        d=$(($(sed -n 3p /tmp/n) - $(sed -n 1p /tmp/n))); [ $d -ge 3 ] && [ $d -le 6 ] && echo in time || echo $d";
    let period = |field: &str| json!({field: {"exec": shell("date +%s >>/tmp/n"), "periodSeconds": 2}});
    let held = "sleep 2; [ -f /tmp/live ] && echo early || echo none; touch /tmp/up; until [ -f /tmp/live ]; do sleep 0.1; done; echo then";
    let startup = json!({
        "startupProbe": {"exec": {"command": ["test", "-f", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 30},
        "livenessProbe": {"exec": shell("touch /tmp/live"), "periodSeconds": 1}});
    vec![
        again("liveness-threshold", second, &["3"], counts("livenessProbe", 3)),
        again("startup-threshold", second, &["2"], counts("startupProbe", 2)),
        again("liveness-grace", stubborn, &["again"], impatient("livenessProbe")),
        again("startup-grace", stubborn, &["again"], impatient("startupProbe")),
        case("liveness-delay", first, &["in time"]).container(delayed("livenessProbe")),
        case("readiness-delay", first, &["in time"]).container(delayed("readinessProbe")),
        case("startup-delay", first, &["in time"]).container(delayed("startupProbe")),
        case("liveness-period", regular, &["in time"]).container(period("livenessProbe")),
        case("readiness-period", regular, &["in time"]).container(period("readinessProbe")),
        case("held", held, &["none", "then"]).container(startup),
    ]
}

#[test]
fn probes_ask_when_and_as_often_as_the_pod_says() {
    let cluster = Cluster::start();
    let thrice =
        json!({"readinessProbe": {"exec": shell("echo x >>/tmp/n"), "periodSeconds": 1, "successThreshold": 3}});
    let patient = json!({"readinessProbe": {"exec": shell("echo x >>/tmp/n; test -f /tmp/well"), "periodSeconds": 1, "failureThreshold": 3}});
    let well = "touch /tmp/well; exec sleep 1000";
    apply(&cluster, &[pod("thrice", "exec sleep 1000", json!({}), thrice), pod("patient", well, json!({}), patient)]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/thrice", "pod/patient", "--timeout=30s"]);
    let asked = |name: &str| {
        cluster.kubectl(&["exec", name, "--", "sh", "-c", "wc -l </tmp/n"]).trim().parse::<u32>().expect("a number")
    };
    assert!((3..=7).contains(&asked("thrice")), "{}", asked("thrice"));
    let ready = || cluster.get(&["pod", "patient"])["status"]["containerStatuses"][0]["ready"] == true;
    cluster.kubectl(&["exec", "patient", "--", "sh", "-c", "rm /tmp/well; >/tmp/n"]);
    until("it is not ready any more", || (!ready()).then_some(()));
    assert!(asked("patient") >= 3, "after three failures: {}", asked("patient"));
    check(&cluster, &of_timing());
    for name in ["liveness-grace", "startup-grace"] {
        let last = &cluster.get(&["pod", name])["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!(last["exitCode"], 137, "{name}");
    }
    assert!(event(&cluster, "startup-grace", "Killing").contains("failed startup probe"));
}
