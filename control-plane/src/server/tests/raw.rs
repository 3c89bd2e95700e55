//! HTTP/2 beneath gRPC: a client that chooses its window and leaves its answers where they are.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::fixture::*;
use crate::connection::tests::secured;
use crate::identity::IssuedRole;

/// A connection; it ends when nobody can send on it any more, or reads from it.
pub(super) struct Raw {
    requests: SendRequest<BoxBody<Bytes, Infallible>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Raw {
    /// Connects, with a window of so many bytes for each answer.
    pub(super) async fn connect(fixture: &Fixture, role: IssuedRole, name: &str, window: u32) -> Self {
        let bundle = fixture.bundle(role, name);
        let tcp = TcpStream::connect(fixture.server.listen()).await.unwrap();
        let tls = secured(tcp, &bundle).await.unwrap();
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .max_concurrent_streams(1000)
            .handshake(TokioIo::new(tls))
            .await
            .unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    /// Calls a method; answers once the answer has begun.
    pub(super) fn call<M: Message>(
        &self,
        path: &str,
        message: &M,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<M> {
        self.send(path, Full::new(framed(message)).boxed())
    }

    /// The same with any body.
    pub(super) fn send(
        &self,
        path: &str,
        body: BoxBody<Bytes, Infallible>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        let request = Request::post(format!("https://control-plane.loden.loden/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let mut requests = self.requests.clone();
        async move {
            requests.ready().await?;
            requests.send_request(request).await
        }
    }

    /// Waits until the server has ended the connection, and not in order.
    pub(super) async fn reset(self) {
        let ended = tokio::time::timeout(LONG, self.connection).await.unwrap().unwrap();
        assert!(ended.is_err(), "the connection is reset, not closed in order");
    }
}

/// A message as gRPC frames it.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut framed).unwrap();
    framed.freeze()
}
