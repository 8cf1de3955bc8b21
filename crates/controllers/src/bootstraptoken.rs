//! Bootstrap tokens: signs `cluster-info` with each, so that a node which knows a token knows whom to trust; and deletes
//! those that have expired.
//!
//! Upstream: `pkg/controller/bootstrap`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::value::{Map, Value};
use client::{Key, Object};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use reconcile::plan::kinds::{CONFIG_MAPS, SECRETS};
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, Propagation, View, Watch};

use crate::{owner, patch};

const SECRETS_NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";
const INFO_NAMESPACE: &str = "kube-public";
const INFO_NAME: &str = "cluster-info";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

/// The controller that signs `cluster-info`.
pub struct BootstrapSigner;

/// The ConfigMap and the tokens.
pub struct Observed {
    info: Option<(Arc<Object>, ConfigMap)>,
    tokens: Vec<Secret>,
}

impl Controller for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer";
    type Key = ();
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<()>> {
        let info = |_: &View, map: &Object| match (map.namespace(), map.name()) {
            (INFO_NAMESPACE, INFO_NAME) => vec![()],
            _ => Vec::new(),
        };
        let token = |_: &View, secret: &Object| if is_token(secret) { vec![()] } else { Vec::new() };
        vec![Watch::mapped(CONFIG_MAPS, info), Watch::mapped(SECRETS, token)]
    }

    fn observe(view: &View, (): &()) -> Observed {
        let info = view.get(CONFIG_MAPS, &Key::new(INFO_NAMESPACE, INFO_NAME));
        let tokens = view.in_namespace(SECRETS, SECRETS_NAMESPACE).filter(|secret| is_token(secret));
        Observed {
            info: info.and_then(|object| owner::typed(&object).map(|map| (object, map))),
            tokens: tokens.filter_map(|secret| owner::typed(&secret)).collect(),
        }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let (Some((object, info)), Some(authority)) = (&observed.info, &facts.authority) else {
            return Plan::nothing();
        };
        let data = info.data.clone().unwrap_or_default();
        let Some(text) = data.get("kubeconfig") else { return Plan::nothing() };
        let tokens = observed.tokens.iter().filter_map(|secret| signing(secret, now.wall));
        let wanted: BTreeMap<String, String> = tokens
            .map(|(id, secret)| (format!("{SIGNATURE_PREFIX}{id}"), authority.signature(text, &id, &secret)))
            .collect();
        let mut changes = Map::default();
        for name in data.keys().filter(|name| name.starts_with(SIGNATURE_PREFIX) && !wanted.contains_key(*name)) {
            changes.insert(name.as_str(), Value::Null);
        }
        for (name, signature) in wanted.iter().filter(|(name, signature)| data.get(*name) != Some(*signature)) {
            changes.insert(name.as_str(), signature.as_str());
        }
        let ends = observed.tokens.iter().filter_map(|secret| expiration(secret).ok().flatten());
        let next = ends.filter(|end| *end > now.wall).min();
        let mut plan = Plan::nothing();
        if changes.iter().next().is_some() {
            let of = owner::reference_to(CONFIG_MAPS, object);
            let body = patch::object([("data", Value::Object(changes))]);
            // The signatures are of the text that was seen.
            let revision = Some(object.revision());
            plan = plan.then([Change::Patch { of, subresource: None, body, revision }.into()]);
        }
        match next {
            Some(end) => plan.again_within(end.duration_since(now.wall).unsigned_abs() + Duration::from_secs(1)),
            None => plan,
        }
    }
}

fn is_token(secret: &Object) -> bool {
    // Bootstrap tokens have names of their own, so that other secrets need not be read.
    secret.namespace() == SECRETS_NAMESPACE && secret.name().starts_with(NAME_PREFIX)
}

fn data<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| &bytes.0[..]);
    std::str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
}

/// When a token ends, if ever; an error for a time that cannot be read, which counts as over.
fn expiration(secret: &Secret) -> Result<Option<Timestamp>, jiff::Error> {
    match data(secret, "expiration") {
        "" => Ok(None),
        text => text.parse().map(Some),
    }
}

fn has_expired(secret: &Secret, now: Timestamp) -> bool {
    expiration(secret).map_or(true, |end| end.is_some_and(|end| end <= now))
}

/// Id and secret of a token that signs.
fn signing(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let id = secret.metadata.name.as_deref()?.strip_prefix(NAME_PREFIX)?;
    let (own_id, text) = (data(secret, "token-id"), data(secret, "token-secret"));
    let good = secret.type_.as_deref() == Some(KIND)
        && id == own_id
        && !text.is_empty()
        && data(secret, "usage-bootstrap-signing") == "true"
        && secret.metadata.deletion_timestamp.is_none()
        && !has_expired(secret, now);
    good.then(|| (id.to_owned(), text.to_owned()))
}

/// The controller that deletes expired tokens.
pub struct TokenCleaner;

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner";
    type Key = Key;
    type Observed<'c> = Option<(Arc<Object>, Secret)>;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        let token = |_: &View, secret: &Object| match is_token(secret) {
            true => vec![secret.key().clone()],
            false => Vec::new(),
        };
        vec![Watch::mapped(SECRETS, token)]
    }

    fn observe(view: &View, key: &Key) -> Self::Observed<'static> {
        let object = view.get(SECRETS, key)?;
        owner::typed(&object).map(|secret| (object, secret))
    }

    fn reconcile(observed: &Self::Observed<'_>, now: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        let Some((object, secret)) = observed else { return Plan::nothing() };
        if secret.type_.as_deref() != Some(KIND) || object.meta().deletion.is_some() {
            return Plan::nothing();
        }
        if has_expired(secret, now.wall) {
            let of = owner::reference_to(SECRETS, object);
            return Plan::nothing()
                .then([Change::Delete { of, propagation: Propagation::Default, revision: None }.into()]);
        }
        match expiration(secret) {
            Ok(Some(end)) => {
                let left = end.duration_since(now.wall).unsigned_abs();
                Plan::nothing().again_within(left + Duration::from_secs(1))
            }
            _ => Plan::nothing(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reconcile::{Authority, WantedCertificate};
    use stdx::Mono;

    use super::*;
    use crate::testing::{World, resources_of};

    /// Signs by naming what is signed.
    #[derive(Debug)]
    struct Plain;

    impl Authority for Plain {
        fn read(&self, _: &[u8]) -> Result<WantedCertificate, String> {
            Err("nothing to read".into())
        }

        fn keeps(&self, _: std::net::IpAddr) -> bool {
            false
        }

        fn signature(&self, text: &str, token_id: &str, token_secret: &str) -> String {
            format!("{text} {token_id} {token_secret}")
        }

        fn valid_until(&self, _: &[u8]) -> Option<Timestamp> {
            None
        }

        fn sign(&self, _: &[u8], _: &[String], _: Duration) -> Result<String, String> {
            Err("nothing to sign".into())
        }
    }

    fn token(world: &mut World, id: &str, usage: &str, expiration: Timestamp) {
        let encoded = |text: &str| {
            let bytes = api::value::to_value(&k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap();
            bytes.as_str().unwrap_or_default().to_owned()
        };
        let secret = format!(
            r#"{{"metadata":{{"name":"bootstrap-token-{id}"}},"type":"{KIND}","data":{{"token-id":"{}","token-secret":"{}","{usage}":"{}","expiration":"{}"}}}}"#,
            encoded(id),
            encoded("secret"),
            encoded("true"),
            encoded(&expiration.to_string())
        );
        world.create(SECRETS, SECRETS_NAMESPACE, &secret);
    }

    fn sign(world: &mut World) -> Option<Duration> {
        let view = world.view(&resources_of::<BootstrapSigner>());
        let facts = Facts { authority: Some(Arc::new(Plain)), ..Facts::default() };
        let now = Now { wall: world.now, mono: Mono::default() };
        let observed = BootstrapSigner::observe(&view, &());
        let plan = BootstrapSigner::reconcile(&observed, now, &Outcomes::default(), &facts, &mut ());
        let again = plan.again_after;
        world.carry(plan, usize::MAX);
        again
    }

    #[test]
    fn the_cluster_is_signed_for_every_token_as_long_as_it_lasts() {
        let mut world = World::new();
        let data = r#"{"kubeconfig":"text","jws-kubeconfig-old":"x"}"#;
        world.create(CONFIG_MAPS, INFO_NAMESPACE, &format!(r#"{{"metadata":{{"name":"{INFO_NAME}"}},"data":{data}}}"#));
        let end = world.now + Duration::from_secs(60);
        token(&mut world, "aaaaaa", "usage-bootstrap-signing", end);
        token(&mut world, "bbbbbb", "usage-bootstrap-authentication", end);
        let data = |world: &World| -> Vec<String> {
            let map: ConfigMap = world.typed(CONFIG_MAPS, INFO_NAMESPACE, INFO_NAME);
            map.data.unwrap_or_default().into_iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        assert_eq!(sign(&mut world), Some(Duration::from_secs(61)));
        assert_eq!(data(&world), ["jws-kubeconfig-aaaaaa=text aaaaaa secret", "kubeconfig=text"]);
        world.pass(61_000);
        sign(&mut world);
        assert_eq!(data(&world), ["kubeconfig=text"]);
    }

    #[test]
    fn an_expired_token_is_deleted() {
        let mut world = World::new();
        let end = world.now + Duration::from_secs(60);
        token(&mut world, "aaaaaa", "usage-bootstrap-signing", end);
        let key = Key::new(SECRETS_NAMESPACE, "bootstrap-token-aaaaaa");
        assert!(!world.work::<TokenCleaner>(&key));
        world.pass(60_000);
        world.work::<TokenCleaner>(&key);
        assert!(world.find(SECRETS, SECRETS_NAMESPACE, "bootstrap-token-aaaaaa").is_none());
    }
}
