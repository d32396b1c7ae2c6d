//! TLS to the database: which certificates are trusted, and what is checked.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::Encryption;

/// Why no TLS connection can be made.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("reading the certificates in {}", .0.display())]
    RootCertificate(PathBuf, #[source] pem::Error),
    #[error("{} holds a certificate that cannot be used", .0.display())]
    UnusableCertificate(PathBuf, #[source] rustls::Error),
    #[error("{} holds no usable certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("this system has no certificates to check a server with")]
    NoSystemCertificates(#[source] Option<rustls_native_certs::Error>),
    #[error("setting up TLS")]
    Setup(#[from] rustls::Error),
}

impl TlsError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = "install ca-certificates, or name the authority's certificate: ?sslrootcert=/etc/…/ca.pem";
        matches!(self, TlsError::NoSystemCertificates(_)).then(|| hint.to_owned())
    }
}

/// The TLS of a connection, or none.
pub(super) fn connector(
    encryption: Encryption,
    root: Option<&PathBuf>,
) -> Result<Option<MakeRustlsConnect>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = match encryption {
        Encryption::Disable => return Ok(None),
        Encryption::Require => {
            let any = Arc::new(AnyServer(provider.signature_verification_algorithms));
            builder()?.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
        }
        Encryption::VerifyFull => {
            let roots = match root {
                Some(file) => roots_of(file)?,
                None => system_roots()?,
            };
            builder()?.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn roots_of(file: &PathBuf) -> Result<RootCertStore, TlsError> {
    let failed = |e| TlsError::RootCertificate(file.clone(), e);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(failed)? {
        let added = roots.add(certificate.map_err(failed)?);
        added.map_err(|e| TlsError::UnusableCertificate(file.clone(), e))?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(file.clone())) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(TlsError::NoSystemCertificates(found.errors.pop())) } else { Ok(roots) }
}

/// Accepts any certificate, as libpq does with `sslmode=require`.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
