//! Whom a host believes that has nothing but a token: a control plane whose chain has the CA that the token names.

use std::sync::Arc;

use loden_proto::model::RootHash;
use loden_proto::names::ClusterName;
use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Nothing in the server's chain has the hash.
#[derive(Debug, thiserror::Error)]
#[error("unknown issuer; the cluster's CA is not the one that the token names")]
struct NotOfToken;

/// Believes the control plane of one CA.
#[derive(Debug)]
pub(crate) struct Pinned {
    root: RootHash,
    provider: Arc<CryptoProvider>,
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo, DER); none of what is no certificate.
#[must_use]
pub fn key_hash(certificate: &[u8]) -> Option<RootHash> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let hash = digest(&SHA256, parsed.public_key().raw);
    hash.as_ref().try_into().ok().map(RootHash)
}

/// The cluster that a CA's certificate (DER) says it is of: the trust domain of a URI in it.
#[must_use]
pub fn cluster_of(root: &[u8]) -> Option<ClusterName> {
    let (_, parsed) = parse_x509_certificate(root).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://")?.parse().ok(),
        _ => None,
    })
}

impl Pinned {
    pub(crate) const fn new(root: RootHash, provider: Arc<CryptoProvider>) -> Self {
        Self { root, provider }
    }
}

impl ServerCertVerifier for Pinned {
    /// Whatever name was dialled: the certificate must be the control plane's of the CA's own cluster.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || {
            let error = OtherError(Arc::new(NotOfToken));
            rustls::Error::InvalidCertificate(CertificateError::Other(error))
        };
        let root = chain.iter().find(|one| key_hash(one) == Some(self.root)).ok_or_else(unknown)?;
        let cluster = cluster_of(root).ok_or_else(unknown)?;
        let name = ServerName::try_from(crate::control_plane_name(&cluster))
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, chain, &name, ocsp, now)
    }

    /// Nobody speaks less than TLS 1.3 here.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
