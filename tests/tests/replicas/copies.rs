//! A node's disk, or only its certificate, is copied to a host whose agent reaches another replica than the node.

use anyhow::ensure;
use loden_tests::deployment::Replicated;
use loden_tests::wait;

use crate::{POOL, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_refused_by_a_replica_that_does_not_have_its_node() -> anyhow::Result<()> {
    let mut site = Replicated::start("copies", &[]).await?;
    let [first, second] = [0, 1].map(|replica: usize| site.replicas()[replica].endpoint());
    site.deployment.create_network("default", POOL).await?;
    site.deployment.set_server(first);
    let node = site.deployment.add_node("a", 11, &[]).await?;
    node.ready(SOON).await?;

    site.deployment.set_server(second);
    for (name, number, cloned_disk, says) in [
        ("disk", 13, true, "ANOTHER_INSTANCE: boot_id: another host, of boot id "),
        ("cert", 14, false, "ANOTHER_INSTANCE: instance_id: "),
    ] {
        let mut copy = site.deployment.prepare_copy(&node, name, number, cloned_disk).await?;
        copy.start()?;
        let refused = wait::until("the copy to be refused", SOON, async || {
            let (_, body) = copy.get("/readyz").await?;
            ensure!(body.contains(says), "{body}");
            anyhow::Ok(())
        });
        refused.await?;
        copy.stop().await?;
    }
    node.ready(SOON).await?;
    ensure!(node.metric("loden_agent_watches_opened_total").await? == 1.0, "its watch was lost");
    Ok(())
}
