//! A CA and certificates, made on the fly.

use loden_transport::Bundle;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The cluster of the tests.
pub(crate) const CLUSTER: &str = "spiffe://demo";
/// The name that servers of the cluster carry.
pub(crate) const SERVER_NAME: &str = "control-plane.demo.loden";

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("Loden test CA")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key, with these URIs and DNS names, bent by `bend`.
    pub(crate) fn issue(
        &self,
        uris: &[&str],
        names: &[&str],
        bend: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .subject_alt_names
            .extend(uris.iter().map(|uri| SanType::URI(uri.to_string().try_into().unwrap())));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        bend(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A bundle of `role` ("node/a") in the cluster, with these DNS names.
    pub(crate) fn bundle(&self, role: &str, names: &[&str]) -> Bundle {
        let (certificate, key) = self.issue(&[&format!("{CLUSTER}/{role}")], names, |_| ());
        Bundle::from_pem(self.pem(), certificate, key).unwrap()
    }

    /// A control plane's bundle.
    pub(crate) fn server(&self) -> Bundle {
        self.bundle("control-plane/cp-1", &[SERVER_NAME])
    }
}
