//! Who a container's processes are and what they may do.

use serde_json::{Value, json};

use super::{Case, apply, case, check, pod, waits};
use crate::cluster::Cluster;

/// What upstream's runtimes give to a container that asks for nothing.
const USUAL: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

/// A line of the kernel's account of the process.
fn told(what: &str) -> String {
    format!("grep ^{what}: /proc/self/status | cut -f2")
}

/// A pod that says something of its own process, with a security context of its container and of its own.
fn asks(name: &'static str, script: &str, says: &[&str], container: Value, of_pod: Value) -> Case {
    case(name, script, says).container(json!({"securityContext": container})).spec(json!({"securityContext": of_pod}))
}

fn of_users() -> Vec<Case> {
    let who = "echo $(id -u) $(id -g) $(id -G)";
    let none = json!({});
    let of_pod = json!({"runAsUser": 1000, "runAsGroup": 2000, "supplementalGroups": [4000, 5000], "fsGroup": 3000});
    let image =
        |policy: &str| json!({"runAsUser": 1234, "supplementalGroups": [4000], "supplementalGroupsPolicy": policy});
    let sorted = "echo $(id -u) $(id -g); for group in $(id -G); do echo $group; done | sort -n";
    vec![
        asks("image-user", who, &["0 0 0"], none.clone(), none.clone()),
        asks("pod-user", sorted, &["1000 2000", "2000", "3000", "4000", "5000"], none.clone(), of_pod.clone()),
        asks(
            "own-user",
            sorted,
            &["7 8", "8", "3000", "4000", "5000"],
            json!({"runAsUser": 7, "runAsGroup": 8}),
            of_pod,
        ),
        asks("merge", sorted, &["1234 1234", "1234", "4000", "4321"], none.clone(), image("Merge")),
        asks("strict", sorted, &["1234 1234", "1234", "4000"], none.clone(), image("Strict")),
        asks(
            "not-root",
            who,
            &["9 0 0"],
            json!({"runAsUser": 9, "runAsNonRoot": true}),
            json!({"runAsNonRoot": false}),
        ),
    ]
}

fn of_capabilities(all: &str) -> Vec<Case> {
    let bounds = format!("{}; {}", told("CapBnd"), told("CapEff"));
    let wants = |add: &[&str], drop: &[&str]| json!({"capabilities": {"add": add, "drop": drop}});
    let both = |name, set: &str, container: Value| asks(name, &bounds, &[set, set], container, json!({}));
    vec![
        both("usual", USUAL, json!({})),
        both("added", "00000000a80435fb", wants(&["NET_ADMIN"], &[])),
        both("dropped", "00000000a80425da", wants(&[], &["CHOWN", "KILL"])),
        both("only-one", "0000000000000400", wants(&["NET_BIND_SERVICE"], &["ALL"])),
        both("nothing", NONE, wants(&[], &["ALL"])),
        both("everything", all, wants(&["ALL"], &[])),
        asks("no-root", &bounds, &[USUAL, NONE], json!({"runAsUser": 5}), json!({})),
        both("privileged", all, json!({"privileged": true})),
    ]
}

fn of_filters() -> Vec<Case> {
    let filter = told("Seccomp");
    let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
    let local = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/no-folders.json"}});
    let tries = "mkdir /tmp/folder 2>&1 | sed 's/.*: //'; touch /tmp/file && echo file";
    let says = |name, number: &str, container: Value, of_pod: Value| asks(name, &filter, &[number], container, of_pod);
    vec![
        says("filter-default", "2", profile("RuntimeDefault"), json!({})),
        says("filter-none", "0", profile("Unconfined"), json!({})),
        says("filter-of-pod", "0", json!({}), profile("Unconfined")),
        says("filter-own", "2", profile("RuntimeDefault"), profile("Unconfined")),
        asks("filter-local", tries, &["Operation not permitted", "file"], local.clone(), json!({})),
        asks("filter-pod-local", tries, &["Operation not permitted", "file"], json!({}), local),
    ]
}

fn of_the_rest() -> Vec<Case> {
    let privileges = told("NoNewPrivs");
    let locked =
        "touch /x 2>/dev/null || echo fixed; touch /tmp/x 2>/dev/null || echo fixed; touch /dev/shm/x && echo memory";
    let masked =
        "wc -c </proc/keys; echo 1 2>/dev/null >/proc/sys/vm/swappiness || echo fixed; ls /sys/firmware | wc -l";
    let open = "grep -c ' /proc/sys ' /proc/mounts; ls /dev/fuse /dev/kmsg; mount -t tmpfs tmpfs /tmp && echo mounted";
    let labels = json!({"seLinuxOptions": {"user": "u", "role": "r", "type": "t", "level": "s0"}});
    let change = json!({"seLinuxChangePolicy": "Recursive", "fsGroup": 3, "fsGroupChangePolicy": "OnRootMismatch"});
    let windows = json!({"windowsOptions": {"runAsUserName": "Administrator"}});
    vec![
        asks("may-rise", &privileges, &["0"], json!({"allowPrivilegeEscalation": true}), json!({})),
        asks("may-not-rise", &privileges, &["1"], json!({"allowPrivilegeEscalation": false}), json!({})),
        asks("locked", locked, &["fixed", "fixed", "memory"], json!({"readOnlyRootFilesystem": true}), json!({})),
        asks("masked", masked, &["0", "fixed", "0"], json!({"procMount": "Default"}), json!({})),
        asks("open", open, &["0", "/dev/fuse", "/dev/kmsg", "mounted"], json!({"privileged": true}), json!({})),
        // Labels say something where SELinux is, and nowhere else.
        asks("labelled", "echo runs", &["runs"], labels.clone(), labels),
        asks("changing", "echo $(id -G)", &["0 3"], json!({}), change),
        asks("of-windows", "id -u", &["0"], windows.clone(), windows),
        asks("apparmor", "echo runs", &["runs"], json!({"appArmorProfile": {"type": "Unconfined"}}), json!({})),
    ]
}

/// Whom the kernel ends first.
fn of_scores() -> Vec<Case> {
    let score = "cat /proc/self/oom_score_adj";
    let resources = json!({"requests": {"memory": "1Mi"}});
    vec![case("least", score, &["1000"]), case("burstable", score, &["999"]).container(json!({"resources": resources}))]
}

/// Whoever makes a folder is told that this is not permitted.
const NO_FOLDERS: &str =
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;

#[test]
fn processes_may_what_the_pod_says() {
    let mut cluster = Cluster::absent();
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    // Profiles lie where every node keeps them; this machine's are its own.
    let folder = cluster.machine.folder.display();
    cluster.machine.shell(&format!(
        "mkdir {folder}/lib {folder}/lib.work && \
         mount -t overlay -o lowerdir=/var/lib,upperdir={folder}/lib,workdir={folder}/lib.work overlay /var/lib && \
         mkdir -p /var/lib/kubelet/seccomp/profiles && echo '{NO_FOLDERS}' >/var/lib/kubelet/seccomp/profiles/no-folders.json"
    ));
    cluster.up(&[]);
    cluster.node_is_ready();
    let all = cluster.machine.shell(&told("CapBnd"));
    let cases = [of_users(), of_capabilities(all.trim()), of_filters(), of_the_rest(), of_scores()];
    check(&cluster, &cases.into_iter().flatten().collect::<Vec<_>>());
    refused(&cluster);
}

/// What is not started as who it would be.
fn refused(cluster: &Cluster) {
    let secured = |name: &str, context: Value| pod(name, "true", json!({"securityContext": context}), json!({}));
    let missing = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/none.json"}});
    apply(cluster, &[secured("root", json!({"runAsNonRoot": true})), secured("no-profile", missing)]);
    let why = waits(cluster, "root", "CreateContainerConfigError");
    assert!(why.starts_with("container has runAsNonRoot and image will run as root (pod: \"root_default("), "{why}");
    let why = waits(cluster, "no-profile", "CreateContainerError");
    assert!(why.contains("/var/lib/kubelet/seccomp/profiles/none.json"), "{why}");
}
