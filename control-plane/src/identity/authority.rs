//! The CA: it stamps SPIFFE ids into certificates.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use loden_proto::InvalidValue;
use loden_proto::model::RootHash;
use loden_proto::names::{ClusterName, NodeId};
use loden_transport::{BACK_DATED, Bundle, BundleError, Role, SpiffeId, cluster_of, key_hash};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{ca_params, check_ca, date, generation_of, new_serial, subject, system_time};
use super::request::CertificateRequest;
use super::server_name::ServerName;

/// How long a CA lives.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The shortest life of a certificate.
const MIN_VALIDITY: Duration = Duration::from_secs(1);

/// A cluster's CA, and the one that comes after it or was before.
pub struct Authority {
    cluster: ClusterName,
    certificate: String,
    begins: SystemTime,
    expires: SystemTime,
    issuer: Issuer<'static, KeyPair>,
    phase: Phase,
    /// The other one that is trusted, PEM.
    other: Option<String>,
    /// This CA's key, certified by the one of before, PEM: for those who know that one only.
    cross: Option<String>,
    /// Tells what is trusted, and who issues, from anything else.
    generation: u32,
    /// Hashes of the keys of all that are trusted.
    trusted: Vec<RootHash>,
}

/// Where the change from one CA to the next stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// There is one.
    Steady,
    /// The next one is made, and everybody is told to trust it.
    Prepared,
    /// The next one issues; that of before is still trusted.
    Issuing,
}

/// A certificate cannot be made, or the CA is not usable.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The CA's certificate is not one of ours.
    #[error("{}: {rule}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What it should be.
        rule: String,
    },
    /// A name is not valid.
    #[error(transparent)]
    Name(InvalidValue),
    /// The life is too short or outlives the CA.
    #[error("validity: {0}")]
    Validity(InvalidValue),
    /// Key or certificate could not be made.
    #[error("certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// What was made cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new private key, PEM.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new_key() -> Result<String, AuthorityError> {
        Ok(KeyPair::generate()?.serialize_pem())
    }

    /// A CA for `cluster` with a given key (PEM).
    ///
    /// # Errors
    /// The key is none, or the cluster's name does not fit into a server's DNS name.
    pub fn create(cluster: &ClusterName, key: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        ServerName::of_cluster(cluster)?;
        let key = KeyPair::from_pem(key)?;
        // Below it there is the key of the next one, while it is changed for that.
        let params = ca_params(cluster, 1, now, now + CA_VALIDITY)?;
        let certificate = params.self_signed(&key)?.pem();
        Self::load(&certificate, &key.serialize_pem(), Path::new("ca.crt"))
    }

    /// A CA from its certificate and key (PEM); errors name the certificate's path.
    ///
    /// # Errors
    /// Either is not usable, or the certificate names no cluster.
    pub fn load(certificate: &str, key: &str, path: &Path) -> Result<Self, AuthorityError> {
        let refuse = |rule: &dyn fmt::Display| AuthorityError::Certificate {
            path: path.to_owned(),
            rule: rule.to_string(),
        };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| refuse(&format_args!("is no PEM certificate: {error}")))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| refuse(&error))?;
        let cluster = cluster_of(&der)
            .ok_or_else(|| refuse(&"names no cluster; a URI spiffe://<cluster> is required"))?;
        let key = KeyPair::from_pem(key).map_err(|_| {
            refuse(&"has a key, in ca.key, that is none in PKCS #8 (PEM, \"BEGIN PRIVATE KEY\")")
        })?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(refuse(&"does not belong to the key in ca.key"));
        }
        check_ca(&parsed).map_err(|rule| refuse(&rule))?;
        let validity = parsed.validity();
        let (begins, expires) = (system_time(&validity.not_before), system_time(&validity.not_after));
        Ok(Self {
            cluster,
            certificate: certificate.to_owned(),
            begins,
            expires,
            issuer: Issuer::from_ca_cert_pem(certificate, key)?,
            phase: Phase::Steady,
            other: None,
            cross: None,
            generation: generation_of(certificate),
            trusted: key_hash(&der).into_iter().collect(),
        })
    }

    /// The same while another one is trusted as well. `cross`: this one's key, certified by the other one.
    #[must_use]
    pub(super) fn beside(self, phase: Phase, other: String, cross: Option<String>) -> Self {
        let generation = generation_of(&format!("{}{other}", self.certificate));
        let der = CertificateDer::from_pem_slice(other.as_bytes()).ok();
        let trusted = self.trusted.iter().copied().chain(der.and_then(|der| key_hash(&der))).collect();
        Self { phase, other: Some(other), cross, generation, trusted, ..self }
    }

    /// Certifies the key of the next CA (PEM, until this one ends): those who trust this one believe what that one
    /// issues.
    ///
    /// # Errors
    /// Never for a CA that was loaded.
    pub(super) fn certify_next(&self, next: &Self, now: SystemTime) -> Result<String, AuthorityError> {
        let params = ca_params(&self.cluster, 0, now, self.expires)?;
        Ok(params.signed_by(next.issuer.key(), &self.issuer)?.pem())
    }

    /// Whether a certificate (PEM, from that file) is of another CA of the cluster: not one with the key of this one.
    ///
    /// # Errors
    /// It is of none.
    pub(super) fn is_beside(&self, pem: &str, path: &Path) -> Result<bool, AuthorityError> {
        let refuse = |rule: String| AuthorityError::Certificate { path: path.to_owned(), rule };
        let none = || refuse(format!("is no CA's certificate with the URI spiffe://{}", self.cluster));
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| none())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| none())?;
        if cluster_of(&der).as_ref() != Some(&self.cluster) {
            return Err(none());
        }
        check_ca(&parsed).map_err(|rule| refuse(rule.to_owned()))?;
        Ok(parsed.public_key().subject_public_key.data.as_ref() != self.issuer.key().public_key_raw())
    }

    /// When it begins to be good.
    #[must_use]
    pub const fn begins(&self) -> SystemTime {
        self.begins
    }

    /// When it ends.
    #[must_use]
    pub const fn expires(&self) -> SystemTime {
        self.expires
    }

    /// How long a certificate can live, if not as long as that: no longer than the CA.
    #[must_use]
    pub fn most(&self, validity: Duration, now: SystemTime) -> Duration {
        validity.min(self.expires.duration_since(now).unwrap_or_default())
    }

    /// Where the change to the next one stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// All that are trusted, PEM, this one first.
    #[must_use]
    pub fn trust_pem(&self) -> String {
        [Some(&self.certificate), self.other.as_ref()].into_iter().flatten().map(|pem| pem.as_str()).collect()
    }

    /// Tells what is trusted, and who issues, from anything else; never 0. Compared for equality only.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the CA with a public key of this hash is trusted.
    #[must_use]
    pub fn trusts(&self, root: RootHash) -> bool {
        self.trusted.contains(&root)
    }

    /// The certificates that are trusted, this one first.
    fn roots(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.trust_pem().as_bytes()).flatten().collect()
    }

    /// Hash of the key (hexadecimal digits) and end of each that is trusted, this one first.
    pub fn described(&self) -> impl Iterator<Item = (String, SystemTime)> {
        self.roots().into_iter().filter_map(|root| {
            let hash = key_hash(&root)?.to_string();
            let (_, parsed) = X509Certificate::from_der(&root).ok()?;
            Some((hash, system_time(&parsed.validity().not_after)))
        })
    }

    /// A certificate of this CA with what leads to all that are trusted.
    fn chain(&self, certificate: &str) -> String {
        format!("{certificate}{}", self.cross.as_deref().unwrap_or_default())
    }

    /// The cluster whose identities it stamps.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate with a new key for `role`, dated back five minutes. A control plane's serves, all others
    /// are clients'. Those of a node have its identity epoch.
    ///
    /// # Errors
    /// The validity is under a second or outlives the CA.
    pub fn issue(
        &self,
        role: Role,
        names: &[ServerName],
        epoch: u32,
        validity: Duration,
        now: SystemTime,
    ) -> Result<Bundle, AuthorityError> {
        let key = KeyPair::generate()?;
        let params = self.params(role, names, epoch, validity, now)?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Bundle::from_pem(self.trust_pem(), self.chain(&certificate), key.serialize_pem())?)
    }

    /// A node's certificate (PEM) for a key of its own, dated back five minutes.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn certify(
        &self,
        node: NodeId,
        request: &CertificateRequest,
        epoch: u32,
        validity: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let params = self.params(Role::Node(node), &[], epoch, validity, now)?;
        // The control plane trusts all of them: nothing has to lead to another one.
        Ok(params.signed_by(request.key(), &self.issuer)?.pem())
    }

    /// SHA-256 of its public key, by which a host knows it that has a token.
    ///
    /// # Errors
    /// Never of a CA that was loaded.
    pub fn hash(&self) -> Result<RootHash, AuthorityError> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok();
        der.and_then(|der| key_hash(&der)).ok_or(AuthorityError::Make(rcgen::Error::CouldNotParseCertificate))
    }

    fn params(
        &self,
        role: Role,
        names: &[ServerName],
        epoch: u32,
        validity: Duration,
        now: SystemTime,
    ) -> Result<CertificateParams, AuthorityError> {
        let shown = humantime::format_duration(validity).to_string();
        let not_after = now.checked_add(validity).filter(|end| *end <= self.expires).ok_or_else(|| {
            let rule = format!("ends after the CA, on {}", humantime::format_rfc3339_seconds(self.expires));
            AuthorityError::Validity(InvalidValue::new(&shown, rule))
        })?;
        if validity < MIN_VALIDITY {
            return Err(AuthorityError::Validity(InvalidValue::new(shown, "must be at least 1s")));
        }
        let mut params = CertificateParams::default();
        let (subject_name, usage) = match &role {
            Role::ControlPlane(_) => ("control plane", ExtendedKeyUsagePurpose::ServerAuth),
            Role::Node(_) => ("node", ExtendedKeyUsagePurpose::ClientAuth),
            Role::Admin(_) => ("admin", ExtendedKeyUsagePurpose::ClientAuth),
            Role::Reader(_) => ("reader", ExtendedKeyUsagePurpose::ClientAuth),
        };
        params.distinguished_name = subject(subject_name);
        let id = SpiffeId { cluster: self.cluster.clone(), role };
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        for name in names {
            params.subject_alt_names.push(match name {
                ServerName::Dns(name) => SanType::DnsName(name.as_ref().try_into()?),
                ServerName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(new_serial(epoch, self.generation));
        params.not_before = date(now - BACK_DATED);
        params.not_after = date(not_after);
        Ok(params)
    }

    /// All names of a server: the one that every client verifies, and those given.
    pub(super) fn server_names(&self, given: &[ServerName]) -> Vec<ServerName> {
        let mut names: Vec<_> = ServerName::of_cluster(&self.cluster).into_iter().collect();
        names.extend(given.iter().cloned());
        names
    }

    /// Why a server's bundle is not the one wanted, if it is not. It must hold at `until`.
    pub(super) fn unfit(
        &self,
        bundle: &Bundle,
        role: &Role,
        names: &[ServerName],
        until: SystemTime,
    ) -> Option<String> {
        if bundle.ca_pem() != self.trust_pem() {
            return Some("it was of other CAs".to_owned());
        }
        if bundle.id().role != *role || bundle.id().cluster != self.cluster {
            return Some(format!("it was for {}", bundle.id()));
        }
        let Ok(der) = CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes()) else {
            return Some("it was no certificate".to_owned());
        };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
            return Some("it was no certificate".to_owned());
        };
        if system_time(&certificate.validity().not_after) < until {
            return Some(format!("it was valid until {}", certificate.validity().not_after));
        }
        let has: HashSet<_> = ServerName::all_of(&certificate).collect();
        let wanted: HashSet<_> = names.iter().cloned().collect();
        (has != wanted).then(|| "it was for other names".to_owned())
    }
}
