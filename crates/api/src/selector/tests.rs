//! Cases for selectors.

use std::collections::BTreeMap;

use super::*;

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn check(selector: &str, labels_text: &str, expected: bool) {
    let parsed = Selector::parse(selector).expect("a selector");
    assert_eq!(parsed.matches(&labels(labels_text)), expected, "{selector} on {labels_text}");
}

#[test]
fn selects_by_labels() {
    check("", "", true);
    check("", "a=b", true);
    check("a=b", "a=b", true);
    check("a==b", "a=b,c=d", true);
    check("a=b", "a=c", false);
    check("a=b", "", false);
    check("a=", "a=", true);
    check("a=,b=c", "a=,b=c", true);
    check("a!=b", "", true);
    check("a!=b", "a=b", false);
    check("a in (b,c)", "a=c", true);
    check("a in (b,c)", "a=d", false);
    check("a in ()", "a=", true);
    check("a in (,b)", "a=", true);
    check("a in (b,,c)", "a=", true);
    check("a notin (b,c)", "", true);
    check("a notin (b,c)", "a=b", false);
    check("a", "a=x", true);
    check("a", "b=x", false);
    check("!a", "b=x", true);
    check("! a ,b = x", "b=x", true);
    check("a>5", "a=6", true);
    check("a<5", "a=6", false);
    check("a>5", "a=x", false);
    check("in in (in)", "in=in", true);
    check("a=b,c,!d,e notin (f)", "a=b,c=x", true);
}

#[test]
fn words_errors_as_upstream() {
    for (text, expected) in [
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(Selector::parse(text), Err(SelectorError(expected.into())), "{text}");
    }
    for (text, start) in [
        ("-a=b", "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"),
        ("a=-b", "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be"),
    ] {
        let message = Selector::parse(text).expect_err("a fault").0;
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn prints_what_it_read_sorted_by_key() {
    for (text, expected) in [
        ("b=c,a", "a,b=c"),
        ("a in (y,x,x)", "a in (x,y)"),
        ("!a,b!=c,c notin (d),e>1,f<2,g==h", "!a,b!=c,c notin (d),e>1,f<2,g==h"),
    ] {
        let selector = Selector::parse(text).expect("a selector");
        assert_eq!(selector.to_string(), expected);
        assert_eq!(Selector::parse(expected), Ok(selector));
    }
    assert_eq!(Selector::from_labels([("b", "2"), ("a", "1")]).to_string(), "a=1,b=2");
    assert_eq!(Selector::from_labels([("b", "2")]).exact("b"), Some("2"));
}

#[test]
fn reads_label_selector_objects() {
    let tree = |json: &str| serde_json::from_str::<Value>(json).expect("JSON");
    assert_eq!(Selector::from_tree(None), Ok(Selector::Nothing));
    assert!(!Selector::Nothing.matches(&labels("a=b")));
    assert_eq!(Selector::from_tree(Some(&tree("{}"))), Ok(Selector::EVERYTHING));
    let selector = tree(
        r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"c","operator":"NotIn","values":["d"]},{"key":"e","operator":"Exists"}]}"#,
    );
    let selector = Selector::from_tree(Some(&selector)).expect("a selector");
    assert_eq!(selector.to_string(), "a=b,c notin (d),e");
    let wrong = tree(r#"{"matchExpressions":[{"key":"c","operator":"Gt"}]}"#);
    assert_eq!(
        Selector::from_tree(Some(&wrong)),
        Err(SelectorError("\"Gt\" is not a valid label selector operator".into()))
    );
}

#[test]
fn selects_by_fields() {
    let object = |field: &str| match field {
        "metadata.name" => "a",
        "spec.x" => "1,2",
        _ => "",
    };
    for (text, expected) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name==a", true),
        ("metadata.name!=a", false),
        ("metadata.name=a,,spec.y=", true),
        ("spec.x=1\\,2", true),
        ("spec.y!=b", true),
    ] {
        let selector = FieldSelector::parse(text).expect("a selector");
        assert_eq!(selector.matches(object), expected, "{text}");
        assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
    }
    for (text, expected) in [
        ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ("a=\\x", "invalid field selector: invalid escape sequence: \\x"),
        ("a=\\", "invalid field selector: invalid escape sequence: \\"),
    ] {
        assert_eq!(FieldSelector::parse(text), Err(SelectorError(expected.into())), "{text}");
    }
    assert_eq!(FieldSelector::equals("spec.nodeName", "n").exact("spec.nodeName"), Some("n"));
}
