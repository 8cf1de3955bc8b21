//! Who a client certificate says its holder is.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;

/// A user as a certificate names it: common name = user, organizations = groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    /// SHA-256 of the certificate, lower-case hexadecimal; upstream's `X509SHA256` credential id.
    pub fingerprint: String,
}

/// Checks client certificates against a set of authorities.
#[derive(Clone, Debug)]
pub struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// Trusts the certificates in `authorities_pem`, of which there must be at least one.
    pub fn new(authorities_pem: &str) -> Result<ClientVerifier, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| Error::malformed("client authorities", error))?;
            roots.add(certificate).map_err(|error| Error::malformed("client authority", error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|error| Error::malformed("client authorities", error))?;
        Ok(ClientVerifier(verifier))
    }

    /// Whether this is the very verifier that `other` was cloned from.
    pub fn is(&self, other: &ClientVerifier) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The identity proved by a chain (leaf first, DER) that is trusted at `now`.
    pub fn identity(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Identity, Error> {
        let (leaf, intermediates) =
            chain.split_first().ok_or_else(|| Error::Untrusted("no certificate was presented".into()))?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        self.0
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
            .map_err(|error| Error::Untrusted(format!("verifying certificate failed: {error}")))?;
        named(leaf)
    }
}

fn named(leaf: &CertificateDer<'_>) -> Result<Identity, Error> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| Error::malformed("certificate", error))?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned);
    let subject = certificate.subject();
    let user = subject
        .iter_common_name()
        .next()
        .ok_or_else(|| Error::Untrusted("the certificate names no user".into()))
        .and_then(|name| text(name).map_err(|error| Error::malformed("common name", error)))?;
    let groups = subject
        .iter_organization()
        .map(|name| text(name).map_err(|error| Error::malformed("organization", error)))
        .collect::<Result<_, _>>()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Identity { user, groups, fingerprint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, LEAF_LIFETIME, Purpose};

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn chain(authority: &Authority) -> Vec<CertificateDer<'static>> {
        let purpose = Purpose::Client { organization: Some("system:masters".into()) };
        let signed = authority.sign("alice", &purpose, at(NOW), LEAF_LIFETIME).unwrap();
        vec![CertificateDer::from_pem_slice(signed.certificate_pem.as_bytes()).unwrap()]
    }

    #[test]
    fn reads_user_and_groups_from_a_trusted_certificate() {
        let authority = Authority::generate("kubernetes", at(NOW)).unwrap();
        let verifier = ClientVerifier::new(authority.certificate_pem()).unwrap();
        let identity = verifier.identity(&chain(&authority), at(NOW)).unwrap();
        assert_eq!(identity.user, "alice");
        assert_eq!(identity.groups, ["system:masters"]);
        assert_eq!(identity.fingerprint.len(), 64);
    }

    #[test]
    fn refuses_strangers_and_the_expired() {
        let authority = Authority::generate("kubernetes", at(NOW)).unwrap();
        let stranger = Authority::generate("kubernetes", at(NOW)).unwrap();
        let verifier = ClientVerifier::new(authority.certificate_pem()).unwrap();
        assert!(verifier.identity(&chain(&stranger), at(NOW)).is_err());
        assert!(verifier.identity(&chain(&authority), at(NOW + 366 * 24 * 3600)).is_err());
        assert!(verifier.identity(&[], at(NOW)).is_err());
    }

    #[test]
    fn is_renewed_after_two_thirds_of_its_life() {
        let authority = Authority::generate("kubernetes", at(NOW)).unwrap();
        let signed = authority
            .sign("a", &Purpose::Client { organization: None }, at(NOW), std::time::Duration::from_secs(3000))
            .unwrap();
        let due = |after| crate::authority::renewal_due(&signed.certificate_pem, at(NOW + after));
        assert!(!due(0));
        assert!(!due(1800));
        assert!(due(2000));
        assert!(due(5000));
    }
}
