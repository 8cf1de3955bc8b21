//! Show 4: rolling updates under load.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::cluster::{Cluster, kubectls};
use crate::example::{DNS, service_address};
use crate::load::{Aim, Connections, Load};

/// A Deployment of four with a readiness probe of one second, and its Service.
const WEB: &str = include_str!("files/rolling.yaml");

/// Pods without deletion timestamp, and available ones, as one watch tells them.
#[derive(Debug, Default)]
struct Census {
    pods: BTreeMap<String, (bool, bool)>,
    most: usize,
    fewest_available: usize,
}

impl Census {
    fn see(&mut self, event: &Value) {
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let stays = pod["metadata"]["deletionTimestamp"].is_null();
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        if event["type"] == "DELETED" {
            self.pods.remove(&name);
        } else {
            self.pods.insert(name, (stays, stays && ready));
        }
        let count = |which: fn(&(bool, bool)) -> bool| self.pods.values().filter(|pod| which(pod)).count();
        let (staying, available) = (count(|pod| pod.0), count(|pod| pod.1));
        self.most = self.most.max(staying);
        self.fewest_available = self.fewest_available.min(available);
    }
}

/// A running `kubectl get -w` on pods.
struct Watch {
    child: Child,
    events: Receiver<Value>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Watch {
        let mut command = cluster.kubectl_command(&kubectls()[1]);
        command
            .args(["get", "pods", "-l", "app=web", "-w", "--output-watch-events", "-o", "json"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("run kubectl");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("kubectl prints an event a line");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Watch { child, events }
    }

    /// Ends it; what it saw.
    fn end(mut self, available_at_first: usize) -> Census {
        self.child.kill().and_then(|()| self.child.wait()).expect("end kubectl");
        let mut census = Census { fewest_available: usize::MAX, ..Census::default() };
        let events: Vec<Value> = self.events.iter().collect();
        for (number, event) in events.iter().enumerate() {
            census.see(event);
            if number < available_at_first {
                // The pods that are there already come one by one.
                census.fewest_available = usize::MAX;
            }
        }
        census
    }
}

fn aims(cluster: &Cluster) -> Vec<(Aim, Connections)> {
    let address = Aim::Address(service_address(cluster, "default", "web"));
    let name =
        Aim::Name { dns: DNS.parse().expect("an address"), name: "web.default.svc.cluster.local".into(), port: 80 };
    vec![
        (address.clone(), Connections::New),
        (address.clone(), Connections::Kept),
        (address, Connections::Kept),
        (name.clone(), Connections::New),
        (name, Connections::Kept),
    ]
}

fn started() -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(WEB);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster
}

#[test]
pub fn a_rolling_update_under_load_fails_no_request_and_keeps_its_bounds() {
    let cluster = started();
    let watch = Watch::start(&cluster);
    let load = Load::start(&aims(&cluster));
    for round in 1..=2 {
        cluster.kubectl(&["set", "env", "deployment/web", &format!("ROUND={round}")]);
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    }
    load.end_without_failures();
    let census = watch.end(4);
    // maxSurge 1 and maxUnavailable 1 of four.
    assert!(census.most == 5, "at most five pods: {}", census.most);
    assert!(census.fewest_available >= 3, "at least three available pods: {}", census.fewest_available);
}

#[test]
fn a_broken_image_stops_at_the_ceiling_and_undo_restores() {
    let cluster = started();
    let watch = Watch::start(&cluster);
    let load = Load::start(&aims(&cluster));
    cluster.kubectl(&["set", "image", "deployment/web", "web=my-registry/api:broken"]);
    let waiting = "jsonpath={.status.unavailableReplicas}=2";
    cluster.kubectl(&["wait", "--for", waiting, "deployment/web", "--timeout=30s"]);
    let stuck = cluster.try_kubectl(&["rollout", "status", "deployment/web", "--timeout=8s"]);
    assert_ne!(stuck.code, Some(0), "{stuck:?}");
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
    let count = |words: &[&str]| pods.lines().filter(|line| words.iter().any(|word| line.contains(word))).count();
    assert_eq!((count(&["Running"]), count(&["ErrImagePull", "ImagePullBackOff"])), (3, 2), "{pods}");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    load.end_without_failures();
    let census = watch.end(4);
    assert_eq!(census.most, 5);
    assert!(census.fewest_available >= 3, "at least three available pods: {}", census.fewest_available);
}
