//! Clients that are let go: when they hear of it, and what becomes of what they are doing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::ListNetworksRequest;
use loden_proto::v1::watch_peers_response::Update;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Code;

use super::fixture::*;
use super::raw::{Raw, framed};
use crate::identity::IssuedRole;
use crate::replicas::testing::replica;
use crate::server::drain::{Drain, Timetable};
use crate::server::shedding::{self, Pace};

const LIST: &str = "loden.v1.NetworkService/ListNetworks";

#[tokio::test]
async fn clients_are_served_while_balancers_notice_and_then_told_one_after_the_other() {
    let Fixture { server, state, store: _store } = start().await;
    let (listen, operations) = (server.listen(), server.operations());
    let admin = channel(&server, state.path(), IssuedRole::Admin, "ann").await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let window = Duration::from_millis(1500);
    let (notice, noticed) = oneshot::channel::<()>();
    let drain = Drain {
        shared: &server.shared,
        accepting: &server.stops.accepting,
        connections: &server.connections,
        times: Timetable { window, elsewhere: true },
    };
    let clients = async {
        until(operations, "/readyz", "not ready: draining").await;
        let mut streams = Vec::new();
        // The admin's connection, which is the oldest, has no watch.
        for name in ["a", "b", "c"] {
            let late = channel(&server, state.path(), IssuedRole::Reader, name).await;
            let mut stream = watch(&late, &blue.name, None, Vec::new()).await.unwrap();
            next(&mut stream).await;
            streams.push((late, stream));
        }
        let begin = Instant::now();
        notice.send(()).unwrap();
        let ends = streams.iter_mut().map(async |(_, stream)| (end(stream).await, begin.elapsed()));
        join_all(ends).await
    };
    let (ends, ()) = tokio::join!(clients, drain.run(async { noticed.await.unwrap() }));
    for (status, _) in &ends {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(Reason::Draining.is_of(status), "{status:?}");
        assert_eq!(reason::retry_after(status), Some(Duration::from_millis(50)), "elsewhere, at once");
    }
    assert!(ends.is_sorted_by_key(|(_, after)| *after), "{ends:?}");
    // Of four clients the last one has three quarters of what is left of the window.
    assert!(ends[2].1 >= Duration::from_millis(900), "{ends:?}");
    assert!(TcpStream::connect(listen).await.is_err(), "nobody is accepted any more");
    assert!(get(operations, "/readyz").await.contains("not ready: draining"));
    server.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_is_old_is_let_go_and_its_client_misses_nothing() {
    let fixture = start_with(|config| config.clients.max_connection_age = Duration::from_secs(2)).await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let mut stream = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    let (_, token) = next(&mut stream).await;
    let status = end(&mut stream).await;
    assert!(Reason::Draining.is_of(&status), "{status:?}");
    assert_eq!(status.message(), "the connection is as old as it may be; connect again");
    assert_eq!(reason::retry_after(&status), Some(Duration::from_millis(50)));
    assert!(fixture.get("/metrics").await.contains("loden_connections_aged_total 1\n"));

    acquire(&fixture.node("a").await, &blue, 1).await;
    // Over the same channel, which has connected again by itself.
    let mut stream = watch(&admin, &blue.name, None, token).await.unwrap();
    let (update, _) = next(&mut stream).await;
    let Update::Delta(delta) = update else { panic!("{update:?}") };
    assert_eq!(nodes(&delta.upserts), ["a"]);
}

#[tokio::test]
async fn of_too_many_clients_the_oldest_are_let_go_until_there_are_no_more_than_elsewhere() {
    let fixture = start().await;
    let blue = create(&fixture.admin().await, "blue", "10.1.0.0/16").await;
    let first = fixture.node("n0").await;
    acquire(&first, &blue, 1).await;
    let mut stream = watch(&first, &blue.name, Some(1), Vec::new()).await.unwrap();
    next(&mut stream).await;
    let mut idle = Vec::new();
    for name in ["n1", "n2", "n3", "n4", "n5", "n6", "n7"] {
        idle.push(fixture.node(name).await);
    }
    let shared = Arc::clone(&fixture.server.shared);
    let left = || {
        let links = shared.registry.nodes();
        links.iter().filter_map(|link| Some(link.client.node()?.to_string())).collect::<Vec<_>>()
    };
    while left().len() < 8 {
        // A client is through with its handshake before the server is.
        tokio::task::yield_now().await;
    }
    // Another replica has none: four are above our share.
    let (_tell, others) = tokio::sync::watch::channel(Arc::from([replica(0, true)]));
    let pace = Pace {
        look: Duration::from_millis(10),
        steady: Duration::from_millis(50),
        over: Duration::from_millis(300),
        ..Pace::default()
    };
    fixture.server.run("shedding of the test", shedding::run(Arc::clone(&shared), others, pace));
    let status = end(&mut stream).await;
    assert!(Reason::Draining.is_of(&status), "{status:?}");
    assert_eq!(status.message(), "the other replicas have fewer clients; connect again");
    fixture.until("/metrics", "loden_connections_shed_total 4\n").await;
    assert_eq!(left(), ["n4", "n5", "n6", "n7"]);
    drop(idle);
}

/// A body that begins with these bytes and goes on with what is sent.
fn halting(begin: Bytes) -> (oneshot::Sender<Bytes>, BoxBody<Bytes, Infallible>) {
    let (rest, comes) = oneshot::channel();
    let begin = stream::once(async { Ok::<_, Infallible>(Frame::data(begin)) });
    let rest_of_it = stream::once(async { Ok(Frame::data(comes.await.unwrap_or_default())) });
    (rest, BoxBody::new(StreamBody::new(begin.chain(rest_of_it))))
}

#[tokio::test]
async fn a_call_that_is_under_way_is_finished() {
    let fixture = start().await;
    let client = Raw::connect(&fixture, IssuedRole::Reader, "grafana", 1 << 20).await;
    let whole = framed(&ListNetworksRequest::default());
    let (rest, body) = halting(whole.slice(..2));
    let call = tokio::spawn(client.send(LIST, body));
    fixture.until("/metrics", "loden_calls_total{method=\"ListNetworks\"} 1\n").await;
    let finished = async {
        // Until nothing new can be asked over this connection.
        while client.call(LIST, &ListNetworksRequest::default()).await.is_ok() {}
        rest.send(whole.slice(2..)).unwrap();
        let response = call.await.unwrap().unwrap();
        let end = response.into_body().collect().await.unwrap();
        assert_eq!(end.trailers().unwrap()["grpc-status"], "0");
    };
    let both = async { tokio::join!(finished, fixture.server.shutdown()) };
    tokio::time::timeout(LONG, both).await.unwrap();
}
