//! DefaultTolerationSeconds: a pod stays five minutes on a node that became unready or unreachable.
//! Upstream: `plugin/pkg/admission/defaulttolerationseconds`.

use k8s_openapi::api::core::v1::{Pod, Toleration};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Adds the tolerations that the pod does not have in its own way.
pub(crate) fn admit(pod: &mut Pod) {
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    for key in TAINTS {
        if !tolerations.iter().any(|toleration| covers(toleration, key)) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(SECONDS),
                value: None,
            });
        }
    }
}

fn covers(toleration: &Toleration, taint: &str) -> bool {
    let empty_or =
        |value: &Option<String>, wanted: &str| value.as_deref().is_none_or(|value| value.is_empty() || value == wanted);
    empty_or(&toleration.key, taint) && empty_or(&toleration.effect, "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(own: &[(&str, &str)], expected: &[&str]) {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let own = own.iter().map(|(key, effect)| Toleration {
            key: text(key),
            effect: text(effect),
            ..Toleration::default()
        });
        let mut pod = Pod::default();
        pod.spec.get_or_insert_default().tolerations = Some(own.collect());
        admit(&mut pod);
        let spec = pod.spec.expect("a spec");
        let added =
            spec.tolerations.iter().flatten().filter(|toleration| toleration.toleration_seconds == Some(SECONDS));
        assert_eq!(added.filter_map(|toleration| toleration.key.as_deref()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn adds_what_the_pod_does_not_tolerate_by_itself() {
        check(&[], &TAINTS);
        check(&[(TAINTS[0], "NoExecute")], &[TAINTS[1]]);
        check(&[("", "")], &[]);
        check(&[(TAINTS[0], "NoSchedule")], &TAINTS);
    }
}
