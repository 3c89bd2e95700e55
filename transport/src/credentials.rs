//! What a client shows and trusts: its identity, read again when its files change, or nothing but the hash of a CA.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use loden_proto::model::RootHash;
use loden_proto::names::ClusterName;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls_pki_types::ServerName;
use tracing::{info, warn};

use crate::bundle::{Bundle, FILES};
use crate::error::ConnectError;
use crate::pinned::Pinned;
use crate::server::JOIN_NAME;
use crate::spiffe::SpiffeId;

/// A client's identity. Cheap to clone; the clones share it.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    /// Where the bundle is read again; none when it was given.
    directory: Option<PathBuf>,
    loaded: ArcSwap<Loaded>,
}

/// One state of the files.
struct Loaded {
    stamp: Stamp,
    id: SpiffeId,
    dial: Arc<Dial>,
}

/// Ready to connect with.
pub(crate) struct Dial {
    /// The cluster that the server must be of, where that is not in what is trusted.
    pub(crate) cluster: Option<ClusterName>,
    /// The name that is dialled.
    pub(crate) server_name: ServerName<'static>,
    pub(crate) config: Arc<ClientConfig>,
}

/// Who dials.
#[derive(Clone)]
pub(crate) enum Caller {
    /// Somebody with an identity.
    Known(Credentials),
    /// Somebody who has a token.
    Joining(Arc<Dial>),
}

impl Caller {
    /// As it is now. Reads the disk.
    pub(crate) fn dial(&self) -> Arc<Dial> {
        match self {
            Self::Known(credentials) => Arc::clone(&credentials.current().dial),
            Self::Joining(dial) => Arc::clone(dial),
        }
    }
}

impl Dial {
    /// Shows nothing, and trusts the control plane of a CA whose public key has this hash.
    pub(crate) fn pinned(root: RootHash) -> Result<Self, ConnectError> {
        let name = JOIN_NAME.to_owned();
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| ConnectError::ServerName { name })?;
        let verifier = Arc::new(Pinned::new(root, crate::provider()));
        let config = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { cluster: None, server_name, config: finished(config) })
    }
}

/// HTTP/2, and no session is ever resumed.
fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![crate::ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Inode, length and time of change (ns) of each file; none when absent.
type Stamp = [Option<(u64, u64, i64, i64)>; FILES.len()];

impl Credentials {
    /// The bundle as it is, for ever.
    ///
    /// # Errors
    /// The bundle's certificates or key are not usable.
    pub fn fixed(bundle: &Bundle) -> Result<Self, ConnectError> {
        Ok(Self::new(None, Loaded::new(bundle, Stamp::default())?))
    }

    /// The bundle in `directory`; a connection made after the files have
    /// changed uses the new ones. While they cannot be read the last good ones
    /// stay.
    ///
    /// # Errors
    /// The bundle cannot be read now.
    pub fn watched(directory: &Path) -> Result<Self, ConnectError> {
        let loaded = Loaded::read(directory)?;
        Ok(Self::new(Some(directory.to_owned()), loaded))
    }

    /// Who we are, as of the last connection.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.shared.loaded.load().id.clone()
    }

    fn new(directory: Option<PathBuf>, loaded: Loaded) -> Self {
        Self { shared: Arc::new(Shared { directory, loaded: ArcSwap::from_pointee(loaded) }) }
    }

    /// The files as they are now. Reads the disk.
    fn current(&self) -> Arc<Loaded> {
        let loaded = self.shared.loaded.load_full();
        let Some(directory) = &self.shared.directory else { return loaded };
        if stamp(directory) == loaded.stamp {
            return loaded;
        }
        match Loaded::read(directory) {
            Ok(new) => {
                info!(id = %new.id, directory = %directory.display(), "identity read again");
                let new = Arc::new(new);
                self.shared.loaded.store(Arc::clone(&new));
                new
            }
            Err(error) => {
                warn!(%error, "changed identity cannot be used; the last good one stays");
                loaded
            }
        }
    }
}

impl Loaded {
    fn read(directory: &Path) -> Result<Self, ConnectError> {
        // The stamp comes first: a change in between is seen next time.
        let stamp = stamp(directory);
        Self::new(&Bundle::read(directory)?, stamp)
    }

    fn new(bundle: &Bundle, stamp: Stamp) -> Result<Self, ConnectError> {
        let id = bundle.id().clone();
        let name = crate::control_plane_name(&id.cluster);
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| ConnectError::ServerName { name })?;
        let config = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(bundle.roots()?)
            .with_client_auth_cert(bundle.chain()?, bundle.key()?)?;
        let dial = Dial { cluster: Some(id.cluster.clone()), server_name, config: finished(config) };
        Ok(Self { stamp, id, dial: Arc::new(dial) })
    }
}

fn stamp(directory: &Path) -> Stamp {
    FILES.map(|name| {
        let metadata = fs::metadata(directory.join(name)).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
    })
}
