//! Certificates for nodes, from whatever CA there is now.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loden_proto::convert::timestamp;
use loden_proto::model::RootHash;
use loden_proto::names::NodeId;
use loden_proto::v1;

use super::request::CertificateRequest;
use super::{AuthorityError, Pki};

/// Makes certificates of one validity.
#[derive(Debug)]
pub struct Signer {
    pki: Arc<Pki>,
    validity: Duration,
}

impl Signer {
    /// With the CA of a directory.
    #[must_use]
    pub const fn new(pki: Arc<Pki>, validity: Duration) -> Self {
        Self { pki, validity }
    }

    /// A node's certificate for a key of its own.
    ///
    /// # Errors
    /// The CA has ended.
    pub fn certify(
        &self,
        node: NodeId,
        request: &CertificateRequest,
        epoch: u32,
        now: SystemTime,
    ) -> Result<v1::Certificate, AuthorityError> {
        let authority = self.pki.authority();
        let validity = authority.most(self.validity, now);
        Ok(v1::Certificate {
            chain: authority.certify(node, request, epoch, validity, now)?,
            trust: authority.trust_pem(),
            expire_time: Some(timestamp(now + validity)),
        })
    }

    /// The CA.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// How long certificates live.
    #[must_use]
    pub const fn validity(&self) -> Duration {
        self.validity
    }

    /// By which a host knows the CA that has a token.
    ///
    /// # Errors
    /// Never of a CA that was loaded.
    pub fn root(&self) -> Result<RootHash, AuthorityError> {
        self.pki.authority().hash()
    }
}
