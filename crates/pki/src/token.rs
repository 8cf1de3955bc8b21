//! Service-account tokens: JSON Web Tokens bound to an audience, a lifetime and an object.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The claims of a bound service-account token. Upstream: `k8s.io/kubernetes/pkg/serviceaccount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(rename = "aud")]
    pub audiences: Vec<String>,
    /// Unix seconds.
    #[serde(rename = "exp")]
    pub expires: i64,
    #[serde(rename = "iat")]
    pub issued_at: i64,
    #[serde(rename = "iss")]
    pub issuer: String,
    #[serde(rename = "jti", default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    #[serde(rename = "nbf")]
    pub not_before: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`
    #[serde(rename = "sub")]
    pub subject: String,
}

/// What a token is bound to: it ends with any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    /// Unix seconds after which a client should have asked for a new token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

/// The key that signs service-account tokens.
pub struct TokenKey {
    pem: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    jwk: Jwk,
}

/// The public part of the key as a JSON Web Key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    pub kty: &'static str,
    pub crv: &'static str,
    #[serde(rename = "use")]
    pub usage: &'static str,
    pub alg: &'static str,
    pub kid: String,
    pub x: String,
    pub y: String,
}

impl TokenKey {
    /// Makes a new ECDSA P-256 key.
    pub fn generate() -> Result<TokenKey, Error> {
        let key = KeyPair::generate().map_err(|error| Error::make("token key", error))?;
        TokenKey::read(&key.serialize_pem())
    }

    /// Reads a key in PKCS#8 PEM.
    pub fn read(pem: &str) -> Result<TokenKey, Error> {
        let malformed = |error: jsonwebtoken::errors::Error| Error::malformed("token key", error);
        let key = KeyPair::from_pem(pem).map_err(|error| Error::malformed("token key", error))?;
        let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(malformed)?;
        let verifying = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(malformed)?;
        Ok(TokenKey { pem: pem.into(), signing, verifying, jwk: jwk(&key)? })
    }

    /// The private key, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public key for `/openid/v1/jwks`.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let header = Header { typ: None, kid: Some(self.jwk.kid.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.signing).map_err(|error| Error::make("token", error))
    }

    /// The claims of a token that this key signed, for one of `audiences`, from `issuer`, valid at `now`.
    ///
    /// What the token is bound to is for the caller to check.
    pub fn verify(&self, token: &str, issuer: &str, audiences: &[String], now: Timestamp) -> Result<Claims, Error> {
        let mut validation = Validation::new(Algorithm::ES256);
        // Time is checked below by the injected clock, audiences by upstream's rule (any of ours in any of theirs).
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let token = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map_err(|error| Error::Untrusted(format!("invalid bearer token: {error}")))?;
        let claims = token.claims;
        let refuse = |why: &str| Err(Error::Untrusted(why.to_owned()));
        if claims.issuer != issuer {
            return refuse("invalid bearer token: wrong issuer");
        }
        if now.as_second() >= claims.expires {
            return refuse("invalid bearer token: service account token has expired");
        }
        if now.as_second() < claims.not_before {
            return refuse("invalid bearer token: service account token is not valid yet");
        }
        if !claims.audiences.iter().any(|audience| audiences.contains(audience)) {
            return Err(Error::Untrusted(format!(
                "invalid bearer token, token audiences {:?} is invalid for the target audiences {audiences:?}",
                claims.audiences
            )));
        }
        Ok(claims)
    }
}

fn jwk(key: &KeyPair) -> Result<Jwk, Error> {
    use base64::Engine as _;
    let base64url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    // An uncompressed point: 4, then x and y of 32 bytes each.
    let [4, point @ ..] = key.public_key_raw() else {
        return Err(Error::malformed("token key", "not an uncompressed P-256 point"));
    };
    if point.len() != 64 {
        return Err(Error::malformed("token key", "not a P-256 key"));
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
    Ok(Jwk {
        kty: "EC",
        crv: "P-256",
        usage: "sig",
        alg: "ES256",
        kid: base64url.encode(digest),
        x: base64url.encode(&point[..32]),
        y: base64url.encode(&point[32..]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn claims() -> Claims {
        let reference = |name: &str| Reference { name: name.into(), uid: format!("uid-of-{name}") };
        Claims {
            audiences: vec![ISSUER.into()],
            expires: 2000,
            issued_at: 1000,
            issuer: ISSUER.into(),
            id: "id".into(),
            bound: Bound {
                namespace: "default".into(),
                pod: Some(reference("pod")),
                serviceaccount: reference("default"),
                ..Bound::default()
            },
            not_before: 1000,
            subject: "system:serviceaccount:default:default".into(),
        }
    }

    #[test]
    fn accepts_only_what_it_signed_for_the_audience_and_the_time() {
        let key = TokenKey::generate().unwrap();
        let token = key.sign(&claims()).unwrap();
        let verify = |key: &TokenKey, token: &str, issuer: &str, audience: &str, second| {
            key.verify(token, issuer, &[audience.into()], Timestamp::from_second(second).unwrap())
        };
        assert_eq!(verify(&key, &token, ISSUER, ISSUER, 1500).unwrap(), claims());
        assert!(verify(&key, &token, ISSUER, ISSUER, 2000).is_err(), "expired");
        assert!(verify(&key, &token, ISSUER, ISSUER, 999).is_err(), "not yet");
        assert!(verify(&key, &token, ISSUER, "vault", 1500).is_err(), "audience");
        assert!(verify(&key, &token, "https://else", ISSUER, 1500).is_err(), "issuer");
        assert!(verify(&TokenKey::generate().unwrap(), &token, ISSUER, ISSUER, 1500).is_err(), "key");
        let again = TokenKey::read(key.pem()).unwrap();
        assert!(verify(&again, &token, ISSUER, ISSUER, 1500).is_ok());
        let mut forged = token.clone();
        forged.replace_range(60..61, if &token[60..61] == "A" { "B" } else { "A" });
        assert!(verify(&key, &forged, ISSUER, ISSUER, 1500).is_err(), "forged");
    }
}
