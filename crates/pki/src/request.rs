//! Requests for certificates (PKCS#10): reading what they ask for, and signing them with an authority.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SigningKey as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Authority, LEAF_LIFETIME};
use crate::{Error, der};

/// How far before now a certificate begins, so that a peer whose clock is a little behind accepts it.
const BACKDATING: SignedDuration = SignedDuration::from_secs(300);
/// Certificates that live less long than this are not shortened by what they begin before now. Upstream: `Short`.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// What a request asks for. Its signature has been checked: the asker holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub emails: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
    /// The subject, the key and the alternative names as they were written.
    subject: Vec<u8>,
    key: Vec<u8>,
    names: Option<Vec<u8>>,
}

/// Key usages by upstream's names: the bit of `KeyUsage`.
const KEY_USAGES: &[(&str, u8)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Extended key usages by upstream's names, in the order in which Go sorts them.
const EXTENDED_USAGES: &[(&str, &[u64])] = &[
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

impl CertificateRequest {
    /// Reads a request in PEM and checks that it is signed with the key that it names.
    pub fn read(pem: &[u8]) -> Result<CertificateRequest, Error> {
        let wrong = || Error::Untrusted("PEM block type must be CERTIFICATE REQUEST".into());
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| wrong())?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(wrong());
        }
        let (rest, request) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| Error::Untrusted(format!("malformed certificate request: {error}")))?;
        if !rest.is_empty() {
            return Err(Error::Untrusted("malformed certificate request: trailing data".into()));
        }
        request
            .verify_signature()
            .map_err(|error| Error::Untrusted(format!("signature of the certificate request: {error}")))?;
        named(&request)
    }
}

/// A request for a certificate with the key that it is for, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Wish {
    pub request_pem: String,
    pub key_pem: String,
}

impl Wish {
    /// Makes a new key and a request that names this user, group and these alternative names.
    pub fn make(common_name: &str, organization: &str, names: &[String], addresses: &[IpAddr]) -> Result<Wish, Error> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, organization);
        subject.push(DnType::CommonName, common_name);
        params.distinguished_name = subject;
        for name in names {
            let name = name.as_str().try_into().map_err(|error| Error::make("alternative name", error))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let key = KeyPair::generate().map_err(|error| Error::make("key", error))?;
        let request = params.serialize_request(&key).map_err(|error| Error::make("certificate request", error))?;
        let request_pem = request.pem().map_err(|error| Error::make("certificate request", error))?;
        Ok(Wish { request_pem, key_pem: key.serialize_pem() })
    }
}

fn named(request: &X509CertificationRequest<'_>) -> Result<CertificateRequest, Error> {
    let info = &request.certification_request_info;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned);
    let malformed = |error| Error::malformed("subject", error);
    let mut found = CertificateRequest {
        common_name: info
            .subject
            .iter_common_name()
            .last()
            .map(text)
            .transpose()
            .map_err(malformed)?
            .unwrap_or_default(),
        organizations: info.subject.iter_organization().map(text).collect::<Result<_, _>>().map_err(malformed)?,
        dns_names: Vec::new(),
        emails: Vec::new(),
        addresses: Vec::new(),
        uris: Vec::new(),
        subject: info.subject.as_raw().to_vec(),
        key: info.subject_pki.raw.to_vec(),
        names: None,
    };
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { continue };
        for extension in &wanted.extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
            if found.names.replace(extension.value.to_vec()).is_some() {
                return Err(Error::Untrusted("the request names alternative names twice".into()));
            }
            names.general_names.iter().try_for_each(|name| add_name(&mut found, name))?;
        }
    }
    Ok(found)
}

fn add_name(found: &mut CertificateRequest, name: &GeneralName<'_>) -> Result<(), Error> {
    match name {
        GeneralName::DNSName(name) => found.dns_names.push((*name).to_owned()),
        GeneralName::RFC822Name(name) => found.emails.push((*name).to_owned()),
        GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok(),
                16 => <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok(),
                _ => None,
            };
            found
                .addresses
                .push(address.ok_or_else(|| Error::Untrusted("an alternative address is malformed".into()))?);
        }
        // Nobody here knows what they would allow.
        _ => return Err(Error::Untrusted("alternative names of this kind are not supported".into())),
    }
    Ok(())
}

impl Authority {
    /// Signs a request: its subject, key and alternative names, for `usages` and `lifetime` (a year at most).
    ///
    /// Upstream: `PermissiveSigningPolicy`. All other extensions that were asked for are left out.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        usages: &[String],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        let der = CertificateDer::from_pem_slice(self.certificate_pem().as_bytes())
            .map_err(|error| Error::malformed("authority certificate", error))?;
        let (_, authority) =
            X509Certificate::from_der(&der).map_err(|error| Error::malformed("authority certificate", error))?;
        let algorithm = self.signature_algorithm()?;
        let (from, to) = validity(lifetime.min(LEAF_LIFETIME), authority.validity().not_after.timestamp(), now)?;
        let mut serial = [0; 16];
        stdx::random(&mut serial);
        serial[0] &= 0x7f;
        let certificate = der::sequence(&[
            der::explicit(0, &der::integer(&[2])),
            der::integer(&serial),
            algorithm.clone(),
            authority.subject().as_raw().to_vec(),
            der::sequence(&[der::time(from), der::time(to)]),
            request.subject.clone(),
            request.key.clone(),
            der::explicit(3, &der::sequence(&extensions(request, usages, &authority)?)),
        ]);
        let signature = self.key().sign(&certificate).map_err(|error| Error::make("signature", error))?;
        let signed = der::sequence(&[certificate, algorithm, der::bits(&signature)]);
        Ok(pem(&signed))
    }

    fn signature_algorithm(&self) -> Result<Vec<u8>, Error> {
        let algorithm = self.key().algorithm();
        let plain = |arcs: &[u64]| der::sequence(&[der::oid(arcs)]);
        if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            Ok(plain(&[1, 2, 840, 10045, 4, 3, 2]))
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            Ok(plain(&[1, 2, 840, 10045, 4, 3, 3]))
        } else if algorithm == &rcgen::PKCS_ED25519 {
            Ok(plain(&[1, 3, 101, 112]))
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            Ok(der::sequence(&[der::oid(&[1, 2, 840, 113_549, 1, 1, 11]), vec![5, 0]]))
        } else {
            Err(Error::Untrusted("the authority's key is of a kind that requests are not signed with".into()))
        }
    }
}

fn validity(lifetime: Duration, authority_end: i64, now: Timestamp) -> Result<(Timestamp, Timestamp), Error> {
    let from = now.checked_sub(BACKDATING).map_err(|error| Error::make("validity", error))?;
    let start = if lifetime < SHORT { now } else { from };
    let end = start.as_second().saturating_add_unsigned(lifetime.as_secs()).min(authority_end);
    Ok((from, Timestamp::from_second(end).map_err(|error| Error::make("validity", error))?))
}

fn extensions(
    request: &CertificateRequest,
    usages: &[String],
    authority: &X509Certificate<'_>,
) -> Result<Vec<Vec<u8>>, Error> {
    let known = |usage: &&String| {
        KEY_USAGES.iter().any(|(name, _)| name == usage) || EXTENDED_USAGES.iter().any(|(name, _)| name == usage)
    };
    let unknown: Vec<&String> = usages.iter().filter(|usage| !known(usage)).collect();
    if !unknown.is_empty() {
        return Err(Error::Untrusted(format!("unrecognized usage values: {unknown:?}")));
    }
    let wanted = |name: &str| usages.iter().any(|usage| usage == name);
    let mut all = Vec::new();
    let bits: Vec<u8> = KEY_USAGES.iter().filter(|(name, _)| wanted(name)).map(|(_, bit)| *bit).collect();
    if !bits.is_empty() {
        all.push(extension(&[2, 5, 29, 15], true, &der::named_bits(&bits)));
    }
    let mut extended: Vec<&[u64]> =
        EXTENDED_USAGES.iter().filter(|(name, _)| wanted(name)).map(|(_, id)| *id).collect();
    extended.dedup();
    if !extended.is_empty() {
        let list: Vec<Vec<u8>> = extended.into_iter().map(der::oid).collect();
        all.push(extension(&[2, 5, 29, 37], false, &der::sequence(&list)));
    }
    all.push(extension(&[2, 5, 29, 19], true, &der::sequence(&[])));
    let key_id = authority.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    if let Some(id) = key_id {
        all.push(extension(&[2, 5, 29, 35], false, &der::sequence(&[der::value(0x80, &id)])));
    }
    if let Some(names) = &request.names {
        all.push(extension(&[2, 5, 29, 17], false, names));
    }
    Ok(all)
}

fn extension(id: &[u64], critical: bool, content: &[u8]) -> Vec<u8> {
    let mut parts = vec![der::oid(id)];
    if critical {
        parts.push(der::value(der::BOOLEAN, &[0xff]));
    }
    parts.push(der::value(der::OCTET_STRING, content));
    der::sequence(&parts)
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    const LINE_CHARS: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(LINE_CHARS) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClientVerifier;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn request(names: &[&str], addresses: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Wish::make("system:node:a", "system:nodes", &names, &addresses).unwrap().request_pem
    }

    #[test]
    fn signs_what_was_asked_for() {
        let authority = Authority::generate("kubernetes", at(NOW)).unwrap();
        let request = CertificateRequest::read(request(&["a"], &["10.0.0.1"]).as_bytes()).unwrap();
        assert_eq!(
            (request.common_name.as_str(), &request.organizations[..]),
            ("system:node:a", &["system:nodes".to_owned()][..])
        );
        assert_eq!((&request.dns_names[..], request.addresses.len()), (&["a".to_owned()][..], 1));
        let usages = ["digital signature", "key encipherment", "client auth"].map(str::to_owned);
        let pem = authority.sign_request(&request, &usages, Duration::from_secs(3600), at(NOW)).unwrap();
        let chain = [CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let verifier = ClientVerifier::new(authority.certificate_pem()).unwrap();
        let identity = verifier.identity(&chain, at(NOW)).unwrap();
        assert_eq!((identity.user.as_str(), &identity.groups[..]), ("system:node:a", &["system:nodes".to_owned()][..]));
        assert!(verifier.identity(&chain, at(NOW + 3601)).is_err(), "no longer than asked for");
        let (_, certificate) = X509Certificate::from_der(&chain[0]).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 2);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn a_certificate_for_servers_proves_no_client() {
        let authority = Authority::generate("kubernetes", at(NOW)).unwrap();
        let request = CertificateRequest::read(request(&[], &[]).as_bytes()).unwrap();
        let usages = ["server auth".to_owned()];
        let pem = authority.sign_request(&request, &usages, Duration::from_secs(3600), at(NOW)).unwrap();
        let chain = [CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        assert!(ClientVerifier::new(authority.certificate_pem()).unwrap().identity(&chain, at(NOW)).is_err());
        let unknown = authority.sign_request(&request, &["world domination".to_owned()], LEAF_LIFETIME, at(NOW));
        assert_eq!(unknown.unwrap_err().to_string(), "unrecognized usage values: [\"world domination\"]");
    }

    #[test]
    fn nothing_outlives_the_authority_or_a_year() {
        let seconds = |lifetime: u64, end: i64| {
            let (from, to) = validity(Duration::from_secs(lifetime), end, at(NOW)).unwrap();
            (NOW - from.as_second(), to.as_second() - NOW)
        };
        assert_eq!(seconds(600, i64::MAX), (300, 600));
        assert_eq!(seconds(86_400, i64::MAX), (300, 86_100));
        assert_eq!(seconds(86_400, NOW + 5), (300, 5));
    }

    #[test]
    fn refuses_what_is_no_request_or_was_changed() {
        let read = |text: &str| CertificateRequest::read(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(read("x"), "PEM block type must be CERTIFICATE REQUEST");
        let authority = Authority::generate("kubernetes", at(NOW)).unwrap();
        assert_eq!(read(authority.certificate_pem()), "PEM block type must be CERTIFICATE REQUEST");
        use base64::Engine as _;
        let text = request(&[], &[]);
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let mut der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
        let at = der.windows(13).position(|window| window == b"system:node:a").unwrap();
        der[at + 12] = b'b';
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let changed = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(read(&changed).starts_with("signature of the certificate request"), "{}", read(&changed));
    }
}
