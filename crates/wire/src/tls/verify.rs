//! Whether a chain is to be trusted, asked apart from the handshake.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{TlsError, certificates_from_pem, provider, root_store};

/// The authorities whose clients are believed.
#[derive(Clone, Debug)]
pub struct ClientRoots(Arc<dyn ClientCertVerifier>);

impl ClientRoots {
    /// The given authorities; at least one.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let store = Arc::new(root_store(roots)?);
        WebPkiClientVerifier::builder_with_provider(store, provider())
            .build()
            .map(ClientRoots)
            .map_err(|error| TlsError::Roots(Error::General(error.to_string())))
    }

    /// The authorities in a PEM bundle.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, TlsError> {
        ClientRoots::new(&certificates_from_pem(bundle)?)
    }

    /// Whether `chain` (leaf first) leads to one of these authorities, is valid at `now` and meant for clients.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsError> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Err(TlsError::NoCertificate) };
        self.0.verify_client_cert(leaf, intermediates, now).map(|_| ()).map_err(TlsError::Untrusted)
    }
}

/// Whether `chain` (leaf first) leads to one of `roots`, is valid at `now` and meant for clients.
///
/// [`ClientRoots`] does the same for many chains with the roots parsed once.
pub fn verify_client_chain(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<(), TlsError> {
    ClientRoots::new(roots)?.verify(chain, now)
}

/// Lets any client certificate through the handshake, provided the client proves to hold its key.
#[derive(Debug)]
pub(super) struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Lets any server certificate through whose key the server proves to hold.
#[derive(Debug)]
pub(super) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if leaf.is_empty() { Err(CertificateError::BadEncoding.into()) } else { Ok(ServerCertVerified::assertion()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn tls12_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
}

fn tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
}
