//! Waiting until a fault is undone.

use std::time::{Duration, Instant};

use anyhow::Context;
use loden_tests::deployment::Node;
use loden_tests::hosts::{Holdings, Host};
use loden_tests::repairs::Repairs;
use loden_tests::wait;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};

/// Has a foreign hand do something on a host, and waits until everything is as it was; answers how long that
/// took.
pub(crate) async fn repaired(
    host: &Host,
    tunnel: &str,
    fault: &str,
    commands: &[String],
) -> anyhow::Result<Duration> {
    let before = Holdings::of(host, tunnel).await?;
    let begin = Instant::now();
    for command in commands {
        host.iproute(command).await?;
    }
    let undone = wait::until("everything to be as before", Repairs::PATIENCE, async || {
        Holdings::of(host, tunnel)
            .await?
            .differs_from(&before)
            .map_or(Ok(()), |differs| Err(anyhow::anyhow!(differs)))
    });
    undone.await.with_context(|| fault.to_owned())?;
    let took = begin.elapsed();
    println!("{fault}: repaired after {took:.0?}");
    Ok(took)
}

/// The metric of a node's only IPv4 route of ours.
pub(crate) async fn metric(node: &Node) -> anyhow::Result<u32> {
    let routes = node.host.routes().await?;
    let is_ours = |route: &&RouteMessage| {
        route.header.protocol == RouteProtocol::Other(76) && route.header.destination_prefix_length == 24
    };
    let ours = routes.iter().find(is_ours).context("no route of ours")?;
    let priority = ours.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    priority.context("our route has no metric")
}
