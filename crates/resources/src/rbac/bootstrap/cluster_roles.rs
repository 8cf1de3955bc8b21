//! Cluster roles of users, nodes and components, and their bindings.

use super::{EVENTS, READ, READ_UPDATE, READ_WRITE, RoleFacts, Rule, WRITE, Who, allow, allow_named, allow_urls, role};

const CORE: &[&str] = &[""];
const APPS: &[&str] = &["apps"];
const AUTHENTICATION: &[&str] = &["authentication.k8s.io"];
const AUTHORIZATION: &[&str] = &["authorization.k8s.io"];
const AUTOSCALING: &[&str] = &["autoscaling"];
const BATCH: &[&str] = &["batch"];
const CERTIFICATES: &[&str] = &["certificates.k8s.io"];
const COORDINATION: &[&str] = &["coordination.k8s.io"];
const DISCOVERY: &[&str] = &["discovery.k8s.io"];
const EXTENSIONS: &[&str] = &["extensions"];
const NETWORKING: &[&str] = &["networking.k8s.io"];
const POLICY: &[&str] = &["policy"];
const RBAC: &[&str] = &["rbac.authorization.k8s.io"];
const DEVICES: &[&str] = &["resource.k8s.io"];
const STORAGE: &[&str] = &["storage.k8s.io"];

/// Questions that change nothing.
const ASK_WHO: Rule = allow(&["create"], AUTHENTICATION, &["tokenreviews"]);
const ASK_MAY: Rule = allow(&["create"], AUTHORIZATION, &["subjectaccessreviews"]);

pub(super) const ROLES: &[RoleFacts] = &[
    role("cluster-admin", &[allow(&["*"], &["*"], &["*"]), allow_urls(&["*"], &["*"])]),
    role("system:discovery", &[allow_urls(&["get"], DISCOVERY_URLS)]),
    role("system:monitoring", &[allow_urls(&["get"], MONITORING_URLS)]),
    role(
        "system:basic-user",
        &[
            allow(&["create"], AUTHORIZATION, &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            allow(&["create"], AUTHENTICATION, &["selfsubjectreviews"]),
        ],
    ),
    role(
        "system:public-info-viewer",
        &[allow_urls(&["get"], &["/livez", "/readyz", "/healthz", "/version", "/version/"])],
    ),
    RoleFacts { sum_of: Some("admin"), ..role("admin", &[]) },
    RoleFacts { sum_of: Some("edit"), part_of: &["admin"], ..role("edit", &[]) },
    RoleFacts { sum_of: Some("view"), part_of: &["edit"], ..role("view", &[]) },
    RoleFacts { part_of: &["admin"], ..role("system:aggregate-to-admin", ADMIN) },
    RoleFacts { part_of: &["edit"], ..role("system:aggregate-to-edit", EDIT) },
    RoleFacts { part_of: &["view"], ..role("system:aggregate-to-view", VIEW) },
    // As the metrics server brings it.
    RoleFacts {
        part_of: &["admin", "edit", "view"],
        ..role("system:aggregated-metrics-reader", &[allow(READ, &["metrics.k8s.io"], &["pods", "nodes"])])
    },
    role(
        "system:heapster",
        &[allow(READ, CORE, &["events", "pods", "nodes", "namespaces"]), allow(READ, EXTENSIONS, &["deployments"])],
    ),
    role("system:node", NODE),
    role(
        "system:node-problem-detector",
        &[allow(&["get"], CORE, &["nodes"]), allow(&["patch"], CORE, &["nodes/status"]), EVENTS],
    ),
    role(
        "system:kubelet-api-admin",
        &[
            allow(READ, CORE, &["nodes"]),
            allow(&["proxy"], CORE, &["nodes"]),
            allow(&["*"], CORE, &["nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log"]),
        ],
    ),
    role(
        "system:node-bootstrapper",
        &[allow(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"])],
    ),
    role("system:auth-delegator", &[ASK_WHO, ASK_MAY]),
    role("system:kube-aggregator", &[allow(READ, CORE, &["services", "endpoints"])]),
    role("system:kube-controller-manager", CONTROLLER_MANAGER),
    role("system:kube-dns", &[allow(&["list", "watch"], CORE, &["endpoints", "services"])]),
    role(
        "system:persistent-volume-provisioner",
        &[
            allow(&["get", "list", "watch", "create", "delete"], CORE, &["persistentvolumes"]),
            allow(&["get", "list", "watch", "update"], CORE, &["persistentvolumeclaims"]),
            allow(READ, STORAGE, &["storageclasses"]),
            allow(&["watch"], CORE, &["events"]),
            EVENTS,
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[allow(&["create"], CERTIFICATES, &["certificatesigningrequests/nodeclient"])],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[allow(&["create"], CERTIFICATES, &["certificatesigningrequests/selfnodeclient"])],
    ),
    role(
        "system:volume-scheduler",
        &[
            allow(READ_UPDATE, CORE, &["persistentvolumes"]),
            allow(READ, STORAGE, &["storageclasses"]),
            allow(READ_UPDATE, CORE, &["persistentvolumeclaims"]),
        ],
    ),
    role("system:certificates.k8s.io:legacy-unknown-approver", &[approve(&["kubernetes.io/legacy-unknown"])]),
    role("system:certificates.k8s.io:kubelet-serving-approver", &[approve(&["kubernetes.io/kubelet-serving"])]),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[approve(&["kubernetes.io/kube-apiserver-client"])],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[approve(&["kubernetes.io/kube-apiserver-client-kubelet"])],
    ),
    role(
        "system:service-account-issuer-discovery",
        &[allow_urls(&["get"], &["/.well-known/openid-configuration", "/openid/v1/jwks"])],
    ),
    role(
        "system:node-proxier",
        &[
            allow(&["list", "watch"], CORE, &["services", "endpoints"]),
            allow(READ, CORE, &["nodes"]),
            EVENTS,
            allow(&["list", "watch"], DISCOVERY, &["endpointslices"]),
            allow(&["list", "watch"], NETWORKING, &["servicecidrs"]),
        ],
    ),
    role("system:kube-scheduler", SCHEDULER),
];

pub(super) const BINDINGS: &[(&str, &[Who])] = &[
    ("cluster-admin", &[Who::Group("system:masters")]),
    ("system:monitoring", &[Who::Group("system:monitoring")]),
    ("system:discovery", &[Who::Group("system:authenticated")]),
    ("system:basic-user", &[Who::Group("system:authenticated")]),
    ("system:public-info-viewer", &[Who::Group("system:authenticated"), Who::Group("system:unauthenticated")]),
    ("system:node-proxier", &[Who::User("system:kube-proxy")]),
    ("system:kube-controller-manager", &[Who::User("system:kube-controller-manager")]),
    ("system:kube-dns", &[Who::Account("kube-dns")]),
    ("system:kube-scheduler", &[Who::User("system:kube-scheduler")]),
    ("system:volume-scheduler", &[Who::User("system:kube-scheduler")]),
    // Nodes have the Node authorizer; the binding stays, empty, so that an old cluster's is tightened.
    ("system:node", &[]),
    ("system:service-account-issuer-discovery", &[Who::Group("system:serviceaccounts")]),
];

const DISCOVERY_URLS: &[&str] = &[
    "/livez",
    "/readyz",
    "/healthz",
    "/version",
    "/version/",
    "/openapi",
    "/openapi/*",
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
];

const MONITORING_URLS: &[&str] =
    &["/metrics", "/metrics/slis", "/livez", "/readyz", "/healthz", "/livez/*", "/readyz/*", "/healthz/*"];

const fn approve(signers: &'static [&'static str]) -> Rule {
    allow_named(&["approve"], CERTIFICATES, &["signers"], signers)
}

const ADMIN: &[Rule] = &[
    allow(&["create"], AUTHORIZATION, &["localsubjectaccessreviews"]),
    allow(READ_WRITE, RBAC, &["roles", "rolebindings"]),
];

const EDIT: &[Rule] = &[
    allow(READ, CORE, &["pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"]),
    allow(&["impersonate"], CORE, &["serviceaccounts"]),
    allow(WRITE, CORE, &["pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"]),
    allow(&["create"], CORE, &["pods/eviction"]),
    allow(
        WRITE,
        CORE,
        &[
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
            "services/proxy",
            "persistentvolumeclaims",
            "configmaps",
            "secrets",
            "events",
        ],
    ),
    allow(&["create"], CORE, &["serviceaccounts/token"]),
    allow(
        WRITE,
        APPS,
        &[
            "statefulsets",
            "statefulsets/scale",
            "daemonsets",
            "deployments",
            "deployments/scale",
            "deployments/rollback",
            "replicasets",
            "replicasets/scale",
        ],
    ),
    allow(WRITE, AUTOSCALING, &["horizontalpodautoscalers"]),
    allow(WRITE, BATCH, &["jobs", "cronjobs"]),
    allow(
        WRITE,
        EXTENSIONS,
        &[
            "daemonsets",
            "deployments",
            "deployments/scale",
            "deployments/rollback",
            "ingresses",
            "replicasets",
            "replicasets/scale",
            "replicationcontrollers/scale",
            "networkpolicies",
        ],
    ),
    allow(WRITE, POLICY, &["poddisruptionbudgets"]),
    allow(WRITE, NETWORKING, &["networkpolicies", "ingresses"]),
    allow(READ_WRITE, COORDINATION, &["leases"]),
    allow(WRITE, DEVICES, &["resourceclaims", "resourceclaimtemplates"]),
];

const VIEW: &[Rule] = &[
    allow(
        READ,
        CORE,
        &[
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
            "services/status",
            "endpoints",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "configmaps",
        ],
    ),
    allow(
        READ,
        CORE,
        &[
            "limitranges",
            "resourcequotas",
            "bindings",
            "events",
            "pods/status",
            "resourcequotas/status",
            "namespaces/status",
            "replicationcontrollers/status",
            "pods/log",
        ],
    ),
    // In a namespace, this reads that namespace.
    allow(READ, CORE, &["namespaces"]),
    allow(READ, DISCOVERY, &["endpointslices"]),
    allow(
        READ,
        APPS,
        &[
            "controllerrevisions",
            "statefulsets",
            "statefulsets/status",
            "statefulsets/scale",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/status",
            "deployments/scale",
            "replicasets",
            "replicasets/status",
            "replicasets/scale",
        ],
    ),
    allow(READ, AUTOSCALING, &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
    allow(READ, BATCH, &["jobs", "cronjobs", "cronjobs/status", "jobs/status"]),
    allow(
        READ,
        EXTENSIONS,
        &[
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "ingresses",
            "ingresses/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "replicationcontrollers/scale",
            "networkpolicies",
        ],
    ),
    allow(READ, POLICY, &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    allow(READ, NETWORKING, &["networkpolicies", "ingresses", "ingresses/status"]),
    allow(READ, DEVICES, &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"]),
];

const NODE: &[Rule] = &[
    ASK_WHO,
    allow(&["create"], AUTHORIZATION, &["subjectaccessreviews", "localsubjectaccessreviews"]),
    allow(READ, CORE, &["services"]),
    allow(&["create", "get", "list", "watch"], CORE, &["nodes"]),
    allow(&["update", "patch"], CORE, &["nodes/status"]),
    allow(&["update", "patch"], CORE, &["nodes"]),
    allow(&["create", "update", "patch"], CORE, &["events"]),
    allow(READ, CORE, &["pods"]),
    // What a node runs by itself shows as a pod.
    allow(&["create", "delete"], CORE, &["pods"]),
    allow(&["update", "patch"], CORE, &["pods/status"]),
    allow(&["create"], CORE, &["pods/eviction"]),
    allow(READ, CORE, &["secrets", "configmaps"]),
    allow(&["get"], CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    allow(&["get"], CORE, &["endpoints"]),
    allow(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"]),
    allow(&["get", "create", "update", "patch", "delete"], COORDINATION, &["leases"]),
    allow(&["get"], STORAGE, &["volumeattachments"]),
    allow(&["create"], CORE, &["serviceaccounts/token"]),
    allow(&["get", "update", "patch"], CORE, &["persistentvolumeclaims/status"]),
    allow(READ, STORAGE, &["csidrivers"]),
    allow(&["get", "create", "update", "patch", "delete"], STORAGE, &["csinodes"]),
    allow(READ, &["node.k8s.io"], &["runtimeclasses"]),
    allow(&["get"], DEVICES, &["resourceclaims"]),
    allow(READ_WRITE, DEVICES, &["resourceslices"]),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    allow(&["create"], COORDINATION, &["leases"]),
    allow_named(&["get", "update"], COORDINATION, &["leases"], &["kube-controller-manager"]),
    allow(&["create"], CORE, &["secrets", "serviceaccounts"]),
    allow(&["delete"], CORE, &["secrets"]),
    allow(&["get"], CORE, &["namespaces", "secrets", "serviceaccounts", "configmaps"]),
    allow(&["update"], CORE, &["secrets", "serviceaccounts"]),
    ASK_WHO,
    ASK_MAY,
    allow(&["list", "watch"], &["*"], &["*"]),
    allow(&["create"], CORE, &["serviceaccounts/token"]),
];

const SCHEDULER: &[Rule] = &[
    EVENTS,
    allow(&["create"], COORDINATION, &["leases"]),
    allow_named(&["get", "update"], COORDINATION, &["leases"], &["kube-scheduler"]),
    allow(READ, CORE, &["nodes"]),
    allow(&["get", "list", "watch", "delete"], CORE, &["pods"]),
    allow(&["create"], CORE, &["pods/binding", "bindings"]),
    allow(&["patch", "update"], CORE, &["pods/status"]),
    allow(READ, CORE, &["services", "replicationcontrollers"]),
    allow(READ, &["apps", "extensions"], &["replicasets"]),
    allow(READ, APPS, &["statefulsets"]),
    allow(READ, POLICY, &["poddisruptionbudgets"]),
    allow(READ, CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    ASK_WHO,
    ASK_MAY,
    allow(READ, STORAGE, &["csinodes"]),
    allow(READ, CORE, &["namespaces"]),
    allow(READ, STORAGE, &["csidrivers"]),
    allow(READ, STORAGE, &["csistoragecapacities"]),
    allow(READ, STORAGE, &["volumeattachments"]),
    allow(READ, DEVICES, &["deviceclasses"]),
    allow(READ_UPDATE, DEVICES, &["resourceclaims"]),
    allow(&["patch", "update"], DEVICES, &["resourceclaims/status"]),
    allow(READ, DEVICES, &["resourceslices"]),
];
