//! TLS as both ends use it: keys and chains from PEM or DER, certificates that can be swapped, whom to trust.

mod verify;

use std::fmt;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
pub use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

pub use verify::{ClientRoots, verify_client_chain};

/// What is wrong with a key, a certificate or a chain.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or PEM without the wanted section.
    #[error("read {what} from PEM")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What the reader met.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The PEM holds no certificate.
    #[error("no certificate found")]
    NoCertificate,
    /// The key is of no known kind, or does not belong to the certificate.
    #[error("use private key")]
    Key(#[source] rustls::Error),
    /// The certificates given as roots cannot serve as such.
    #[error("use certificates as roots")]
    Roots(#[source] rustls::Error),
    /// The chain does not lead to a root, is expired, or is not meant for clients.
    #[error("{0}")]
    Untrusted(#[source] rustls::Error),
    /// The configuration could not be built.
    #[error("configure TLS")]
    Configure(#[source] rustls::Error),
}

/// What a server does about client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Never asks for one.
    Ignored,
    /// Asks for one, goes on without, and lets any pass whose key the client proves to hold: whether the chain is to be
    /// trusted is decided per request ([`verify_client_chain`]), so that a bad one is a 401 rather than a torn connection.
    Requested,
}

/// A server's side of TLS.
#[derive(Clone, Debug)]
pub struct ServerTls(pub(crate) Arc<ServerConfig>);

impl ServerTls {
    /// TLS 1.2 and 1.3 with the certificate that `resolver` picks for each handshake; offers HTTP/2 and HTTP/1.1.
    pub fn new(resolver: Arc<dyn ResolvesServerCert>, clients: ClientCertificates) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Configure)?;
        let builder = match clients {
            ClientCertificates::Ignored => builder.with_no_client_auth(),
            ClientCertificates::Requested => builder.with_client_cert_verifier(Arc::new(verify::AnyClient)),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServerTls(Arc::new(config)))
    }
}

/// Whom a client believes to be the server it asked for.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Who shows a chain to one of these roots for the name asked for.
    Roots(Vec<CertificateDer<'static>>),
    /// Whoever answers: for probes, which upstream does not verify either.
    Anyone,
}

impl Trust {
    /// The roots in a PEM bundle.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, TlsError> {
        certificates_from_pem(bundle).map(Trust::Roots)
    }
}

/// A client's side of TLS.
#[derive(Clone, Debug)]
pub struct ClientTls(pub(crate) Arc<ClientConfig>);

impl ClientTls {
    /// TLS 1.2 and 1.3 towards servers that `trust` believes, with `identity` shown where one is asked for.
    pub fn new(trust: &Trust, identity: Option<Arc<dyn ResolvesClientCert>>) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Configure)?;
        let builder = match trust {
            Trust::Roots(roots) => builder.with_root_certificates(root_store(roots)?),
            Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(verify::AnyServer)),
        };
        let config = match identity {
            Some(resolver) => builder.with_client_cert_resolver(resolver),
            None => builder.with_no_client_auth(),
        };
        Ok(ClientTls(Arc::new(config)))
    }

    /// The same, offering exactly these protocols.
    pub(crate) fn with_protocols(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

/// A certificate that can be replaced while a server or client uses it; clones share it.
#[derive(Clone)]
pub struct CertificateSlot(Arc<RwLock<Arc<CertifiedKey>>>);

impl CertificateSlot {
    /// A slot that holds `key`.
    pub fn new(key: Arc<CertifiedKey>) -> Self {
        CertificateSlot(Arc::new(RwLock::new(key)))
    }

    /// Handshakes from now on use `key`; open connections keep what they have.
    pub fn replace(&self, key: Arc<CertifiedKey>) {
        *self.0.write().expect("no holder of this lock panics") = key;
    }

    /// What handshakes use now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().expect("no holder of this lock panics").clone()
    }
}

impl fmt::Debug for CertificateSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CertificateSlot")
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for CertificateSlot {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A chain (leaf first) with its key, both as PEM; refuses a key that is not the leaf's.
pub fn certified_key(chain_pem: &[u8], key_pem: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|source| TlsError::Pem { what: "private key", source })?;
    certified_key_der(certificates_from_pem(chain_pem)?, key)
}

/// A chain (leaf first) with its key, both as DER; refuses a key that is not the leaf's.
pub fn certified_key_der(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new).map_err(TlsError::Key)
}

/// All certificates in a PEM text, in its order; at least one.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what: "certificates", source })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate) } else { Ok(certificates) }
}

/// The wall clock as TLS wants it.
pub fn now() -> UnixTime {
    let seconds = stdx::wall().as_second();
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now())
    }
}

/// The one crypto provider, made once.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// The roots as rustls keeps them. Bundles hold the odd certificate that is no usable root; one good one suffices.
fn root_store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let mut fault = None;
    for root in roots {
        if let Err(error) = store.add(root.clone()) {
            fault = Some(error);
        }
    }
    match fault {
        Some(error) if store.is_empty() => Err(TlsError::Roots(error)),
        _ => Ok(store),
    }
}
