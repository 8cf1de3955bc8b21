//! What a registry asks for before it answers, and how a token server is asked.

use serde::Deserialize;

/// A demand for authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from the server at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String>, error: Option<String> },
    /// User and password.
    Basic,
}

impl Challenge {
    /// The strongest of a response's challenges that we can answer: a token before a password.
    pub(super) fn strongest<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut challenges: Vec<Challenge> = values.filter_map(Challenge::parse).collect();
        let bearer = challenges.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match (bearer, challenges.is_empty()) {
            (Some(index), _) => Some(challenges.swap_remove(index)),
            (None, false) => Some(Challenge::Basic),
            (None, true) => None,
        }
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let get = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
            error: get("error"),
        })
    }
}

/// `key=value` pairs, values quoted or not, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ', '\t']).to_owned();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => match after.split_once(',') {
                Some((value, after)) => (value.trim().to_owned(), after),
                None => (after.trim().to_owned(), ""),
            },
        };
        pairs.push((key, value));
        rest = after;
    }
    pairs
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[index + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

/// Pairs as a query or form.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={}", percent(value))).collect();
    encoded.join("&")
}

fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The token in a token server's answer.
pub(super) fn token(content: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(content).ok()?;
    answer.token.filter(|token| !token.is_empty()).or(answer.access_token).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_challenges_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>, error: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: owned(service),
                scope: owned(scope),
                error: owned(error),
            })
        };
        for (values, expected) in [
            (&["Basic realm=\"Registry\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (&["Negotiate"], None),
            (&[], None),
            (
                &["Bearer realm=\"https://a/token\",service=\"r\",scope=\"repository:a/b:pull,push\""],
                bearer("https://a/token", Some("r"), Some("repository:a/b:pull,push"), None),
            ),
            (&["Basic realm=x", "Bearer realm=https://a/t , service=r"], bearer("https://a/t", Some("r"), None, None)),
            (
                &["Bearer realm=\"https://a?x=\\\"y\\\"\",error=\"insufficient_scope\""],
                bearer("https://a?x=\"y\"", None, None, Some("insufficient_scope")),
            ),
            (&["Bearer service=\"r\""], None),
        ] {
            assert_eq!(Challenge::strongest(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn encodes_queries_and_reads_tokens() {
        assert_eq!(
            query(&[("service", "a b"), ("scope", "repository:x/y:pull")]),
            "service=a%20b&scope=repository%3Ax%2Fy%3Apull"
        );
        for (content, expected) in [
            (r#"{"token":"t"}"#, Some("t")),
            (r#"{"access_token":"a","expires_in":60}"#, Some("a")),
            (r#"{"token":"","access_token":"a"}"#, Some("a")),
            ("{}", None),
            ("x", None),
        ] {
            assert_eq!(token(content.as_bytes()).as_deref(), expected, "{content}");
        }
    }
}
