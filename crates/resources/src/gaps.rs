//! Rules of upstream's that are known and not enforced yet. The list may only shrink.

/// A rule that is missing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The kind, as in `apiVersion/kind`.
    pub kind: &'static str,
    /// Where and what upstream would do.
    pub rule: &'static str,
    /// What happens here instead, and why that is bearable for now.
    pub reason: &'static str,
}

/// All of them.
pub const GAPS: &[Gap] = &[
    Gap {
        kind: "*",
        rule: "rules are relaxed on update for what the stored object already breaks (addresses, label values, sysctls …)",
        reason: "no object was ever stored here that breaks them; matters when an older cluster's data is taken over",
    },
    Gap {
        kind: "*",
        rule: "messages that quote the Go compiler's or parser's words: the diff of a pod's spec, malformed JSON in a pull secret",
        reason: "the fault, its field and the first line are upstream's; the rest names the same difference in our words",
    },
    Gap {
        kind: "apps/v1/Deployment, apps/v1/ReplicaSet",
        rule: "an empty selector has a message of its own, other than a missing one",
        reason: "refused all the same, in the words for a missing one",
    },
    Gap {
        kind: "v1/Event",
        rule: "stricter rules and immutability for events written through events.k8s.io/v1",
        reason: "a definition does not see which version a request came in; the stored version's rules apply to both",
    },
    Gap {
        kind: "v1/Endpoints",
        rule: "subsets are merged by address and sorted after validation",
        reason: "stored as written; the controller that writes most of them writes them so already",
    },
    Gap {
        kind: "v1/Node",
        rule: "spec.configSource, status.config and the alpha annotations for taints and avoided pods",
        reason: "the features are gone from upstream's agent too; the fields are stored unread",
    },
    Gap {
        kind: "v1/Pod",
        rule: "volumes[].ephemeral: the whole of a claim's rules",
        reason: "modes, size and name are judged; storage classes and data sources arrive with claims",
    },
    Gap {
        kind: "v1/Pod",
        rule: "projected clusterTrustBundle and podCertificate sources",
        reason: "off by default at this level and dropped, as upstream does",
    },
    Gap {
        kind: "v1/Pod",
        rule: "status.containerStatuses[].user and .allocatedResourcesStatus",
        reason: "only node agents write them, and ours does not",
    },
    Gap { kind: "v1/Pod", rule: "tolerations with the operators Lt and Gt", reason: "off by default at this level" },
];
