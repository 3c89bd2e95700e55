//! The server's end of a handshake, and what one that fails tells of the client.
//!
//! ```text
//! TCP ─▶ ClientHello: the name that is dialled ─┬─▶ our certificate ─▶ the client's ─▶ Holder
//!                                               │      └─ refused       └─ refused ─▶ HandshakeError
//!                                               └─ join.loden ─▶ our certificate and CA ─▶ nobody
//! ```

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

use loden_proto::model::RootHash;
use loden_proto::names::ClusterName;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::Acceptor;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::holder::Holder;
use crate::server::{Gate, JOIN_NAME, ServerTls};
use crate::spiffe::{IdentityError, Role, SpiffeId};
use crate::tls_reason::tls;

tokio::task_local! {
    /// What the verifier has seen: it knows no connection.
    static SEEN: RefCell<Seen>;
}

/// What there is to say of a client's certificate.
#[derive(Debug, Default)]
struct Seen {
    /// Who one that is refused says that its owner is.
    refused: Option<SpiffeId>,
    /// Whose CA has made one that is good.
    root: Option<RootHash>,
}

/// A handshake that came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct HandshakeError {
    error: io::Error,
    /// The name that the client wanted to speak with.
    dialled: Option<String>,
    /// Of a certificate that we refused; nothing proves it.
    shown: Option<SpiffeId>,
}

impl HandshakeError {
    /// Whether we have refused the client: not that it was lost, or has refused us.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match tls(&self.error) {
            Some(error) => !matches!(error, rustls::Error::AlertReceived(_)),
            None => self.error.get_ref().is_some_and(|error| error.is::<IdentityError>()),
        }
    }

    /// Who a certificate that we have refused says that its owner is. Nothing proves it.
    #[must_use]
    pub const fn shown(&self) -> Option<&SpiffeId> {
        self.shown.as_ref()
    }

    /// Whether the client belongs to a cluster of this name that has another CA than ours: it refused our
    /// certificate as an unknown CA's though it wanted to speak with this cluster's control plane, or it showed
    /// a node's certificate of this cluster that is another CA's. Nothing proves it.
    #[must_use]
    pub fn is_of_another_ca(&self, cluster: &ClusterName) -> bool {
        let Some(error) = tls(&self.error) else { return false };
        match error {
            rustls::Error::AlertReceived(alert) => {
                let wanted = crate::control_plane_name(cluster);
                refuses_issuer(*alert)
                    && self.dialled.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&wanted))
            }
            // The second one when the other CA has the same name as ours, as those of one cluster have.
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => self
                .shown
                .as_ref()
                .is_some_and(|id| id.cluster == *cluster && matches!(id.role, Role::Node(_))),
            _ => false,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self { error, dialled: None, shown: None }
    }
}

/// What clients say of a certificate whose issuer they do not trust. The third one when their CA has the name of
/// ours.
const fn refuses_issuer(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateUnknown
    )
}

/// A handshake that the client has begun: until then it has cost nothing.
pub struct Hello(StartHandshake<TcpStream>);

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").finish_non_exhaustive()
    }
}

impl Hello {
    /// Waits for the client's first message, for as long as it takes.
    ///
    /// # Errors
    /// The connection was lost, or that is no ClientHello.
    pub async fn of(tcp: TcpStream) -> Result<Self, HandshakeError> {
        Ok(Self(LazyConfigAcceptor::new(Acceptor::default(), tcp).await?))
    }

    /// Whether the client has closed the connection meanwhile: what follows would be done in vain.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.0.io).peek(&mut byte) {
            Ok(count) => count == 0,
            // It waits, as it should.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Does the server's part of the handshake, for as long as it takes. Answers who the client is; nobody yet, if it
    /// comes to join.
    ///
    /// # Errors
    /// The connection was lost, TLS failed, or the client's certificate does not say who it is.
    pub async fn accept(
        self,
        tls: &ServerTls,
    ) -> Result<(TlsStream<TcpStream>, Option<Holder>), HandshakeError> {
        let Self(begun) = self;
        let dialled = begun.client_hello().server_name().map(str::to_owned);
        let joins = dialled.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(JOIN_NAME));
        let config = Arc::clone(if joins { &tls.joining } else { &tls.usual });
        let (accepted, seen) = SEEN
            .scope(RefCell::default(), async {
                let accepted = begun.into_stream(config).await;
                (accepted, SEEN.with(RefCell::take))
            })
            .await;
        let Seen { refused: shown, root } = seen;
        let stream = accepted.map_err(|error| HandshakeError { error, dialled, shown })?;
        if joins {
            return Ok((stream, None));
        }
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf =
            certificates.first().ok_or(rustls::Error::NoCertificatesPresented).map_err(io::Error::other)?;
        let holder = Holder::of_certificate(leaf).map_err(io::Error::other)?;
        Ok((stream, Some(Holder { root, ..holder })))
    }
}

/// A verifier that asks a gate as well, and leaves word of whom it has refused with the handshake that asks.
#[derive(Debug)]
pub(crate) struct Watchful {
    /// Of all CAs that are trusted.
    pub(crate) all: Arc<dyn ClientCertVerifier>,
    /// Of each alone.
    pub(crate) each: Vec<(RootHash, Arc<dyn ClientCertVerifier>)>,
    pub(crate) gate: Option<Arc<dyn Gate>>,
}

impl Watchful {
    /// Whose CA has made a certificate that is good.
    fn root_of(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<RootHash> {
        if let [(root, _)] = self.each[..] {
            return Some(root);
        }
        let made = |(_, one): &&(RootHash, Arc<dyn ClientCertVerifier>)| {
            one.verify_client_cert(leaf, intermediates, now).is_ok()
        };
        self.each.iter().find(made).map(|(root, _)| *root)
    }

    /// Whoever cannot be told is told so after the handshake.
    fn lets_in(&self, leaf: &CertificateDer<'_>, root: Option<RootHash>) -> bool {
        let holder = Holder::of_certificate(leaf).map(|holder| Holder { root, ..holder });
        self.gate.as_ref().is_none_or(|gate| holder.is_ok_and(|holder| gate.lets_in(&holder)))
    }
}

impl ClientCertVerifier for Watchful {
    fn offer_client_auth(&self) -> bool {
        self.all.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.all.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.all.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let mut root = None;
        let verified = self.all.verify_client_cert(leaf, intermediates, now).and_then(|verified| {
            root = self.root_of(leaf, intermediates, now);
            let revoked = rustls::Error::InvalidCertificate(CertificateError::Revoked);
            if self.lets_in(leaf, root) { Ok(verified) } else { Err(revoked) }
        });
        let refused = verified.as_ref().err().and_then(|_| SpiffeId::of_certificate(leaf).ok());
        // Whoever does handshakes in another way does not ask.
        let _ = SEEN.try_with(|seen| seen.replace(Seen { refused, root }));
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.all.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.all.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.all.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        "demo".parse().unwrap()
    }

    fn failed(error: rustls::Error, dialled: Option<&str>, shown: Option<&str>) -> HandshakeError {
        HandshakeError {
            error: io::Error::new(io::ErrorKind::InvalidData, error),
            dialled: dialled.map(str::to_owned),
            shown: shown.map(|id| id.parse().unwrap()),
        }
    }

    #[test]
    fn who_refuses_our_issuer_counts_if_it_dialled_this_cluster() {
        let alert = |alert, dialled| {
            failed(rustls::Error::AlertReceived(alert), dialled, None).is_of_another_ca(&cluster())
        };
        let ours = Some("Control-Plane.demo.loden");
        assert!(alert(AlertDescription::UnknownCA, ours));
        assert!(alert(AlertDescription::DecryptError, ours), "its CA has the name of ours");
        assert!(alert(AlertDescription::BadCertificate, ours));
        assert!(!alert(AlertDescription::CertificateExpired, ours), "its clock differs");
        assert!(!alert(AlertDescription::UnknownCA, Some("control-plane.other.loden")));
        assert!(!alert(AlertDescription::UnknownCA, None));
        let lost = HandshakeError::from(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(!lost.is_of_another_ca(&cluster()));
    }

    #[test]
    fn who_is_lost_or_refuses_us_is_not_refused() {
        let lost = HandshakeError::from(io::Error::from(io::ErrorKind::UnexpectedEof));
        let refuses = failed(rustls::Error::AlertReceived(AlertDescription::UnknownCA), None, None);
        assert!(!lost.is_refusal() && !refuses.is_refusal());
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let expired = failed(expired, None, Some("spiffe://demo/node/a"));
        assert!(expired.is_refusal() && expired.shown().is_some());
        assert!(failed(rustls::Error::NoCertificatesPresented, None, None).is_refusal());
        let nobody = SpiffeId::of_certificate(b"none").unwrap_err();
        assert!(HandshakeError::from(io::Error::other(nobody)).is_refusal());
    }

    #[test]
    fn whose_issuer_we_refuse_counts_if_it_is_a_node_of_this_cluster() {
        let refused = |problem, shown| {
            failed(rustls::Error::InvalidCertificate(problem), None, shown).is_of_another_ca(&cluster())
        };
        let node = Some("spiffe://demo/node/a");
        assert!(refused(CertificateError::UnknownIssuer, node));
        assert!(refused(CertificateError::BadSignature, node), "its CA has the name of ours");
        assert!(!refused(CertificateError::Expired, node));
        assert!(!refused(CertificateError::UnknownIssuer, Some("spiffe://other/node/a")));
        assert!(!refused(CertificateError::UnknownIssuer, Some("spiffe://demo/reader/a")));
        assert!(!refused(CertificateError::UnknownIssuer, None));
    }
}
