//! The CA that several control planes share: the files of its directory, sealed, as one record of their store.
//!
//! ```text
//!  first start, and each change here: files ─▶ seal ─▶ record
//!  other starts, and changes elsewhere: record ─▶ unseal ─▶ files here
//!
//!  sealed = base64 of nonce (12 bytes), AES-256-GCM of JSON {name: base64 of contents}
//! ```
//!
//! The key is made of the seal file, which every control plane has, and etcd has not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use loden_proto::names::ClusterName;
use rand::RngCore;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use tracing::warn;

use super::{
    CA_CERTIFICATE, CA_KEY, PkiError, TOKEN_KEY, UNPROVEN,
    changes::CHANGES,
    file,
    lifetime::{LONGEST, UNTIL},
    rotation::{CROSS, NEXT, PREVIOUS},
};

/// What is shared, in the order in which it is written: keys before their certificates, and last how often all that was
/// changed, so that a copy that was cut off never looks later than it is.
const SHARED: [&str; 11] = [
    TOKEN_KEY,
    UNPROVEN,
    LONGEST,
    CA_KEY,
    CA_CERTIFICATE,
    UNTIL,
    CROSS,
    PREVIOUS,
    "next/ca.key",
    "next/ca.crt",
    CHANGES,
];
/// Fewer bytes are guessed too easily.
const SHORTEST: usize = 32;
const CONTEXT: &[u8] = b"loden shared CA 1";

/// Contents of files, by their names in the CA's directory.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Seals and unseals the CA of a cluster.
pub struct Seal {
    key: LessSafeKey,
    cluster: ClusterName,
}

/// A seal cannot be used, or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file is not there or cannot be read.
    #[error("ca-seal-file: {}: {source}", path.display())]
    File {
        /// The seal file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is too short to keep a secret.
    #[error("ca-seal-file: {} has {bytes} bytes, and must have at least {SHORTEST}, from a source of chance", path.display())]
    Short {
        /// The seal file.
        path: PathBuf,
        /// How many it has.
        bytes: usize,
    },
    /// The CA was sealed with another file, or for another cluster, or is damaged.
    #[error(
        "ca-seal-file: the CA in the store was not sealed with this file for cluster \"{cluster}\"; if the file that \
         it was sealed with is lost, have the CA in pki/ take its place: loden-control-plane store share-ca"
    )]
    Other {
        /// The cluster's name, as configured.
        cluster: ClusterName,
    },
}

impl Seal {
    /// The seal in a file.
    ///
    /// # Errors
    /// It cannot be read, or is too short.
    pub fn read(path: &Path, cluster: &ClusterName) -> Result<Self, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let secret = fs::read(path).map_err(failed)?;
        if secret.len() < SHORTEST {
            return Err(SealError::Short { path: path.to_owned(), bytes: secret.len() });
        }
        if file::is_open_to_others(path).unwrap_or(false) {
            warn!(file = %path.display(), "the seal file is accessible to other users");
        }
        Ok(Self::of(&secret, cluster))
    }

    fn of(secret: &[u8], cluster: &ClusterName) -> Self {
        let pseudorandom = Salt::new(HKDF_SHA256, &[]).extract(secret);
        let info = [CONTEXT];
        let key: UnboundKey = pseudorandom
            .expand(&info, &AES_256_GCM)
            .map(Into::into)
            // A key of 32 bytes is one of the lengths that HKDF makes.
            .unwrap_or_else(|_| unreachable!("HKDF makes keys of this length"));
        Self { key: LessSafeKey::new(key), cluster: cluster.clone() }
    }

    /// The files as text that says nothing to others.
    #[must_use]
    pub fn close(&self, files: &Files) -> String {
        let texts: BTreeMap<_, _> =
            files.iter().map(|(name, bytes)| (name, STANDARD.encode(bytes))).collect();
        let mut bytes = serde_json::to_vec(&texts).unwrap_or_default();
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let (aad, unique) = (Aad::from(self.cluster.to_string()), Nonce::assume_unique_for_key(nonce));
        if self.key.seal_in_place_append_tag(unique, aad, &mut bytes).is_err() {
            unreachable!("the files of a CA are no 64 GiB");
        }
        STANDARD.encode([&nonce[..], &bytes].concat())
    }

    /// The files again.
    ///
    /// # Errors
    /// It was sealed otherwise, or is damaged.
    pub fn open(&self, sealed: &str) -> Result<Files, SealError> {
        let other = || SealError::Other { cluster: self.cluster.clone() };
        let bytes = STANDARD.decode(sealed).map_err(|_| other())?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(other)?;
        let mut rest = rest.to_vec();
        let (aad, unique) = (Aad::from(self.cluster.to_string()), Nonce::assume_unique_for_key(*nonce));
        let opened = self.key.open_in_place(unique, aad, &mut rest).map_err(|_| other())?;
        let texts: BTreeMap<String, String> = serde_json::from_slice(opened).map_err(|_| other())?;
        let decoded = texts.into_iter().map(|(name, text)| Some((name, STANDARD.decode(text).ok()?)));
        decoded.collect::<Option<_>>().ok_or_else(other)
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The shared files of a directory. The caller holds its lock.
pub(super) fn collect(directory: &Path) -> Result<Files, PkiError> {
    let mut files = Files::new();
    for name in SHARED {
        if let Some(bytes) = file::read(&directory.join(name))? {
            files.insert(name.to_owned(), bytes);
        }
    }
    Ok(files)
}

/// Makes the shared files of a directory these ones. The caller holds its lock.
pub(super) fn put(directory: &Path, files: &Files) -> Result<(), PkiError> {
    file::create_private_directory(&directory.join(NEXT))?;
    for name in SHARED {
        let path = directory.join(name);
        match files.get(name) {
            Some(bytes) if file::read(&path)?.as_ref() == Some(bytes) => {}
            Some(bytes) => file::write_private(&path, bytes)?,
            None => file::remove(&path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &[u8], cluster: &str) -> Seal {
        Seal::of(secret, &cluster.parse().unwrap())
    }

    #[test]
    fn only_the_same_seal_of_the_same_cluster_opens_it() {
        let files: Files =
            [("ca.key".to_owned(), vec![1, 2, 3]), ("token.key".to_owned(), vec![0; 32])].into();
        let sealed = seal(&[7; 32], "demo").close(&files);
        assert!(!sealed.contains("ca.key"));
        assert_eq!(seal(&[7; 32], "demo").open(&sealed).unwrap(), files);
        for other in [seal(&[8; 32], "demo"), seal(&[7; 33], "demo"), seal(&[7; 32], "prod")] {
            let refused = other.open(&sealed).unwrap_err().to_string();
            assert!(refused.contains("was not sealed with this file for cluster"), "{refused}");
        }
        assert!(seal(&[7; 32], "demo").open(&sealed[4..]).is_err());
        assert!(seal(&[7; 32], "demo").open("no base64").is_err());
        assert_ne!(seal(&[7; 32], "demo").close(&files), sealed, "each with a nonce of its own");
    }

    #[test]
    fn a_seal_file_says_what_is_wrong_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal");
        let cluster = "demo".parse().unwrap();
        let refused = || Seal::read(&path, &cluster).unwrap_err().to_string();
        assert!(refused().starts_with("ca-seal-file: ") && refused().contains("No such file"));
        fs::write(&path, [0; 31]).unwrap();
        assert!(refused().contains("has 31 bytes, and must have at least 32"));
        fs::write(&path, [0; 32]).unwrap();
        Seal::read(&path, &cluster).unwrap();
    }

    #[test]
    fn files_of_one_directory_become_those_of_another() {
        let [here, there] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for name in [TOKEN_KEY, CA_KEY, CA_CERTIFICATE, PREVIOUS] {
            fs::write(here.path().join(name), name).unwrap();
        }
        fs::write(here.path().join("incarnation"), "its own").unwrap();
        let files = collect(here.path()).unwrap();
        assert_eq!(files.len(), 4);
        fs::write(there.path().join(CROSS), "of before").unwrap();
        put(there.path(), &files).unwrap();
        assert_eq!(collect(there.path()).unwrap(), files);
        put(there.path(), &files).unwrap();
        assert_eq!(collect(there.path()).unwrap(), files);
    }
}
