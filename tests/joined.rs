//! What befalls a machine that has joined: it is deleted and comes back, loses its power, is alone, has a firewall.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{until, until_right, within};
use crate::cluster::{Cluster, ran};
use crate::example::{DNS, service_address};
use crate::load::{Aim, Connections, request, requests};
use crate::runtime::Runtime;
use crate::two_nodes::{GRACE, ONE, Pod, TWO, complete, from_pod, nodes, on, pods, ports, service, streams, web};

/// What the second machine's agent has to be told once it has joined.
const AGAIN: [&str; 2] = ["--node-name", "two"];

/// A pod of busybox on the second node that runs a line of shell; more fields of its container, and of the pod.
fn pod(name: &str, line: &str, container: &Value, spec: &Value) -> String {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": "two", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "busybox:test", "command": ["sh", "-c", line]}],
        },
    });
    for (into, from) in [("/spec/containers/0", container), ("/spec", spec)] {
        let into = object.pointer_mut(into).expect("it is there").as_object_mut().expect("an object");
        into.extend(from.as_object().expect("fields").clone());
    }
    object.to_string()
}

/// The process ids of a machine whose command line is that.
fn running(cluster: &Cluster, command: &str) -> Vec<u32> {
    let line = format!(
        "for folder in /proc/[0-9]*; do test \"$(tr '\\0' ' ' <$folder/cmdline)\" = '{command} ' && echo ${{folder#/proc/}}; done 2>/dev/null || true"
    );
    cluster.machine.shell(&line).lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// What is wrong with the pods behind the Service `web`, seen from all of them; nothing if all is right.
fn unreached(one: &Cluster, count: usize) -> String {
    let pods = pods(one);
    let (ready, names): (Vec<&Pod>, Vec<&str>) =
        pods.iter().filter(|pod| !pod.ending && !pod.started.is_empty()).map(|pod| (pod, &*pod.name)).unzip();
    if ready.len() != count {
        return format!("{pods:#?}");
    }
    let mut wrong = String::new();
    for pod in &ready {
        for other in &ready {
            let got = from_pod(one, &pod.name, &format!("http://{}:8080", other.address));
            if got != other.name {
                wrong += &format!("{} to {}: {got}\n", pod.name, other.name);
            }
        }
        let got = from_pod(one, &pod.name, "http://web");
        if !names.contains(&&*got) {
            wrong += &format!("{} to the Service: {got}\n", pod.name);
        }
    }
    wrong
}

#[test]
fn a_node_that_gets_another_range_keeps_nothing_of_the_old() {
    let (one, mut two) = nodes();
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    complete(&one);
    let before = pods(&one);
    assert!(on(&before, "two").iter().all(|pod| pod.address.starts_with("10.244.1.")), "{before:#?}");
    // By the time that the node is back somebody else has its range.
    let taker = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "taker"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"], "unschedulable": true},
    });
    one.apply(&taker.to_string());
    one.kubectl(&["delete", "node", "two"]);
    two.wait_for("10.244.2.0/24 for its pods in place of 10.244.1.0/24");
    two.wait_for("node two runs; its pods have addresses of 10.244.2.0/24");
    within(Duration::from_secs(20), "the node is ready", || {
        (one.try_kubectl(&["wait", "--for=condition=Ready", "node/two", "--timeout=5s"]).code == Some(0)).then_some(())
    });
    until_right("every pod has an address of the new range", || {
        let now = pods(&one);
        let right = |pod: &&Pod| pod.address.starts_with("10.244.2.") && !pod.started.is_empty();
        let right = on(&now, "two").len() == 2 && on(&now, "two").iter().all(right);
        if right { String::new() } else { format!("{now:#?}") }
    });
    until_right("all reach one another", || unreached(&one, 4));
    let now = pods(&one);
    for pod in on(&before, "one") {
        assert!(now.contains(pod), "{pod:?} is as it was: {now:#?}");
    }
    for cluster in [&one, &two] {
        let seen =
            cluster.machine.shell("ip -o address; ip route show table all; nft list ruleset; ls /run/isopod*/network");
        let old: Vec<&str> = seen.lines().filter(|line| line.contains("10.244.1.")).collect();
        assert_eq!(old, [""; 0], "{seen}");
    }
}

#[test]
fn a_node_that_loses_its_power_comes_back_as_itself() {
    let (one, mut two) = nodes();
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    one.apply(&pod("again", "exec sleep 4242", &json!({}), &json!({})));
    one.apply(&pod("once", "exec sleep 4343", &json!({}), &json!({"restartPolicy": "Never"})));
    complete(&one);
    one.kubectl(&["wait", "--for=condition=Ready", "pod/again", "pod/once", "--timeout=20s"]);
    let before = pods(&one);
    let uid = one.get(&["node", "two"])["metadata"]["uid"].clone();
    let requests_before = one.get(&["csr"])["items"].as_array().map(Vec::len);
    let data = two.data();
    two.lose_power(|| {
        // What was being written: half of it, or a name without what it is of.
        let torn = std::fs::read(data.join("dataplane.checkpoint")).expect("a checkpoint");
        std::fs::write(data.join("dataplane.checkpoint"), &torn[..torn.len() / 2]).expect("tear a file");
        std::fs::write(data.join("settings.json.new"), "{\"ver").expect("tear a file");
        std::fs::write(data.join("pki/kubelet-client.pem.new"), "").expect("tear a file");
    });
    until("the cable's end is gone with the machine", || {
        (!one.machine.shell("ip -o link").contains("cable")).then_some(())
    });
    one.machine.connect(ONE, &two.machine, TWO);
    one.machine.move_here();
    two.agent(&AGAIN);
    until_right("its pods run again, each the same as before", || {
        let now = pods(&one);
        let same =
            |pod: &&Pod| before.iter().any(|old| old.uid == pod.uid) && pod.restarts == 1 && !pod.started.is_empty();
        let right = on(&now, "two").len() == 2 && on(&now, "two").iter().all(same);
        if right { String::new() } else { format!("{now:#?}") }
    });
    until_right("all reach one another", || unreached(&one, 4));
    one.kubectl(&["wait", "--for=condition=Ready", "pod/again", "node/two", "--timeout=20s"]);
    let once = until("what is not to run again has ended", || {
        let pod = one.get(&["pod", "once"]);
        (pod["status"]["phase"] == "Failed").then(|| pod["status"]["containerStatuses"][0]["state"].clone())
    });
    assert_eq!(once["terminated"]["exitCode"], 137, "{once}");
    assert_eq!(one.get(&["node", "two"])["metadata"]["uid"], uid);
    assert_eq!(one.get(&["csr"])["items"].as_array().map(Vec::len), requests_before, "it needs no other certificate");
    let now = pods(&one);
    for pod in on(&before, "one") {
        assert!(now.contains(pod), "{pod:?} is as it was: {now:#?}");
    }
    let name =
        Aim::Name { dns: DNS.parse().expect("an address"), name: "web.default.svc.cluster.local".into(), port: 80 };
    two.machine.move_here();
    let tally = requests(20, &name, Connections::New);
    one.machine.move_here();
    assert!(tally.failures.is_empty(), "{tally:#?}");
}

#[test]
fn an_agent_that_starts_without_an_api_goes_on_with_its_pods() {
    let (mut one, mut two) = nodes();
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    let probe = json!({"livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/bad"]}, "periodSeconds": 1, "failureThreshold": 1}});
    one.apply(&pod("probed", "rm -f /tmp/bad; exec sleep 4242", &probe, &json!({})));
    one.apply(&pod("crashes", "exec sleep 4343", &json!({}), &json!({})));
    complete(&one);
    one.kubectl(&["wait", "--for=condition=Ready", "pod/probed", "pod/crashes", "--timeout=20s"]);
    let before = pods(&one);
    let address = service_address(&one, "default", "web");
    one.kill();
    two.interrupt();
    two.agent(&AGAIN);
    let (probed, crashes) = (running(&two, "sleep 4242"), running(&two, "sleep 4343"));
    assert_eq!((probed.len(), crashes.len()), (1, 1), "what runs goes on");
    two.machine.shell(&format!("kill -9 {}; touch /proc/{}/root/tmp/bad", crashes[0], probed[0]));
    for (command, old) in [("sleep 4242", probed[0]), ("sleep 4343", crashes[0])] {
        until(&format!("{command} is started anew"), || {
            let now = running(&two, command);
            (now.len() == 1 && now[0] != old).then_some(())
        });
    }
    two.machine.move_here();
    let name =
        Aim::Name { dns: DNS.parse().expect("an address"), name: "web.default.svc.cluster.local".into(), port: 80 };
    for aim in [Aim::Address(address), name] {
        let tally = requests(40, &aim, Connections::New);
        assert!(tally.failures.is_empty(), "{tally:#?}");
        assert_eq!(tally.answers.len(), 4, "{tally:#?}");
    }
    one.machine.move_here();
    one.up(&["--node-name", "one", "--bind", ONE, "--node-monitor-grace-period", GRACE]);
    for name in ["probed", "crashes"] {
        until_right("its status is told", || {
            let pod = one.get(&["pod", name]);
            let status = &pod["status"]["containerStatuses"][0];
            let right =
                status["restartCount"] == 1 && status["ready"] == true && !status["lastState"]["terminated"].is_null();
            if right { String::new() } else { status.to_string() }
        });
    }
    one.node_is_ready();
    complete(&one);
    assert_eq!(pods(&one), before, "nothing else was touched");
    until_right("all reach one another", || unreached(&one, 4));
}

#[test]
fn a_node_on_containerd_joins_by_another_address() {
    let two = Cluster::absent_on(Runtime::Containerd2);
    let (mut one, mut two) = (Cluster::absent_on(Runtime::BuiltIn), two);
    one.machine.connect(ONE, &two.machine, TWO);
    let (first, second) = ("198.51.100.1", "198.51.100.2");
    for (cluster, address) in [(&one, first), (&two, second)] {
        cluster.machine.shell(&format!("ip address add {address}/24 dev cable"));
        cluster.load("ISOPOD_BUSYBOX_IMAGE");
    }
    one.machine.move_here();
    one.up(&[
        "--node-name",
        "one",
        "--bind",
        "0.0.0.0",
        "--node-ip",
        ONE,
        "--apiserver-cert-extra-sans",
        "api.example.com,203.0.113.7",
    ]);
    let made = ran(&mut one.isopod(&["token", "create"]));
    let server = format!("https://{first}:6443");
    two.agent(&["--server", &server, "--token", made.stdout.trim(), "--node-name", "two", "--node-ip", second]);
    one.node_is_ready();
    let address = |node: &str| one.get(&["node", node])["status"]["addresses"][0]["address"].clone();
    assert_eq!((address("one"), address("two")), (ONE.into(), second.into()));
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    complete(&one);
    let all = pods(&one);
    assert_eq!((on(&all, "one").len(), on(&all, "two").len()), (2, 2), "{all:#?}");
    until_right("all reach one another", || unreached(&one, 4));
    streams(&one, on(&all, "two")[0]);
    for arguments in [&["top", "nodes"][..], &["top", "pods"]] {
        let top = one.kubectl(arguments);
        let wanted: Vec<&str> = match arguments[1] {
            "nodes" => vec!["one", "two"],
            _ => all.iter().map(|pod| &*pod.name).collect(),
        };
        assert!(wanted.iter().all(|name| top.contains(name)), "{top}");
    }
    for name in [ONE, first, "127.0.0.1", "localhost", "api.example.com", "203.0.113.7", "one"] {
        let ran =
            one.try_kubectl(&["--server=https://127.0.0.1:6443", &format!("--tls-server-name={name}"), "get", "nodes"]);
        assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
    }
}

#[test]
fn firewalls_of_both_machines_let_pods_through() {
    let (one, two) = nodes();
    one.machine.shell("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i docker0 -j ACCEPT");
    two.machine.shell("nft 'table inet fw { chain forward { type filter hook forward priority 0; policy drop; }; }'");
    one.apply(&web(4, 300).to_string());
    one.apply(&service("web", &json!({})).to_string());
    one.apply(&service("exposed", &json!({"type": "NodePort"})).to_string());
    complete(&one);
    let all = pods(&one);
    let names: Vec<&str> = all.iter().map(|pod| &*pod.name).collect();
    assert_eq!(unreached(&one, 4), "");
    ports(&one, &two, &names);
    // Others drop by their last rule.
    one.machine
        .shell("iptables-nft -P FORWARD ACCEPT; iptables-nft -A FORWARD -j REJECT --reject-with icmp-host-prohibited");
    two.machine.shell("nft 'flush table inet fw; table inet fw { chain forward { type filter hook forward priority 0; policy accept; ct state invalid drop; reject with icmpx type admin-prohibited; }; }'");
    until_right("all reach one another", || unreached(&one, 4));
    ports(&one, &two, &names);
    closed(&one, &two);
}

/// A firewall that takes rules of nobody else is told, and keeps nothing else from being done.
fn closed(one: &Cluster, two: &Cluster) {
    let table = "table inet own { flags owner; chain forward { type filter hook forward priority 0; policy drop; \
                 ip saddr 10.244.0.0/16 accept; ip daddr 10.244.0.0/16 accept; }; }";
    // It has the table as long as it lives.
    two.machine.shell(&format!("{{ {{ echo '{table}'; exec sleep 1000; }} | nft -i & }} >/dev/null 2>&1"));
    let told = until("the node tells that the firewall is closed", || {
        let node = one.get(&["node", "two"]);
        let conditions = node["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == "FirewallClosed")?;
        (found["status"] == "True").then(|| found["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(told.contains("\"inet own forward\"") && told.contains("10.244.0.0/16"), "{told}");
    let why = ran(&mut one.isopod(&["why", "node/two"]));
    assert!(why.stdout.contains("(FirewallClosed)") && why.stdout.contains("inet own forward"), "{why:?}");
    one.apply(&service("later", &json!({})).to_string());
    let later = service_address(one, "default", "later");
    two.machine.move_here();
    until("a Service that came later is served", || request(later, "GET", "/").ok());
    one.machine.move_here();
}
