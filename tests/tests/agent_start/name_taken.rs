//! A device of somebody else has the name of ours.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::StatusCode;
use loden_tests::wait;

use crate::{DEVICE, SOON, WRITES, deployment, leads_to};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_leaves_a_device_of_its_name_alone_until_it_goes() -> anyhow::Result<()> {
    let deployment = deployment("taken").await?;
    let mut a = deployment.prepare_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    b.ready(SOON).await?;
    for line in [
        "ip link add loden1a type vxlan id 77 dstport 4789 dev eth0 local 192.0.2.11",
        "ip link set loden1a up",
        "ip addr add 172.31.5.1/24 dev loden1a",
        "ip route add 198.51.100.0/24 via 172.31.5.9",
    ] {
        a.host.iproute(line).await?;
    }
    let theirs = a.host.link(DEVICE).await?.header.index;
    let before = a.host.inventory().await?;
    a.start()?;
    let said = wait::until("the agent to name what is in its way", SOON, async || {
        let (status, body) = a.get("/readyz").await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE && body.contains("is not Loden's"), "{body}");
        Ok::<_, anyhow::Error>(body)
    });
    let said = said.await?;
    ensure!(said.contains(&format!("first + device {DEVICE}")) && said.contains("of kind vxlan"), "{said}");
    // It tries again less and less often, and writes nothing else.
    let tries = a.metric(WRITES).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let more = a.metric(WRITES).await? - tries;
    ensure!(more <= 8.0, "{more} writes in three seconds");
    ensure!(before.is_subset(&a.host.inventory().await?), "of somebody else");
    ensure!(a.host.link(DEVICE).await?.header.index == theirs);

    a.host.delete_link(DEVICE).await?;
    let freed = Instant::now();
    leads_to(&a, 1).await?;
    println!("{more} writes while it was taken; ready {:?} after it was free", freed.elapsed());
    ensure!(freed.elapsed() < Duration::from_secs(5), "it waited for its next try");
    a.stop().await.context("the agent ends")
}
