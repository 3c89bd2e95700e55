//! The backends beside each other: the same two hosts, the same measures, one after the other.

use std::time::Duration;

use anyhow::Context;

use super::backend::Backend;
use super::report::Compared;
use super::stage::{self, Actor, PATIENCE};
use crate::deployment::Deployment;
use crate::traffic::{Amount, Ping, Transfer};

/// Between echo requests.
const INTERVAL: Duration = Duration::from_millis(5);
/// How long the ping runs while nothing else does.
const CALM: Duration = Duration::from_secs(1);
/// Length of the TCP transfer.
const TRANSFER: Duration = Duration::from_secs(1);

/// Measures one backend on two hosts of its own.
pub(super) async fn measure(backend: Backend) -> anyhow::Result<Compared> {
    let deployment = Deployment::start(&format!("demo-{backend}"), &[]).await?;
    stage::create_network(&deployment, backend).await?;
    let mut actors = Actor::enter_all(&deployment, &[("a", 11), ("b", 12)]).await?;
    let target = actors[1].container.address();
    let reached = Ping::to(target).start(&actors[0].container)?;
    reached.reach(PATIENCE).await.with_context(|| format!("{backend}: b is not reached"))?;
    reached.stop().await?;

    let ping = Ping::to(target).interval(INTERVAL).start(&actors[0].container)?;
    tokio::time::sleep(CALM).await;
    let calm = ping.stop().await?;
    let transfer = Transfer::to(target).amount(Amount::For(TRANSFER));
    let transfer = transfer.run(&actors[0].container, &actors[1].container).await?;

    let ping = Ping::to(target).interval(INTERVAL).start(&actors[0].container)?;
    ping.reach(PATIENCE).await?;
    let agent = &mut actors[0].node;
    agent.kill9().await?;
    agent.start()?;
    agent.ready(PATIENCE).await?;
    ping.reach(PATIENCE).await?;
    let restart = ping.stop().await?;
    Ok(Compared {
        backend: backend.to_string(),
        mtu: actors[0].node.subnet_env()?.mtu,
        rtt: calm.quantile(0.5),
        late: calm.quantile(0.99),
        tcp: transfer.gbit_per_second(),
        lost: calm.lost() + restart.lost(),
        sent: calm.sent() + restart.sent(),
    })
}
