//! TLS to the database: which certificates are trusted, and what is checked.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
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
    let trust = match encryption {
        Encryption::Disable => return Ok(None),
        Encryption::Require => ServerTrust::Any,
        Encryption::VerifyFull => ServerTrust::verified(root, provider.clone())?,
    };
    let check = ServerCheck { trust, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(check)).with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn certificates_in(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |e| TlsError::RootCertificate(file.clone(), e);
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(TlsError::NoCertificate(file.clone())) } else { Ok(found) }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(TlsError::NoSystemCertificates(found.errors.pop())) } else { Ok(roots) }
}

/// Which servers are trusted.
#[derive(Debug)]
enum ServerTrust {
    /// Each one, as with `sslmode=require` in libpq.
    Any,
    /// Those whose certificate one of the authorities has signed for their host name.
    Verified {
        authorities: Arc<WebPkiServerVerifier>,
        /// The only certificate of `sslrootcert`. A server that has exactly this one needs no other proof:
        /// many sign their own certificate without a name in it, as PostgreSQL's documentation describes
        /// ("Secure TCP/IP Connections with SSL").
        known: Option<CertificateDer<'static>>,
    },
}

impl ServerTrust {
    fn verified(root: Option<&PathBuf>, provider: Arc<CryptoProvider>) -> Result<ServerTrust, TlsError> {
        let mut known = None;
        let roots = match root {
            None => system_roots()?,
            Some(file) => {
                let certificates = certificates_in(file)?;
                if let [only] = &certificates[..] {
                    known = Some(only.clone());
                }
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    let added = roots.add(certificate);
                    added.map_err(|e| TlsError::UnusableCertificate(file.clone(), e))?;
                }
                roots
            }
        };
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authorities = authorities.map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(ServerTrust::Verified { authorities, known })
    }
}

#[derive(Debug)]
struct ServerCheck {
    trust: ServerTrust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            ServerTrust::Any => Ok(ServerCertVerified::assertion()),
            ServerTrust::Verified { known: Some(known), .. } if known == certificate => {
                Ok(ServerCertVerified::assertion())
            }
            ServerTrust::Verified { authorities, .. } => {
                authorities.verify_server_cert(certificate, intermediates, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
