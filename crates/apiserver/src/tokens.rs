//! Service-account tokens: who they stand for, whether what they are bound to still lives, and new ones.

use std::sync::Arc;

use client::{Key, Object};
use pki::token::{Bound, Reference};
use pki::{Claims, TokenKey};

use crate::authn::user_of_claims;
use crate::cache::Cache;
use crate::user::User;

/// Signs and checks service-account tokens.
pub struct Tokens {
    /// The first signs; all verify, so that keys can be rotated.
    keys: Vec<Arc<TokenKey>>,
    issuer: String,
    /// The audiences of this server; tokens for others are not accepted as credentials here.
    audiences: Vec<String>,
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No key accepts it.
    #[error(transparent)]
    Untrusted(#[from] pki::Error),
    /// What it is bound to is gone.
    #[error("{0}")]
    Unbound(String),
}

impl Tokens {
    /// Tokens of this issuer; its name is also the audience of this server.
    pub fn new(keys: Vec<Arc<TokenKey>>, issuer: &str) -> Tokens {
        Tokens { keys, issuer: issuer.to_owned(), audiences: vec![issuer.to_owned()] }
    }

    /// The name of the issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences of this server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The public keys for `/openid/v1/jwks`.
    pub fn jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = self.keys.iter().map(|key| key.jwk()).collect();
        serde_json::json!({ "keys": keys })
    }

    /// The user that a token stands for at this server.
    pub fn user(&self, token: &str, cache: &Cache) -> Result<User, TokenError> {
        self.verify(token, &self.audiences, cache).map(|claims| user_of_claims(&claims))
    }

    /// The claims of a token for one of `audiences` whose objects still live.
    pub fn verify(&self, token: &str, audiences: &[String], cache: &Cache) -> Result<Claims, TokenError> {
        let mut refused = None;
        for key in &self.keys {
            match key.verify(token, &self.issuer, audiences, stdx::wall()) {
                Ok(claims) => {
                    bound(&claims, cache)?;
                    return Ok(claims);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or_else(|| TokenError::Unbound("no key verifies tokens".to_owned()), TokenError::Untrusted))
    }

    /// Signs a token.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let key = self.keys.first().ok_or_else(|| TokenError::Unbound("no key signs tokens".to_owned()))?;
        Ok(key.sign(claims)?)
    }
}

/// Upstream: `pkg/serviceaccount/claims.go`.
fn bound(claims: &Claims, cache: &Cache) -> Result<(), TokenError> {
    let Bound { namespace, node, pod, secret, serviceaccount, .. } = &claims.bound;
    let check = |prefix: &str, namespace: &str, what: &str, reference: &Reference| {
        let object = object(cache, prefix, &Key::new(namespace, &reference.name))
            .ok_or_else(|| TokenError::Unbound(format!("{what} {:?} not found", reference.name)))?;
        if object.uid() != reference.uid {
            return Err(TokenError::Unbound(format!("{what} {:?} has another uid", reference.name)));
        }
        // A minute more for clients that are just leaving, as upstream gives.
        let deleted = object.meta().deletion;
        if deleted.is_some_and(|moment| moment.as_second() + 60 < stdx::wall().as_second()) {
            return Err(TokenError::Unbound(format!("{what} {:?} has been deleted", reference.name)));
        }
        Ok(())
    };
    check("serviceaccounts", namespace, "service account", serviceaccount)?;
    pod.iter().try_for_each(|pod| check("pods", namespace, "pod", pod))?;
    secret.iter().try_for_each(|secret| check("secrets", namespace, "secret", secret))?;
    // A token bound to a pod names the node for information only, as upstream.
    if pod.is_none() {
        node.iter().try_for_each(|node| check("minions", "", "node", node))?;
    }
    Ok(())
}

fn object(cache: &Cache, prefix: &str, key: &Key) -> Option<Arc<Object>> {
    cache.resource(prefix)?.snapshot().objects.get(key).cloned()
}
