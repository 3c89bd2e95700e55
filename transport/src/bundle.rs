//! An identity on disk: `ca.crt`, `tls.crt` and `tls.key` in a directory of their own.
//!
//! ```text
//! write:  .NAME.new/{ca.crt, tls.crt, tls.key}  ──one rename or exchange──▶  NAME/    one at a time
//! ```

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::holder::Holder;
use crate::spiffe::{IdentityError, SpiffeId};

/// File names in an identity directory, as in a Kubernetes TLS secret.
pub(crate) const FILES: [&str; 3] = [CA, CERTIFICATE, KEY];
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The CA certificates to trust, our own certificate (with its chain) and its
/// private key. One that exists is usable: it parses, the key belongs to the
/// certificate and the certificate says who we are.
#[derive(Clone, Eq, PartialEq)]
pub struct Bundle {
    ca: String,
    certificate: String,
    key: String,
    id: SpiffeId,
}

/// An identity directory cannot be read or written. The text is whole: no
/// cause is said again as a source.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file or directory is not there, not ours to read, or the disk fails.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {rule}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        rule: String,
    },
    /// The certificate does not say who we are.
    #[error("{}: {error}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: Box<IdentityError>,
    },
    /// The directory is used for something else too.
    #[error("{}: holds {other:?}; an identity is replaced as a whole and needs a directory of its own", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// A file that is not part of an identity.
        other: String,
    },
}

impl Bundle {
    /// Reads `ca.crt`, `tls.crt` and `tls.key` in `directory`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(directory: &Path) -> Result<Self, BundleError> {
        let text = |name| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|error| BundleError::Io { path, error })
        };
        Self::checked(directory, text(CA)?, text(CERTIFICATE)?, text(KEY)?)
    }

    /// The same from PEM texts; errors name the file that the text would be in.
    ///
    /// # Errors
    /// A text does not hold what it should.
    pub fn from_pem(ca: String, certificate: String, key: String) -> Result<Self, BundleError> {
        Self::checked(Path::new(""), ca, certificate, key)
    }

    /// Who we are.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The CA certificates, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// Our certificate and its chain, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// Our private key, PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// Writes the three files so that a reader finds either the old identity
    /// or the new one. Files are 0600, the directory is 0700, whatever the
    /// umask is. Missing parents are made. What was written survives a power cut.
    ///
    /// # Errors
    /// The directory holds other files, or the disk fails.
    pub fn write(&self, directory: &Path) -> Result<(), BundleError> {
        self.put(directory, || true).map(drop)
    }

    /// The same where `before` is still what is there; false when somebody has put another identity in its place.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn replace(&self, directory: &Path, before: &Self) -> Result<bool, BundleError> {
        self.put(directory, || Self::read(directory).is_ok_and(|found| found == *before))
    }

    /// Writes it if nobody else writes there and `wanted` says so then.
    fn put(&self, directory: &Path, wanted: impl FnOnce() -> bool) -> Result<bool, BundleError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| BundleError::Io { path, error }
        };
        let name = directory.file_name().ok_or_else(|| BundleError::Content {
            path: directory.to_owned(),
            rule: "is not the name of a directory".to_owned(),
        })?;
        let parent = parent(directory);
        create_directory(parent).map_err(at(parent))?;
        let lock = File::open(parent).map_err(at(parent))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| at(parent)(error.into()))?;
        let exists = refuse_foreign(directory)?;
        if !wanted() {
            return Ok(false);
        }
        let new = parent.join(format!(".{}.new", name.to_string_lossy()));
        remove_bundle(&new).map_err(at(&new))?;
        let flags = if exists { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        let put = self.fill(&new).and_then(|()| {
            renameat_with(CWD, &new, CWD, directory, flags).map_err(|error| at(directory)(error.into()))
        });
        if let Err(error) = put {
            // The first error tells more than one of tidying up.
            let _ = remove_bundle(&new);
            return Err(error);
        }
        sync(parent).map_err(at(parent))?;
        if exists {
            remove_bundle(&new).map_err(at(&new))?;
        }
        Ok(true)
    }

    /// Makes `directory` with our files.
    fn fill(&self, directory: &Path) -> Result<(), BundleError> {
        let io = |path: &Path, error| BundleError::Io { path: path.to_owned(), error };
        DirBuilder::new().mode(0o700).create(directory).map_err(|error| io(directory, error))?;
        for (name, text) in [(CA, &self.ca), (CERTIFICATE, &self.certificate), (KEY, &self.key)] {
            let path = directory.join(name);
            write_private(&path, text).map_err(|error| io(&path, error))?;
        }
        sync(directory).map_err(|error| io(directory, error))
    }

    /// The CA certificates as trust anchors.
    pub(crate) fn roots(&self) -> Result<RootCertStore, BundleError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.root_certificates()? {
            roots.add(certificate).map_err(|error| content(Path::new(CA), error))?;
        }
        Ok(roots)
    }

    /// The CA certificates.
    pub(crate) fn root_certificates(&self) -> Result<Vec<CertificateDer<'static>>, BundleError> {
        certificates(Path::new(CA), &self.ca)
    }

    /// Whose our certificate is, of which epoch, and how long it lasts.
    ///
    /// # Errors
    /// Never of one that was read.
    pub fn holder(&self) -> Result<Holder, BundleError> {
        let path = Path::new(CERTIFICATE);
        let chain = self.chain()?;
        let leaf = chain.first().ok_or_else(|| content(path, "holds no certificate"))?;
        Holder::of_certificate(leaf)
            .map_err(|error| BundleError::Identity { path: path.to_owned(), error: Box::new(error) })
    }

    /// Our certificate, then its chain.
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, BundleError> {
        certificates(Path::new(CERTIFICATE), &self.certificate)
    }

    /// Our private key.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, BundleError> {
        private_key(Path::new(KEY), &self.key)
    }

    fn checked(directory: &Path, ca: String, certificate: String, key: String) -> Result<Self, BundleError> {
        let (ca_path, certificate_path, key_path) =
            (directory.join(CA), directory.join(CERTIFICATE), directory.join(KEY));
        for root in certificates(&ca_path, &ca)? {
            RootCertStore::empty().add(root).map_err(|error| content(&ca_path, error))?;
        }
        let chain = certificates(&certificate_path, &certificate)?;
        let leaf = chain.first().ok_or_else(|| content(&certificate_path, "holds no certificate"))?;
        let id = SpiffeId::of_certificate(leaf)
            .map_err(|error| BundleError::Identity { path: certificate_path, error: Box::new(error) })?;
        CertifiedKey::from_der(chain, private_key(&key_path, &key)?, &crate::provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    content(&key_path, "is not the key of the certificate in tls.crt")
                }
                error => content(&key_path, error),
            },
        )?;
        Ok(Self { ca, certificate, key, id })
    }
}

impl fmt::Debug for Bundle {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("id", &self.id).finish_non_exhaustive()
    }
}

fn content(path: &Path, rule: impl fmt::Display) -> BundleError {
    BundleError::Content { path: path.to_owned(), rule: rule.to_string() }
}

fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| content(path, format_args!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(content(path, "holds no PEM certificate"));
    }
    Ok(certificates)
}

fn private_key(path: &Path, pem: &str) -> Result<PrivateKeyDer<'static>, BundleError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => content(path, "holds no PEM private key"),
        error => content(path, format_args!("is not PEM: {error}")),
    })
}

/// Whether the directory exists; an error when it holds anything but a bundle.
fn refuse_foreign(directory: &Path) -> Result<bool, BundleError> {
    let at = |error| BundleError::Io { path: directory.to_owned(), error };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at(error)),
    };
    for entry in entries {
        let name = entry.map_err(at)?.file_name();
        if !FILES.iter().any(|file| name == *file) {
            let other = name.to_string_lossy().into_owned();
            return Err(BundleError::Foreign { path: directory.to_owned(), other });
        }
    }
    Ok(true)
}

/// Removes a directory with nothing but a bundle in it; absent is done.
fn remove_bundle(directory: &Path) -> io::Result<()> {
    let absent_is_done = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for name in FILES {
        absent_is_done(fs::remove_file(directory.join(name)))?;
    }
    absent_is_done(fs::remove_dir(directory))
}

/// A new file that only its owner reads, on disk.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes a directory and its missing parents; no power cut takes them away again.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = parent(directory);
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync(parent),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or_else(|| Path::new("."))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
