//! A key of our own, and the request for a certificate for it (PKCS #10, RFC 2986).

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

/// A key that was made here, and what proves that we have it.
pub struct KeyRequest {
    key: String,
    der: Vec<u8>,
}

/// No key can be made, or it is none.
#[derive(Debug, thiserror::Error)]
#[error("no certificate can be asked for: {0}")]
pub struct KeyRequestError(#[from] rcgen::Error);

impl KeyRequest {
    /// A new key: ECDSA with P-256. The request names nobody: who we are is for the control plane to say.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new() -> Result<Self, KeyRequestError> {
        Self::of(&KeyPair::generate()?)
    }

    /// A request for a key that is there (PEM).
    ///
    /// # Errors
    /// It is no key.
    pub fn for_key(pem: &str) -> Result<Self, KeyRequestError> {
        Self::of(&KeyPair::from_pem(pem)?)
    }

    fn of(key: &KeyPair) -> Result<Self, KeyRequestError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let der = params.serialize_request(key)?.der().to_vec();
        Ok(Self { key: key.serialize_pem(), der })
    }

    /// The key, PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The request, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

impl fmt::Debug for KeyRequest {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}
