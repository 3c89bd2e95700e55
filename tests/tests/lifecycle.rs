//! What becomes of the NIC below: its cable, its addresses, its MTU, itself. Traffic goes on by itself, or as
//! soon as it can, without a restart of the agent, and often without the agent.
//!
//! ```text
//!  pod-a ── a ══ eth0 ─── fabric ─── eth0 ══ b ── pod-b
//!                 └─ cable out and in, address, MTU, gone and back
//! ```

#![cfg(test)]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::{Deployment, Node, Underlay};
use loden_tests::hosts::{Container, cidr, ip};
use loden_tests::traffic::{Ping, PingReport};
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
const DUAL: &[&str] = &["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
/// The tunnels of the first VNI, by the family of the underlay.
const TUNNEL: &str = "loden1a";

struct Pair {
    deployment: Deployment,
    a: Node,
    b: Node,
    pods: [Container; 2],
}

impl Pair {
    async fn start(underlay: Underlay, name: &str, network: &[&str]) -> anyhow::Result<Self> {
        let deployment = Deployment::start_over(underlay, name, &[]).await?;
        deployment.lodenctl(&[&["network", "create", "default"], network].concat()).await?;
        let (a, b) = (deployment.add_node("a", 11, &[]).await?, deployment.add_node("b", 12, &[]).await?);
        for node in [&a, &b] {
            node.ready(SOON).await?;
        }
        let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
        let pair = Self { deployment, a, b, pods };
        pair.reaches().await?;
        Ok(pair)
    }

    /// Pod a reaches pod b in each family.
    async fn reaches(&self) -> anyhow::Result<()> {
        for target in self.pods[1].addresses() {
            let ping = Ping::to(target).start(&self.pods[0])?;
            ping.reach(SOON).await.with_context(|| format!("{target} is not reached"))?;
            ping.stop().await?;
        }
        Ok(())
    }

    /// A ping of this family goes on while something happens, and is answered again.
    async fn ping_during(
        &self,
        v4: bool,
        happens: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<PingReport> {
        let target =
            self.pods[1].addresses().find(|target| target.is_ipv4() == v4).context("no such family")?;
        let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&self.pods[0])?;
        ping.reach(SOON).await?;
        happens().await?;
        ping.reach(SOON).await.with_context(|| format!("{target} is not reached again"))?;
        for _ in 0..20 {
            ping.reach(SOON).await?;
        }
        Ok(ping.stop().await?)
    }

    /// The cable of `a` is pulled and put back, in the end with both agents dead.
    async fn survives_its_cable(mut self) -> anyhow::Result<()> {
        let families: Vec<bool> = self.pods[1].addresses().map(|target| target.is_ipv4()).collect();
        for agents in ["run", "are dead"] {
            if agents == "are dead" {
                self.a.kill9().await?;
                self.b.kill9().await?;
            }
            for v4 in &families {
                let report = self.ping_during(*v4, async || {
                    self.deployment.fabric.unplug(&self.a.host, "eth0").await?;
                    self.unanswered(*v4).await?;
                    Ok(self.deployment.fabric.replug(&self.a.host, "eth0").await?)
                });
                let report = report.await.with_context(|| format!("while the agents {agents}"))?;
                println!(
                    "cable out and in, agents {agents}, IPv4 {v4}: {:?} of silence",
                    report.longest_outage()
                );
            }
        }
        Ok(())
    }

    /// Waits until nothing comes through any more.
    async fn unanswered(&self, v4: bool) -> anyhow::Result<()> {
        let target =
            self.pods[1].addresses().find(|target| target.is_ipv4() == v4).context("no such family")?;
        let ping = Ping::to(target).start(&self.pods[0])?;
        let answered = ping.reach(Duration::from_millis(300)).await;
        ping.stop().await?;
        ensure!(answered.is_err(), "without a cable somebody answers");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_over_ipv4_survives_its_cable() -> anyhow::Result<()> {
    Pair::start(Underlay::V4, "cable-4", DUAL).await?.survives_its_cable().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_over_ipv6_survives_its_cable() -> anyhow::Result<()> {
    Pair::start(Underlay::V6, "cable-6", DUAL).await?.survives_its_cable().await
}

#[tokio::test(flavor = "multi_thread")]
async fn next_hops_survive_their_cable() -> anyhow::Result<()> {
    let network = ["--pool", "10.244.0.0/16", "--backend", "host-gw"];
    Pair::start(Underlay::V4, "cable-gw", &network).await?.survives_its_cable().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changes_its_address_keeps_its_subnet_and_is_followed() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "moves", DUAL).await?;
    let (before, mac) = (pair.b.subnet_env()?, pair.b.host.link_address(TUNNEL).await?);
    let report = pair.ping_during(true, async || {
        pair.b.host.remove_address("eth0", cidr("192.0.2.12/24")).await?;
        pair.b.host.add_address("eth0", cidr("192.0.2.32/24")).await?;
        sends_to(&pair.a, ip("192.0.2.32")).await
    });
    println!("another underlay address: {:?} of silence", report.await?.longest_outage());
    pair.b.ready(SOON).await?;
    ensure!(pair.b.subnet_env()? == before, "it has another subnet: {:?}", pair.b.subnet_env()?);
    ensure!(pair.b.host.link_address(TUNNEL).await? == mac, "its tunnel has another MAC address");
    pair.reaches().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_device_with_another_mtu_is_followed() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "mtu", DUAL).await?;
    pair.a.host.set_mtu("eth0", 1400).await?;
    let followed = wait::until("the tunnel and subnet.env to follow", SOON, async || {
        let (tunnel, file) = (pair.a.host.link_mtu(TUNNEL).await?, pair.a.subnet_env()?.mtu);
        ensure!((tunnel, file) == (1350, 1350), "the tunnel has {tunnel}, the file says {file}");
        anyhow::Ok(())
    });
    followed.await?;
    pair.reaches().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_that_went_and_came_back_as_another_one_is_used_again() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "nic", DUAL).await?;
    let (index, mac) = (pair.a.host.link_index("eth0").await?, pair.a.host.link_address(TUNNEL).await?);
    pair.a.host.delete_link("eth0").await?;
    pair.unanswered(true).await?;
    // Something else has taken its number meanwhile, or it would get that again.
    pair.a.host.add_bridge("other", 1500).await?;
    pair.a.host.plug(&pair.deployment.fabric, "eth0", 1500).await?;
    pair.a.host.add_address("eth0", cidr("192.0.2.11/24")).await?;
    ensure!(pair.a.host.link_index("eth0").await? != index, "it has its number again");
    pair.a.ready(SOON).await?;
    pair.reaches().await?;
    ensure!(pair.a.host.link_address(TUNNEL).await? == mac, "its tunnel has another MAC address");
    Ok(())
}

/// Waits until a node's only peer is sent to at this address.
async fn sends_to(node: &Node, address: IpAddr) -> anyhow::Result<()> {
    let sent = wait::until("the peer to be followed", SOON, async || {
        let fdb = node.host.tunnel(TUNNEL).await?.fdb;
        ensure!(fdb.values().all(|to| *to == address), "it sends to {fdb:?}");
        anyhow::Ok(())
    });
    Ok(sent.await?)
}
