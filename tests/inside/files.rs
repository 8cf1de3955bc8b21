//! Volumes of every kind and how they are mounted.

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::{Case, apply, case, check, event, pod, waits, with};
use crate::clock::until;
use crate::cluster::Cluster;

/// A pod with one volume at `/v`, and more fields of its mount.
fn mounted(name: &'static str, script: &str, says: &[&str], volume: Value, mount: Value) -> Case {
    let mount = with(json!({"name": "v", "mountPath": "/v"}), &mount);
    case(name, script, says)
        .spec(json!({"volumes": [with(json!({"name": "v"}), &volume)]}))
        .container(json!({"volumeMounts": [mount]}))
}

/// Names, modes and content of all files of the volume.
const ALL: &str = "cd /v; for file in $(find . -follow -type f ! -path './..*' | sort); do echo $file $(stat -L -c %a $file) $(cat $file); done";

/// Files of maps, alone and projected.
fn of_maps() -> Vec<Case> {
    let items = json!([{"key": "colour", "path": "deep/colour", "mode": 0o400}, {"key": "raw", "path": "raw"}]);
    let word = json!([{"key": "word", "path": "secret/word", "mode": 0o440}]);
    let projected = json!({"defaultMode": 0o600, "sources": [
        {"configMap": {"name": "words", "items": items}},
        {"secret": {"name": "hidden", "items": word}},
        {"configMap": {"name": "nothing", "optional": true}},
        {"secret": {"name": "hidden", "items": [{"key": "none", "path": "none"}], "optional": true}},
        {"downwardAPI": {"items": [{"path": "about/name", "mode": 0o444, "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]});
    let none = json!({});
    let sum = |name, says: &[&str], volume: Value| mounted(name, ALL, says, volume, json!({}));
    vec![
        sum("map", &["./colour 644 blue", "./raw 644 raw", "./size 644 big"], json!({"configMap": {"name": "words"}})),
        sum(
            "map-items",
            &["./deep/colour 400 blue", "./raw 600 raw"],
            json!({"configMap": {"name": "words", "items": items, "defaultMode": 0o600}}),
        ),
        sum("map-optional", &[], json!({"configMap": {"name": "nothing", "optional": true}})),
        sum("secret", &["./word 400 swordfish"], json!({"secret": {"secretName": "hidden", "defaultMode": 0o400}})),
        sum(
            "secret-items",
            &["./secret/word 440 swordfish"],
            json!({"secret": {"secretName": "hidden", "items": word}}),
        ),
        sum("secret-optional", &[], json!({"secret": {"secretName": "nothing", "optional": true}})),
        sum(
            "projected",
            &["./about/name 444 projected", "./deep/colour 400 blue", "./raw 600 raw", "./secret/word 440 swordfish"],
            json!({"projected": projected}),
        ),
        mounted(
            "memory",
            "grep -c ' /v tmpfs ' /proc/mounts; grep ' /v ' /proc/mounts | grep -o size=[0-9]*k",
            &["1", "size=8192k"],
            json!({"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}),
            none,
        ),
    ]
}

/// Files that say what the pod is.
fn of_the_pod() -> Vec<Case> {
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let resource = |path: &str, resource: &str, divisor: &str| json!({"path": path, "resourceFieldRef": {"containerName": "main", "resource": resource, "divisor": divisor}});
    let items = json!([
        field("a", "metadata.name"),
        field("b", "metadata.namespace"),
        field("c", "metadata.uid"),
        field("d", "metadata.labels"),
        field("e", "metadata.annotations"),
        field("f", "metadata.labels['case']"),
        field("g", "metadata.annotations['note']"),
        resource("h", "limits.cpu", "1m"),
        resource("i", "requests.memory", "1Mi"),
        with(resource("j", "limits.memory", "1Ki"), &json!({"mode": 0o400})),
    ]);
    let script = "cd /v; for file in *; do grep -v ^kubectl $file; done; stat -L -c %a a j";
    let says = [
        "about",
        "default",
        "{/metadata/uid}",
        "case=\"yes\"",
        "note=\"two\\nlines\"",
        "yes",
        "two",
        "lines",
        "200",
        "16",
        "32768",
        "640",
        "400",
    ];
    let resources = json!({"limits": {"cpu": "200m", "memory": "32Mi"}, "requests": {"memory": "16Mi"}});
    let about =
        mounted("about", script, &says, json!({"downwardAPI": {"items": items, "defaultMode": 0o640}}), json!({}))
            .metadata(json!({"annotations": {"note": "two\nlines"}}));
    let container = with(about.container.clone(), &json!({"resources": resources}));
    let token = "cut -d. -f2 /v/in/token | tr _- /+ | base64 -d 2>/dev/null >/tmp/t; grep -o '\"aud\":\\[\"vault\"\\]' /tmp/t; \
        echo $(($(grep -o '\"exp\":[0-9]*' /tmp/t | cut -d: -f2) - $(grep -o '\"iat\":[0-9]*' /tmp/t | cut -d: -f2)))";
    let source = json!({"serviceAccountToken": {"audience": "vault", "expirationSeconds": 900, "path": "in/token"}});
    vec![
        about.container(container),
        mounted(
            "token",
            token,
            &["\"aud\":[\"vault\"]", "900"],
            json!({"projected": {"sources": [source]}}),
            json!({}),
        ),
    ]
}

/// Files and folders of the node, by type.
fn of_the_node(host: &str) -> Vec<Case> {
    let at = |name: &'static str, path: String, kind: &str, script: &str, says: &[&str]| {
        mounted(name, script, says, json!({"hostPath": {"path": path, "type": kind}}), json!({}))
    };
    let what = "stat -c %F /v";
    vec![
        at("new-folder", format!("{host}/new/folder"), "DirectoryOrCreate", "stat -c '%F %a' /v", &["directory 755"]),
        at("new-file", format!("{host}/made"), "FileOrCreate", "stat -c '%F %a' /v", &["regular empty file 644"]),
        at("folder", host.to_owned(), "Directory", "cat /v/file", &["of the node"]),
        at("file", format!("{host}/file"), "File", "cat /v", &["of the node"]),
        at("socket", format!("{host}/socket"), "Socket", what, &["socket"]),
        at("device", "/dev/null".to_owned(), "CharDevice", "stat -c %F /v; echo gone >/v", &["character special file"]),
        at("whatever", format!("{host}/absent"), "", what, &["directory"]),
    ]
}

/// How a mount is to be written and seen.
fn of_mounts(host: &str) -> Vec<Case> {
    let write = "for folder in /v /v/below; do touch $folder/x 2>/dev/null && echo written || echo not; done";
    let volume = json!({"hostPath": {"path": format!("{host}/outer")}});
    let shallow = json!({"readOnly": true});
    let deep = |how: &str| json!({"readOnly": true, "recursiveReadOnly": how});
    let part = "cat /v/who";
    let data = json!({"hostPath": {"path": host}});
    let env = json!({"env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
    let expressed = mounted("expr", part, &["inner"], data.clone(), json!({"subPathExpr": "part-$(POD)"}));
    let container = with(expressed.container.clone(), &env);
    vec![
        mounted("writable", write, &["written", "written"], volume.clone(), json!({})),
        mounted("read-only", write, &["not", "written"], volume.clone(), shallow),
        mounted("read-only-deep", write, &["not", "not"], volume.clone(), deep("Enabled")),
        mounted("read-only-if", write, &["not", "not"], volume, deep("IfPossible")),
        mounted("part", part, &["inner"], data, json!({"subPath": "part-expr"})),
        expressed.container(container),
    ]
}

#[test]
fn files_of_every_kind_of_volume_are_as_the_pod_says() {
    let cluster = Cluster::start();
    let host = cluster.machine.folder.join("host");
    for folder in ["part-expr", "outer/below"] {
        std::fs::create_dir_all(host.join(folder)).expect("make a folder");
    }
    std::fs::write(host.join("file"), "of the node\n").expect("write a file");
    std::fs::write(host.join("part-expr/who"), "inner\n").expect("write a file");
    let socket = UnixListener::bind(host.join("socket")).expect("make a socket");
    let host = host.to_str().expect("a plain path");
    cluster.machine.shell(&format!("mount -t tmpfs tmpfs {host}/outer/below"));
    let words = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words"},
        "data": {"colour": "blue", "size": "big"}, "binaryData": {"raw": "cmF3"}});
    let hidden = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"word": "swordfish"}});
    apply(&cluster, &[words, hidden]);
    let cases = [of_maps(), of_the_pod(), of_the_node(host), of_mounts(host)];
    check(&cluster, &cases.into_iter().flatten().collect::<Vec<_>>());
    refused(&cluster, host);
    drop(socket);
}

/// What cannot be mounted is told.
fn refused(cluster: &Cluster, host: &str) {
    let typed = |name: &str, path: &str, kind: &str| {
        let volume = json!({"volumes": [{"name": "v", "hostPath": {"path": path, "type": kind}}]});
        pod(name, "true", volume, json!({}))
    };
    let image = json!({"volumes": [{"name": "v", "image": {"reference": "absent:test", "pullPolicy": "Never"}}]});
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    apply(
        cluster,
        &[
            typed("no-block", "/dev/null", "BlockDevice"),
            typed("no-socket", &format!("{host}/file"), "Socket"),
            pod("no-image", "true", image, mount),
        ],
    );
    let failed = "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: ";
    assert_eq!(event(cluster, "no-block", "FailedMount"), format!("{failed}/dev/null is not a block device"));
    assert_eq!(event(cluster, "no-socket", "FailedMount"), format!("{failed}{host}/file is not a socket file"));
    let why = waits(cluster, "no-image", "ErrImageNeverPull");
    assert_eq!(why, "Container image \"absent:test\" is not present with pull policy of Never");
}

#[test]
fn mounts_are_seen_on_the_other_side_where_the_pod_says_so() {
    let cluster = Cluster::start();
    let host = cluster.machine.folder.join("shared");
    std::fs::create_dir(&host).expect("make a folder");
    let path = host.to_str().expect("a plain path");
    cluster.machine.shell(&format!("mount --bind {path} {path} && mount --make-shared {path}"));
    let container = |name: &str, script: &str, propagation: &str, more: Value| {
        let mount = json!([{"name": "host", "mountPath": "/host", "mountPropagation": propagation}]);
        let container =
            json!({"name": name, "image": "busybox:test", "volumeMounts": mount, "command": ["sh", "-c", script]});
        with(container, &more)
    };
    // The first while the others start, the second when all of them run.
    let make = |name: &str| {
        format!("mkdir -p /host/{name} && mount -t tmpfs tmpfs /host/{name} && echo {name} >/host/{name}/word")
    };
    let maker =
        format!("{}; until [ -f /host/go ]; do sleep 0.1; done; {}; exec sleep 1000", make("early"), make("late"));
    let containers = json!([
        container("maker", &maker, "Bidirectional", json!({"securityContext": {"privileged": true}})),
        container("seer", "exec sleep 1000", "HostToContainer", json!({})),
        container("blind", "exec sleep 1000", "None", json!({})),
    ]);
    let spec = json!({"containers": containers, "volumes": [{"name": "host", "hostPath": {"path": path}}]});
    apply(&cluster, &[pod("mounts", "", spec, json!({}))]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/mounts", "--timeout=30s"]);
    std::fs::write(host.join("go"), "").expect("write a file");
    let reads = |container: &str, name: &str| {
        let file = format!("/host/{name}/word");
        cluster.try_kubectl(&["exec", "mounts", "-c", container, "--", "cat", &file]).stdout.trim().to_owned()
    };
    for name in ["early", "late"] {
        let by_node = || cluster.machine.shell(&format!("cat {path}/{name}/word 2>/dev/null || true"));
        until("what the pod mounted is seen by the node", || (by_node().trim() == name).then_some(()));
        until("and by who asked for it", || (reads("seer", name) == name).then_some(()));
    }
    assert_eq!(reads("blind", "late"), "", "nobody else sees it");
    cluster.kubectl(&["delete", "pod", "mounts"]);
    cluster.machine.shell(&format!("umount {path}/early {path}/late; umount {path}"));
}
