//! From a token to an identity: the key is made here and never leaves the host.
//!
//! ```text
//! key (kept until it is answered) ─▶ request ─▶ Join, to the CA that the token names ─▶ identity directory
//! ```

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use loden_proto::model::{JoinToken, TokenId};
use loden_proto::names::{self, NodeId};
use loden_proto::v1;
use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_transport::{
    Bundle, BundleError, ConnectError, ConnectOptions, KeyRequest, KeyRequestError, ServerAddress, SpiffeId,
    connect_joining, explain,
};
use tracing::{info, warn};

use crate::USER_AGENT;
use crate::control::answered;

/// Who joins what.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The control plane.
    pub servers: Vec<ServerAddress>,
    /// What it has been given.
    pub token: JoinToken,
    /// As which node; none: as the one that the token is for.
    pub node: Option<NodeId>,
    /// The directory of its identity.
    pub identity: PathBuf,
}

/// A host has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answers, or somebody who is not of the token's CA.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// The control plane does not let it in.
    #[error("{}", explain(.0))]
    Refused(tonic::Status),
    /// It lets it in, and what it says cannot be used.
    #[error("the control plane's answer cannot be used: {0}")]
    Answer(String),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyRequestError),
    /// The identity cannot be kept.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The key cannot be kept.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether there is no identity that is good for anything: none at all, or one that has ended.
#[must_use]
pub fn is_needed(identity: &Path, now: SystemTime) -> bool {
    match Bundle::read(identity) {
        Ok(bundle) => bundle.holder().is_ok_and(|holder| holder.expires <= now),
        Err(BundleError::Io { error, .. }) => error.kind() == io::ErrorKind::NotFound,
        // Somebody's mistake, which is for the start to tell.
        Err(_) => false,
    }
}

impl Joining {
    /// Joins, and keeps the identity. What was asked for and not answered is asked for again with the same key.
    ///
    /// # Errors
    /// The control plane cannot be reached or refuses, or the disk fails.
    pub async fn join(&self) -> Result<SpiffeId, JoinError> {
        let pending = Pending::of(&self.identity, self.token.id);
        let request = pending.key()?;
        let options = ConnectOptions { user_agent: USER_AGENT.to_owned(), ..ConnectOptions::default() };
        let channel = connect_joining(&self.servers, self.token.root, &options).await?;
        let wanted = v1::JoinRequest {
            token: self.token.to_string(),
            node: self.node.as_ref().map(names::node).unwrap_or_default(),
            certificate_request: request.der().to_vec(),
        };
        let mut client = IdentityServiceClient::new(channel);
        let joined = answered(client.join(wanted)).await.map_err(JoinError::Refused)?;
        let certificate =
            joined.certificate.ok_or_else(|| JoinError::Answer("it has no certificate".to_owned()))?;
        let bundle = Bundle::from_pem(certificate.trust, certificate.chain, request.key_pem().to_owned())?;
        let before = Bundle::read(&self.identity).ok();
        if let Some(before) = before.filter(|before| before.id() != bundle.id()) {
            warn!(before = %before.id(), now = %bundle.id(), "this host was another node before");
        }
        bundle.write(&self.identity)?;
        pending.done();
        info!(id = %bundle.id(), identity = %self.identity.display(), "joined");
        Ok(bundle.id().clone())
    }
}

/// The key of a request that may not have been answered, beside the identity, with the token that it is for.
struct Pending {
    path: PathBuf,
    token: TokenId,
}

impl Pending {
    fn of(identity: &Path, token: TokenId) -> Self {
        let name = identity.file_name().unwrap_or_default().to_string_lossy();
        Self { path: identity.with_file_name(format!(".{name}.joining")), token }
    }

    fn key(&self) -> Result<KeyRequest, JoinError> {
        let at = |source| JoinError::Io { path: self.path.clone(), source };
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                if let Some(request) = self.kept(&text) {
                    return Ok(request);
                }
                // Cut off before it was used, or another token's.
                fs::remove_file(&self.path).map_err(at)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(error)),
        }
        let request = KeyRequest::new()?;
        if let Some(parent) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(at)?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path).map_err(at)?;
        let text = format!("{}\n{}", self.token, request.key_pem());
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
        Ok(request)
    }

    /// The key in a file's text.
    fn kept(&self, text: &str) -> Option<KeyRequest> {
        let (token, pem) = text.split_once('\n')?;
        KeyRequest::for_key(pem).ok().filter(|_| token == self.token.to_string())
    }

    fn done(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "a key that is in use now is still there as well");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_may_have_been_certified_is_used_again_with_its_token_and_is_nobody_elses_to_read() {
        let home = tempfile::tempdir().unwrap();
        let identity = home.path().join("agent/identity");
        let pending = Pending::of(&identity, TokenId(7));
        let first = pending.key().unwrap();
        assert_eq!(fs::metadata(&pending.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(pending.key().unwrap().key_pem(), first.key_pem());
        fs::write(&pending.path, "00000007\n-----BEGIN PRIV").unwrap();
        let other = pending.key().unwrap();
        assert_ne!(other.key_pem(), first.key_pem());
        let another = Pending::of(&identity, TokenId(8));
        assert_ne!(another.key().unwrap().key_pem(), other.key_pem(), "somebody may know that one");
        another.done();
        assert!(!pending.path.exists());
    }

    #[test]
    fn joining_is_needed_where_there_is_nothing() {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        assert!(is_needed(&home.path().join("identity"), now));
        fs::write(home.path().join("ca.crt"), "nonsense").unwrap();
        fs::write(home.path().join("tls.crt"), "nonsense").unwrap();
        fs::write(home.path().join("tls.key"), "nonsense").unwrap();
        assert!(!is_needed(home.path(), now));
    }
}
