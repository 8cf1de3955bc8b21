//! Fields that shape a pod's sandbox, containers and volumes, seen from inside real containers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{until, within};
use crate::cluster::Cluster;

/// A pod that runs a script of busybox to its end, with more fields of its specification and of its container.
fn pod(name: &str, script: &str, spec: Value, container: Value) -> String {
    let mut whole = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0});
    let mut main = json!({"name": "main", "image": "busybox:test", "command": ["sh", "-c", script]});
    merge(&mut main, container);
    whole["containers"] = json!([main]);
    merge(&mut whole, spec);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}).to_string()
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn ended(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", &format!("pod/{name}"), "--timeout=30s"]);
    cluster.kubectl(&["logs", name])
}

/// Waits for an event about a pod with this reason, and returns its message.
fn event(cluster: &Cluster, name: &str, reason: &str) -> String {
    let selector = format!("involvedObject.name={name},reason={reason}");
    until(&format!("event {reason} about {name}"), || {
        let events = cluster.get(&["events", "--field-selector", &selector]);
        events["items"][0]["message"].as_str().map(str::to_owned)
    })
}

#[test]
pub fn volumes_are_as_the_pod_says() {
    let cluster = Cluster::start();
    let host = cluster.machine.folder.join("host");
    cluster.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=word=swordfish"]);
    let script = "id -G; stat -c '%g %a' /mem /secret/..data/word; cat /secret/word; echo; df -k /mem | tail -n 1 | awk '{print $2}'; \
                  echo x > /mem/made && stat -c %g /mem/made; echo kept > /host/file; cat /part/inner; cat /named/who; \
                  ls /image/bin | grep -x busybox; touch /image/x 2>/dev/null || echo fixed; echo $GREETING";
    let spec = json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000},
        "initContainers": [{"name": "first", "image": "busybox:test", "securityContext": {"runAsUser": 0},
            "command": ["sh", "-c", "mkdir -p /data/sub /data/pod-volumes && echo inner > /data/sub/inner && \
                echo volumes > /data/pod-volumes/who && echo \"GREETING='hello there' # said\" > /data/env && chmod 777 /host"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "host", "mountPath": "/host"}]}],
        "volumes": [{"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "secret", "secret": {"secretName": "hidden", "defaultMode": 256}},
            {"name": "host", "hostPath": {"path": host, "type": "DirectoryOrCreate"}},
            {"name": "data", "emptyDir": {}},
            {"name": "image", "image": {"reference": "busybox:test", "pullPolicy": "IfNotPresent"}}]});
    let container = json!({
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "GREETING", "valueFrom": {"fileKeyRef": {"volumeName": "data", "path": "env", "key": "GREETING"}}}],
        "volumeMounts": [{"name": "mem", "mountPath": "/mem"}, {"name": "secret", "mountPath": "/secret"},
            {"name": "host", "mountPath": "/host"}, {"name": "data", "mountPath": "/part", "subPath": "sub"},
            {"name": "data", "mountPath": "/named", "subPathExpr": "pod-$(POD)"},
            {"name": "image", "mountPath": "/image"}]});
    cluster.apply(&pod("volumes", script, spec, container));
    let said = ended(&cluster, "volumes");
    let expected = [
        "2000 3000",
        "3000 2777",
        "3000 440",
        "swordfish",
        "8192",
        "3000",
        "inner",
        "volumes",
        "busybox",
        "fixed",
        "hello there",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    assert_eq!(std::fs::read_to_string(host.join("file")).expect("the pod wrote it"), "kept\n");
    // What is the node's outlives the pod; what was mounted for it does not.
    cluster.kubectl(&["delete", "pod", "volumes"]);
    let mounted = || cluster.machine.shell("grep -c empty-dir /proc/self/mounts || true");
    until("the memory is given back", || (mounted().trim() == "0").then_some(()));
    assert!(host.join("file").exists());
}

#[test]
pub fn names_and_namespaces_are_as_the_pod_says() {
    let cluster = Cluster::start();
    let named = json!({"hostname": "web", "subdomain": "sub", "setHostnameAsFQDN": true,
        "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_keepalive_time", "value": "77"}]},
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["friend", "pal"]}]});
    let script = "hostname; tail -n 4 /etc/hosts | cut -f2-; cat /proc/sys/net/ipv4/tcp_keepalive_time";
    cluster.apply(&pod("named", script, named, json!({})));
    let script = "hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/pid; \
                  readlink /proc/self/ns/ipc; head -n 1 /etc/hosts; echo $IP; echo $CPU";
    let host = json!({"hostNetwork": true, "hostPID": true, "hostIPC": true});
    let env = json!({"ports": [{"containerPort": 7654}],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]});
    cluster.apply(&pod("host", script, host, env));
    let shared = json!({"shareProcessNamespace": true, "containers": [
        {"name": "main", "image": "busybox:test",
            "command": ["sh", "-c", "until pidof sleep >/dev/null; do :; done; ps -o comm | head -n 2 | tail -n 1; kill $(pidof sleep)"]},
        {"name": "other", "image": "busybox:test", "command": ["sh", "-c", "sleep 1000; exit 0"]}]});
    cluster.apply(&pod("shared", "", shared, json!({})));
    let lines = |said: String| said.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        lines(ended(&cluster, "named")),
        [
            "web.sub.default.svc.cluster.local",
            "web.sub.default.svc.cluster.local\tweb",
            "",
            "# Entries added by HostAliases.",
            "friend\tpal",
            "77",
        ]
    );
    let node = cluster.get(&["nodes"])["items"][0].clone();
    let link = |kind: &str| cluster.machine.shell(&format!("readlink /proc/self/ns/{kind}")).trim().to_owned();
    let (address, processors) = (&node["status"]["addresses"][0]["address"], &node["status"]["allocatable"]["cpu"]);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let expected = [
        text(&node["metadata"]["name"]),
        link("net"),
        link("pid"),
        link("ipc"),
        "# Kubernetes-managed hosts file (host network).".to_owned(),
        text(address),
        text(processors),
    ];
    assert_eq!(lines(ended(&cluster, "host")), expected);
    assert_eq!(cluster.get(&["pod", "host"])["status"]["podIP"], *address);
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/shared", "--timeout=30s"]);
    // The first process is the one that holds the sandbox; containerd's is of an image of these tests.
    let first = if cluster.containerd.is_some() { "busybox\n" } else { "pause\n" };
    assert_eq!(cluster.kubectl(&["logs", "shared", "-c", "main"]), first);
}

#[test]
pub fn files_follow_their_configmaps_and_secrets_at_once() {
    let cluster = Cluster::start();
    let map = |name: &str, value: &str, immutable: bool| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value},
            "immutable": immutable});
        map.to_string()
    };
    cluster.apply(&map("plain", "one", false));
    cluster.apply(&map("fixed", "one", true));
    let volumes = json!([{"name": "plain", "configMap": {"name": "plain"}}, {"name": "fixed", "configMap": {"name": "fixed"}},
        {"name": "late", "projected": {"sources": [{"secret": {"name": "late", "optional": true}}]}}]);
    let mounts = json!([{"name": "plain", "mountPath": "/plain"}, {"name": "fixed", "mountPath": "/fixed"},
        {"name": "late", "mountPath": "/late"}]);
    let both = (json!({ "volumes": volumes }), json!({ "volumeMounts": mounts }));
    cluster.apply(&pod("reader", "exec sleep 1000", both.0, both.1));
    // This one waits for what comes later.
    let missing = json!({"volumes": [{"name": "v", "configMap": {"name": "awaited"}}]});
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    cluster.apply(&pod("waiting", "cat /v/key; echo", missing, mount));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=30s"]);
    let read = |path: &str| cluster.try_kubectl(&["exec", "reader", "--", "cat", path]).stdout;
    assert_eq!(
        (read("/plain/key"), read("/fixed/key"), read("/late/word")),
        ("one".into(), "one".into(), String::new())
    );
    let soon = Duration::from_secs(5);
    cluster.apply(&map("plain", "two", false));
    within(soon, "the change is seen", || (read("/plain/key") == "two").then_some(()));
    cluster.kubectl(&["create", "secret", "generic", "late", "--from-literal=word=here"]);
    within(soon, "what came later is seen", || (read("/late/word") == "here").then_some(()));
    cluster.kubectl(&["delete", "secret", "late"]);
    within(soon, "and is gone again", || read("/late/word").is_empty().then_some(()));
    assert!(event(&cluster, "waiting", "FailedMount").contains("configmap \"awaited\" not found"));
    cluster.apply(&map("awaited", "here", false));
    assert_eq!(ended(&cluster, "waiting"), "here\n");
    // Another one in an immutable one's place is not what the pod was started with.
    cluster.kubectl(&["delete", "configmap", "fixed"]);
    cluster.apply(&map("fixed", "two", true));
    cluster.apply(&map("plain", "three", false));
    within(soon, "the last change is seen", || (read("/plain/key") == "three").then_some(()));
    let data = cluster.kubectl(&["exec", "reader", "--", "sh", "-c", "readlink /plain/key; ls -A /plain | wc -l"]);
    assert_eq!(data, "..data/key\n3\n");
}

#[test]
fn what_a_node_cannot_do_is_told_in_upstreams_words() {
    let cluster = Cluster::start_with(&["--allowed-unsafe-sysctls", "net.core.somaxconn"]);
    let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "512"}]}});
    cluster.apply(&pod("allowed", "cat /proc/sys/net/core/somaxconn", sysctl("net.core.somaxconn"), json!({})));
    cluster.apply(&pod("forbidden", "true", sysctl("kernel.msgmax"), json!({})));
    let apparmor = json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}});
    cluster.apply(&pod("apparmor", "true", apparmor, json!({})));
    let volume = |path: &str, kind: &str| json!({"volumes": [{"name": "v", "hostPath": {"path": path, "type": kind}}]});
    let mount = |sub_path: &str| json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": sub_path}]});
    cluster.apply(&pod("typed", "true", volume("/etc/passwd", "Directory"), mount("")));
    let folder = cluster.machine.folder.join("links");
    std::fs::create_dir(&folder).expect("make a folder");
    std::os::unix::fs::symlink("/etc", folder.join("out")).expect("make a link");
    cluster.apply(&pod("escape", "cat /v/passwd", volume(&folder.to_string_lossy(), "Directory"), mount("out")));
    assert_eq!(ended(&cluster, "allowed"), "512\n");
    let failed = |name: &str| {
        let status = until("the pod is refused", || {
            let pod = cluster.get(&["pod", name]);
            (pod["status"]["phase"] == "Failed").then(|| pod["status"].clone())
        });
        (status["reason"].clone(), status["message"].clone())
    };
    let message = "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
    assert_eq!(failed("forbidden"), ("SysctlForbidden".into(), message.into()));
    if cluster.machine.shell("cat /sys/module/apparmor/parameters/enabled 2>/dev/null || true").trim() != "Y" {
        let message = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        assert_eq!(failed("apparmor"), ("AppArmor".into(), message.into()));
    }
    let message = event(&cluster, "typed", "FailedMount");
    assert_eq!(
        message,
        "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: /etc/passwd is not a directory"
    );
    let waiting = until("the sub path is refused", || {
        let pod = cluster.get(&["pod", "escape"]);
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        (waiting["reason"] == "CreateContainerConfigError").then_some(waiting)
    });
    assert_eq!(waiting["message"], "failed to prepare subPath for volumeMount \"v\" of container \"main\"");
}

/// Asks for other resources of one container of the pod `sized`.
fn resize(cluster: &Cluster, container: &str, resource: &str, amount: &str) {
    let resources = json!({"requests": {resource: amount}, "limits": {resource: amount}});
    let patch = json!({"spec": {"containers": [{"name": container, "resources": resources}]}}).to_string();
    cluster.kubectl(&["patch", "pod", "sized", "--subresource=resize", "-p", &patch]);
}

/// Waits until the pod waits for its resize for this reason; what its condition says.
fn waits_for_its_resize(cluster: &Cluster, reason: &str) -> String {
    until("the resize waits", || {
        let conditions = cluster.get(&["pod", "sized"])["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let pending = conditions.into_iter().find(|condition| condition["type"] == "PodResizePending")?;
        (pending["reason"] == reason).then(|| pending["message"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn a_running_pod_is_given_other_resources() {
    let cluster = Cluster::start();
    let container = |name: &str, policy: &str| {
        json!({"name": name, "image": "busybox:test", "command": ["sleep", "1000"],
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}],
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}})
    };
    let spec = json!({"restartPolicy": "Always", "containers": [container("steady", "NotRequired"), container("anew", "RestartContainer")]});
    cluster.apply(&pod("sized", "", spec, json!({})));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/sized", "--timeout=30s"]);
    let inside = |container: &str, v1: &str, v2: &str| {
        let line = format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/{v2}");
        let ran = cluster.try_kubectl(&["exec", "sized", "-c", container, "--", "sh", "-c", &line]);
        ran.stdout.trim().to_owned()
    };
    let quota = || inside("steady", "cpu/cpu.cfs_quota_us", "cpu.max");
    let memory = |container: &str| inside(container, "memory/memory.limit_in_bytes", "memory.max");
    assert_eq!((quota(), memory("steady")), ("10000".to_owned(), (64 << 20).to_string()));
    let status = |name: &str| {
        let pod = cluster.get(&["pod", "sized"]);
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        statuses.into_iter().find(|status| status["name"] == name).unwrap_or_default()
    };
    // More and less, of each, where it runs.
    for (cpu, expected) in [("200m", "20000"), ("50m", "5000")] {
        resize(&cluster, "steady", "cpu", cpu);
        until("the quota is the new one", || (quota() == expected).then_some(()));
        until("the status says so", || {
            let status = status("steady");
            (status["resources"]["limits"]["cpu"] == cpu && status["allocatedResources"]["cpu"] == cpu).then_some(())
        });
    }
    for (amount, bytes) in [("128Mi", 128 << 20), ("32Mi", 32 << 20)] {
        resize(&cluster, "steady", "memory", amount);
        until("the limit is the new one", || (memory("steady") == bytes.to_string()).then_some(()));
    }
    event(&cluster, "sized", "ResizeStarted");
    event(&cluster, "sized", "ResizeCompleted");
    assert_eq!(status("steady")["restartCount"], 0);
    // By starting anew, where the container says so.
    resize(&cluster, "anew", "memory", "96Mi");
    until("it runs again", || (status("anew")["restartCount"] == 1).then_some(()));
    until("with the new limit", || (memory("anew") == (96 << 20).to_string()).then_some(()));
    assert_eq!(status("steady")["restartCount"], 0);
    waits_for_room(&cluster, &quota);
}

/// Asks for more than there is, and for more than there is now.
fn waits_for_room(cluster: &Cluster, quota: &dyn Fn() -> String) {
    resize(cluster, "steady", "cpu", "1000");
    let why = waits_for_its_resize(cluster, "Infeasible");
    assert!(why.starts_with("Node didn't have enough capacity: cpu, requested: 1000050, capacity: "), "{why}");
    resize(cluster, "steady", "cpu", "50m");
    let processors = cluster.get(&["nodes"])["items"][0]["status"]["allocatable"]["cpu"].clone();
    let processors = processors.as_str().expect("an amount");
    let milli = processors.strip_suffix('m').map_or_else(|| format!("{processors}000"), str::to_owned);
    let milli: u32 = milli.parse().expect("a number");
    let hog = json!({"resources": {"requests": {"cpu": format!("{}m", milli - 400)}}});
    cluster.apply(&pod("hog", "sleep 1000", json!({}), hog));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/hog", "--timeout=30s"]);
    resize(cluster, "steady", "cpu", "800m");
    let why = waits_for_its_resize(cluster, "Deferred");
    let expected =
        format!("Node didn't have enough resource: cpu, requested: 850, used: {}, capacity: {milli}", milli - 400);
    assert_eq!(why, expected);
    assert_eq!(quota(), "5000", "it goes on with what it has");
    cluster.kubectl(&["delete", "pod", "hog"]);
    until("there is room by now", || (quota() == "80000").then_some(()));
    until("nothing is pending", || {
        let conditions = cluster.get(&["pod", "sized"])["status"]["conditions"].to_string();
        (!conditions.contains("PodResize")).then_some(())
    });
}

#[test]
fn a_pod_with_users_of_its_own_is_among_them_in_all_it_does() {
    let mut cluster = Cluster::start();
    cluster.kubectl(&["create", "configmap", "words", "--from-literal=word=hello"]);
    let mounts = json!([
        {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}, {"name": "words", "mountPath": "/words"},
    ]);
    let init = json!({"name": "init", "image": "busybox:test", "volumeMounts": mounts,
        "command": ["sh", "-c", "id -u >/disk/init; touch /memory/root; chown 1000 /memory/root"]});
    let spec = json!({
        "hostUsers": false, "restartPolicy": "Always", "initContainers": [init], "securityContext": {"fsGroup": 2000},
        "volumes": [
            {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "words", "configMap": {"name": "words", "defaultMode": 0o440}},
        ],
    });
    let main = json!({"volumeMounts": mounts, "securityContext": {"runAsUser": 1000, "procMount": "Unmasked"}});
    cluster.apply(&pod("apart", "sleep 1000", spec, main));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/apart", "--timeout=30s"]);
    let exec =
        |cluster: &Cluster, line: &str| cluster.kubectl(&["exec", "apart", "-c", "main", "--", "sh", "-c", line]);
    let map = exec(&cluster, "cat /proc/self/uid_map");
    let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    assert_eq!((numbers[0], numbers[1] % 65_536, numbers[2]), (0, 0, 65_536), "{map}");
    let (first, user) = (numbers[1], (numbers[1] + 1000).to_string());
    assert!(first >= 65_536, "{map}");
    let look = "id -u; id -G; cat /disk/init; stat -c %u:%g /disk/init /memory/root; cat /words/word; echo; echo x >/disk/mine; \
                stat -c %u:%g /disk/mine; grep -c /proc/kcore /proc/mounts; wc -c </etc/hosts >/dev/null && echo hosts";
    let expected = "1000\n0 2000\n0\n0:2000\n1000:2000\nhello\n1000:2000\n0\nhosts\n";
    assert_eq!(exec(&cluster, look), expected);
    let find = "for p in /proc/[0-9]*; do grep -qsa '^sleep.1000' $p/cmdline && echo ${p#/proc/} $(awk '/^Uid/ {print $2}' $p/status); done; true";
    let process = cluster.machine.shell(find);
    let (pid, owner) = process.trim().split_once(' ').expect("one process");
    assert_eq!(owner, user, "as the machine sees it");
    // The next agent goes on with it, also with containers that it begins.
    let ids = cluster.get(&["pod", "apart"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let record = cluster.machine.shell(&format!("cat /run/*/kubelet/pods/{ids}/userns"));
    assert!(record.contains(&format!("\"hostId\":{first}")), "{record}");
    cluster.kill();
    cluster.up(&[]);
    cluster.machine.shell(&format!("kill -9 {pid}"));
    until("it runs again", || {
        (cluster.get(&["pod", "apart"])["status"]["containerStatuses"][0]["restartCount"] == 1).then_some(())
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/apart", "--timeout=30s"]);
    assert_eq!(exec(&cluster, "cat /proc/self/uid_map"), map);
    // Another pod has others, and one that comes later may have those that are free by then.
    let map_of = |name: &str| {
        cluster.apply(&pod(name, "sleep 1000", json!({"hostUsers": false}), json!({})));
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=30s"]);
        cluster.kubectl(&["exec", name, "--", "cat", "/proc/self/uid_map"])
    };
    assert_ne!(map_of("other"), map);
    cluster.kubectl(&["delete", "pod", "apart", "--grace-period=0", "--force"]);
    until("its folder is gone", || {
        cluster.machine.shell(&format!("ls -d /run/*/kubelet/pods/{ids} 2>/dev/null; true")).is_empty().then_some(())
    });
    assert_eq!(map_of("later"), map);
}
