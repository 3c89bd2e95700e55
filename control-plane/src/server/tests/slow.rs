//! A client that reads nothing.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::v1::{self, WatchPeersRequest};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::fixture::*;
use crate::connection::tests::secured;
use crate::identity::IssuedRole;

/// A connection with a window of a few bytes per stream, and a watch on it that is never read.
async fn stuck(
    fixture: &Fixture,
    node: &str,
    host: u8,
) -> (http::Response<Incoming>, JoinHandle<hyper::Result<()>>) {
    let bundle = fixture.bundle(IssuedRole::Node, node);
    let tcp = TcpStream::connect(fixture.server.listen()).await.unwrap();
    let tls = secured(tcp, &bundle).await.unwrap();
    let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64)
        .handshake::<_, Full<Bytes>>(TokioIo::new(tls))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let message = WatchPeersRequest {
        boot_id: String::new(),
        network: "networks/blue".to_owned(),
        resume_token: Vec::new(),
        instance_id: instance(host),
    };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut framed).unwrap();
    let request = Request::post("https://control-plane.loden.loden/loden.v1.PeerService/WatchPeers")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::<Bytes>::new(framed.freeze()))
        .unwrap();
    let response = requests.send_request(request).await.unwrap();
    // The connection ends when nobody can send requests on it any more: keep the sender.
    tokio::spawn(async move {
        let _requests = requests;
        std::future::pending::<Infallible>().await
    });
    (response, connection)
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_ended_with_a_reason_and_costs_the_others_nothing() {
    let fixture = start_with(|config| config.max_lag = Duration::from_millis(700)).await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    for host in 1..=2 {
        acquire(&fixture.node(["a", "b"][usize::from(host) - 1]).await, &blue, host).await;
    }
    let b = fixture.node("b").await;
    let mut reading = watch(&b, &blue.name, Some(2), Vec::new()).await.unwrap();
    next(&mut reading).await;
    let (response, connection) = stuck(&fixture, "a", 1).await;
    assert_eq!(response.status(), 200);

    // Changes go on, and the one who reads gets each of them.
    for host in 10..30 {
        acquire(&fixture.node(&format!("n{host}")).await, &blue, host).await;
        let (update, _) = next(&mut reading).await;
        let Update::Delta(delta) = update else { panic!("{update:?}") };
        assert_eq!(nodes(&delta.upserts), [format!("n{host}")]);
    }
    let ended = tokio::time::timeout(LONG, connection).await.unwrap().unwrap();
    assert!(ended.is_err(), "the connection is reset, not closed in order");
    fixture.until("/metrics", "loden_connections_ended_total{reason=\"slow\"} 1\n").await;
    let mut status = NodeServiceClient::new(admin);
    let node = status.get_node(v1::GetNodeRequest { name: "nodes/a".to_owned() }).await.unwrap().into_inner();
    assert!(!node.connected);
    assert!(node.disconnect_reason.starts_with("the client has not read for"), "{node:?}");
    // The one who reads is still there.
    let node = status.get_node(v1::GetNodeRequest { name: "nodes/b".to_owned() }).await.unwrap().into_inner();
    assert!(node.connected);
    drop(response);
}
