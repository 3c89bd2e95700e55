//! A request for a certificate (PKCS #10, RFC 2986): of it only the key counts, and that the sender has it.

use loden_proto::InvalidValue;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::ledger::digest;

/// Longest request, in bytes; ours have a hundred.
pub(crate) const LONGEST: usize = 16 << 10;

/// A key whose owner asks for a certificate.
pub struct CertificateRequest {
    key: SubjectPublicKeyInfo,
    hash: String,
}

impl CertificateRequest {
    /// Reads a request (DER) and checks its signature. The names in it are not looked at.
    ///
    /// # Errors
    /// It is too long, no such request, its signature is not the key's, or the key is of a kind that is not taken.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidValue> {
        let invalid = |rule: String| InvalidValue::new(format_args!("{} bytes", der.len()), rule);
        if der.len() > LONGEST {
            return Err(invalid(format!("must be at most {LONGEST} bytes")));
        }
        let form = "must be a PKCS #10 request in DER";
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| invalid(form.to_owned()))?;
        if !rest.is_empty() {
            return Err(invalid(format!("{form}, and nothing after it")));
        }
        let raw = request.certification_request_info.subject_pki.raw;
        let taken = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        let key = SubjectPublicKeyInfo::from_der(raw).ok();
        let key = key.filter(|key| taken.contains(&rcgen::PublicKeyData::algorithm(key)));
        let kinds = "must be for an ECDSA key with P-256 or P-384, or an Ed25519 key";
        let key = key.ok_or_else(|| invalid(kinds.to_owned()))?;
        if request.verify_signature().is_err() {
            return Err(invalid("must be signed with the key that it is for".to_owned()));
        }
        Ok(Self { key, hash: digest(raw) })
    }

    /// The key.
    pub(super) const fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// SHA-256 of it, in hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

#[cfg(test)]
mod tests {
    use loden_transport::KeyRequest;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn refused(der: &[u8]) -> String {
        CertificateRequest::from_der(der).err().unwrap().to_string()
    }

    #[test]
    fn a_request_is_its_key_whatever_it_says_beside() {
        let ours = KeyRequest::new().unwrap();
        let read = CertificateRequest::from_der(ours.der()).unwrap();
        let again = KeyRequest::for_key(ours.key_pem()).unwrap();
        assert_eq!(CertificateRequest::from_der(again.der()).unwrap().hash(), read.hash());
        let key = KeyPair::from_pem(ours.key_pem()).unwrap();
        let forged = CertificateParams::new(["control-plane.loden.loden".to_owned()]).unwrap();
        let forged = forged.serialize_request(&key).unwrap();
        assert_eq!(CertificateRequest::from_der(forged.der()).unwrap().hash(), read.hash());
        for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(kind).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            CertificateRequest::from_der(request.der()).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_a_request_is_told() {
        assert!(refused(&[]).ends_with("must be a PKCS #10 request in DER"));
        assert!(refused(&[0; LONGEST + 1]).contains("\"16385 bytes\" must be at most 16384 bytes"));
        let whole = KeyRequest::new().unwrap();
        assert!(refused(&[whole.der(), &[0]].concat()).ends_with("and nothing after it"));
        for cut in 0..whole.der().len() {
            refused(&whole.der()[..cut]);
        }
        let mut bent = whole.der().to_vec();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        assert!(refused(&bent).contains("must be"), "its signature is another's");
    }
}
