//! The cluster's identities: its CA, the server's certificate, and what the server must remember of itself.
//!
//! ```text
//! pki/  (0700)
//!   ca.key ca.crt     the cluster's CA          ──issue──▶  node, admin and reader bundles
//!   next/ previous.crt previous.until cross.crt   while it is changed: `rotation`
//!   longest-life      of the CA's certificates: `lifetime`
//!   changes           how often the CA was changed: `changes`
//!   server/           ca.crt tls.crt tls.key: this control plane
//!   admin/            the first admin's bundle
//!   token.key         authenticates resume tokens, also after the store was lost
//!   incarnation       of the store that was served last
//!   unproven          the CA or token.key was made anew, and no lease has been given since
//! ```
//!
//! Everything is made at the first start and kept; a CA that somebody has put in place of another one is taken up.
//! `issue` needs nothing but the CA's two files, so it works beside a running server and without a store.

mod authority;
mod certificate;
mod changes;
mod copies;
mod file;
mod issue;
mod lifetime;
mod precedence;
mod request;
mod rotation;
mod server_name;
mod shared;
mod signer;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use loden_proto::names::ClusterName;
use loden_transport::{Bundle, BundleError, Principal, Role};
use rand::RngCore;
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::authority::{Authority, AuthorityError, Phase};
pub use self::copies::{have_one_key, proven};
pub use self::issue::{IssueError, IssuedRole, Order, issue};
pub use self::precedence::Precedence;
pub use self::request::CertificateRequest;
pub use self::rotation::Step;
pub use self::server_name::ServerName;
pub use self::shared::{Files, Seal, SealError};
pub use self::signer::Signer;

/// How long the first admin's certificate lives.
const ADMIN_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const SERVER: &str = "server";
const ADMIN: &str = "admin";
const TOKEN_KEY: &str = "token.key";
const INCARNATION: &str = "incarnation";
const UNPROVEN: &str = "unproven";
const UNPROVEN_TEXT: &[u8] = b"no lease has been given since this CA or token.key was made\n";
const LOCK: &str = ".lock";

/// The key that authenticates resume tokens.
pub type TokenKey = [u8; 32];

/// The directory of the control plane's identities.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    authority: ArcSwap<Authority>,
    /// Its generation, for those who wait for changes.
    changed: watch::Sender<u32>,
}

/// An identity cannot be read, made or kept.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The CA itself.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A bundle of certificate and key.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The CA is another cluster's.
    #[error("{} is the CA of cluster \"{found}\", not of \"{asked}\"", path.display())]
    Cluster {
        /// The CA's certificate.
        path: PathBuf,
        /// Whose it is.
        found: ClusterName,
        /// Whose was asked for.
        asked: ClusterName,
    },
    /// The CA's certificate is there without its key.
    #[error("{} is missing beside the CA's certificate; restore it", path.display())]
    KeyMissing {
        /// The key.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{}: {rule}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        rule: &'static str,
    },
    /// A step of the change to the next CA comes at another time.
    #[error("step: \"{step:?}\" cannot be done while the CA is {phase:?}")]
    Step {
        /// What was asked for.
        step: Step,
        /// Where the change stands.
        phase: Phase,
    },
    /// The disk or its permissions.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Pki {
    /// Opens the directory, or makes it with a new CA, an admin bundle and a token key.
    ///
    /// # Errors
    /// What is there cannot be read or is another cluster's; what is not there cannot be written.
    pub fn open_or_create(
        directory: &Path,
        cluster: &ClusterName,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        file::create_private_directory(directory)?;
        // Two first starts at once would make two CAs.
        let _lock = file::lock(&directory.join(LOCK))?;
        if file::is_open_to_others(directory)? {
            warn!(directory = %directory.display(), "the CA's directory is accessible to other users");
        }
        rotation::finish(directory)?;
        let authority = open_authority(directory, cluster, now)?;
        changes::count(directory)?;
        let changed = watch::Sender::new(authority.generation());
        let authority = ArcSwap::from_pointee(authority);
        let pki = Self { directory: directory.to_owned(), authority, changed };
        if pki.directory.join(ADMIN).exists() {
            pki.keep_admin(now);
        } else {
            pki.issue_admin(now)?;
        }
        if file::read(&pki.directory.join(TOKEN_KEY))?.is_none() {
            let mut key = TokenKey::default();
            rand::rng().fill_bytes(&mut key);
            // Before the key, which may have been lost with the store.
            file::write_private(&pki.unproven_note(), UNPROVEN_TEXT)?;
            file::write_private(&pki.directory.join(TOKEN_KEY), &key)?;
        }
        Ok(pki)
    }

    /// The CA, as it is now.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Tells of changes of the CA, and of what is trusted beside it.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u32> {
        self.changed.subscribe()
    }

    /// Does the next step of the change to another CA. `life`: of the certificates that are made.
    ///
    /// # Errors
    /// It is not the time for that step, or the disk fails.
    pub fn rotate(&self, step: Step, life: Duration, now: SystemTime) -> Result<(), PkiError> {
        let _lock = file::lock(&self.directory.join(LOCK))?;
        rotation::finish(&self.directory)?;
        let authority = rotation::load(&self.directory)?;
        let phase = authority.phase();
        if phase != step.from() {
            return Err(PkiError::Step { step, phase });
        }
        rotation::step(&self.directory, &authority, step, life, now)?;
        changes::count(&self.directory)?;
        self.take_up(rotation::load(&self.directory)?);
        self.keep_admin(now);
        Ok(())
    }

    /// Takes up what somebody else has put there.
    ///
    /// # Errors
    /// It cannot be used; what was there before stays in use.
    pub fn refresh(&self, now: SystemTime) -> Result<(), PkiError> {
        let _lock = file::lock(&self.directory.join(LOCK))?;
        let found = rotation::load(&self.directory)?;
        let present = self.authority();
        if found.cluster() != present.cluster() {
            return Err(PkiError::Cluster {
                path: self.directory.join(CA_CERTIFICATE),
                found: found.cluster().clone(),
                asked: present.cluster().clone(),
            });
        }
        if found.generation() != present.generation() {
            changes::count(&self.directory)?;
            info!("another CA is in {}, or beside the one there", self.directory.display());
            self.take_up(found);
            self.keep_admin(now);
        }
        Ok(())
    }

    /// Notes how long the certificates live that are made from now on.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn note_life(&self, life: Duration) -> Result<(), PkiError> {
        lifetime::note(&self.directory, life)
    }

    /// By when the last certificate of the CA of before has ended, while that is trusted. `life`: of certificates that
    /// are made now.
    #[must_use]
    pub fn previous_until(&self, life: Duration) -> Option<SystemTime> {
        lifetime::previous_until(&self.directory, life)
    }

    fn take_up(&self, authority: Authority) {
        let generation = authority.generation();
        self.authority.store(Arc::new(authority));
        self.changed.send_replace(generation);
    }

    /// Has the first admin trust what is trusted: it is the cluster's own, and must not be shut out by a change of the
    /// CA. What is done already stays done without it.
    fn keep_admin(&self, now: SystemTime) {
        let bundle = Bundle::read(&self.directory.join(ADMIN));
        if bundle.is_ok_and(|bundle| bundle.ca_pem() == self.authority().trust_pem()) {
            return;
        }
        if let Err(error) = self.issue_admin(now) {
            warn!(%error, "the first admin's bundle is not of the CAs that are trusted");
        }
    }

    fn issue_admin(&self, now: SystemTime) -> Result<(), PkiError> {
        let name = ADMIN.parse().map_err(AuthorityError::Name)?;
        let authority = self.authority();
        let validity = authority.most(ADMIN_VALIDITY, now);
        let bundle = authority.issue(Role::Admin(name), &[], 0, validity, now)?;
        bundle.write(&self.directory.join(ADMIN))?;
        info!(directory = %self.directory.join(ADMIN).display(), "admin bundle made");
        Ok(())
    }

    /// Where it is kept.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server's certificate and key; made anew when missing, unusable, past half its life, or for other names.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn server(
        &self,
        name: &Principal,
        names: &[ServerName],
        validity: Duration,
        now: SystemTime,
    ) -> Result<Bundle, PkiError> {
        let directory = self.directory.join(SERVER);
        let role = Role::ControlPlane(name.clone());
        let authority = self.authority();
        let validity = authority.most(validity, now);
        let wanted = authority.server_names(names);
        let why = match Bundle::read(&directory) {
            Ok(bundle) => match authority.unfit(&bundle, &role, &wanted, now + validity / 2) {
                None => return Ok(bundle),
                Some(why) => why,
            },
            Err(BundleError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                "there was none".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let bundle = authority.issue(role, &wanted, 0, validity, now)?;
        info!(id = %bundle.id(), why, "server certificate made");
        if let Err(error) = bundle.write(&directory) {
            // It is good without a file, and the next start makes another: a full disk is no reason not to
            // serve.
            warn!(%error, "the server's certificate is not kept");
        }
        Ok(bundle)
    }

    /// The key that authenticates resume tokens.
    ///
    /// # Errors
    /// The file cannot be read or is not 32 bytes.
    pub fn token_key(&self) -> Result<TokenKey, PkiError> {
        let path = self.directory.join(TOKEN_KEY);
        let bytes = file::read(&path)?.unwrap_or_default();
        bytes.try_into().map_err(|_| PkiError::Content { path, rule: "must be a key of 32 bytes" })
    }

    /// Where the incarnation of the store that was served last is noted; it survives the store's loss.
    #[must_use]
    pub fn incarnation_marker(&self) -> PathBuf {
        self.directory.join(INCARNATION)
    }

    /// What is there from the making of the CA or of the token key until somebody removes it: the cluster may have
    /// had others before.
    #[must_use]
    pub fn unproven_note(&self) -> PathBuf {
        self.directory.join(UNPROVEN)
    }
}

/// Where the incarnation is noted in a directory that need not be there yet.
///
/// # Errors
/// The directory cannot be made.
pub fn incarnation_marker(directory: &Path) -> Result<PathBuf, PkiError> {
    file::create_private_directory(directory)?;
    Ok(directory.join(INCARNATION))
}

fn open_authority(directory: &Path, cluster: &ClusterName, now: SystemTime) -> Result<Authority, PkiError> {
    let (certificate_path, key_path) = (directory.join(CA_CERTIFICATE), directory.join(CA_KEY));
    if file::read(&certificate_path)?.is_none() {
        // The key comes first: a start that was cut off between the two goes on with it.
        let key = match file::read_text(&key_path)? {
            Some(key) => key,
            None => {
                let key = Authority::new_key()?;
                file::write_private(&key_path, key.as_bytes())?;
                key
            }
        };
        let authority = Authority::create(cluster, &key, now)?;
        // Before the certificate, with which the CA is made.
        file::write_private(&directory.join(UNPROVEN), UNPROVEN_TEXT)?;
        file::write_private(&certificate_path, authority.certificate_pem().as_bytes())?;
        info!(%cluster, directory = %directory.display(), "cluster CA made");
    }
    // What comes before or after it is no reason not to serve.
    let authority = rotation::load(directory).or_else(|error| {
        let alone = rotation::pair(directory)?;
        warn!(%error, "what is beside the CA cannot be used, and is not trusted");
        Ok::<_, PkiError>(alone)
    })?;
    if authority.cluster() != cluster {
        return Err(PkiError::Cluster {
            path: certificate_path,
            found: authority.cluster().clone(),
            asked: cluster.clone(),
        });
    }
    Ok(authority)
}
