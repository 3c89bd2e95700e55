//! The server's end: every client shows a certificate of our CA, but for those who come to join.

use std::fmt;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};

use crate::accept::Watchful;
use crate::bundle::{Bundle, BundleError};
use crate::holder::Holder;
use crate::pinned::key_hash;

/// The name that a host dials (TLS SNI) which has a token and no certificate yet.
pub const JOIN_NAME: &str = "join.loden";

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

/// Whether the holder of a certificate that is good by itself is let in.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Looks at the holder; a refused one hears that its certificate is revoked.
    fn lets_in(&self, holder: &Holder) -> bool;
}

/// What a server shows and whom it believes. [`Hello`](crate::Hello) does handshakes with it.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(crate) usual: Arc<ServerConfig>,
    /// Without a client's certificate, and with the CA in our chain: whoever comes to join knows the CA by a hash.
    pub(crate) joining: Arc<ServerConfig>,
}

impl ServerTls {
    /// TLS for a server: 1.3 only, HTTP/2 only, no session is ever resumed.
    ///
    /// # Errors
    /// The bundle's certificates or key are not usable.
    pub fn new(bundle: &Bundle, gate: Option<Arc<dyn Gate>>) -> Result<Self, ServerConfigError> {
        let provider = crate::provider();
        let verifier = |roots| {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()
        };
        let mut each = Vec::new();
        for root in bundle.root_certificates()? {
            let mut alone = RootCertStore::empty();
            let hash = key_hash(&root);
            alone.add(root)?;
            each.extend(hash.map(|hash| verifier(alone).map(|verifier| (hash, verifier))).transpose()?);
        }
        let watchful = Watchful { all: verifier(bundle.roots()?)?, each, gate };
        let builder =
            || ServerConfig::builder_with_provider(crate::provider()).with_protocol_versions(&[&TLS13]);
        let usual = builder()?
            .with_client_cert_verifier(Arc::new(watchful))
            .with_single_cert(bundle.chain()?, bundle.key()?)?;
        let mut chain = bundle.chain()?;
        chain.extend(bundle.root_certificates()?);
        let joining = builder()?.with_no_client_auth().with_single_cert(chain, bundle.key()?)?;
        let finish = |mut config: ServerConfig| {
            config.alpn_protocols = vec![crate::ALPN_H2.to_vec()];
            // A resumed session keeps the identity of the connection before it.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Arc::new(config)
        };
        Ok(Self { usual: finish(usual), joining: finish(joining) })
    }

    /// The same for a server that is no control plane: every client shows a certificate.
    #[must_use]
    pub fn usual(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.usual)
    }
}
