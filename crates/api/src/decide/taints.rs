//! Which taints of a node a pod tolerates.

use crate::projection::{Taint, Toleration};

/// The effect that keeps pods from being placed.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// The effect that makes other nodes preferable.
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// The effect that also drives running pods away.
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether one toleration covers one taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if !toleration.effect.is_empty() && toleration.effect != taint.effect {
        return false;
    }
    if !toleration.key.is_empty() && toleration.key != taint.key {
        return false;
    }
    match &*toleration.operator {
        "" | "Equal" => toleration.value == taint.value,
        "Exists" => true,
        _ => false,
    }
}

/// Whether any toleration covers the taint.
pub fn is_tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// The first taint among those that `counts` picks that no toleration covers.
pub fn first_untolerated<'t>(
    taints: &'t [Taint],
    tolerations: &[Toleration],
    counts: impl Fn(&Taint) -> bool,
) -> Option<&'t Taint> {
    taints.iter().find(|taint| counts(taint) && !is_tolerated(tolerations, taint))
}

/// Whether a taint keeps new pods off a node.
pub fn forbids_scheduling(taint: &Taint) -> bool {
    matches!(&*taint.effect, NO_SCHEDULE | NO_EXECUTE)
}

/// How long a pod may stay on a node with these `NoExecute` taints, in seconds: `None` for ever, 0 not at all.
pub fn seconds_tolerated(taints: &[Taint], tolerations: &[Toleration]) -> Option<i64> {
    let evicting = || taints.iter().filter(|taint| &*taint.effect == NO_EXECUTE);
    if evicting().any(|taint| !is_tolerated(tolerations, taint)) {
        return Some(0);
    }
    let used = |toleration: &&Toleration| evicting().any(|taint| tolerates(toleration, taint));
    tolerations.iter().filter(used).filter_map(|toleration| toleration.seconds).map(|seconds| seconds.max(0)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str, seconds: Option<i64>) -> Toleration {
        let [key, operator, value, effect] = [key, operator, value, effect].map(Into::into);
        Toleration { key, operator, value, effect, seconds }
    }

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: value.into(), effect: effect.into(), added: None }
    }

    fn check(toleration: Toleration, expected: bool) {
        assert_eq!(tolerates(&toleration, &taint("k", "v", "NoSchedule")), expected, "{toleration:?}");
    }

    #[test]
    fn tolerations_cover_taints() {
        check(toleration("k", "Equal", "v", "NoSchedule", None), true);
        check(toleration("k", "", "v", "", None), true);
        check(toleration("k", "Equal", "w", "", None), false);
        check(toleration("k", "Exists", "", "", None), true);
        check(toleration("", "Exists", "", "", None), true);
        check(toleration("", "Exists", "", "NoExecute", None), false);
        check(toleration("j", "Exists", "", "", None), false);
        check(toleration("k", "Odd", "v", "", None), false);
    }

    #[test]
    fn the_shortest_used_toleration_counts() {
        let taints = [taint("a", "", "NoExecute"), taint("b", "", "NoExecute"), taint("c", "", "NoSchedule")];
        let any = |seconds| toleration("", "Exists", "", "", seconds);
        assert_eq!(seconds_tolerated(&taints, &[]), Some(0));
        assert_eq!(seconds_tolerated(&taints, &[any(None)]), None);
        assert_eq!(seconds_tolerated(&taints, &[any(None), toleration("a", "Exists", "", "", Some(30))]), Some(30));
        assert_eq!(
            seconds_tolerated(&taints, &[any(Some(300)), toleration("z", "Exists", "", "", Some(30))]),
            Some(300)
        );
        assert_eq!(seconds_tolerated(&taints, &[any(Some(-1))]), Some(0));
        assert_eq!(seconds_tolerated(&taints[2..], &[]), None);
        assert_eq!(
            first_untolerated(&taints, &[toleration("a", "Exists", "", "", None)], forbids_scheduling),
            Some(&taints[1])
        );
    }
}
