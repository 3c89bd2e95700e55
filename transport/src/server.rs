//! The server's end: every client shows a certificate of our CA.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;

use crate::accept::Remembering;
use crate::bundle::{Bundle, BundleError};

/// A bundle cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerConfigError {
    /// The bundle itself.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// No verifier for clients can be made of the CA certificates.
    #[error("clients cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
    /// The certificate or its key is not usable.
    #[error("the server's certificate cannot be used")]
    Tls(#[from] rustls::Error),
}

/// TLS for a server: 1.3 only, client certificates required, HTTP/2 only, no
/// session is ever resumed.
///
/// Who the client is follows from its certificate: [`accept`](crate::accept()).
///
/// # Errors
/// The bundle's certificates or key are not usable.
pub fn server_config(bundle: &Bundle) -> Result<Arc<ServerConfig>, ServerConfigError> {
    let provider = crate::provider();
    let roots = Arc::new(bundle.roots()?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Remembering(verifier)))
        .with_single_cert(bundle.chain()?, bundle.key()?)?;
    config.alpn_protocols = vec![crate::ALPN_H2.to_vec()];
    // A resumed session keeps the identity of the connection before it.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
