//! Nobody grants what they do not have: which of some rules others do not cover. Pure.
//! Upstream: `k8s.io/component-helpers/auth/rbac/validation`.

use std::collections::BTreeMap;

use super::rbac::Rule;

/// Rules that hold more single permissions than this together are granted only by those who hold each rule as a whole:
/// a role of a megabyte could have a billion of them.
const SINGLES_MAX: usize = 10_000;

/// The parts of `wanted` that `held` does not cover, each as upstream shows it, sorted; empty when all is covered.
pub(crate) fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<String> {
    let wanted: Vec<&Rule> = wanted.iter().filter(|rule| !held.iter().any(|own| covers_whole(own, rule))).collect();
    if wanted.iter().map(|rule| count(rule)).fold(0, usize::saturating_add) > SINGLES_MAX {
        return vec![format!("more than {SINGLES_MAX} combinations of verbs and resources")];
    }
    let mut verbs: BTreeMap<Single, Vec<String>> = BTreeMap::new();
    for rule in wanted {
        for (verb, single) in singles(rule) {
            if !held.iter().any(|rule| covers(rule, &verb, &single)) {
                verbs.entry(single).or_default().push(verb);
            }
        }
    }
    let mut shown: Vec<String> = verbs.into_iter().map(|(single, verbs)| single.shown(&verbs)).collect();
    shown.sort_unstable();
    shown.dedup();
    shown
}

/// What one verb of a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Single {
    Resource { group: String, resource: String, name: Option<String> },
    Url(String),
}

impl Single {
    fn shown(&self, verbs: &[String]) -> String {
        match self {
            Single::Resource { group, resource, name } => {
                let names = name.as_ref().map(|name| format!(", ResourceNames:[{name:?}]")).unwrap_or_default();
                format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:{}}}", quoted(verbs))
            }
            Single::Url(url) => format!("{{NonResourceURLs:[{url:?}], Verbs:{}}}", quoted(verbs)),
        }
    }
}

/// A list as Go's `%q` prints it.
pub(crate) fn quoted(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" "))
}

/// How many single permissions a rule holds.
fn count(rule: &Rule) -> usize {
    let of_resources = [rule.groups.len(), rule.resources.len(), rule.names.len().max(1)];
    let of_resources = of_resources.into_iter().fold(1, usize::saturating_mul);
    rule.verbs.len().saturating_mul(of_resources.saturating_add(rule.urls.len()))
}

/// Whether one rule covers another one list by list. Covers less than [`covers`] does part by part, but costs no product.
fn covers_whole(held: &Rule, wanted: &Rule) -> bool {
    let all = |held: &[String], wanted: &[String]| {
        held.iter().any(|item| item == "*")
            || (wanted.len() <= SINGLES_MAX && wanted.iter().all(|item| has(held, item)))
    };
    // A name is never a wildcard.
    let names = held.names.is_empty()
        || (!wanted.names.is_empty()
            && wanted.names.iter().take(SINGLES_MAX + 1).all(|name| held.names.contains(name)));
    wanted.urls.is_empty()
        && all(&held.verbs, &wanted.verbs)
        && all(&held.groups, &wanted.groups)
        && all(&held.resources, &wanted.resources)
        && wanted.names.len() <= SINGLES_MAX
        && names
}

fn singles(rule: &Rule) -> Vec<(String, Single)> {
    let mut all = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.groups {
            for resource in &rule.resources {
                let one = |name: Option<&String>| {
                    let single =
                        Single::Resource { group: group.clone(), resource: resource.clone(), name: name.cloned() };
                    (verb.clone(), single)
                };
                if rule.names.is_empty() {
                    all.push(one(None));
                }
                all.extend(rule.names.iter().map(|name| one(Some(name))));
            }
        }
        all.extend(rule.urls.iter().map(|url| (verb.clone(), Single::Url(url.clone()))));
    }
    all
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn covers(held: &Rule, verb: &str, single: &Single) -> bool {
    if !has(&held.verbs, verb) {
        return false;
    }
    match single {
        Single::Url(url) => held.urls.iter().any(|own| match own.strip_suffix('*') {
            Some(prefix) => url.starts_with(prefix),
            None => own == url,
        }),
        Single::Resource { group, resource, name } => {
            let names = held.names.is_empty() || name.as_ref().is_some_and(|name| held.names.contains(name));
            let whole = resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
            let resources =
                has(&held.resources, resource) || whole.is_some_and(|whole| held.resources.contains(&whole));
            names && resources && has(&held.groups, group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Rule {
            verbs: owned(verbs),
            groups: vec![String::new()],
            resources: owned(resources),
            names: owned(names),
            urls: vec![],
        }
    }

    fn check(held: &[Rule], wanted: &[Rule], expected: &[&str]) {
        assert_eq!(missing(held, wanted), expected);
    }

    #[test]
    fn finds_what_is_not_held() {
        let pods = rule(&["get", "list"], &["pods"], &[]);
        check(std::slice::from_ref(&pods), &[rule(&["get"], &["pods"], &["x"])], &[]);
        check(&[rule(&["*"], &["*"], &[])], std::slice::from_ref(&pods), &[]);
        check(&[rule(&["get"], &["*/log"], &[])], &[rule(&["get"], &["pods/log"], &[])], &[]);
        check(
            &[rule(&["get"], &["pods"], &["x"])],
            &[pods],
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#],
        );
        check(
            &[],
            &[rule(&["get"], &["secrets"], &["a"])],
            &[r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["a"], Verbs:["get"]}"#],
        );
        check(
            &[rule(&["get"], &["secrets"], &["*"])],
            &[rule(&["get"], &["secrets"], &["a"])],
            &[r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["a"], Verbs:["get"]}"#],
        );
    }

    #[test]
    fn a_role_of_a_billion_permissions_is_judged_at_once() {
        let many: Vec<String> = (0..1000).map(|number| format!("x{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let huge = rule(&many, &many, &many);
        check(
            &[rule(&["*"], &["pods"], &[])],
            std::slice::from_ref(&huge),
            &["more than 10000 combinations of verbs and resources"],
        );
        check(&[rule(&["*"], &["*"], &[])], &[huge], &[]);
    }
}
