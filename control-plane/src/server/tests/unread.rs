//! Clients that leave answers unread, or do not say all they want to ask.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::{ListNetworksRequest, ListNetworksResponse};
use prost::Message;
use tonic::transport::Channel;

use super::fixture::*;
use super::raw::{Raw, framed};
use crate::held;
use crate::identity::IssuedRole;
use crate::registry::STREAMS;
use crate::registry::room::ROOM;

const LIST: &str = "loden.v1.NetworkService/ListNetworks";
const NETWORKS: usize = 60;

/// Networks enough for an answer of several KiB; answers how many bytes it has.
async fn networks(admin: &Channel) -> usize {
    for index in 0..NETWORKS {
        create(admin, &format!("net-{index}"), &format!("10.{index}.0.0/16")).await;
    }
    list(admin).await.encoded_len()
}

async fn list(channel: &Channel) -> ListNetworksResponse {
    let mut networks = NetworkServiceClient::new(channel.clone());
    let list = networks.list_networks(ListNetworksRequest::default());
    tokio::time::timeout(LONG, list).await.unwrap().unwrap().into_inner()
}

#[tokio::test]
async fn an_answer_that_is_left_unread_ends_its_connection() {
    let fixture = start_with(|config| config.max_lag = Duration::from_millis(700)).await;
    let admin = fixture.admin().await;
    networks(&admin).await;
    // With no window hyper keeps the answer, with a little h2 has taken all of it.
    for (count, window) in [(1, 0), (2, 1), (3, 1000)] {
        let stuck = Raw::connect(&fixture, IssuedRole::Reader, "grafana", window).await;
        let response = stuck.call(LIST, &ListNetworksRequest::default()).await.unwrap();
        assert_eq!(response.status(), 200);
        stuck.reset().await;
        let ended = format!("loden_connections_ended_total{{reason=\"slow\"}} {count}\n");
        fixture.until("/metrics", &ended).await;
        fixture.until("/metrics", "loden_held_bytes 0\n").await;
        assert_eq!(list(&admin).await.networks.len(), NETWORKS);
    }
}

#[tokio::test]
async fn calls_of_a_connection_that_does_not_read_wait_and_the_others_are_served() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let bytes = networks(&admin).await;
    let calls = 200;
    let window = 1000;
    let late = Raw::connect(&fixture, IssuedRole::Reader, "grafana", window).await;
    let mut answers: FuturesUnordered<_> =
        (0..calls).map(|_| late.call(LIST, &ListNetworksRequest::default())).collect();

    // As many as there is room for, and nothing more however long it takes.
    let room = ROOM.div_ceil(bytes + held::CALL);
    assert!(2 * room < calls, "{room} of {calls} prove nothing");
    let mut begun = Vec::new();
    for _ in 0..room {
        begun.push(answers.next().await.unwrap().unwrap());
    }
    let more = tokio::time::timeout(Duration::from_millis(500), answers.next());
    assert!(more.await.is_err(), "more than {room} answers were made");
    assert_eq!(list(&admin).await.networks.len(), NETWORKS);

    // Each that is read lets the next one go on, and none is lost.
    let mut whole = 0;
    while let Some(response) = begun.pop() {
        let body = tokio::time::timeout(LONG, response.into_body().collect()).await.unwrap().unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        let message = ListNetworksResponse::decode(&body.to_bytes()[5..]).unwrap();
        assert_eq!(message.networks.len(), NETWORKS);
        whole += 1;
        if let Some(next) = answers.next().await {
            begun.push(next.unwrap());
        }
    }
    assert_eq!(whole, calls);
    fixture.until("/metrics", "loden_held_bytes 0\n").await;
}

/// A body that begins with these bytes and never ends.
fn unending(bytes: Bytes) -> BoxBody<Bytes, Infallible> {
    let begin = stream::once(async { Ok::<_, Infallible>(Frame::data(bytes)) });
    BoxBody::new(StreamBody::new(begin.chain(stream::pending())))
}

#[tokio::test]
async fn a_request_that_is_not_whole_is_counted_and_makes_no_answer() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    networks(&admin).await;
    let half = Raw::connect(&fixture, IssuedRole::Reader, "grafana", 1 << 20).await;
    // One message lacks its second half, the other one only the end of the stream.
    let whole = framed(&"x".repeat(8 << 10));
    let watch = "loden.v1.PeerService/WatchPeers";
    let mut calls: FuturesUnordered<_> = [(LIST, whole.clone()), (watch, whole.slice(..4 << 10))]
        .map(|(path, bytes)| half.send(path, unending(bytes)))
        .into_iter()
        .collect();
    let counted = format!("loden_held_bytes {}\n", 2 * held::CALL + whole.len() + (4 << 10));
    tokio::select! {
        answer = calls.next() => panic!("{answer:?}"),
        () = fixture.until("/metrics", &counted) => {}
    }
    drop(calls);
    fixture.until("/metrics", "loden_held_bytes 0\n").await;
}

/// Whatever is called, each with half a message, or all of it without the end of the stream.
#[tokio::test]
async fn a_request_that_is_not_whole_in_time_is_answered_and_its_connection_goes_on() {
    let fixture = start().await;
    let client = Raw::connect(&fixture, IssuedRole::Reader, "grafana", 1 << 20).await;
    let whole = framed(&"x".repeat(100));
    let half = whole.slice(..50);
    let calls = [
        (LIST, whole.clone()),
        (LIST, half.clone()),
        (LIST, Bytes::new()),
        ("loden.v1.PeerService/WatchPeers", half.clone()),
        ("grpc.health.v1.Health/Check", half.clone()),
        ("grpc.health.v1.Health/Watch", whole.clone()),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", half.clone()),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", half),
    ];
    let begin = tokio::time::Instant::now();
    let ask = |(path, bytes): (&'static str, Bytes)| {
        let (sent, call) = (bytes.len(), client.send(path, unending(bytes)));
        async move {
            let response = tokio::time::timeout(LONG, call).await.unwrap().unwrap();
            let (head, body) = response.into_parts();
            let end = tokio::time::timeout(LONG, body.collect()).await.unwrap().unwrap();
            let end = end.trailers().cloned().unwrap_or(head.headers);
            assert_eq!(end["grpc-status"], "4", "{path}: {end:?}");
            let message = end["grpc-message"].to_str().unwrap();
            let words = format!("{sent}%20bytes%20of%20it%20have%20come");
            assert!(message.contains(&words), "{path}: {message}");
        }
    };
    futures_util::future::join_all(calls.map(ask)).await;
    assert!(begin.elapsed() >= Duration::from_secs(10), "{:?}", begin.elapsed());
    fixture.until("/metrics", "loden_held_bytes 0\n").await;
    let response = client.call(LIST, &ListNetworksRequest::default()).await.unwrap();
    assert!(!response.headers().contains_key("grpc-status"), "{response:?}");
    fixture.until("/metrics", "loden_connections_opened_total 1\n").await;
}

#[tokio::test]
async fn a_connection_has_so_many_calls_at_once_and_no_more() {
    let fixture = start().await;
    let client = Raw::connect(&fixture, IssuedRole::Reader, "grafana", 1 << 20).await;
    let whole = framed(&"x".repeat(100));
    let mut calls: FuturesUnordered<_> =
        (0..300).map(|_| client.send(LIST, unending(whole.clone()))).collect();
    let counted = format!("loden_held_bytes {}\n", 256 * (held::CALL + whole.len()));
    tokio::select! {
        answer = calls.next() => panic!("{answer:?}"),
        () = fixture.until("/metrics", &counted) => {}
    }
    // What has no stream is not even sent.
    let steady = async {
        for _ in 0..20 {
            let metrics = fixture.get("/metrics").await;
            assert!(metrics.contains(&counted), "{metrics}");
        }
    };
    tokio::select! {
        answer = calls.next() => panic!("{answer:?}"),
        () = steady => {}
    }
}

#[tokio::test]
async fn health_and_reflection_have_few_places_on_a_connection() {
    let fixture = start().await;
    let client = Raw::connect(&fixture, IssuedRole::Reader, "grafana", 1 << 20).await;
    let watch = || client.call("grpc.health.v1.Health/Watch", &String::new());
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let response = watch().await.unwrap();
        assert!(!response.headers().contains_key("grpc-status"), "{response:?}");
        open.push(response);
    }
    assert_eq!(watch().await.unwrap().headers()["grpc-status"], "8");
    open.pop();
    loop {
        let response = watch().await.unwrap();
        if !response.headers().contains_key("grpc-status") {
            break;
        }
        tokio::task::yield_now().await;
    }
}
