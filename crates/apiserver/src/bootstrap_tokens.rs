//! Bootstrap tokens: short-lived credentials in Secrets, by which new nodes ask for their first certificate.
//! Upstream: `plugin/pkg/auth/authenticator/token/bootstrap`.

use client::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::cache::Cache;
use crate::user::{AUTHENTICATED, User};

const NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";
const ID_CHARS: usize = 6;
const SECRET_CHARS: usize = 16;
/// The group of all who come with a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// The id and the secret of what looks like a bootstrap token: `abcdef.0123456789abcdef`.
pub(crate) fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == ID_CHARS && secret.len() == SECRET_CHARS && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a bootstrap token; why not, for the log, which may hold no secret.
pub(crate) fn user(id: &str, secret: &str, cache: &Cache) -> Result<User, &'static str> {
    let key = Key::new(NAMESPACE, &format!("bootstrap-token-{id}"));
    let found = cache.resource("secrets").and_then(|secrets| secrets.snapshot().objects.get(&key).cloned());
    let found: Secret = found.ok_or("no such token")?.typed().map_err(|_| "malformed secret")?;
    judge(&found, id, secret, stdx::wall())
}

fn judge(found: &Secret, id: &str, secret: &str, now: Timestamp) -> Result<User, &'static str> {
    let data = |key: &str| {
        let bytes = found.data.as_ref().and_then(|data| data.get(key)).map(|bytes| &bytes.0[..]);
        std::str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    };
    if found.metadata.deletion_timestamp.is_some() {
        return Err("the token is being deleted");
    }
    if found.type_.as_deref() != Some(KIND) {
        return Err("the secret is no token");
    }
    if !same(data("token-secret").as_bytes(), secret.as_bytes()) {
        return Err("wrong secret");
    }
    if data("token-id") != id {
        return Err("the secret is another token's");
    }
    // A time that cannot be read is over.
    let expires = data("expiration");
    if !expires.is_empty() && expires.parse::<Timestamp>().map_or(true, |end| end <= now) {
        return Err("the token has expired");
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the token is not for authentication");
    }
    let extra = data("auth-extra-groups");
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    groups.extend(extra.split(',').filter(|group| !group.is_empty()).map(str::to_owned));
    if !groups[1..].iter().all(|group| is_group(group)) {
        return Err("groups that are not for bootstrapping");
    }
    groups.push(AUTHENTICATED.to_owned());
    Ok(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|byte| word(byte) || b":-".contains(&byte))
        && rest.bytes().last().is_some_and(word)
}

/// Compares without telling by its time where two secrets differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[track_caller]
    fn check(changes: &[(&str, &str)], expected: Result<&[&str], &str>) {
        let mut data: std::collections::BTreeMap<String, ByteString> = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-02T00:00:00Z"),
        ]
        .iter()
        .chain(changes)
        .map(|(key, value)| ((*key).to_owned(), ByteString((*value).into())))
        .collect();
        data.retain(|_, value| !value.0.is_empty());
        let secret = Secret { type_: Some(KIND.into()), data: Some(data), ..Secret::default() };
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let found = judge(&secret, "abcdef", "0123456789abcdef", now);
        let groups = found.as_ref().map(|user| user.groups.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(groups.as_deref().map_err(|why| **why), expected);
    }

    #[test]
    fn a_token_stands_for_its_groups_until_it_expires() {
        check(&[], Ok(&[BOOTSTRAPPERS, AUTHENTICATED]));
        check(&[("expiration", "")], Ok(&[BOOTSTRAPPERS, AUTHENTICATED]));
        let nodes = "system:bootstrappers:kubeadm:default-node-token";
        check(&[("auth-extra-groups", nodes)], Ok(&[BOOTSTRAPPERS, nodes, AUTHENTICATED]));
        check(&[("auth-extra-groups", "system:masters")], Err("groups that are not for bootstrapping"));
        check(&[("auth-extra-groups", "system:bootstrappers:a:")], Err("groups that are not for bootstrapping"));
        check(&[("expiration", "2026-01-01T00:00:00Z")], Err("the token has expired"));
        check(&[("expiration", "soon")], Err("the token has expired"));
        check(&[("token-secret", "0123456789abcdee")], Err("wrong secret"));
        check(&[("token-id", "abcdee")], Err("the secret is another token's"));
        check(&[("usage-bootstrap-authentication", "")], Err("the token is not for authentication"));
    }

    #[test]
    fn knows_tokens_by_their_looks() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for other in ["abcdef", "abcdeF.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c"] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
