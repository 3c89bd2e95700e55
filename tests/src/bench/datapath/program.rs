//! Programming peers and withdrawing them: our datapath in one namespace, iproute2 in another.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use loden_datapath::backend::{self, Desired, Links, Me, Underlay, Ways, mac_of};
use loden_datapath::{Datapath, Host as _, Kernel, plan};
use loden_proto::model::{Family, Network, Peer};
use netlink_packet_route::route::RouteProtocol;

use super::fleet::{DEVICE, ME, Shape, subnet_v4, underlay, underlay_net};
use crate::hosts::{Host, Lab};

/// Two hosts that never send a packet.
pub(super) struct Stage {
    ours: Host,
    theirs: Host,
    directory: PathBuf,
    _lab: Lab,
}

/// How long it took, in seconds.
pub(super) struct Took {
    pub(super) program: f64,
    pub(super) withdraw: f64,
}

impl Stage {
    pub(super) async fn build() -> anyhow::Result<Self> {
        let lab = Lab::new("datapath")?;
        let fabric = lab.fabric("fabric").await?;
        let host = |name| lab.host(name).on(&fabric).address(underlay_net(ME)).build();
        let (ours, theirs) = (host("ours").await?, host("theirs").await?);
        let vxlan = "type vxlan id 1 dev eth0 dstport 8472 nolearning";
        theirs.iproute(&format!("ip link add {DEVICE} mtu 1450 {vxlan} local {}", underlay(ME))).await?;
        theirs.iproute(&format!("ip addr add {}/32 dev {DEVICE}", subnet_v4(ME).addr())).await?;
        theirs.iproute(&format!("ip link set {DEVICE} up")).await?;
        let directory = lab.directory().to_owned();
        Ok(Self { ours, theirs, directory, _lab: lab })
    }

    /// From the peers in hand to all of them in the kernel, and back.
    pub(super) async fn ours(&self, shape: Shape, network: &Network, peers: &[Peer]) -> anyhow::Result<Took> {
        let mut kernel = self.ours.enter(Kernel::open)?;
        let me = me(&mut kernel, shape, network).await?;
        let scope = backend::scope(network, me.mac);

        let begin = Instant::now();
        let mut desired = Desired::new(network.clone(), me);
        desired.replace(peers.iter().cloned());
        let todo = plan(&kernel.observe(&scope).await?, desired.tables());
        let report = kernel.execute(&todo).await;
        let program = begin.elapsed().as_secs_f64();
        ensure!(report.is_complete(), "{} steps failed: {:?}", report.failed.len(), report.failed.first());
        ensure!(desired.refused().is_empty(), "{} peers are refused", desired.refused().len());
        let actual = kernel.observe(&scope).await?;
        ensure!(plan(&actual, desired.tables()).is_empty(), "the kernel does not hold what was programmed");
        let subnets: usize = peers.iter().map(|peer| peer.subnets.iter().count()).sum();
        ensure!(actual.routes.len() == subnets, "{} routes, not {subnets}", actual.routes.len());

        let begin = Instant::now();
        let todo = desired.replace::<Peer>([]);
        let report = kernel.execute(&todo).await;
        let withdraw = begin.elapsed().as_secs_f64();
        ensure!(report.is_complete(), "{} steps failed: {:?}", report.failed.len(), report.failed.first());
        Ok(Took { program, withdraw })
    }

    /// The same objects by iproute2's batch modes.
    pub(super) async fn theirs(&self, shape: Shape, peers: &[Peer]) -> anyhow::Result<Took> {
        let program = self.batches(shape.batches(peers, "add")).await?;
        // The kernel has some of its own, which come and go with its link-local addresses.
        let all = self.theirs.routes().await?;
        let routes = all.iter().filter(|route| route.header.protocol == RouteProtocol::Boot).count();
        let subnets: usize = peers.iter().map(|peer| peer.subnets.iter().count()).sum();
        ensure!(routes == subnets, "iproute2 has made {routes} routes, not {subnets}");
        let withdraw = self.batches(shape.batches(peers, "del")).await?;
        Ok(Took { program, withdraw })
    }

    async fn batches(&self, [ip, bridge]: [String; 2]) -> anyhow::Result<f64> {
        let files = ["ip", "bridge"].map(|program| self.directory.join(format!("{program}.batch")));
        for (file, text) in files.iter().zip([&ip, &bridge]) {
            fs::write(file, text).with_context(|| format!("could not write {}", file.display()))?;
        }
        let begin = Instant::now();
        self.theirs.iproute_batch("ip", &files[0]).await?;
        if !bridge.is_empty() {
            self.theirs.iproute_batch("bridge", &files[1]).await?;
        }
        Ok(begin.elapsed().as_secs_f64())
    }
}

async fn me(kernel: &mut Kernel, shape: Shape, network: &Network) -> anyhow::Result<Me> {
    let node = format!("node-{ME}").parse()?;
    let subnets = shape.subnets(ME)?;
    let mac = mac_of(&node, &network.id);
    let underlay = Underlay {
        lower: "eth0".parse()?,
        mtu: 1500,
        v4: Some(underlay(ME)),
        v6: None,
        prefixes: vec![underlay_net(ME).trunc()],
        links: Links::of(&kernel.facts().await?, &subnets),
        ways: Ways::anywhere(),
        unanswered: Default::default(),
        routed: if shape == Shape::HostGw { vec![Family::V4] } else { Vec::new() },
        inner: vec![Family::V4, Family::V6],
    };
    Ok(Me { node, subnets, underlay, mac, keys: Vec::new(), blackhole: false, udp_port: None })
}
