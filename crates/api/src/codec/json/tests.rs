//! Cases for reading and writing JSON text.

use super::*;
use crate::codec::Limits;
use crate::value::Value;

#[test]
fn syntax_errors_are_worded_as_in_go() {
    for (text, expected) in [
        ("", "unexpected end of JSON input"),
        ("  ", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("[1,", "unexpected end of JSON input"),
        ("\"abc", "unexpected end of JSON input"),
        ("tru", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("'a'", r"invalid character '\'' looking for beginning of value"),
        ("{a", "invalid character 'a' looking for beginning of object key string"),
        ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        ("{\"a\" 1}", "invalid character '1' after object key"),
        ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
        ("[1 \"a\"]", "invalid character '\"' after array element"),
        ("1 2", "invalid character '2' after top-level value"),
        ("{}}", "invalid character '}' after top-level value"),
        ("trux", "invalid character 'x' in literal true (expecting 'e')"),
        ("nil", "invalid character 'i' in literal null (expecting 'u')"),
        ("\"a\nb\"", r"invalid character '\n' in string literal"),
        ("\"\\x\"", "invalid character 'x' in string escape code"),
        ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1ex", "invalid character 'x' in exponent of numeric literal"),
        ("01", "invalid character '1' after top-level value"),
        ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
        ("\u{1}", r"invalid character '\x01' looking for beginning of value"),
    ] {
        let error = parse(text.as_bytes(), &Limits::default()).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text:?}");
    }
}

#[test]
fn values_are_read() {
    for (text, expected) in [
        (" [ 1 , -0 , 1.50 , 1e2 , true , false , null ] ", r#"[1,0,1.5,100,true,false,null]"#),
        (r#"{"a":{"b":[{}]},"":""}"#, r#"{"a":{"b":[{}]},"":""}"#),
        (r#""\u00e9\ud83d\ude00\ud800\n\/\"\\""#, "\"é😀\u{fffd}\\n/\\\"\\\\\""),
        ("123456789012345678901", "123456789012345680000"),
    ] {
        let parsed = parse(text.as_bytes(), &Limits::default()).expect(text);
        assert_eq!(String::from_utf8_lossy(&encode_any(&parsed.value, Order::AsGiven)), expected, "{text}");
    }
    let repaired = parse(b"\"a\xffb\"", &Limits::default()).expect("repaired").value;
    assert_eq!(repaired, Value::from("a\u{fffd}b"));
}

#[test]
fn repeated_members_are_reported_and_the_last_counts() {
    let text = br#"{"spec":{"bar":1,"bar":2,"list":[{"x":1,"x":2,"x":3}]},"spec":{"z":1}}"#;
    let parsed = parse(text, &Limits::default()).expect("JSON");
    assert_eq!(parsed.duplicates, ["spec.bar", "spec.list[0].x", "spec"]);
    assert_eq!(parsed.value, Value::from([("spec", Value::from([("z", 1)]))]));
}

#[test]
fn objects_with_very_many_members_take_no_quadratic_time() {
    let members: Vec<String> = (0..200_000).map(|number| format!("\"k{number}\":{number}")).collect();
    let text = format!("{{{}}}", members.join(","));
    let parsed = parse(text.as_bytes(), &Limits::default()).expect("JSON");
    assert_eq!(parsed.value.get("k199999"), Some(&Value::Int(199_999)));
}

#[test]
fn scalars_are_written_as_in_go() {
    for (value, expected) in [
        (Value::Float(0.0), "0"),
        (Value::Float(1.0), "1"),
        (Value::Float(-1.5), "-1.5"),
        (Value::Float(1e20), "100000000000000000000"),
        (Value::Float(1e21), "1e+21"),
        (Value::Float(1.5e-7), "1.5e-7"),
        (Value::Float(0.000001), "0.000001"),
        (Value::Int(i64::MIN), "-9223372036854775808"),
        (Value::Int(0), "0"),
        (
            Value::from("a<b>&c\u{2028}\u{2029}\u{8}\u{c}\n\r\t\u{1}\u{7f}\"\\/é€"),
            "\"a\\u003cb\\u003e\\u0026c\\u2028\\u2029\\b\\f\\n\\r\\t\\u0001\u{7f}\\\"\\\\/é€\"",
        ),
    ] {
        assert_eq!(String::from_utf8_lossy(&encode_any(&value, Order::AsGiven)), expected);
    }
    let object = Value::from([("b", 1), ("a", 2)]);
    assert_eq!(encode_any(&object, Order::AsGiven), br#"{"b":1,"a":2}"#);
    assert_eq!(encode_any(&object, Order::Sorted), br#"{"a":2,"b":1}"#);
}
