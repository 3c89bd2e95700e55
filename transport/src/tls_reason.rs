//! Why TLS failed, in words for an operator.

use std::io;

use rustls::{AlertDescription, CertificateError};

/// The error of rustls in what tokio-rustls reports.
pub(crate) fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why TLS failed: `error` as tokio-rustls reports it.
pub(crate) fn tls_reason(error: &io::Error) -> String {
    let Some(tls) = tls(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the server closed the connection during the handshake".to_owned()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        rustls::Error::AlertReceived(alert) => received(*alert),
        rustls::Error::InvalidCertificate(problem) => {
            format!("we refused the server's certificate: {}", problem_text(problem))
        }
        other => other.to_string(),
    }
}

/// The server's verdict on us.
fn received(alert: AlertDescription) -> String {
    let reason = match alert {
        // The second one when the other CA happens to have the same name.
        AlertDescription::UnknownCA => "unknown issuer",
        AlertDescription::DecryptError => "unknown issuer, of the same name as the right one",
        AlertDescription::CertificateRequired => "none was shown",
        AlertDescription::CertificateExpired => "it is expired, or the clocks differ",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::BadCertificate => "it is malformed or its signature is wrong",
        AlertDescription::UnsupportedCertificate => "it is not made for this use",
        AlertDescription::CertificateUnknown => "it is not acceptable",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::ProtocolVersion => return "the server does not speak TLS 1.3".to_owned(),
        AlertDescription::NoApplicationProtocol => return "the server does not speak HTTP/2".to_owned(),
        other => return format!("the server ended the handshake: {other:?}"),
    };
    format!("the server refused our certificate: {reason}")
}

fn problem_text(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "unknown issuer; it is not signed by a CA in our ca.crt".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("{problem}; is our clock right?")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("{problem}; is our clock right?")
        }
        CertificateError::Other(error) => error.to_string(),
        other => other.to_string(),
    }
}
