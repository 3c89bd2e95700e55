//! How an agent ends: as it is told, or because it cannot do its job any more.

use std::future::pending;

use crate::agent::AgentError;
use crate::testing::World;

#[tokio::test(start_paused = true)]
async fn an_agent_whose_datapath_has_failed_ends_and_leaves_the_kernel() {
    let mut world = World::new();
    let (running, _watch) = world.ready_with(&[1, 2], 1).await;
    let before = world.kernel.tables();
    world.kernel.end();
    let AgentError::TaskEnded(ended) = running.run(pending()).await.unwrap_err() else { panic!() };
    assert_eq!(ended.to_string(), "the datapath of the network default has ended by itself");
    assert_eq!(world.kernel.tables(), before);
}

#[tokio::test(start_paused = true)]
async fn an_agent_one_of_whose_tasks_panics_ends_and_leaves_the_kernel() {
    let mut world = World::new();
    let (running, watch) = world.ready_with(&[1, 2], 1).await;
    let before = world.kernel.tables();
    world.kernel.fail(|step| panic!("a defect at {step}"));
    watch.delta(&[crate::testing::peer(3)], &[], 2).await;
    let error = running.run(pending()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("reconcile of the network default panicked: a defect at + "), "{text}");
    assert!(text.ends_with("forwarding stays as it is"), "{text}");
    assert_eq!(world.kernel.tables(), before);
}
