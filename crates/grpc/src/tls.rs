//! Certificates and keys, as files hold them, for both ends.
//!
//! TLS 1.3 by rustls with ring, named here and nowhere else: nothing is installed in the process, so
//! that a program may use another provider beside it.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::GrpcError;

/// The protocol that both ends must speak inside of TLS.
const HTTP2: &[u8] = b"h2";

/// The server's end. Cheap to clone; keys never print.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

/// The client's end. Cheap to clone; keys never print.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ServerTls {
    /// From PEM texts: the certificate with its chain, its key, and if clients must show a certificate
    /// as well, those that vouch for theirs.
    ///
    /// # Errors
    /// [`GrpcError::BadTls`] names the text that cannot be used.
    pub fn from_pem(
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
    ) -> Result<Self, GrpcError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("provider", error))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(roots("client CA", pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| bad("client CA", error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(certificates("certificate", certificate)?, private_key(key)?)
            .map_err(|error| bad("certificate", error))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }
}

impl ClientTls {
    /// From PEM texts: the certificates that vouch for the server's, and if the server asks for one,
    /// a certificate of our own with its key.
    ///
    /// # Errors
    /// [`GrpcError::BadTls`] names the text that cannot be used.
    pub fn from_pem(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Self, GrpcError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("provider", error))?
            .with_root_certificates(roots("CA", ca)?);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates("certificate", certificate)?, private_key(key)?)
                .map_err(|error| bad("certificate", error))?,
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        self.config.clone().into()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(what: &'static str, pem: &[u8]) -> Result<RootCertStore, GrpcError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        roots.add(certificate).map_err(|error| bad(what, error))?;
    }
    Ok(roots)
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, GrpcError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| bad(what, error))?;
    if found.is_empty() {
        return Err(bad(what, "it holds no certificate"));
    }
    Ok(found)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, GrpcError> {
    // What is wrong with a key is not told in words that quote it.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| bad("key", "it holds no private key"))
}

fn bad(what: &'static str, why: impl ToString) -> GrpcError {
    GrpcError::BadTls { what, why: why.to_string() }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded;

    use super::*;

    #[test]
    fn what_is_no_certificate_or_key_is_named_and_not_quoted() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        assert!(ServerTls::from_pem(cert.as_bytes(), key.as_bytes(), None).is_ok());
        for (cert, key, what) in [
            ("", key.as_str(), "certificate"),
            ("nonsense", key.as_str(), "certificate"),
            (cert.as_str(), "a-secret-key", "key"),
            (cert.as_str(), cert.as_str(), "key"),
        ] {
            let error = ServerTls::from_pem(cert.as_bytes(), key.as_bytes(), None).unwrap_err();
            assert_eq!(error.code(), "bad_tls");
            assert!(error.to_string().contains(&format!("the {what} cannot")), "{error}");
            assert!(!error.to_string().contains("secret"));
        }
        assert!(ClientTls::from_pem(b"", None).is_err());
    }
}
