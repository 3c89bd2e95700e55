//! The watch through hyper and a generated client: on the wire it is an ordinary stream of gRPC.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use loden_proto::reason::Reason;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::{names, reason, v1};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::client::{Stage, node};
use crate::feed::{FeedOptions, Feeds};
use crate::watch::{Streams, Viewer, WatchHandle, WatchOpen};

/// Serves watches of one viewer without TLS on loopback; sends a handle on each.
async fn serve(feeds: Feeds, viewer: Viewer) -> (String, mpsc::Receiver<WatchHandle>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (handles, opened) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (feeds, viewer, handles) = (feeds.clone(), viewer.clone(), handles.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (feeds, viewer, handles) = (feeds.clone(), viewer.clone(), handles.clone());
                async move {
                    let frame = request.into_body().collect().await.unwrap().to_bytes();
                    let request = v1::WatchPeersRequest::decode(&frame[5..]).unwrap();
                    let network = names::parse_network(&request.network).unwrap();
                    let open = WatchOpen { network, token: request.resume_token.into(), viewer };
                    let body = feeds.watch(&Streams::default(), open).unwrap();
                    handles.send(body.handle()).await.unwrap();
                    Ok::<_, Infallible>(body.into_response())
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                // The client ends it.
                let _ended = connection.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    (address, opened)
}

async fn watch(address: &str, token: Vec<u8>) -> Streaming<v1::WatchPeersResponse> {
    let mut client = PeerServiceClient::connect(address.to_owned()).await.unwrap();
    let request = v1::WatchPeersRequest {
        boot_id: String::new(),
        network: "networks/blue".into(),
        resume_token: token,
        instance_id: String::new(),
        seen_token: Vec::new(),
    };
    client.watch_peers(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<v1::WatchPeersResponse>) -> (Update, Vec<u8>) {
    let message = stream.message().await.unwrap().unwrap();
    (message.update.unwrap(), message.resume_token)
}

#[tokio::test]
async fn a_generated_client_sees_snapshot_delta_heartbeat_and_status() {
    let mut stage =
        Stage::with(FeedOptions { heartbeat: Duration::from_millis(200), ..FeedOptions::default() });
    for n in 0..3000 {
        stage.upsert(&format!("node-{n:04}"), n);
    }
    let (address, mut opened) = serve(stage.feeds.clone(), node("node-0007")).await;
    let mut stream = watch(&address, Vec::new()).await;
    let mut peers = Vec::new();
    let mut pages = 0;
    loop {
        let (Update::Snapshot(page), _) = next(&mut stream).await else { panic!() };
        pages += 1;
        peers.extend(page.peers);
        if page.last {
            break;
        }
    }
    assert!(pages > 3);
    let expected: Vec<_> = stage.expected(&node("node-0007")).into_values().collect();
    assert_eq!(peers, expected);

    stage.upsert("late", 1);
    let token = loop {
        match next(&mut stream).await {
            (Update::Delta(delta), token) => {
                assert_eq!((delta.upserts.len(), delta.removed.len(), delta.last), (1, 0, true));
                break token;
            }
            (update, _) => assert!(matches!(update, Update::Heartbeat(_)), "{update:?}"),
        }
    };
    let (Update::Heartbeat(heartbeat), _) = next(&mut stream).await else { panic!() };
    assert_eq!(heartbeat.interval.unwrap().nanos, 200_000_000);

    let mut again = watch(&address, token).await;
    assert!(matches!(next(&mut again).await.0, Update::Heartbeat(_)));

    let status = reason::status_retry(Code::Unavailable, Reason::Settling, "drain", Duration::from_secs(1));
    opened.recv().await.unwrap().end(status);
    let ended = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "drain"));
    assert!(Reason::Settling.is_of(&ended));
    assert_eq!(reason::retry_after(&ended), Some(Duration::from_secs(1)));
}
