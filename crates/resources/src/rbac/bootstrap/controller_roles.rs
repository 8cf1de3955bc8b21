//! Cluster roles of controllers, each bound to the account of its name.

use super::{EVENTS, READ, RoleFacts, Rule, allow, allow_named, role};

pub(super) const PREFIX: &str = "system:controller:";

const CORE: &[&str] = &[""];
const APPS: &[&str] = &["apps"];
const APPS_AND_BEFORE: &[&str] = &["extensions", "apps"];
const BATCH: &[&str] = &["batch"];
const CERTIFICATES: &[&str] = &["certificates.k8s.io"];
const DEVICES: &[&str] = &["resource.k8s.io"];
const DISCOVERY: &[&str] = &["discovery.k8s.io"];
const NETWORKING: &[&str] = &["networking.k8s.io"];
const POLICY: &[&str] = &["policy"];
const STORAGE: &[&str] = &["storage.k8s.io"];

const UPDATE: &[&str] = &["update"];
const CHANGE: &[&str] = &["patch", "update"];
const READ_DELETE: &[&str] = &["get", "list", "watch", "delete"];
const READ_AND_UPDATE: &[&str] = &["get", "list", "watch", "update"];
const OWN: &[&str] = &["get", "list", "watch", "create", "update", "delete"];
const OWN_AND_PATCH: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
const KEEP_PODS: Rule = allow(&["list", "watch", "patch", "create", "delete"], CORE, &["pods"]);

pub(super) const ROLES: &[RoleFacts] = &[
    role(
        "system:controller:attachdetach-controller",
        &[
            allow(&["list", "watch"], CORE, &["persistentvolumes", "persistentvolumeclaims"]),
            allow(READ, CORE, &["nodes"]),
            allow(CHANGE, CORE, &["nodes/status"]),
            allow(&["list", "watch"], CORE, &["pods"]),
            EVENTS,
            allow(&["get", "create", "delete", "list", "watch"], STORAGE, &["volumeattachments"]),
            allow(READ, STORAGE, &["csidrivers"]),
            allow(READ, STORAGE, &["csinodes"]),
        ],
    ),
    role(
        "system:controller:clusterrole-aggregation-controller",
        &[allow(
            &["escalate", "get", "list", "watch", "update", "patch"],
            &["rbac.authorization.k8s.io"],
            &["clusterroles"],
        )],
    ),
    role(
        "system:controller:cronjob-controller",
        &[
            allow(READ_AND_UPDATE, BATCH, &["cronjobs"]),
            allow(OWN_AND_PATCH, BATCH, &["jobs"]),
            allow(UPDATE, BATCH, &["cronjobs/status"]),
            allow(UPDATE, BATCH, &["cronjobs/finalizers"]),
            allow(&["list", "watch", "delete"], CORE, &["pods"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:daemon-set-controller",
        &[
            allow(READ, APPS_AND_BEFORE, &["daemonsets"]),
            allow(UPDATE, APPS_AND_BEFORE, &["daemonsets/status"]),
            allow(UPDATE, APPS_AND_BEFORE, &["daemonsets/finalizers"]),
            allow(&["list", "watch"], CORE, &["nodes"]),
            KEEP_PODS,
            allow(&["create"], CORE, &["pods/binding"]),
            allow(OWN_AND_PATCH, APPS, &["controllerrevisions"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:deployment-controller",
        &[
            allow(READ_AND_UPDATE, APPS_AND_BEFORE, &["deployments"]),
            allow(UPDATE, APPS_AND_BEFORE, &["deployments/status"]),
            allow(UPDATE, APPS_AND_BEFORE, &["deployments/finalizers"]),
            allow(OWN_AND_PATCH, APPS_AND_BEFORE, &["replicasets"]),
            allow(READ_AND_UPDATE, CORE, &["pods"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:disruption-controller",
        &[
            allow(READ, APPS_AND_BEFORE, &["deployments"]),
            allow(READ, APPS_AND_BEFORE, &["replicasets"]),
            allow(READ, CORE, &["replicationcontrollers"]),
            allow(READ, POLICY, &["poddisruptionbudgets"]),
            allow(READ, APPS, &["statefulsets"]),
            allow(UPDATE, POLICY, &["poddisruptionbudgets/status"]),
            allow(CHANGE, CORE, &["pods/status"]),
            allow(&["get"], &["*"], &["*/scale"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:endpoint-controller",
        &[
            allow(READ, CORE, &["services", "pods"]),
            allow(OWN, CORE, &["endpoints"]),
            allow(&["create"], CORE, &["endpoints/restricted"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:endpointslice-controller",
        &[
            allow(READ, CORE, &["services", "pods", "nodes"]),
            allow(UPDATE, CORE, &["services/finalizers"]),
            allow(OWN, DISCOVERY, &["endpointslices"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:endpointslicemirroring-controller",
        &[
            allow(READ, CORE, &["services", "endpoints"]),
            allow(UPDATE, CORE, &["services/finalizers"]),
            allow(UPDATE, CORE, &["endpoints/finalizers"]),
            allow(OWN, DISCOVERY, &["endpointslices"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:expand-controller",
        &[
            allow(&["get", "list", "watch", "update", "patch"], CORE, &["persistentvolumes"]),
            allow(CHANGE, CORE, &["persistentvolumeclaims/status"]),
            allow(READ, CORE, &["persistentvolumeclaims"]),
            EVENTS,
            allow(&["get"], CORE, &["services"]),
        ],
    ),
    role(
        "system:controller:ephemeral-volume-controller",
        &[
            allow(READ, CORE, &["pods"]),
            allow(UPDATE, CORE, &["pods/finalizers"]),
            allow(&["get", "list", "watch", "create"], CORE, &["persistentvolumeclaims"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:resource-claim-controller",
        &[
            allow(READ, CORE, &["pods"]),
            allow(UPDATE, CORE, &["pods/finalizers"]),
            allow(&["get", "list", "watch", "create", "delete"], DEVICES, &["resourceclaims"]),
            allow(CHANGE, DEVICES, &["resourceclaims", "resourceclaims/status"]),
            allow(CHANGE, CORE, &["pods/status"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:generic-garbage-collector",
        &[allow(&["get", "list", "watch", "patch", "update", "delete"], &["*"], &["*"]), EVENTS],
    ),
    role(
        "system:controller:horizontal-pod-autoscaler",
        &[
            allow(READ, &["autoscaling"], &["horizontalpodautoscalers"]),
            allow(UPDATE, &["autoscaling"], &["horizontalpodautoscalers/status"]),
            allow(&["get", "update"], &["*"], &["*/scale"]),
            allow(&["list", "watch"], CORE, &["pods"]),
            allow(&["list", "watch"], &["metrics.k8s.io"], &["pods"]),
            allow(READ, &["custom.metrics.k8s.io"], &["*"]),
            allow(READ, &["external.metrics.k8s.io"], &["*"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:job-controller",
        &[
            allow(&["get", "list", "watch", "update", "patch"], BATCH, &["jobs"]),
            allow(UPDATE, BATCH, &["jobs/status"]),
            allow(UPDATE, BATCH, &["jobs/finalizers"]),
            KEEP_PODS,
            EVENTS,
        ],
    ),
    role(
        "system:controller:namespace-controller",
        &[
            allow(READ_DELETE, CORE, &["namespaces"]),
            allow(UPDATE, CORE, &["namespaces/finalize", "namespaces/status"]),
            allow(&["get", "list", "watch", "delete", "deletecollection"], &["*"], &["*"]),
        ],
    ),
    role(
        "system:controller:node-controller",
        &[
            allow(&["get", "list", "watch", "update", "delete", "patch"], CORE, &["nodes"]),
            allow(CHANGE, CORE, &["nodes/status"]),
            allow(CHANGE, CORE, &["pods/status"]),
            allow(READ_DELETE, CORE, &["pods"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:persistent-volume-binder",
        &[
            allow(OWN, CORE, &["persistentvolumes"]),
            allow(UPDATE, CORE, &["persistentvolumes/status"]),
            allow(READ_AND_UPDATE, CORE, &["persistentvolumeclaims"]),
            allow(UPDATE, CORE, &["persistentvolumeclaims/status"]),
            allow(&["list", "watch", "get", "create", "delete"], CORE, &["pods"]),
            allow(READ, STORAGE, &["storageclasses"]),
            allow(&["list", "watch"], CORE, &["nodes"]),
            EVENTS,
            allow(&["watch"], CORE, &["events"]),
            allow(&["get"], CORE, &["services"]),
        ],
    ),
    role(
        "system:controller:pod-garbage-collector",
        &[
            allow(&["list", "watch", "delete"], CORE, &["pods"]),
            allow(READ, CORE, &["nodes"]),
            allow(&["patch"], CORE, &["pods/status"]),
        ],
    ),
    role(
        "system:controller:replicaset-controller",
        &[
            allow(READ_AND_UPDATE, APPS_AND_BEFORE, &["replicasets"]),
            allow(UPDATE, APPS_AND_BEFORE, &["replicasets/status"]),
            allow(UPDATE, APPS_AND_BEFORE, &["replicasets/finalizers"]),
            KEEP_PODS,
            EVENTS,
        ],
    ),
    role(
        "system:controller:replication-controller",
        &[
            allow(READ_AND_UPDATE, CORE, &["replicationcontrollers"]),
            allow(UPDATE, CORE, &["replicationcontrollers/status"]),
            allow(UPDATE, CORE, &["replicationcontrollers/finalizers"]),
            KEEP_PODS,
            EVENTS,
        ],
    ),
    role(
        "system:controller:resourcequota-controller",
        &[allow(&["list", "watch"], &["*"], &["*"]), allow(UPDATE, CORE, &["resourcequotas/status"]), EVENTS],
    ),
    role(
        "system:controller:route-controller",
        &[allow(&["list", "watch"], CORE, &["nodes"]), allow(&["patch"], CORE, &["nodes/status"]), EVENTS],
    ),
    role("system:controller:service-account-controller", &[allow(&["create"], CORE, &["serviceaccounts"]), EVENTS]),
    role(
        "system:controller:service-controller",
        &[
            allow(READ, CORE, &["services"]),
            allow(CHANGE, CORE, &["services/status"]),
            allow(&["list", "watch"], CORE, &["nodes"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:service-cidrs-controller",
        &[
            allow(&["get", "list", "watch", "patch", "update"], NETWORKING, &["servicecidrs"]),
            allow(CHANGE, NETWORKING, &["servicecidrs/finalizers"]),
            allow(CHANGE, NETWORKING, &["servicecidrs/status"]),
            allow(READ, NETWORKING, &["ipaddresses"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:statefulset-controller",
        &[
            allow(&["list", "watch"], CORE, &["pods"]),
            allow(READ, APPS, &["statefulsets"]),
            allow(UPDATE, APPS, &["statefulsets/status"]),
            allow(UPDATE, APPS, &["statefulsets/finalizers"]),
            allow(&["get", "create", "delete", "update", "patch"], CORE, &["pods"]),
            allow(OWN_AND_PATCH, APPS, &["controllerrevisions"]),
            allow(&["get", "create", "list", "watch"], CORE, &["persistentvolumeclaims"]),
            allow(&["update", "delete"], CORE, &["persistentvolumeclaims"]),
            allow(UPDATE, CORE, &["pods/finalizers"]),
            EVENTS,
        ],
    ),
    role("system:controller:ttl-controller", &[allow(&["update", "patch", "list", "watch"], CORE, &["nodes"]), EVENTS]),
    role(
        "system:controller:certificate-controller",
        &[
            allow(READ_DELETE, CERTIFICATES, &["certificatesigningrequests"]),
            allow(UPDATE, CERTIFICATES, &["certificatesigningrequests/status", "certificatesigningrequests/approval"]),
            allow_named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kube-apiserver-client-kubelet"]),
            allow_named(&["sign"], CERTIFICATES, &["signers"], SIGNERS),
            allow(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:pvc-protection-controller",
        &[allow(READ_AND_UPDATE, CORE, &["persistentvolumeclaims"]), allow(READ, CORE, &["pods"]), EVENTS],
    ),
    role("system:controller:pv-protection-controller", &[allow(READ_AND_UPDATE, CORE, &["persistentvolumes"]), EVENTS]),
    role(
        "system:controller:volumeattributesclass-protection-controller",
        &[
            allow(READ, CORE, &["persistentvolumeclaims"]),
            allow(READ, CORE, &["persistentvolumes"]),
            allow(READ_AND_UPDATE, STORAGE, &["volumeattributesclasses"]),
            EVENTS,
        ],
    ),
    role("system:controller:ttl-after-finished-controller", &[allow(READ_DELETE, BATCH, &["jobs"]), EVENTS]),
    role("system:controller:root-ca-cert-publisher", &[allow(&["create", "update"], CORE, &["configmaps"]), EVENTS]),
    role(
        "system:controller:validatingadmissionpolicy-status-controller",
        &[
            allow(READ, ADMISSION, &["validatingadmissionpolicies"]),
            allow(&["get", "patch", "update"], ADMISSION, &["validatingadmissionpolicies/status"]),
            EVENTS,
        ],
    ),
    role(
        "system:controller:legacy-service-account-token-cleaner",
        &[
            allow_named(&["get"], CORE, &["configmaps"], &["kube-apiserver-legacy-service-account-token-tracking"]),
            allow(&["patch", "delete"], CORE, &["secrets"]),
        ],
    ),
    role(
        "system:controller:selinux-warning-controller",
        &[
            EVENTS,
            allow(READ, CORE, &["persistentvolumes"]),
            allow(READ, CORE, &["persistentvolumeclaims"]),
            allow(READ, CORE, &["pods"]),
            allow(READ, STORAGE, &["csidrivers"]),
        ],
    ),
];

const ADMISSION: &[&str] = &["admissionregistration.k8s.io"];

const SIGNERS: &[&str] = &[
    "kubernetes.io/legacy-unknown",
    "kubernetes.io/kube-apiserver-client",
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
];
