//! HTTP/2 beneath gRPC, for clients that do what no gRPC client does.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use hyper::Request;
use loden_transport::{Bundle, control_plane_name};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::deployment::ControlPlane;

/// Any body.
pub type AnyBody = BoxBody<Bytes, Infallible>;

/// Connects to a control plane, as whoever the certificate in `identity` names. HTTP/2 has not begun.
///
/// # Errors
/// When the identity cannot be read or the control plane refuses it.
pub async fn dial(control: &ControlPlane, identity: &Path) -> anyhow::Result<TlsStream<TcpStream>> {
    let bundle = Bundle::read(identity)?;
    let tcp = control.host.connect(control.address()).await?;
    let name = ServerName::try_from(control_plane_name(&bundle.id().cluster))?;
    Ok(TlsConnector::from(Arc::new(tls(&bundle)?)).connect(name, tcp).await?)
}

/// A call of `SERVICE/METHOD` with this body.
///
/// # Errors
/// When the path is none.
pub fn call(path: &str, body: AnyBody) -> anyhow::Result<Request<AnyBody>> {
    let request = Request::post(format!("https://control-plane/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    Ok(request.body(body)?)
}

/// A message as gRPC frames it.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    // A request is short.
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// TLS as whoever the certificate names.
pub(crate) fn tls(bundle: &Bundle) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.ca_pem().as_bytes())?)?;
    let chain = vec![CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem().as_bytes())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
