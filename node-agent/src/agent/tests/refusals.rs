//! A control plane that is there and refuses.

use loden_proto::InvalidValue;
use tonic::Status;

use crate::testing::World;

const REFUSAL: &str =
    "control plane refuses: INVALID_FIELD: resume_token: \"07\" is not one (INVALID_ARGUMENT)";

fn invalid() -> Status {
    InvalidValue::new("07", "is not one").at("resume_token").into()
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_refuses_the_watch_is_not_called_away() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    world.server.refuse_watches(Some(invalid()));
    watch.end(invalid()).await;
    let text = agent.told(|_, text| text.contains("control plane")).await;
    assert_eq!(text, format!("default: 2 peers from server, {REFUSAL}"));
    world.server.up(false);
    let text = agent.told(|_, text| text.contains("control plane away")).await;
    assert!(!text.contains("INVALID_FIELD"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_is_refused_says_why_the_peers_are_not_known() {
    let world = World::new();
    world.server.grant(|_| Err(invalid()));
    let agent = world.start();
    let text = agent.told(|_, text| text.contains("control plane")).await;
    assert_eq!(text, format!("default: peers are not known yet: {REFUSAL}"));
}
