//! Label selectors inside objects: their rules, whether they match, how they are shown.

use std::collections::BTreeMap;

use api::field::{FieldErrors, Path};
use api::selector::Selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::absent::{entries, list};
use crate::columns::NONE;
use crate::faults::each_invalid;
use crate::{meta, names};

/// Judges the selector.
pub(crate) fn validate(selector: Option<&LabelSelector>, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(selector) = selector else { return };
    meta::validate_labels(&selector.match_labels, &path.child("matchLabels"), faults);
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(&selector.match_expressions).iter().enumerate() {
        validate_requirement(requirement, &expressions.index(index), faults);
    }
}

fn validate_requirement(requirement: &LabelSelectorRequirement, path: &Path<'_>, faults: &mut FieldErrors) {
    let values = list(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            faults.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            faults
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => faults.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    each_invalid(faults, &path.child("key"), &requirement.key, names::qualified(&requirement.key));
    for (index, value) in values.iter().enumerate() {
        each_invalid(faults, &path.child("values").index(index), value, names::label_value(value));
    }
}

/// Whether the selector selects everything, which most kinds do not allow.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    entries(&selector.match_labels).next().is_none() && list(&selector.match_expressions).is_empty()
}

/// Whether it can be evaluated at all; a selector that cannot has faults of its own already.
pub(crate) fn is_well_formed(selector: &LabelSelector) -> bool {
    Selector::from_object(Some(selector)).is_ok()
}

/// Whether the labels satisfy every requirement.
pub(crate) fn matches(selector: &LabelSelector, labels: &Option<BTreeMap<String, String>>) -> bool {
    Selector::from_object(Some(selector)).is_ok_and(|selector| selector.matches(labels))
}

/// As in a `-l` argument, sorted by key; `<none>` for a missing or empty one.
pub(crate) fn shown(selector: Option<&LabelSelector>) -> String {
    match Selector::from_object(selector) {
        Err(_) => "<error>".to_owned(),
        Ok(selector) if selector.requirements().is_empty() => NONE.to_owned(),
        Ok(selector) => selector.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> LabelSelector {
        serde_json::from_str(json).expect("the test's selector is JSON")
    }

    #[test]
    fn is_shown_as_an_argument() {
        let check = |json: &str, expected: &str| assert_eq!(shown(Some(&selector(json))), expected);
        check("{}", "<none>");
        check(r#"{"matchLabels":{"b":"2","a":"1"}}"#, "a=1,b=2");
        check(
            r#"{"matchLabels":{"b":"2"},"matchExpressions":[{"key":"a","operator":"In","values":["y","x"]},{"key":"c","operator":"DoesNotExist"}]}"#,
            "a in (x,y),b=2,!c",
        );
        check(r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#, "<error>");
    }

    #[test]
    fn requires_every_part_to_match() {
        let selector =
            selector(r#"{"matchLabels":{"a":"1"},"matchExpressions":[{"key":"b","operator":"NotIn","values":["2"]}]}"#);
        let check = |labels: &[(&str, &str)], expected: bool| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(matches(&selector, &Some(labels)), expected);
        };
        check(&[("a", "1")], true);
        check(&[("a", "1"), ("b", "2")], false);
        check(&[("b", "3")], false);
    }
}
