//! The formats of names, keys and addresses, and upstream's words for what is wrong with one.
//!
//! Every function gives the list of faults of its text: the empty list for a good one. The regular expressions
//! are quoted in the messages because clients show them; the checks themselves are written out.

use std::net::IpAddr;

use api::field::{FieldErrors, Path};

pub use api::names::{dns_1035_label, dns_subdomain, label_value};

/// How a text that does not match a format is described.
pub(crate) fn format_fault(what: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{format}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{what} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

/// `must be no more than N bytes`
pub fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

/// `must be between LOW and HIGH, inclusive`
pub fn out_of_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether the text is not empty, its ends satisfy `end` and all of it `end` or `inner`.
fn bounded(text: &str, end: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    end(*first) && end(*last) && bytes.iter().all(|byte| end(*byte) || inner.contains(byte))
}

/// Faults of a label in DNS (RFC 1123), such as a container's name.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut faults = api::names::dns_label(text);
    let dotted = text.contains('.') && text.split('.').all(|label| bounded(label, lower_alphanumeric, b"-"));
    if dotted {
        faults.pop();
        faults.push("must not contain dots".to_owned());
    }
    faults
}

/// As [`dns_subdomain`], with underscores allowed, for DNS search paths.
pub fn dns_subdomain_with_underscore(text: &str) -> Vec<String> {
    let label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        bounded(label, lower_alphanumeric, b"-_")
    };
    let mut faults = Vec::new();
    if text.len() > 253 {
        faults.push(too_long(253));
    }
    if !text.split('.').all(label) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let format = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        faults.push(format_fault(what, format, &["example.com"]));
    }
    faults
}

/// Faults of a qualified name: a label key, with or without a prefix.
pub fn qualified(text: &str) -> Vec<String> {
    let mut faults = api::names::qualified_name(text);
    if let Some(rest) = faults.first().and_then(|fault| fault.strip_prefix("a qualified name ")) {
        faults = vec![format!("a valid label key {rest}")];
    }
    faults
}

/// Faults of the name of an environment variable: anything printable but `=`.
pub fn env_var(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.is_empty() {
        faults.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        let what = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        faults.push(what.to_owned());
    }
    faults
}

/// Faults of a key in a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > 253 {
        faults.push(too_long(253));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        let what = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        faults.push(format_fault(what, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match text {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// Faults of a port number.
pub fn port(number: i64) -> Vec<String> {
    if (1..=65535).contains(&number) { Vec::new() } else { vec![out_of_range(1, 65535)] }
}

/// Faults of a port's name (RFC 6335).
pub fn port_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > 15 {
        faults.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|byte| lower_alphanumeric(byte) || byte == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// Faults of a user or group number.
pub fn id_number(number: i64) -> Vec<String> {
    let highest = i64::from(u32::MAX);
    if (0..=highest).contains(&number) { Vec::new() } else { vec![out_of_range(0, highest)] }
}

/// Faults of the name of an HTTP header.
pub fn http_header(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    let what = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![format_fault(what, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// Faults of a percentage such as `25%`.
pub fn percentage(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let what = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![format_fault(what, "[0-9]+%", &["1%", "93%"])]
}

/// Faults of a condition's reason.
pub fn condition_reason(text: &str) -> Vec<String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let ends_well = text.bytes().last().is_some_and(word);
    if starts_well && ends_well && text.bytes().all(|byte| word(byte) || b",:".contains(&byte)) {
        return Vec::new();
    }
    let what = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![format_fault(what, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

/// Faults of a name that becomes a segment of a URL's path, such as a role's.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|part| text.contains(*part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// The text that a generated name's prefix is judged by: a trailing hyphen will be followed by random characters.
/// Upstream replaces the last two characters, not one, and so accepts a few odd prefixes; so do we.
fn masked(name: &str, generate: bool) -> String {
    let head = name.len().checked_sub(2).and_then(|end| name.get(..end));
    match head {
        Some(head) if generate && name.ends_with('-') => format!("{head}a"),
        _ => name.to_owned(),
    }
}

/// `name_faults` of kinds named by a DNS subdomain.
pub fn subdomain_name(name: &str, generate: bool) -> Vec<String> {
    dns_subdomain(&masked(name, generate))
}

/// `name_faults` of kinds named by a DNS label.
pub fn label_name(name: &str, generate: bool) -> Vec<String> {
    dns_label(&masked(name, generate))
}

/// `name_faults` of kinds whose names only have to fit into a URL's path.
pub fn path_segment_name(name: &str, _generate: bool) -> Vec<String> {
    path_segment(name)
}

/// `name_faults` of kinds that are never stored, whose names nobody reads.
pub fn any_name(_name: &str, _generate: bool) -> Vec<String> {
    Vec::new()
}

/// The address, leading zeros in IPv4 octets ignored as upstream's tolerant parser does.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let stripped: Vec<&str> = text
        .split('.')
        .map(|octet| match octet.trim_start_matches('0') {
            "" if !octet.is_empty() => "0",
            rest => rest,
        })
        .collect();
    (stripped.len() == 4).then(|| stripped.join(".").parse().ok()).flatten()
}

/// Reports a text that is no IP address, or one that different programs read differently.
pub fn check_ip(faults: &mut FieldErrors, path: &Path<'_>, text: &str) {
    match parse_ip(text) {
        None => faults.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        Some(_) if text.parse::<IpAddr>().is_err() => faults.invalid(path, text, "must not have leading 0s"),
        Some(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            faults.invalid(path, text, "must not be an IPv4-mapped IPv6 address");
        }
        Some(_) => {}
    }
}

/// Reports a text that is no block of addresses, or one that different programs read differently.
pub fn check_cidr(faults: &mut FieldErrors, path: &Path<'_>, text: &str) {
    let wrong = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address = parse_ip(address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length: u32 = length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok()).flatten()?;
        (length <= bits).then_some((address, length))
    });
    let Some((address, length)) = parsed else {
        return faults.invalid(path, text, wrong);
    };
    let (written, digits) = text.split_once('/').unwrap_or((text, ""));
    if written.parse::<IpAddr>().is_err() || (digits.len() > 1 && digits.starts_with('0')) {
        faults.invalid(path, text, "must not have leading 0s in IP or prefix length");
    } else if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        faults.invalid(path, text, "must not have an IPv4-mapped IPv6 address");
    } else if has_bits_beyond(address, length) {
        faults.invalid(path, text, "must not have bits set beyond the prefix length");
    }
}

fn has_bits_beyond(address: IpAddr, length: u32) -> bool {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(length).unwrap_or(0) != 0,
        IpAddr::V6(address) => u128::from(address).checked_shl(length).unwrap_or(0) != 0,
    }
}

/// Reports addresses that mean something else on every machine: unspecified, loopback and link-local ones.
pub fn check_non_special_ip(faults: &mut FieldErrors, path: &Path<'_>, text: &str) {
    let Some(address) = parse_ip(text) else {
        return faults.invalid(path, text, "must be a valid IP address");
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        faults.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        faults.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        faults.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        faults.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_a_name_in_upstreams_words() {
        let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        let check = |faults: Vec<String>, expected: &[&str]| assert_eq!(faults, expected);
        check(dns_subdomain("a.b-c.1"), &[]);
        check(dns_subdomain("A"), &[subdomain]);
        check(dns_subdomain("a..b"), &[subdomain]);
        check(dns_subdomain(""), &[subdomain]);
        check(dns_label("a.b"), &["must not contain dots"]);
        check(
            dns_label("-a"),
            &[
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
        check(label_value(&"a".repeat(64)), &["must be no more than 63 bytes"]);
        check(qualified("/a"), &["prefix part must be non-empty"]);
        check(qualified("example.com/My_name"), &[]);
        check(port_name("-1"), &["must contain at least one letter (a-z)", "must not begin or end with a hyphen"]);
        check(port(0), &["must be between 1 and 65535, inclusive"]);
        check(config_key(".."), &["must not be '..'"]);
        check(config_key("..a"), &["must not start with '..'"]);
        check(
            env_var("A=B"),
            &["a valid environment variable name must consist only of printable ASCII characters other than '='"],
        );
        check(path_segment("a/b%"), &["may not contain '/'", "may not contain '%'"]);
        check(path_segment(".."), &["may not be '..'"]);
        check(subdomain_name("job-", true), &[]);
        assert_eq!(subdomain_name("job-", false).len(), 1);
    }

    #[test]
    fn judges_addresses_strictly() {
        let check = |text: &str, expected: &str| {
            let mut faults = FieldErrors::default();
            check_ip(&mut faults, &Path::new("ip"), text);
            let found: Vec<String> = faults.faults().iter().map(|fault| fault.message.clone()).collect();
            assert_eq!(found.join("; "), expected, "{text}");
        };
        check("10.0.0.1", "");
        check("FE80:0:0:0:0:0:0:abc", "");
        check("10.0.0.01", "Invalid value: \"10.0.0.01\": must not have leading 0s");
        check("::ffff:1.2.3.4", "Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address");
        check("x", "Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }

    #[test]
    fn judges_blocks_of_addresses_strictly() {
        let check = |text: &str, expected: &str| {
            let mut faults = FieldErrors::default();
            check_cidr(&mut faults, &Path::new("cidr"), text);
            let found: Vec<String> = faults.faults().iter().map(|fault| fault.message.clone()).collect();
            assert!(
                found.join("; ").ends_with(expected) && found.is_empty() == expected.is_empty(),
                "{text}: {found:?}"
            );
        };
        check("10.0.0.0/8", "");
        check("0.0.0.0/0", "");
        check("2001:db8::/64", "");
        check("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        check("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        check("10.0.0.1/8", "must not have bits set beyond the prefix length");
        check("010.0.0.0/8", "must not have leading 0s in IP or prefix length");
    }
}
