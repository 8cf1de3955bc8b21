//! A certificate authority and what it signs.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Error;

/// How long an authority is valid. Upstream's kubeadm: ten years.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long what it signs is valid. Upstream's kubeadm: one year. Renewed at two thirds, see [`renewal_due`].
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates begin this much in the past, so that a peer whose clock is a little behind accepts them.
const BACKDATING: Duration = Duration::from_secs(300);

/// A certificate authority: its certificate and the key that signs.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a signed certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Proves a user: common name = user name, organization = group. One group at most: what signs here writes one
    /// attribute of a type; certificates of others may name several, and all are read.
    Client { organization: Option<String> },
    /// Proves a server under these names and addresses.
    Server { names: Vec<String>, addresses: Vec<IpAddr> },
    /// Both: a node's serving certificate that it also dials with.
    Both { organization: Option<String>, names: Vec<String>, addresses: Vec<IpAddr> },
}

/// A signed certificate with its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    /// Makes a new authority named `common_name`.
    pub fn generate(common_name: &str, now: Timestamp) -> Result<Authority, Error> {
        let key = KeyPair::generate().map_err(|error| Error::make("key", error))?;
        let mut params = params(common_name, None, now, AUTHORITY_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        // Go's verifier wants a name there when it builds chains for clients that read the CA's own SANs.
        params
            .subject_alt_names
            .push(SanType::DnsName(common_name.try_into().map_err(|error| Error::make("authority name", error))?));
        let certificate = params.self_signed(&key).map_err(|error| Error::make("authority", error))?;
        Authority::read(&certificate.pem(), &key.serialize_pem())
    }

    /// Reads an authority that was written before, ours or anybody's.
    pub fn read(certificate_pem: &str, key_pem: &str) -> Result<Authority, Error> {
        let key = KeyPair::from_pem(key_pem).map_err(|error| Error::malformed("authority key", error))?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)
            .map_err(|error| Error::malformed("authority certificate", error))?;
        Ok(Authority { certificate_pem: certificate_pem.into(), key_pem: key_pem.into(), issuer })
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// Signs a new key for `common_name`, valid for `lifetime` from `now`.
    pub fn sign(
        &self,
        common_name: &str,
        purpose: &Purpose,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Signed, Error> {
        let key = KeyPair::generate().map_err(|error| Error::make("key", error))?;
        let params = leaf_params(common_name, purpose, now, lifetime)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| Error::make("certificate", error))?;
        Ok(Signed { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn leaf_params(
    common_name: &str,
    purpose: &Purpose,
    now: Timestamp,
    lifetime: Duration,
) -> Result<CertificateParams, Error> {
    let (organization, names, addresses, usages): (Option<&String>, &[String], &[IpAddr], _) = match purpose {
        Purpose::Client { organization } => {
            (organization.as_ref(), &[], &[], vec![ExtendedKeyUsagePurpose::ClientAuth])
        }
        Purpose::Server { names, addresses } => (None, names, addresses, vec![ExtendedKeyUsagePurpose::ServerAuth]),
        Purpose::Both { organization, names, addresses } => {
            let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            (organization.as_ref(), names, addresses, both)
        }
    };
    let mut params = params(common_name, organization, now, lifetime)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    for name in names {
        let name = name.as_str().try_into().map_err(|error| Error::make("server name", error))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(params)
}

fn params(
    common_name: &str,
    organization: Option<&String>,
    now: Timestamp,
    lifetime: Duration,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization.as_str());
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    let mut serial = [0; 16];
    stdx::random(&mut serial);
    // A serial number is a positive integer: the top bit stays clear.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = moment(now.as_second().saturating_sub_unsigned(BACKDATING.as_secs()))?;
    params.not_after = moment(now.as_second().saturating_add_unsigned(lifetime.as_secs()))?;
    Ok(params)
}

fn moment(unix_seconds: i64) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|error| Error::make("validity", error))
}

/// Whether a certificate is so far through its life (two thirds) that a new one should be made; also when unreadable.
pub fn renewal_due(certificate_pem: &str, now: Timestamp) -> bool {
    match validity(certificate_pem) {
        Ok((from, to)) => now.as_second() >= from + (to - from) / 3 * 2 || now.as_second() < from,
        Err(_) => true,
    }
}

/// From when to when a certificate is valid, in Unix seconds.
pub fn validity(certificate_pem: &str) -> Result<(i64, i64), Error> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
        .map_err(|error| Error::malformed("certificate", error))?;
    let certificate = pem.parse_x509().map_err(|error| Error::malformed("certificate", error))?;
    Ok((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
}

/// Whether a certificate of a server is for all of these addresses.
pub fn serves_at(certificate_pem: &str, addresses: &[IpAddr]) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()) else { return false };
    pem.parse_x509().is_ok_and(|leaf| crate::files::covers(&leaf, &[], addresses))
}

/// The pins of all certificates in a PEM text, as kubeadm writes them: `sha256:` and the digest of the public key's DER.
pub fn pins(certificates_pem: &str) -> Result<Vec<String>, Error> {
    let mut pins = Vec::new();
    for der in CertificateDer::pem_slice_iter(certificates_pem.as_bytes()) {
        let der = der.map_err(|error| Error::malformed("certificate", error))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| Error::malformed("certificate", error))?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.public_key().raw);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        pins.push(format!("sha256:{hex}"));
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_digest_of_the_public_key() {
        // The pin was made with `openssl x509 -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256`.
        let certificate = include_str!("pinned.crt");
        let expected = "sha256:1efd9d21953ccbfb99707140fe0f3f9d3b144ea3c42e78377a2d399230cc2b19";
        assert_eq!(pins(certificate).unwrap(), [expected]);
        assert_eq!(pins(&format!("{certificate}{certificate}")).unwrap().len(), 2);
        assert!(pins("").unwrap().is_empty());
    }
}
