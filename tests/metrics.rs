//! `kubectl top`: what pods and nodes use, without an add-on.

use crate::clock::within;
use crate::cluster::{Cluster, kubectls, ran};

/// Burns three tenths of a processor in one container, and holds forty megabytes in another.
const BUSY: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"busy","labels":{"app":"busy"}},"spec":{
    "terminationGracePeriodSeconds":0,
    "initContainers":[{"name":"side","image":"busybox:test","restartPolicy":"Always","command":["sleep","1000"]}],
    "containers":[
        {"name":"burns","image":"busybox:test","command":["sh","-c","while :; do :; done"],"resources":{"limits":{"cpu":"300m"}}},
        {"name":"holds","image":"busybox:test","command":["sh","-c","dd if=/dev/zero of=/held/x bs=1M count=40 && sleep 1000"],
         "volumeMounts":[{"name":"held","mountPath":"/held"}]}],
    "volumes":[{"name":"held","emptyDir":{"medium":"Memory"}}]}}"#;

/// The number before a unit.
fn amount(text: &str, unit: &str) -> u64 {
    text.strip_suffix(unit).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text:?} is no {unit}"))
}

/// The words of the line that begins so.
fn line<'t>(table: &'t str, name: &str) -> Vec<&'t str> {
    let found =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.contains(&name));
    found.unwrap_or_else(|| panic!("{name} is not in\n{table}"))
}

#[test]
fn top_tells_what_pods_use_within_seconds_of_their_start() {
    let cluster = Cluster::start();
    cluster.apply(BUSY);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/busy", "--timeout=20s"]);
    within(std::time::Duration::from_secs(15), "the pod is measured", || {
        (cluster.try_kubectl(&["top", "pod", "busy"]).code == Some(0)).then_some(())
    });
    let node = cluster.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    for kubectl in kubectls() {
        let top = |arguments: &[&str]| {
            let ran = ran(cluster.kubectl_command(&kubectl).arg("top").args(arguments));
            assert_eq!(ran.code, Some(0), "{} top {arguments:?}: {ran:?}", kubectl.display());
            ran.stdout
        };
        let containers = top(&["pods", "--containers", "-l", "app=busy"]);
        let used = |name: &str| {
            let words = line(&containers, name);
            (amount(words[2], "m"), amount(words[3], "Mi"))
        };
        let (burns, holds) = (used("burns"), used("holds"));
        // A tenth either way: the machine is shared, and windows cut periods.
        assert!((200..=330).contains(&burns.0), "{containers}");
        assert!((40..=60).contains(&holds.1) && holds.0 < 100, "{containers}");
        assert_eq!(used("side").0, 0, "{containers}");
        let whole = top(&["pods", "-A", "--sort-by=memory", "--sum"]);
        assert!(amount(line(&whole, "busy")[3], "Mi") >= holds.1, "{whole}");
        let nodes = top(&["nodes"]);
        let words = line(&nodes, &node);
        assert!(amount(words[1], "m") >= 200 && amount(words[2], "%") > 0 && amount(words[3], "Mi") > 40, "{nodes}");
    }
    let table = cluster.kubectl(&["get", "podmetrics", "busy"]);
    assert!(table.starts_with("NAME   CPU") && table.contains("WINDOW"), "{table}");
    let absent = cluster.try_kubectl(&["get", "podmetrics", "absent"]);
    assert!(absent.stderr.contains("pods \"absent\" not found"), "{absent:?}");
}
