//! Trees as YAML in the style of Go's encoder: members sorted, two spaces a level, lists at their key's level.

use serde_json::Value;

/// The YAML of a tree.
pub(crate) fn of(value: &Value) -> Vec<u8> {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => object(members, 0, &mut out),
        Value::Array(items) if !items.is_empty() => list(items, 0, &mut out),
        other => {
            scalar(other, 0, &mut out);
            out.push('\n');
        }
    }
    out.into_bytes()
}

fn indent(level: usize, out: &mut String) {
    (0..level).for_each(|_| out.push_str("  "));
}

fn object(members: &serde_json::Map<String, Value>, level: usize, out: &mut String) {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by(|left, right| left.0.cmp(right.0));
    for (at, (key, value)) in members.into_iter().enumerate() {
        // The first member of a list's item follows its dash.
        if at > 0 || !out.ends_with("- ") {
            indent(level, out);
        }
        text(key, level, out);
        out.push(':');
        member(value, level, out);
    }
}

fn member(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            object(members, level + 1, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            list(items, level, out);
        }
        other => {
            out.push(' ');
            scalar(other, level + 1, out);
            out.push('\n');
        }
    }
}

fn list(items: &[Value], level: usize, out: &mut String) {
    for item in items {
        indent(level, out);
        out.push_str("- ");
        match item {
            Value::Object(members) if !members.is_empty() => object(members, level + 1, out),
            Value::Array(inner) if !inner.is_empty() => {
                out.pop();
                out.push('\n');
                list(inner, level + 1, out);
            }
            other => {
                scalar(other, level + 1, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::String(string) => text(string, level, out),
        other => out.push_str(&other.to_string()),
    }
}

fn text(string: &str, level: usize, out: &mut String) {
    let printable = string.chars().all(|letter| letter == '\n' || !letter.is_control());
    if printable && string.contains('\n') && !string.starts_with([' ', '\n']) {
        block(string, level, out);
    } else if is_plain(string) {
        out.push_str(string);
    } else {
        // A JSON string is a YAML string in double quotes.
        out.push_str(&serde_json::to_string(string).expect("a text is JSON"));
    }
}

fn block(string: &str, level: usize, out: &mut String) {
    let trailing = string.len() - string.trim_end_matches('\n').len();
    out.push_str(match trailing {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(level, out);
            out.push_str(line);
        }
    }
}

/// Whether the text means itself without quotes, in YAML 1.1 and 1.2.
fn is_plain(string: &str) -> bool {
    const WORDS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ""];
    let lower = string.to_ascii_lowercase();
    let begins_well = string.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '/' || letter == '_');
    let letters = string.chars().all(|letter| letter.is_alphanumeric() || "-_./ :+=,()@".contains(letter));
    begins_well
        && letters
        && !WORDS.contains(&lower.as_str())
        && !string.contains(": ")
        && !string.ends_with([' ', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_as_what_it_was() {
        let json = r#"{"metadata":{"labels":{"a":"yes","b":"1","c":"x: y"},"name":"n"},"list":[{"k":[1,2],"l":null},"s",[]],
            "text":"one\ntwo\n","bare":"one\n\ntwo","float":1.5,"empty":{},"slash":"a\\b\"c"}"#;
        let value: Value = serde_json::from_str(json).expect("JSON");
        let yaml = of(&value);
        let parsed = api::codec::yaml::parse(&yaml, &api::codec::Limits::default()).expect("YAML");
        let expected: api::value::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(parsed.value, expected, "{}", String::from_utf8_lossy(&yaml));
    }

    #[test]
    fn looks_as_go_writes_it() {
        let value = serde_json::json!({"b": [{"name": "x", "args": ["-c", "true"]}], "a": "v1"});
        let expected = "a: v1\nb:\n- args:\n  - \"-c\"\n  - \"true\"\n  name: x\n";
        assert_eq!(String::from_utf8(of(&value)).expect("text"), expected);
    }
}
