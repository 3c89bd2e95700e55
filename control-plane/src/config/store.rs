//! Where the records are kept, and how an etcd is reached.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};
use loden_proto::InvalidValue;

use crate::store::{EtcdAddress, EtcdOptions};

/// Which store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreAddress {
    /// sled in this directory.
    Sled(PathBuf),
    /// An etcd, below a prefix.
    Etcd(EtcdAddress),
}

impl FromStr for StoreAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.split_once(':') {
            Some(("sled", "")) => Err(InvalidValue::new(text, "must name a directory after sled:")),
            Some(("sled", directory)) => Ok(Self::Sled(directory.into())),
            Some(("etcd" | "etcds", _)) => text.parse().map(Self::Etcd),
            _ => Err(InvalidValue::new(
                text,
                "must be sled:DIR, etcd://HOST[:PORT],…/PREFIX, or etcds://… for TLS",
            )),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sled(directory) => write!(f, "sled:{}", directory.display()),
            Self::Etcd(address) => address.fmt(f),
        }
    }
}

/// Where the records are kept.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreArgs {
    /// Where the records are kept: sled:DIR for one control plane, etcd://HOST:PORT,…/PREFIX (etcds:// for TLS) for
    /// several; without it, by sled in the state directory
    #[arg(long, env = "LODEN_STORE", value_name = "STORE", global = true)]
    pub store: Option<StoreAddress>,

    /// CA certificates (PEM) that etcds:// believes
    #[arg(long, env = "LODEN_ETCD_CA", value_name = "FILE", global = true)]
    pub etcd_ca: Option<PathBuf>,

    /// Certificate (PEM) to show to etcd, with --etcd-key
    #[arg(long, env = "LODEN_ETCD_CERTIFICATE", value_name = "FILE", requires = "etcd_key", global = true)]
    pub etcd_certificate: Option<PathBuf>,

    /// Key (PEM) of --etcd-certificate
    #[arg(long, env = "LODEN_ETCD_KEY", value_name = "FILE", requires = "etcd_certificate", global = true)]
    pub etcd_key: Option<PathBuf>,

    /// Name of a user of etcd, with --etcd-password-file
    #[arg(
        long,
        env = "LODEN_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password_file",
        global = true
    )]
    pub etcd_user: Option<String>,

    /// File with the password of --etcd-user
    #[arg(
        long,
        env = "LODEN_ETCD_PASSWORD_FILE",
        value_name = "FILE",
        requires = "etcd_user",
        global = true
    )]
    pub etcd_password_file: Option<PathBuf>,

    /// File of 32 bytes or more, the same at every control plane of one etcd: with it the CA is sealed that they share
    #[arg(long, env = "LODEN_CA_SEAL_FILE", value_name = "FILE", global = true)]
    pub ca_seal_file: Option<PathBuf>,
}

/// What to do with stores.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Make an empty store in the etcd of --store
    ///
    /// Once for each cluster: a control plane makes none there by itself, so that a misspelt prefix is no new cluster.
    Create,
    /// Copy all of a store to where there is none, with nobody running on it
    ///
    /// From sled to etcd or back, or to another prefix: leases, VNIs and the positions of agents stay what they are. The
    /// shared CA goes along from etcd to etcd only: one control plane has it in its state directory alone.
    Copy {
        /// The store to read, as in --store
        #[arg(long, value_name = "STORE")]
        from: StoreAddress,
        /// The store to make
        #[arg(long, value_name = "STORE")]
        to: StoreAddress,
    },
    /// Share the CA of the state directory in place of the one in the etcd of --store, with nobody running on it
    ///
    /// Where the file is lost that the one there was sealed with, or where this one is the one to keep.
    ShareCa,
}

/// A file of a flag cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {}: {source}", path.display())]
pub struct FlagFileError {
    flag: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FlagFileError {
    /// Of this flag.
    pub(crate) const fn new(flag: &'static str, path: PathBuf, source: io::Error) -> Self {
        Self { flag, path, source }
    }
}

impl StoreArgs {
    /// Checks what no flag can check alone.
    pub(super) fn check(&self) -> Result<(), InvalidValue> {
        let Some(StoreAddress::Etcd(address)) = &self.store else { return Ok(()) };
        if address.tls && self.etcd_ca.is_none() {
            let rule = "needs --etcd-ca: nobody is believed without";
            return Err(InvalidValue::new(address, rule).at("store"));
        }
        if !address.tls && (self.etcd_ca.is_some() || self.etcd_certificate.is_some()) {
            let rule = "must begin with etcds:// where --etcd-ca or --etcd-certificate is given";
            return Err(InvalidValue::new(address, rule).at("store"));
        }
        if self.ca_seal_file.is_none() {
            let rule = "needs --ca-seal-file: control planes of one etcd share a CA, which must not be readable there";
            return Err(InvalidValue::new(address, rule).at("store"));
        }
        Ok(())
    }

    /// How an etcd is reached.
    ///
    /// # Errors
    /// Names the flag whose file cannot be read.
    pub fn etcd(&self, address: &EtcdAddress) -> Result<EtcdOptions, FlagFileError> {
        let mut options = EtcdOptions::new(address.clone());
        options.ca = self.etcd_ca.as_deref().map(|path| read("etcd-ca", path)).transpose()?;
        if let (Some(certificate), Some(key)) = (&self.etcd_certificate, &self.etcd_key) {
            options.identity = Some((read("etcd-certificate", certificate)?, read("etcd-key", key)?));
        }
        if let (Some(user), Some(path)) = (&self.etcd_user, &self.etcd_password_file) {
            let password = read("etcd-password-file", path)?;
            options.user = Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned()));
        }
        Ok(options)
    }
}

fn read(flag: &'static str, path: &Path) -> Result<String, FlagFileError> {
    fs::read_to_string(path).map_err(|source| FlagFileError::new(flag, path.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_read_and_written() {
        for text in ["sled:/var/lib/x", "etcd://a:2379/loden", "etcds://a:2379,b:2379/loden/x"] {
            assert_eq!(text.parse::<StoreAddress>().unwrap().to_string(), text);
        }
        for (text, rule) in
            [("sled:", "directory"), ("/x", "sled:DIR"), ("etcd://a", "PREFIX"), ("zk://a/b", "sled:DIR")]
        {
            let refused = text.parse::<StoreAddress>().unwrap_err().to_string();
            assert!(refused.contains(rule), "{text}: {refused}");
        }
    }

    #[test]
    fn flags_that_need_each_other_are_asked_for() {
        let store = |text: &str| StoreArgs { store: Some(text.parse().unwrap()), ..StoreArgs::default() };
        let refused = |args: &StoreArgs| args.check().unwrap_err().to_string();
        assert!(refused(&store("etcds://a/x")).contains("--etcd-ca"));
        assert!(refused(&store("etcd://a/x")).contains("--ca-seal-file"));
        let plain = StoreArgs { etcd_ca: Some("/ca".into()), ..store("etcd://a/x") };
        assert!(refused(&plain).contains("etcds://"));
        let whole = StoreArgs { ca_seal_file: Some("/seal".into()), ..store("etcd://a/x") };
        whole.check().unwrap();
        let error = whole.etcd(&"etcd://a/x".parse().unwrap()).map(drop);
        assert!(error.is_ok());
        let missing = StoreArgs { etcd_ca: Some("/none/such".into()), ..whole };
        let error = missing.etcd(&"etcds://a/x".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "etcd-ca: /none/such: No such file or directory (os error 2)");
    }
}
