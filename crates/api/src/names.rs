//! What names, label keys and label values may look like, with upstream's words for what is wrong with them.
//!
//! Upstream: `k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validate/content`.

const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
     (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
     with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and \
     end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

/// Whether `text` is made of `inner` bytes and begins and ends with bytes that are alphanumeric as well.
fn is_word(text: &str, alphanumeric: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|byte| alphanumeric(*byte)))
        && bytes.iter().all(|byte| alphanumeric(*byte) || inner.contains(byte))
}

fn any_case(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn lower_case(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn checked(text: &str, bytes_max: usize, is_good: bool, message: &str) -> Vec<String> {
    let length = (text.len() > bytes_max).then(|| too_long(bytes_max));
    length.into_iter().chain((!is_good).then(|| message.to_owned())).collect()
}

/// What is wrong with a qualified name such as a label key: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(dns_subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            }
            *name
        }
        _ => {
            let suffix = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {QUALIFIED_NAME} {suffix}")];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_word(name, any_case, b"-_.") {
        faults.push(format!("name part {QUALIFIED_NAME}"));
    }
    faults
}

/// What is wrong with a label's value.
pub fn label_value(text: &str) -> Vec<String> {
    checked(text, LABEL_MAX, text.is_empty() || is_word(text, any_case, b"-_."), LABEL_VALUE)
}

/// What is wrong with an RFC 1123 subdomain, as most objects' names are.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let is_good = text.split('.').all(|label| is_word(label, lower_case, b"-"));
    checked(text, SUBDOMAIN_MAX, is_good, DNS_SUBDOMAIN)
}

/// What is wrong with an RFC 1123 label, as namespaces and containers are named.
pub fn dns_label(text: &str) -> Vec<String> {
    checked(text, LABEL_MAX, is_word(text, lower_case, b"-"), DNS_LABEL)
}

/// What is wrong with an RFC 1035 label, as services are named.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let is_good = is_word(text, lower_case, b"-") && text.starts_with(|first: char| first.is_ascii_lowercase());
    checked(text, LABEL_MAX, is_good, DNS_1035_LABEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(faults: Vec<String>, expected: &[&str]) {
        let starts = faults.len() == expected.len()
            && faults.iter().zip(expected).all(|(fault, start)| fault.starts_with(start));
        assert!(starts, "{faults:?} where {expected:?} was expected");
    }

    #[test]
    fn finds_what_is_wrong() {
        check(qualified_name("app"), &[]);
        check(qualified_name("a.b/App_1.x-y"), &[]);
        check(qualified_name(""), &["name part must be non-empty", "name part must consist"]);
        check(qualified_name("/a"), &["prefix part must be non-empty"]);
        check(qualified_name("A/a"), &["prefix part a lowercase RFC 1123 subdomain"]);
        check(qualified_name("a/b/c"), &["a qualified name must consist"]);
        check(qualified_name(&"a".repeat(64)), &["name part must be no more than 63 bytes"]);
        check(label_value(""), &[]);
        check(label_value("-a"), &["a valid label must be"]);
        check(label_value(&"a".repeat(64)), &["must be no more than 63 bytes"]);
        check(dns_subdomain("a.b-c.0"), &[]);
        check(dns_subdomain("a..b"), &["a lowercase RFC 1123 subdomain"]);
        check(dns_subdomain(""), &["a lowercase RFC 1123 subdomain"]);
        check(dns_label("a.b"), &["a lowercase RFC 1123 label"]);
        check(dns_1035_label("0a"), &["a DNS-1035 label"]);
    }
}
