//! etcd's own certificates, which have nothing to do with the cluster's.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Files of a CA, of the members and of a client.
#[derive(Debug)]
pub(super) struct Certificates {
    directory: PathBuf,
    ca: PathBuf,
    server: [PathBuf; 2],
    client: [PathBuf; 2],
}

impl Certificates {
    /// Makes them in a directory, which is made; the members have these addresses.
    pub(super) fn make(directory: &Path, addresses: &[IpAddr]) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name.push(DnType::CommonName, "etcd's CA");
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let leaf = |name: &str, addresses: &[IpAddr]| -> anyhow::Result<[PathBuf; 2]> {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
            // A member is a client of itself as well, for what it serves as JSON.
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            Ok([
                write(directory, &format!("{name}.crt"), &certificate.pem())?,
                write(directory, &format!("{name}.key"), &key.serialize_pem())?,
            ])
        };
        let (server, client) = (leaf("member", addresses)?, leaf("client", &[])?);
        let ca = write(directory, "ca.crt", &issuer.pem())?;
        Ok(Self { directory: directory.to_owned(), ca, server, client })
    }

    /// Where they are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// For a member.
    pub(super) fn server_arguments(&self) -> Vec<OsString> {
        let [certificate, key] = &self.server;
        let mut arguments =
            named(["--trusted-ca-file", "--cert-file", "--key-file"], [&self.ca, certificate, key]);
        arguments.push("--client-cert-auth".into());
        arguments
    }

    /// For etcdctl.
    pub(super) fn client_arguments(&self) -> Vec<OsString> {
        let [certificate, key] = &self.client;
        named(["--cacert", "--cert", "--key"], [&self.ca, certificate, key])
    }

    /// For a control plane.
    pub(super) fn control_plane_flags(&self) -> Vec<String> {
        let [certificate, key] = &self.client;
        let flags = [("--etcd-ca", &self.ca), ("--etcd-certificate", certificate), ("--etcd-key", key)];
        flags.iter().flat_map(|(flag, file)| [(*flag).to_owned(), file.display().to_string()]).collect()
    }
}

fn named(flags: [&str; 3], files: [&PathBuf; 3]) -> Vec<OsString> {
    flags.into_iter().zip(files).flat_map(|(flag, file)| [flag.into(), file.into()]).collect()
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}
