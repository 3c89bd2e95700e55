//! A control plane that sends its agents on.

use std::time::Duration;

use loden_proto::reason::{self, Reason};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::status::Link;
use crate::testing::World;

/// When to come back.
const AFTER: Duration = Duration::from_millis(50);

fn goes() -> Status {
    reason::status_retry(Code::Unavailable, Reason::Draining, "the server is shutting down", AFTER)
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_on_comes_back_at_once_and_calls_nobody_away() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    let executed = world.kernel.executed().len();
    let moves = async {
        let mut watch = watch;
        for _ in 0..20 {
            let begin = Instant::now();
            watch.end(goes()).await;
            watch = world.watch().await;
            assert!(begin.elapsed() < 2 * AFTER, "{:?}", begin.elapsed());
            assert_eq!(watch.request.resume_token, [1]);
        }
        watch.heartbeat(false, 1).await;
        let mut overview = agent.overview();
        overview.wait_for(|overview| overview.link.opened == 21).await.unwrap().link.clone()
    };
    let link = tokio::select! {
        text = agent.told(|_, text| text.contains("control plane")) => panic!("{text}"),
        link = moves => link,
    };
    assert_eq!(link, Link { connected: true, opened: 21, problem: None });
    assert_eq!(world.kernel.executed().len(), executed);
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_on_and_not_taken_in_again_says_that_the_control_plane_is_away() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    world.server.refuse_watches(Some(goes()));
    watch.end(goes()).await;
    let text = agent.told(|_, text| text.contains("control plane")).await;
    assert_eq!(text, "default: 2 peers from server, control plane away (the server is shutting down)");
}
