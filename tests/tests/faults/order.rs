//! A peer that is hard to take back. flannel handles one after the other and tries again up to ten times, so
//! that everybody behind such a peer waits for most of a minute, and its end as well.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::v1::{self, receiver::Kind};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{cidr, ip};
use loden_tests::scripted::{Scripted, vxlan_network, vxlan_peer};
use loden_tests::wait;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);
const VNI: u32 = 100;
const DEVICE: &str = "loden100a";

fn peer(number: u8) -> v1::Peer {
    vxlan_peer(&format!("node-{number}"), number, VNI)
}

/// A node whose control plane tells it what the test says.
struct Told {
    server: Scripted,
    a: Node,
    _deployment: Deployment,
}

impl Told {
    async fn start(name: &str) -> anyhow::Result<Self> {
        let deployment = Deployment::prepare(name, &[]).await?;
        let network = vxlan_network(&["10.244.0.0/16"], VNI);
        let server = Scripted::start(&deployment, network, &["10.244.1.0/24"]).await?;
        let mut a = deployment.prepare_node("a", 11, &[]).await?;
        a.host.add_address("eth0", cidr("2001:db8::11/64")).await?;
        a.start()?;
        Ok(Self { server, a, _deployment: deployment })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(self.a.process.as_ref().context("the agent runs")?.signal(signal)?)
    }

    /// Waits until these peers, and nobody else, have an FDB entry, a neighbour and a route.
    async fn leads_to(&self, numbers: &[u8]) -> anyhow::Result<()> {
        let nets: BTreeSet<_> = numbers.iter().map(|number| cidr(&format!("10.244.{number}.0/24"))).collect();
        let there = wait::until("the peers to be in the kernel", SOON, async || {
            let tunnel = self.a.host.tunnel(DEVICE).await?;
            let routes: BTreeSet<_> = tunnel.routes.keys().copied().collect();
            let sizes = [tunnel.fdb.len(), tunnel.neighbours.len()];
            ensure!(routes == nets && sizes == [nets.len(); 2], "{tunnel:?}");
            Ok(())
        });
        Ok(there.await?)
    }

    /// Waits until the only peer is sent to at this address, over IPv6.
    async fn sends_to(&self, address: &str) -> anyhow::Result<()> {
        let followed = wait::until("the peer to be sent to", SOON, async || {
            let fdb = self.a.host.tunnel("loden100b").await?.fdb;
            ensure!(fdb.values().eq([&ip(address)]), "{fdb:?}");
            Ok(())
        });
        Ok(followed.await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_behind_a_peer_that_leaves_and_was_gone_from_the_kernel_already() -> anyhow::Result<()> {
    let mut told = Told::start("f-gone").await?;
    told.server.snapshot(vec![peer(20), peer(21)], false).await?;
    told.leads_to(&[20, 21]).await?;

    // The agent must not see it before it hears that the peer has left.
    told.signal(Signal::SIGSTOP)?;
    for command in [
        format!("ip route del 10.244.20.0/24 dev {DEVICE}"),
        format!("ip neigh del 10.244.20.0 dev {DEVICE}"),
        format!("bridge fdb del 02:00:5e:10:00:14 dev {DEVICE} self"),
    ] {
        told.a.host.iproute(&command).await?;
    }
    told.server.delta(Vec::new(), &["node-20"]).await?;
    told.server.delta(vec![peer(22)], &[]).await?;
    let begin = Instant::now();
    told.signal(Signal::SIGCONT)?;
    told.leads_to(&[21, 22]).await?;
    println!("the peer behind one that was gone already is there after {:?}", begin.elapsed());
    let report = told.server.report(SOON).await?;
    ensure!(report.failures.is_empty() && report.peers == 2, "{report:?}");

    // Nor does its end wait.
    let begin = Instant::now();
    told.a.stop().await?;
    println!("the agent ended after {:?}", begin.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_changed_its_mac_three_times_and_left_leaves_nothing() -> anyhow::Result<()> {
    let mut told = Told::start("f-macs").await?;
    told.server.snapshot(vec![peer(20), peer(21)], false).await?;
    for last in 1..=3 {
        let mut changed = peer(20);
        let receiver = changed.endpoint.as_mut().and_then(|endpoint| endpoint.receivers[0].kind.as_mut());
        let Some(Kind::Vxlan(vtep)) = receiver else { unreachable!("the peer has a VTEP") };
        vtep.mac = format!("02:00:00:00:77:{last:02x}");
        let mac = vec![2, 0, 0, 0, 0x77, last];
        told.server.delta(vec![changed], &[]).await?;
        let followed = wait::until("the new MAC to be sent to", SOON, async || {
            let tunnel = told.a.host.tunnel(DEVICE).await?;
            ensure!(tunnel.fdb.contains_key(&mac) && tunnel.fdb.len() == 2, "{tunnel:?}");
            Ok(())
        });
        followed.await?;
    }
    told.server.delta(Vec::new(), &["node-20"]).await?;
    told.leads_to(&[21]).await
}

/// A second snapshot changes what has changed, keeps what is said again, and takes away who is not said; our own
/// lease is no peer, said or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_snapshot_changes_what_has_changed() -> anyhow::Result<()> {
    let mut told = Told::start("f-second").await?;
    told.server.snapshot(vec![vxlan_peer("a", 1, VNI), peer(20), peer(21), peer(22)], false).await?;
    told.leads_to(&[20, 21, 22]).await?;
    let mut changed = peer(21);
    changed.endpoint.get_or_insert_default().address_v4 = "192.0.2.99".into();
    told.server.snapshot(vec![peer(20), changed], false).await?;
    told.leads_to(&[20, 21]).await?;
    let fdb = told.a.host.tunnel(DEVICE).await?.fdb;
    ensure!(fdb.values().any(|to| *to == ip("192.0.2.99")), "{fdb:?}");
    Ok(())
}

/// A peer has addresses of both families and receives over IPv6: that one changes, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_family_alone_is_followed() -> anyhow::Result<()> {
    let at = |address_v6: &str| {
        let mut peer = peer(20);
        let endpoint = peer.endpoint.get_or_insert_default();
        endpoint.address_v6 = address_v6.into();
        if let Some(Kind::Vxlan(vtep)) = &mut endpoint.receivers[0].kind {
            vtep.family = v1::AddressFamily::Ipv6.into();
            vtep.mtu = 1430;
        }
        peer
    };
    let mut told = Told::start("f-family").await?;
    told.server.snapshot(vec![at("2001:db8::20")], false).await?;
    told.sends_to("2001:db8::20").await?;
    told.server.delta(vec![at("2001:db8::21")], &[]).await?;
    told.sends_to("2001:db8::21").await
}
