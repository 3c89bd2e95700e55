//! Starts, ends, and stores that fail.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use tonic::Code;

use super::fixture::*;
use crate::identity::IssuedRole;
use crate::server::{Ending, Server};

#[tokio::test]
async fn a_shutdown_ends_watches_with_unavailable_and_takes_no_time() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let mut stream = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    next(&mut stream).await;
    let begin = Instant::now();
    let (status, ()) = tokio::join!(end(&mut stream), fixture.server.shutdown());
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(Reason::Draining.is_of(&status), "{status:?}");
    // The time of a restart: there is nowhere else to go.
    assert_eq!(reason::retry_after(&status), Some(Duration::from_millis(500)));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_server_that_is_dropped_leaves_no_connection_behind() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let mut stream = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    next(&mut stream).await;
    drop(fixture.server);
    let ended = async { while let Ok(Some(_)) = stream.message().await {} };
    tokio::time::timeout(LONG, ended).await.unwrap();
    assert!(watch(&admin, &blue.name, None, Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_store_that_fails_stops_writers_only_and_readyz_names_the_cause() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    fixture.until("/readyz", "ready: 1 networks").await;
    let mut stream = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    next(&mut stream).await;
    fixture.store.poison("no space left on device");
    fixture.until("/readyz", "not ready: the store does not take writes: no space left on device").await;
    let mut networks = NetworkServiceClient::new(admin);
    let request =
        v1::CreateNetworkRequest { network: Some(network("red", "10.2.0.0/16")), ..Default::default() };
    let status = networks.create_network(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(Reason::StoreFailed.is_of(&status), "{status:?}");
    assert!(status.message().contains("no space left on device"), "{status:?}");
    // Reads and streams go on.
    let get = v1::GetNetworkRequest { name: blue.name };
    networks.get_network(get).await.unwrap();
    for _ in 0..3 {
        let message = tokio::time::timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(message.update, Some(Update::Heartbeat(_))), "{message:?}");
    }
    assert!(fixture.get("/metrics").await.contains("loden_store_healthy 0\n"));
    assert!(fixture.get("/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_watches_resume() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::start(config(state.path())).await.unwrap();
    let admin = channel(&server, state.path(), IssuedRole::Admin, "ann").await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let a = channel(&server, state.path(), IssuedRole::Node, "a").await;
    let lease = acquire(&a, &blue, 1).await;
    let mut stream = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    let (_, token) = next(&mut stream).await;
    server.shutdown().await;

    let server = Server::start(config(state.path())).await.unwrap();
    let admin = channel(&server, state.path(), IssuedRole::Admin, "ann").await;
    let mut stream = watch(&admin, &blue.name, None, token).await.unwrap();
    let first = tokio::time::timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first.update, Some(Update::Heartbeat(_))), "{first:?}");
    let a = channel(&server, state.path(), IssuedRole::Node, "a").await;
    assert_eq!(acquire(&a, &blue, 1).await.subnets, lease.subnets);
    server.shutdown().await;
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let state = tempfile::tempdir().unwrap();
    let running = Server::start(config(state.path())).await.unwrap();
    let error = Server::start(config(state.path())).await.unwrap_err();
    assert!(error.to_string().contains("is in use by another process"), "{error}");

    let other = tempfile::tempdir().unwrap();
    let mut taken = config(other.path());
    taken.listen = running.listen();
    let error = Server::start(taken).await.unwrap_err();
    let expected = format!("listen: cannot listen on {}", running.listen());
    assert!(error.to_string().starts_with(&expected), "{error}");
    let mut taken = config(other.path());
    taken.operations = SocketAddr::from(([192, 0, 2, 1], 7480));
    let error = Server::start(taken).await.unwrap_err();
    assert!(error.to_string().starts_with("operations: cannot listen on 192.0.2.1:7480"), "{error}");

    let mut renamed = config(state.path());
    renamed.cluster = "other".parse().unwrap();
    let error = Server::start(renamed).await.unwrap_err();
    assert!(error.to_string().contains("is the CA of cluster \"loden\", not of \"other\""), "{error}");
    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Server::start(config(&file)).await.unwrap_err();
    assert!(error.to_string().starts_with("state-dir: "), "{error}");
    running.shutdown().await;
}

#[tokio::test]
async fn a_server_with_a_task_that_died_does_not_look_alive() {
    let mut fixture = start().await;
    fixture.server.run("dying", async { panic!("as the test wants it") });
    let ending = tokio::time::timeout(LONG, fixture.server.ended()).await.unwrap();
    assert!(matches!(ending, Ending::TaskDied("dying")), "{ending:?}");
}
