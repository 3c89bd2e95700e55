//! Two nodes with a container each: the least that shows whether traffic goes on.
//!
//! ```text
//!  pod-a ── a (.11) ── fabric ── b (.12) ── pod-b
//! ```

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;

use super::{Deployment, Node, Underlay};
use crate::hosts::Container;
use crate::traffic::{Ping, PingReport};

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// Answers after something happened that show that all is well again.
const AFTERWARDS: usize = 50;

/// Two ready nodes of the network `default`, whose containers have reached each other.
#[derive(Debug)]
pub struct Pair {
    /// The first node.
    pub a: Node,
    /// The second one.
    pub b: Node,
    /// A container on each.
    pub pods: [Container; 2],
    /// Last, so that the agents end before their hosts go.
    pub deployment: Deployment,
}

impl Pair {
    /// Starts everything; `network` is what `lodenctl network create` is told besides the name.
    ///
    /// # Errors
    /// When the machine or one of the programs refuses.
    pub async fn start(underlay: Underlay, name: &str, network: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(underlay, name, network, |_| Ok(())).await
    }

    /// As [`Self::start`], on hosts that are `prepared` before their agents start.
    ///
    /// # Errors
    /// As [`Self::start`], or when `prepared` fails.
    pub async fn start_on(
        underlay: Underlay,
        name: &str,
        network: &[&str],
        prepared: impl Fn(&mut Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let deployment = Deployment::start_over(underlay, name, &[]).await?;
        deployment.lodenctl(&[&["network", "create", "default"], network].concat()).await?;
        let mut a = deployment.prepare_node("a", 11, &[]).await?;
        let mut b = deployment.prepare_node("b", 12, &[]).await?;
        for node in [&mut a, &mut b] {
            prepared(node)?;
            node.start()?;
        }
        for node in [&a, &b] {
            node.ready(SOON).await?;
        }
        let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
        let pair = Self { a, b, pods, deployment };
        pair.reaches().await?;
        Ok(pair)
    }

    /// Waits until the first container reaches the second one in each family.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub async fn reaches(&self) -> anyhow::Result<()> {
        for target in self.pods[1].addresses() {
            let ping = Ping::to(target).start(&self.pods[0])?;
            ping.reach(SOON).await.with_context(|| format!("{target} is not reached"))?;
            ping.stop().await?;
        }
        Ok(())
    }

    /// Pings every 5 ms in each family while something happens, and a while longer; answers one report for each
    /// of the second container's addresses.
    ///
    /// # Errors
    /// When that fails, or the second container is not reached afterwards.
    pub async fn ping_during(
        &self,
        happens: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<(IpAddr, PingReport)>> {
        let mut pings = Vec::new();
        for target in self.pods[1].addresses() {
            let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&self.pods[0])?;
            ping.reach(SOON).await?;
            pings.push((target, ping));
        }
        happens().await?;
        let mut reports = Vec::new();
        for (target, ping) in pings {
            for _ in 0..AFTERWARDS {
                ping.reach(SOON).await.with_context(|| format!("{target} is not reached again"))?;
            }
            reports.push((target, ping.stop().await?));
        }
        Ok(reports)
    }
}
