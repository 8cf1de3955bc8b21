//! Pods: what they mean, what is refused, what may change, how they are shown.

mod judge;

use judge::{check, check_update, created, defaulted, pod, prepared, resource_of, same, tree, with};
use resources::{Cell, Writer};
use serde_json::{Value as Json, json};

#[test]
fn says_what_was_left_out() {
    let object = with(
        &pod(),
        &[
            ("/spec/containers/0/ports", json!([{"containerPort": 80}])),
            ("/spec/containers/0/resources/limits", json!({"cpu": "500u", "memory": "1Gi"})),
            ("/spec/containers/0/resources/requests", json!({"memory": "1Mi"})),
            ("/spec/containers/0/livenessProbe/httpGet/port", json!(80)),
            ("/spec/volumes", json!([{"name": "a", "secret": {"secretName": "s"}}, {"name": "b"}])),
            ("/spec/serviceAccount", json!("robot")),
        ],
    );
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "containers": [{
                "name": "main", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
                "livenessProbe": {
                    "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
                    "failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1
                },
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {
                    "limits": {"cpu": "1m", "memory": "1Gi"},
                    "requests": {"cpu": "1m", "memory": "1Mi"}
                },
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
            }],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "serviceAccount": "robot",
            "serviceAccountName": "robot", "terminationGracePeriodSeconds": 30,
            "volumes": [
                {"name": "a", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "b", "emptyDir": {}}
            ]
        }
    });
    assert_eq!(defaulted(&object), expected);
}

#[test]
fn starts_pending_with_its_quality_of_service() {
    let resources = |limits: Json| {
        with(
            &pod(),
            &[("/spec/containers/0/resources", json!({"limits": limits})), ("/status/phase", json!("Running"))],
        )
    };
    let check = |object: &Json, expected: &str| {
        let stored = created(object);
        assert_eq!(stored["status"], json!({"phase": "Pending", "qosClass": expected}));
        assert_eq!(stored["metadata"]["generation"], 1);
    };
    check(&pod(), "BestEffort");
    check(&resources(json!({"cpu": "1", "memory": "1Mi"})), "Guaranteed");
    check(&resources(json!({"memory": "1Mi"})), "Burstable");
}

#[test]
fn a_gated_pod_says_so() {
    let stored = created(&with(&pod(), &[("/spec/schedulingGates", json!([{"name": "a.b/c"}]))]));
    assert_eq!(stored["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn pod_level_requests_follow_from_limits_and_containers() {
    let object = with(
        &pod(),
        &[
            ("/spec/resources/limits", json!({"cpu": "2", "memory": "2Gi"})),
            ("/spec/containers/0/resources/requests", json!({"cpu": "500m"})),
        ],
    );
    assert_eq!(defaulted(&object)["spec"]["resources"]["requests"], json!({"cpu": "500m", "memory": "2Gi"}));
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn refuses_bad_containers() {
    let at = |field: &str| format!("/spec/containers/0/{field}");
    let refuse = |field: &str, value: Json, expected: &[&str]| check(&pod(), &[(&at(field), value)], expected);
    refuse("name", json!("A"), &[&format!("spec.containers[0].name: Invalid value: \"A\": {LABEL}")]);
    refuse("name", json!("a.b"), &["spec.containers[0].name: Invalid value: \"a.b\": must not contain dots"]);
    refuse("name", json!(""), &["spec.containers[0].name: Required value"]);
    refuse("image", json!(""), &["spec.containers[0].image: Required value"]);
    refuse(
        "image",
        json!(" a"),
        &["spec.containers[0].image: Invalid value: \" a\": must not have leading or trailing whitespace"],
    );
    refuse(
        "imagePullPolicy",
        json!("Sometimes"),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    refuse(
        "terminationMessagePolicy",
        json!("x"),
        &[
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"x\": supported values: \"File\", \"FallbackToLogsOnError\"",
        ],
    );
    refuse("ports", json!([{"containerPort": 0}]), &["spec.containers[0].ports[0].containerPort: Required value"]);
    refuse(
        "ports",
        json!([{"containerPort": 65536, "name": "UP", "protocol": "X"}]),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[0].name: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].ports[0].name: Invalid value: \"UP\": must contain at least one letter (a-z)",
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    refuse(
        "ports",
        json!([{"containerPort": 1, "hostPort": 5, "name": "a"}, {"containerPort": 2, "hostPort": 5, "name": "a"}]),
        &[
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\"",
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ],
    );
    check(&pod(), &[("/spec/containers", json!([]))], &["spec.containers: Required value"]);
    check(
        &pod(),
        &[("/spec/containers/-", json!({"name": "main", "image": "a"}))],
        &["spec.containers[1].name: Duplicate value: \"main\""],
    );
    check(
        &pod(),
        &[(
            "/spec/initContainers",
            json!([{"name": "main", "image": "a", "livenessProbe": {"exec": {"command": ["a"]}}}]),
        )],
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            "spec.initContainers[0].name: Duplicate value: \"main\"",
        ],
    );
    check(
        &pod(),
        &[("/spec/ephemeralContainers", json!([{"name": "look", "image": "a"}]))],
        &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
    );
    refuse(
        "restartPolicyRules",
        json!([{"action": "Restart"}]),
        &["spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"],
    );
}

#[test]
fn refuses_bad_environments() {
    let refuse = |env: Json, expected: &[&str]| check(&pod(), &[("/spec/containers/0/env", env)], expected);
    refuse(json!([{"name": ""}]), &["spec.containers[0].env[0].name: Required value"]);
    refuse(
        json!([{"name": "A=B"}]),
        &[
            "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ],
    );
    refuse(
        json!([{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"],
    );
    refuse(
        json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
        ],
    );
    refuse(
        json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ],
    );
    refuse(json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]), &[]);
    refuse(
        json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]),
        &[
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
        ],
    );
    refuse(
        json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a/b"}}}]),
        &[
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
    check(
        &pod(),
        &[("/spec/containers/0/envFrom", json!([{"configMapRef": {"name": ""}}, {}]))],
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            "spec.containers[0].envFrom[0].configMapRef.name: Required value",
        ],
    );
}

#[test]
fn refuses_bad_probes_and_hooks() {
    let refuse = |field: &str, value: Json, expected: &[&str]| {
        check(&pod(), &[(&format!("/spec/containers/0/{field}"), value)], expected);
    };
    refuse(
        "livenessProbe",
        json!({}),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    );
    refuse(
        "livenessProbe",
        json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}, "successThreshold": 2, "periodSeconds": -1}),
        &[
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ],
    );
    refuse(
        "readinessProbe",
        json!({"httpGet": {"port": "UP", "scheme": "GOPHER", "httpHeaders": [{"name": "a b", "value": ""}]}, "terminationGracePeriodSeconds": 1}),
        &[
            "spec.containers[0].readinessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"UP\": must contain at least one letter (a-z)",
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"GOPHER\": supported values: \"HTTP\", \"HTTPS\"",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ],
    );
    refuse(
        "lifecycle",
        json!({"preStop": {"sleep": {"seconds": 31}}}),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ],
    );
    refuse(
        "lifecycle",
        json!({"stopSignal": "SIGTERM"}),
        &[
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        ],
    );
}

#[test]
fn refuses_bad_volumes_and_mounts() {
    let volumes = |volumes: Json, expected: &[&str]| check(&pod(), &[("/spec/volumes", volumes)], expected);
    volumes(
        json!([{"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}}]),
        &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
    );
    volumes(json!([{"name": "a"}, {"name": "a"}]), &["spec.volumes[1].name: Duplicate value: \"a\""]);
    volumes(
        json!([{"name": "a", "hostPath": {"path": "/a/../b", "type": "Pipe"}}]),
        &[
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[0].hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ],
    );
    volumes(
        json!([{"name": "a", "configMap": {"name": "", "defaultMode": 512, "items": [{"key": "", "path": "/x"}]}}]),
        &[
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[0].configMap.items[0].key: Required value",
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
            "spec.volumes[0].configMap.name: Required value",
        ],
    );
    volumes(
        json!([{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}]),
        &[
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ],
    );
    volumes(
        json!([{"name": "a", "downwardAPI": {"items": [{"path": "..x"}]}}]),
        &[
            "spec.volumes[0].downwardAPI.path: Invalid value: \"..x\": must not start with '..'",
            "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ],
    );
    volumes(
        json!([{"name": "a", "nfs": {"server": "s", "path": "x"}}]),
        &["spec.volumes[0].nfs.path: Invalid value: \"x\": must be an absolute path"],
    );
    let mounts = |mounts: Json, expected: &[&str]| {
        let changes = [("/spec/volumes", json!([{"name": "v"}])), ("/spec/containers/0/volumeMounts", mounts)];
        check(&pod(), &changes, expected);
    };
    mounts(json!([{"name": "w", "mountPath": "/a"}]), &["spec.containers[0].volumeMounts[0].name: Not found: \"w\""]);
    mounts(
        json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a", "subPath": "/x"}]),
        &[
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ],
    );
    mounts(
        json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}]),
        &[
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ],
    );
    mounts(
        json!([{"name": "v", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]),
        &["spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"],
    );
}

#[test]
fn refuses_bad_amounts() {
    let refuse =
        |resources: Json, expected: &[&str]| check(&pod(), &[("/spec/containers/0/resources", resources)], expected);
    refuse(
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
        &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
    );
    refuse(
        json!({"requests": {"cpu": "-1"}}),
        &["spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
    refuse(
        json!({"requests": {"pods": "1"}}),
        &[
            "spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for containers",
        ],
    );
    refuse(
        json!({"requests": {"example.com/gpu": "1"}}),
        &["spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"],
    );
    refuse(
        json!({"limits": {"hugepages-2Mi": "3Mi"}}),
        &[
            "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ],
    );
    refuse(
        json!({"claims": [{"name": "x"}]}),
        &[
            "spec.containers[0].resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
        ],
    );
    check(
        &pod(),
        &[
            ("/spec/resources", json!({"requests": {"cpu": "1"}})),
            ("/spec/containers/0/resources/requests/cpu", json!("2")),
        ],
        &[
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ],
    );
}

#[test]
fn refuses_bad_security() {
    let refuse = |path: &str, value: Json, expected: &[&str]| check(&pod(), &[(path, value)], expected);
    refuse(
        "/spec/securityContext/runAsUser",
        json!(-1),
        &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 4294967295, inclusive"],
    );
    refuse(
        "/spec/securityContext/seccompProfile",
        json!({"type": "Localhost"}),
        &[
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ],
    );
    refuse(
        "/spec/containers/0/securityContext",
        json!({"privileged": true, "allowPrivilegeEscalation": false}),
        &[
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
    refuse(
        "/spec/containers/0/securityContext",
        json!({"procMount": "Unmasked"}),
        &[
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ],
    );
    refuse(
        "/spec/securityContext/sysctls",
        json!([{"name": "a b", "value": ""}]),
        &[
            r#"spec.securityContext.sysctls[0].name: Invalid value: "a b": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#,
        ],
    );
    check(
        &pod(),
        &[("/spec/hostUsers", json!(false)), ("/spec/hostNetwork", json!(true))],
        &["spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false"],
    );
    check(
        &pod(),
        &[("/spec/os/name", json!("windows")), ("/spec/securityContext/runAsUser", json!(1))],
        &["spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"],
    );
    refuse(
        "/spec/os/name",
        json!("plan9"),
        &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
    );
}

#[test]
fn refuses_bad_placement() {
    let refuse =
        |field: &str, value: Json, expected: &[&str]| check(&pod(), &[(&format!("/spec/{field}"), value)], expected);
    refuse(
        "tolerations",
        json!([{"operator": "Equal"}, {"key": "a", "operator": "Near", "effect": "Never", "tolerationSeconds": 1}]),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"Never\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "spec.tolerations[1].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "spec.tolerations[1].operator: Unsupported value: \"Near\": supported values: \"Equal\", \"Exists\"",
        ],
    );
    refuse(
        "affinity",
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "In"}], "matchFields": [{"key": "x", "operator": "In", "values": ["n"]}]}
        ]}}}),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"x\": not a valid field selector key",
        ],
    );
    refuse(
        "affinity",
        json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {"topologyKey": "a"}}]}}),
        &[
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
        ],
    );
    refuse(
        "topologySpreadConstraints",
        json!([{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Cry", "minDomains": 1}]),
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not Cry",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Cry\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ],
    );
    refuse(
        "restartPolicy",
        json!("Maybe"),
        &["spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\""],
    );
    refuse(
        "activeDeadlineSeconds",
        json!(0),
        &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    );
    refuse("hostname", json!("a.b"), &["spec.hostname: Invalid value: \"a.b\": must not contain dots"]);
    refuse(
        "dnsPolicy",
        json!("None"),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    refuse(
        "dnsConfig",
        json!({"nameservers": ["1.1.1.1", "x", "1.1.1.1", "1.1.1.1"], "options": [{}]}),
        &[
            "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"x\",\"1.1.1.1\",\"1.1.1.1\"]: must not have more than 3 nameservers",
            "spec.dnsConfig.nameservers[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ],
    );
    check(
        &pod(),
        &[
            ("/spec/hostNetwork", json!(true)),
            ("/spec/containers/0/ports", json!([{"containerPort": 80, "hostPort": 81}])),
        ],
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ],
    );
    check(
        &pod(),
        &[("/spec/schedulingGates", json!([{"name": "a"}])), ("/spec/nodeName", json!("n"))],
        &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
    );
}

#[test]
fn refuses_bad_metadata() {
    let refuse = |field: &str, value: Json, expected: &[&str]| {
        check(&pod(), &[(&format!("/metadata/{field}"), value)], expected)
    };
    refuse("name", json!(null), &["metadata.name: Required value: name or generateName is required"]);
    refuse("namespace", json!(null), &["metadata.namespace: Required value"]);
    refuse(
        "labels",
        json!({"a": "b c"}),
        &[
            "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
    refuse(
        "annotations",
        json!({"a": "x".repeat(256 * 1024)}),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    refuse(
        "finalizers",
        json!(["x"]),
        &[
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "A", "name": name, "uid": "u", "controller": true});
    refuse(
        "ownerReferences",
        json!([owner("a"), owner("b")]),
        &[
            r#"metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","controller":true,"kind":"A","name":"a","uid":"u"},{"apiVersion":"v1","controller":true,"kind":"A","name":"b","uid":"u"}]: Only one reference can have Controller set to true. Found "true" in references for A/a and A/b"#,
        ],
    );
    refuse(
        "annotations",
        json!({"controller.kubernetes.io/pod-deletion-cost": "+1"}),
        &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
        ],
    );
}

#[test]
fn changes_next_to_nothing() {
    let accept = |pointer: &str, value: Json| check_update(&pod(), &[(pointer, value)], &[]);
    accept("/spec/containers/0/image", json!("nginx:2"));
    accept("/spec/activeDeadlineSeconds", json!(5));
    accept("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]));
    accept("/metadata/labels", json!({"a": "b"}));
    accept("/spec/volumes", json!([]));
    let stored = created(&pod());
    let changed = with(&stored, &[("/spec/containers/0/command", json!(["x"]))]);
    let (_, faults) = prepared(&changed, Some(&stored), Writer::Main);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"), "{faults:?}");
    check_update(
        &pod(),
        &[("/spec/containers/-", json!({"name": "b", "image": "b"}))],
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check_update(
        &pod(),
        &[("/metadata/uid", json!("other"))],
        &["metadata.uid: Invalid value: \"other\": field is immutable"],
    );
    let deadline = with(&pod(), &[("/spec/activeDeadlineSeconds", json!(5))]);
    check_update(
        &deadline,
        &[("/spec/activeDeadlineSeconds", json!(6))],
        &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
    );
    let tolerating = with(&pod(), &[("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]))]);
    check_update(
        &tolerating,
        &[("/spec/tolerations", json!([]))],
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
    );
    check_update(
        &pod(),
        &[("/spec/schedulingGates", json!([{"name": "g"}]))],
        &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"],
    );
}

#[test]
fn a_gated_pod_can_be_narrowed() {
    let gated =
        with(&pod(), &[("/spec/schedulingGates", json!([{"name": "g"}])), ("/spec/nodeSelector", json!({"a": "b"}))]);
    check_update(&gated, &[("/spec/nodeSelector/c", json!("d"))], &[]);
    check_update(
        &gated,
        &[("/spec/nodeSelector", json!({"c": "d"}))],
        &[
            "spec.nodeSelector: Invalid value: {\"c\":\"d\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        ],
    );
}

#[test]
fn each_writer_changes_its_part_only() {
    let stored = created(&pod());
    let changed = with(&stored, &[("/status/phase", json!("Running")), ("/spec/containers/0/image", json!("nginx:2"))]);
    let (main, faults) = prepared(&changed, Some(&stored), Writer::Main);
    assert_eq!(
        (faults.len(), &main["status"]["phase"], &main["metadata"]["generation"]),
        (0, &json!("Pending"), &json!(2))
    );
    let (status, faults) = prepared(&changed, Some(&stored), Writer::Status);
    assert_eq!(
        (faults.len(), &status["status"]["phase"], &status["metadata"]["generation"]),
        (0, &json!("Running"), &json!(1))
    );
    assert_eq!(status["spec"], stored["spec"]);
}

#[test]
fn a_status_has_rules_too() {
    let stored = created(&with(&pod(), &[("/spec/restartPolicy", json!("Never"))]));
    let ended = json!([{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]);
    let stored = with(&stored, &[("/status/containerStatuses", ended.clone())]);
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| {
        same(prepared(&with(&stored, changes), Some(&stored), Writer::Status).1, expected);
    };
    refuse(
        &[("/status/containerStatuses/0/state", json!({"running": {}}))],
        &["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"],
    );
    refuse(
        &[("/status/qosClass", json!("Guaranteed"))],
        &["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"],
    );
    refuse(
        &[("/status/podIP", json!("10.0.0.1")), ("/status/podIPs", json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]))],
        &[
            "status.podIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
        ],
    );
}

#[test]
fn resizes_cpu_and_memory_and_nothing_else() {
    let stored = created(&with(&pod(), &[("/spec/containers/0/resources/requests", json!({"cpu": "1"}))]));
    let resize = |changes: &[(&str, Json)]| prepared(&with(&stored, changes), Some(&stored), Writer::Resize);
    let (grown, faults) =
        resize(&[("/spec/containers/0/resources/requests/cpu", json!("2")), ("/spec/nodeName", json!("n"))]);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(grown["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
    assert_eq!((&grown["spec"]["nodeName"], &grown["metadata"]["generation"]), (&Json::Null, &json!(2)));
    same(
        resize(&[("/spec/containers/0/resources", json!({}))]).1,
        &[
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
        ],
    );
}

#[test]
fn ephemeral_containers_are_added_and_stay() {
    let stored = created(&pod());
    let look = json!([{"name": "look", "image": "busybox:1"}]);
    let changed = with(&stored, &[("/spec/ephemeralContainers", look), ("/spec/nodeName", json!("n"))]);
    let (added, faults) = prepared(&changed, Some(&stored), Writer::EphemeralContainers);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(added["spec"]["nodeName"], Json::Null);
    assert_eq!(added["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "IfNotPresent");
    let removed = with(&added, &[("/spec/ephemeralContainers", json!([]))]);
    same(
        prepared(&removed, Some(&added), Writer::EphemeralContainers).1,
        &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"look\" may not be removed\n"],
    );
}

#[test]
fn warns_of_what_is_hardly_meant() {
    let warnings = |changes: &[(&str, Json)]| {
        let object = defaulted(&with(&pod(), changes));
        resource_of(&object).warnings(&tree(&object), None).expect("the pod has its shape")
    };
    assert_eq!(warnings(&[]), Vec::<String>::new());
    assert_eq!(
        warnings(&[("/spec/containers/0/env", json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]))]),
        ["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"]
    );
    assert_eq!(
        warnings(&[("/spec/nodeSelector", json!({"beta.kubernetes.io/os": "linux"}))]),
        ["spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead"]
    );
}

#[test]
fn lasts_as_long_as_its_grace_period() {
    let check = |changes: &[(&str, Json)], asked: Option<i64>, expected: i64| {
        let object = defaulted(&with(&pod(), changes));
        let seconds = resource_of(&object).grace_seconds(&tree(&object), asked).expect("the pod has its shape");
        assert_eq!(seconds, Some(expected));
    };
    let node = ("/spec/nodeName", json!("n"));
    check(&[], None, 0);
    check(std::slice::from_ref(&node), None, 30);
    check(std::slice::from_ref(&node), Some(5), 5);
    check(std::slice::from_ref(&node), Some(-1), 1);
    check(&[node, ("/status/phase", json!("Succeeded"))], None, 0);
}

/// READY, STATUS and RESTARTS.
fn shown(changes: &[(&str, Json)]) -> (String, String, String) {
    let object = with(&pod(), changes);
    let row = resource_of(&object).row(&tree(&object)).expect("the pod has its shape");
    let text = |cell: &Cell| match cell {
        Cell::Text(text) => text.clone(),
        Cell::SinceWithin { before, moment, after } => format!("{before}{moment}{after}"),
        other => panic!("{other:?} is no text"),
    };
    (text(&row[1]), text(&row[2]), text(&row[3]))
}

fn container(name: &str, ready: bool, restarts: i32, state: Json) -> Json {
    json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state})
}

#[test]
fn is_shown_in_one_word() {
    let check = |changes: &[(&str, Json)], ready: &str, status: &str, restarts: &str| {
        assert_eq!(shown(changes), (ready.to_owned(), status.to_owned(), restarts.to_owned()));
    };
    let phase = |phase: &str| ("/status/phase", json!(phase));
    let main = |ready: bool, restarts: i32, state: Json| {
        ("/status/containerStatuses", json!([container("main", ready, restarts, state)]))
    };
    check(&[phase("Pending")], "0/1", "Pending", "0");
    check(
        &[phase("Pending"), main(false, 0, json!({"waiting": {"reason": "ContainerCreating"}}))],
        "0/1",
        "ContainerCreating",
        "0",
    );
    check(&[phase("Running"), main(true, 0, json!({"running": {}}))], "1/1", "Running", "0");
    check(
        &[phase("Running"), main(false, 3, json!({"waiting": {"reason": "CrashLoopBackOff"}}))],
        "0/1",
        "CrashLoopBackOff",
        "3",
    );
    check(
        &[phase("Failed"), main(false, 0, json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))],
        "0/1",
        "OOMKilled",
        "0",
    );
    check(&[phase("Failed"), main(false, 0, json!({"terminated": {"exitCode": 2}}))], "0/1", "ExitCode:2", "0");
    check(
        &[phase("Failed"), main(false, 0, json!({"terminated": {"exitCode": 2, "signal": 9}}))],
        "0/1",
        "Signal:9",
        "0",
    );
    check(
        &[phase("Succeeded"), main(false, 0, json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))],
        "0/1",
        "Completed",
        "0",
    );
    check(
        &[
            phase("Running"),
            main(true, 0, json!({"running": {}})),
            ("/metadata/deletionTimestamp", json!("2024-01-01T00:00:00Z")),
        ],
        "1/1",
        "Terminating",
        "0",
    );
    check(&[phase("Failed"), ("/status/reason", json!("Evicted"))], "0/1", "Evicted", "0");
    let mut restarted = container("main", true, 2, json!({"running": {}}));
    restarted["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2024-01-01T00:00:00Z"}});
    check(
        &[phase("Running"), ("/status/containerStatuses", json!([restarted]))],
        "1/1",
        "Running",
        "2 (2024-01-01T00:00:00Z ago)",
    );
}

#[test]
fn shows_how_far_init_containers_are() {
    let init = ("/spec/initContainers", json!([{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]));
    let check = |states: [Json; 2], expected: &str| {
        let statuses =
            json!([container("a", false, 0, states[0].clone()), container("b", false, 0, states[1].clone())]);
        let changes = [init.clone(), ("/status/phase", json!("Pending")), ("/status/initContainerStatuses", statuses)];
        assert_eq!(shown(&changes).1, expected);
    };
    let waiting = json!({"waiting": {"reason": "PodInitializing"}});
    check([json!({"running": {}}), waiting.clone()], "Init:0/2");
    check([json!({"terminated": {"exitCode": 0}}), json!({"running": {}})], "Init:1/2");
    check([json!({"terminated": {"exitCode": 1, "reason": "Error"}}), waiting.clone()], "Init:Error");
    check([json!({"terminated": {"exitCode": 3}}), waiting.clone()], "Init:ExitCode:3");
    check([json!({"waiting": {"reason": "ImagePullBackOff"}}), waiting], "Init:ImagePullBackOff");
}

#[test]
fn a_sidecar_counts_as_a_container() {
    let mut sidecar = container("side", true, 1, json!({"running": {}}));
    sidecar["started"] = json!(true);
    let changes = [
        ("/spec/initContainers", json!([{"name": "side", "image": "a", "restartPolicy": "Always"}])),
        ("/status/phase", json!("Running")),
        ("/status/initContainerStatuses", json!([sidecar])),
        ("/status/containerStatuses", json!([container("main", true, 1, json!({"running": {}}))])),
    ];
    assert_eq!(shown(&changes), ("2/2".to_owned(), "Running".to_owned(), "2".to_owned()));
}
