//! Who asks: client certificate, bearer token, nobody; and as whom, when they impersonate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};
use pki::Claims;
use pki::identity::ClientVerifier;
use stdx::Mono;
use wire::ConnectionInfo;

use crate::authz::Attributes;
use crate::bootstrap_tokens;
use crate::cache::Cache;
use crate::refusal::{Outcome, Refusal};
use crate::request::percent_decoded;
use crate::tokens::Tokens;
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User, service_account_parts};

/// Under which key of a user's extras the credential is named.
pub(crate) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// How credentials are checked.
pub struct Authentication {
    /// Checks client certificates; none are accepted without it.
    pub certificates: Option<ClientVerifier>,
    /// Whether requests without credentials are let through to authorization as `system:anonymous`.
    pub anonymous: bool,
}

impl Authentication {
    /// The user of a request, or 401. Bad credentials are never taken for none.
    pub fn user(
        &self,
        headers: &HeaderMap,
        connection: &ConnectionInfo,
        tokens: &Tokens,
        cache: &Cache,
    ) -> Outcome<User> {
        if let (Some(verifier), false) = (&self.certificates, connection.client_chain.is_empty()) {
            match Proved::user(verifier, connection) {
                Ok(user) => return Ok(user),
                // A certificate for somebody else's sake does not spoil a good token, but is not nothing either.
                Err(error) if bearer(headers).is_none() => {
                    tracing::debug!(%error, "client certificate");
                    return Err(Status::unauthorized().into());
                }
                Err(error) => tracing::debug!(%error, "client certificate"),
            }
        }
        if let Some((id, secret)) = bearer(headers).and_then(bootstrap_tokens::parts) {
            return bootstrap_tokens::user(id, secret, cache).map_err(|why| {
                tracing::debug!(id, why, "bootstrap token");
                Status::unauthorized().into()
            });
        }
        if let Some(token) = bearer(headers) {
            return tokens.user(token, cache).map_err(|error| {
                tracing::debug!(%error, "bearer token");
                Status::unauthorized().into()
            });
        }
        if self.anonymous { Ok(User::anonymous()) } else { Err(Status::unauthorized().into()) }
    }
}

/// How long a client's certificate is believed on its connection before it is verified again; upstream believes tokens as long.
/// Verifying costs as much as all else of a small request together.
const PROOF_LIFETIME: Duration = Duration::from_secs(10);

/// A user whose certificate was verified on this connection, by whom and until when that holds.
struct Proved {
    verifier: ClientVerifier,
    until: Mono,
    user: User,
}

impl Proved {
    fn user(verifier: &ClientVerifier, connection: &ConnectionInfo) -> Result<User, pki::Error> {
        let now = stdx::mono();
        if let Some(proved) = connection.memo.get::<Proved>()
            && proved.verifier.is(verifier)
            && now < proved.until
        {
            return Ok(proved.user.clone());
        }
        let user = certified(verifier.identity(&connection.client_chain, stdx::wall())?);
        let proved = Proved { verifier: verifier.clone(), until: now + PROOF_LIFETIME, user: user.clone() };
        connection.memo.keep(Arc::new(proved));
        Ok(user)
    }
}

fn certified(identity: pki::Identity) -> User {
    let mut groups = identity.groups;
    groups.push(AUTHENTICATED.to_owned());
    let credential = format!("X509SHA256={}", identity.fingerprint);
    let extra = BTreeMap::from([(CREDENTIAL.to_owned(), vec![credential])]);
    User { name: identity.user, uid: String::new(), groups, extra }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// How a browser's WebSocket, which can send no header of its own, sends a token: as a sub-protocol.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Makes a WebSocket's token a bearer token like any other, so that nothing further on sees it.
/// Upstream: `k8s.io/apiserver/pkg/authentication/request/websocket/protocol.go`.
pub(crate) fn take_websocket_token(headers: &mut HeaderMap) -> Outcome<()> {
    let is_handshake = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_handshake {
        return Ok(());
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered = offered.flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty());
    let (tokens, others): (Vec<&str>, Vec<&str>) = offered.partition(|offer| offer.starts_with(WEBSOCKET_BEARER));
    let Some((token, more)) = tokens.split_first() else { return Ok(()) };
    let token = URL_SAFE_NO_PAD.decode(&token[WEBSOCKET_BEARER.len()..]).ok();
    let header =
        token.and_then(|token| HeaderValue::try_from(format!("Bearer {}", String::from_utf8(token).ok()?)).ok());
    let kept = HeaderValue::from_str(&others.join(", "));
    // More than one is ambiguous, and a server must answer one of those that are left.
    let (Some(mut header), true, false, Ok(kept)) = (header, more.is_empty(), others.is_empty(), kept) else {
        return Err(Status::unauthorized().into());
    };
    headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    if !headers.contains_key(AUTHORIZATION) {
        header.set_sensitive(true);
        headers.insert(AUTHORIZATION, header);
    }
    Ok(())
}

/// The user that a service account's token stands for. Upstream: `pkg/serviceaccount/util.go`.
pub(crate) fn user_of_claims(claims: &Claims) -> User {
    let bound = &claims.bound;
    let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.id.is_empty() {
        add("credential-id", &format!("JTI={}", claims.id));
    }
    if let Some(pod) = &bound.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    user
}

/// What a request wants to be taken for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Impersonation {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

const EXTRA_PREFIX: &str = "impersonate-extra-";

impl Impersonation {
    /// What the headers ask for; none without an impersonated user.
    pub(crate) fn read(headers: &HeaderMap) -> Outcome<Option<Impersonation>> {
        let texts = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let one = |name: &str| texts(name).into_iter().next().unwrap_or_default();
        let mut wanted = Impersonation {
            user: one("impersonate-user"),
            groups: texts("impersonate-group"),
            uid: one("impersonate-uid"),
            extra: BTreeMap::new(),
        };
        for name in headers.keys() {
            if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
                wanted.extra.insert(percent_decoded(key, false), texts(name.as_str()));
            }
        }
        if !wanted.user.is_empty() {
            return Ok(Some(wanted));
        }
        let others = !wanted.groups.is_empty() || !wanted.uid.is_empty() || !wanted.extra.is_empty();
        if others { Err(Refusal::internal("requested impersonation without impersonating a user")) } else { Ok(None) }
    }

    /// What the real user must be allowed to `impersonate`, one by one.
    pub(crate) fn asked(&self) -> Vec<Attributes<'_>> {
        let asked = |group, resource, namespace, name, subresource| Attributes {
            verb: "impersonate",
            group,
            resource,
            subresource,
            namespace,
            name,
            is_resource: true,
            ..Attributes::default()
        };
        let mut all = vec![match service_account_parts(&self.user) {
            Some((namespace, name)) => asked("", "serviceaccounts", namespace, name, ""),
            None => asked("", "users", "", &self.user, ""),
        }];
        all.extend(self.groups.iter().map(|group| asked("", "groups", "", group, "")));
        if !self.uid.is_empty() {
            all.push(asked("authentication.k8s.io", "uids", "", &self.uid, ""));
        }
        for (key, values) in &self.extra {
            all.extend(values.iter().map(|value| asked("authentication.k8s.io", "userextras", "", value, key)));
        }
        all
    }

    /// The user that is impersonated.
    pub(crate) fn user(self) -> User {
        let mut groups = self.groups;
        if let (Some((namespace, _)), true) = (service_account_parts(&self.user), groups.is_empty()) {
            groups = vec![
                crate::user::SERVICE_ACCOUNTS.to_owned(),
                format!("{}:{namespace}", crate::user::SERVICE_ACCOUNTS),
            ];
        }
        let standing = if self.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
            groups.push(standing.to_owned());
        }
        User { name: self.user, uid: self.uid, groups, extra: self.extra }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impersonation_must_be_allowed_part_by_part() {
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-user", "jane".parse().expect("a header"));
        headers.append("impersonate-group", "dev".parse().expect("a header"));
        headers.append("impersonate-group", "ops".parse().expect("a header"));
        headers.insert("impersonate-extra-acme.com%2Fproject", "x".parse().expect("a header"));
        let wanted = Impersonation::read(&headers).expect("readable").expect("somebody");
        let asked: Vec<String> =
            wanted.asked().iter().map(|a| format!("{}/{}/{}/{}", a.group, a.resource, a.subresource, a.name)).collect();
        let extra = "authentication.k8s.io/userextras/acme.com/project/x";
        assert_eq!(asked, ["/users//jane", "/groups//dev", "/groups//ops", extra]);
        assert_eq!(wanted.user().groups, ["dev", "ops", AUTHENTICATED]);
    }

    #[test]
    fn a_group_alone_cannot_be_impersonated() {
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-group", "system:masters".parse().expect("a header"));
        assert_eq!(Impersonation::read(&headers).expect_err("no user").code(), 500);
    }

    #[test]
    fn a_token_among_sub_protocols_is_taken_out_and_counts() {
        let check = |offers: &[&str], expected: Result<(Option<&str>, &str), u16>| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, "websocket".parse().expect("a header"));
            for offer in offers {
                headers.append(SEC_WEBSOCKET_PROTOCOL, offer.parse().expect("a header"));
            }
            let taken = take_websocket_token(&mut headers).map_err(|refusal| refusal.code());
            let left: Vec<_> =
                headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().map(|value| value.to_str().expect("text")).collect();
            let found = taken.map(|()| (bearer(&headers), left.join("; ")));
            assert_eq!(
                found.as_ref().map(|(token, left)| (*token, left.as_str())),
                expected.as_ref().map(|(t, l)| (*t, *l)),
                "{offers:?}"
            );
        };
        let token = "base64url.bearer.authorization.k8s.io.YWJj";
        check(&["v5.channel.k8s.io", token], Ok((Some("abc"), "v5.channel.k8s.io")));
        check(
            &[&format!("v5.channel.k8s.io, {token}, v4.channel.k8s.io")],
            Ok((Some("abc"), "v5.channel.k8s.io, v4.channel.k8s.io")),
        );
        check(&["v5.channel.k8s.io"], Ok((None, "v5.channel.k8s.io")));
        check(&[token], Err(401));
        check(&[token, token, "v5.channel.k8s.io"], Err(401));
        check(&["base64url.bearer.authorization.k8s.io.!", "v5.channel.k8s.io"], Err(401));
    }

    #[test]
    fn reads_bearer_tokens() {
        let check = |value: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(bearer(&headers), expected, "{value}");
        };
        check("Bearer abc", Some("abc"));
        check("bearer  abc", Some("abc"));
        check("Basic abc", None);
        check("Bearer ", None);
    }
}
