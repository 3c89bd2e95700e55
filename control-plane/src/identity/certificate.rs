//! What certificates are made of, and what of others is looked at.

use std::time::{Duration, SystemTime};

use loden_proto::names::ClusterName;
use loden_transport::{BACK_DATED, SERIAL_RANDOM, serial};
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SanType,
    SerialNumber,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use super::AuthorityError;

/// Whether others believe what it signs (RFC 5280 §4.2.1.9 and §4.2.1.3).
pub(super) fn check_ca(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    if !certificate.is_ca() {
        return Err("is no CA's certificate (basicConstraints CA:TRUE)");
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => {
            Err("may not sign certificates (keyUsage keyCertSign)")
        }
        _ => Ok(()),
    }
}

/// Of a CA with so many others below it.
pub(super) fn ca_params(
    cluster: &ClusterName,
    below: u8,
    now: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("CA of {cluster}"));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{cluster}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(new_serial(0, 0));
    params.not_before = date(now - BACK_DATED);
    params.not_after = date(until);
    Ok(params)
}

pub(super) fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Loden");
    // At most 64 characters (RFC 5280 appendix A.1, ub-common-name); the identity is the URI.
    subject.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    subject
}

/// Never 0. `trust`: all that are trusted, PEM, the one that issues first.
pub(super) fn generation_of(trust: &str) -> u32 {
    let hash = Sha256::digest(trust);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).max(1)
}

pub(super) fn new_serial(epoch: u32, generation: u32) -> SerialNumber {
    let mut random = [0; SERIAL_RANDOM];
    rand::rng().fill_bytes(&mut random);
    SerialNumber::from_slice(&serial(epoch, generation, random))
}

pub(super) fn date(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(time).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(super) fn system_time(time: &x509_parser::time::ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
