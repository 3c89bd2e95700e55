use std::time::Duration;

use loden_proto::reason::{self, Reason};
use tokio::time::Instant;
use tonic::Code;

use super::client::{Set, Stage, node, pass, removed, resource_name, upsert};
use crate::feed::Publication;
use crate::watch::Viewer;

#[tokio::test(start_paused = true)]
async fn a_deleted_network_ends_its_watches_with_not_found() {
    let mut stage = Stage::new();
    stage.upsert("a", 1);
    let mut client = stage.open(&node("a"), Set::default());
    client.read().await;
    let networks = vec![("blue".parse().unwrap(), None)];
    stage.publish_batch(Publication { networks, ..Publication::default() });
    client.read().await;
    let status = client.ended.unwrap();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains(&resource_name()), "{status:?}");
    assert!(Reason::NotFound.is_of(&status));
    assert!(stage.try_open(&Viewer::Observer, &client.set.token).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_network_that_comes_back_knows_no_token_of_the_one_before() {
    let mut stage = Stage::new();
    stage.upsert("a", 1);
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    let network = stage.scene.networks[0].0.clone();
    for network in [None, Some(network)] {
        let networks = vec![("blue".parse().unwrap(), network)];
        stage.publish_batch(Publication { networks, ..Publication::default() });
    }
    stage.scene.networks[0].1.clear();
    let mut again = stage.open(&Viewer::Observer, client.set);
    assert_eq!(again.read().await.snapshots, 1);
    assert!(again.set.peers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_goes_is_told_the_rest_and_then_ends() {
    let mut stage = Stage::new();
    stage.publish(vec![upsert("a", 1), upsert("b", 2)]);
    let mut client = stage.open(&node("a"), Set::default());
    client.read().await;
    stage.publish(vec![removed("a"), upsert("b", 3)]);
    assert_eq!(client.read().await.deltas, 1);
    assert_eq!(client.set.peers, stage.expected(&node("a")));
    assert_eq!(client.ended.unwrap().code(), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_went_and_came_back_while_it_was_away_misses_nothing() {
    let mut stage = Stage::new();
    stage.publish(vec![upsert("a", 1), upsert("b", 2)]);
    let mut client = stage.open(&node("a"), Set::default());
    client.read().await;
    stage.publish(vec![removed("a"), upsert("b", 3)]);
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    let mut again = stage.open(&node("a"), client.set);
    again.read().await;
    assert_eq!(again.set.peers, stage.expected(&node("a")));
    assert!(again.ended.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_status_it_is_told() {
    let stage = Stage::new();
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    let after = Duration::from_secs(7);
    let status = reason::status_retry(Code::Unavailable, Reason::Settling, "going „down“\nnow", after);
    client.body.handle().end(status);
    client.body.handle().end(tonic::Status::internal("too late"));
    client.read().await;
    let ended = client.ended.unwrap();
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "going „down“\nnow"));
    assert_eq!(reason::retry_after(&ended), Some(after));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_told_to_end_wakes_whoever_polls_it() {
    let stage = Stage::new();
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    let handle = client.body.handle();
    let waiting = tokio::spawn(async move { http_body_util::BodyExt::frame(&mut client.body).await });
    tokio::task::yield_now().await;
    handle.end(tonic::Status::unavailable("drain"));
    let frame = waiting.await.unwrap().unwrap().unwrap();
    assert!(frame.is_trailers());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_lags_and_one_that_reads_does_not() {
    let mut stage = Stage::new();
    let mut reader = stage.open(&Viewer::Observer, Set::default());
    let stuck = stage.open(&Viewer::Observer, Set::default());
    for n in 0..62 {
        stage.upsert("a", n);
        pass(Duration::from_secs(1)).await;
        reader.read().await;
    }
    let now = Instant::now();
    assert!(stuck.body.handle().lag(now) >= Duration::from_secs(61));
    assert!(reader.body.handle().lag(now) < Duration::from_secs(1));
    assert_eq!(reader.body.handle().revision(), stage.point.revision);
}

#[tokio::test(start_paused = true)]
async fn a_node_streams_from_its_open_to_the_end_of_its_watch() {
    let stage = Stage::new();
    let client = stage.open(&node("a"), Set::default());
    let observer = stage.open(&Viewer::Observer, Set::default());
    assert_eq!(stage.streams.len(), 1);
    drop(client);
    assert!(stage.streams.is_empty());
    drop(observer);
}
