//! The paths, all there at once.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use loden_datapath::tunnel::counters::Counters;
use loden_datapath::tunnel::engine::{Behind, Engine, Listening, Remotes};
use loden_datapath::tunnel::limits::Limits;
use loden_proto::model::{Key, Subnets, Vni};

use super::super::by_hand::{self, MTU, host_with_container, subnet, underlay};
use super::super::carry::Path;
use super::naive::Naive;
use crate::hosts::{Container, Fabric, Host, Lab, Namespace};

pub(super) const RAW: &str = "raw";
pub(super) const VXLAN: &str = "vxlan";
pub(super) const NAIVE: &str = "naive";
pub(super) const UDP: &str = "udp";

const PATIENCE: Duration = Duration::from_secs(30);
/// Outer IPv4 and UDP headers.
const NAIVE_OVERHEAD: u32 = 28;
/// The same and our header.
const OVERHEAD: u32 = NAIVE_OVERHEAD + 12;
const PORT: u16 = 8285;
const DEVICE: &str = "tun0";

/// Everything that the paths need. Dropping it ends and removes it.
pub(super) struct Stage {
    pub(super) paths: Vec<Path>,
    /// Those of all paths.
    hosts: Vec<Namespace>,
    /// Ours, that of the sending host first.
    engines: Vec<Engine>,
    _naive: Vec<Naive>,
    _lab: Lab,
}

impl Stage {
    pub(super) async fn build() -> anyhow::Result<Self> {
        let lab = Lab::new("tunnel")?;
        let fabric = lab.fabric("fabric").await?;
        by_hand::no_bridge_netfilter(&fabric)?;
        let [raw, _] = by_hand::routed([RAW, "routed"], &lab, &fabric).await?;
        let (vxlan, wired) = by_hand::vxlan(VXLAN, &lab, &fabric, [3, 4], false).await?;
        let mut hosts = vec![raw.from.clone(), raw.to.clone()];
        hosts.extend(wired.map(|host| Namespace::clone(&host)));
        let (mut naive, mut engines) = (Vec::new(), Vec::new());
        let pods = pair(&lab, &fabric, [5, 6], MTU - NAIVE_OVERHEAD).await?;
        for (host, [own, other]) in [(&pods[0].0, [5, 6]), (&pods[1].0, [6, 5])] {
            let mtu = MTU - NAIVE_OVERHEAD;
            naive.push(host.enter(|| Naive::start(DEVICE, mtu as u16, endpoint(own), endpoint(other)))?);
            lead(host, other).await?;
        }
        let naive_path = path(NAIVE, &pods);
        hosts.extend(pods.map(|(host, _)| Namespace::clone(&host)));
        let pods = pair(&lab, &fabric, [7, 8], MTU - OVERHEAD).await?;
        for (host, [own, other]) in [(&pods[0].0, [7, 8]), (&pods[1].0, [8, 7])] {
            engines.push(host.enter(|| engine(own, other))?);
            lead(host, other).await?;
        }
        let udp_path = path(UDP, &pods);
        hosts.extend(pods.map(|(host, _)| Namespace::clone(&host)));
        let paths = vec![raw, vxlan, naive_path, udp_path];
        for path in &paths {
            path.carries(PATIENCE).await?;
        }
        Ok(Self { paths, hosts, engines, _naive: naive, _lab: lab })
    }

    /// What our tunnel has moved: of the sending host, of the receiving one.
    pub(super) fn counters(&self) -> anyhow::Result<[Arc<Counters>; 2]> {
        let device = DEVICE.parse()?;
        let mut all = self.engines.iter().filter_map(|engine| engine.counters(device).cloned());
        let (Some(from), Some(to)) = (all.next(), all.next()) else { bail!("a tunnel has ended") };
        Ok([from, to])
    }

    /// Has the links of all hosts cut and merge packets by themselves, or not.
    pub(super) fn offload(&self, on: bool) -> anyhow::Result<()> {
        let state = if on { "on" } else { "off" };
        for host in &self.hosts {
            let mut ethtool = Command::new("ethtool");
            ethtool.args([
                "-K",
                "eth0",
                "tso",
                state,
                "gso",
                state,
                "gro",
                state,
                "tx-udp-segmentation",
                state,
            ]);
            let output = host.enter(|| ethtool.output())?;
            ensure!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

type Pods = [(Host, Container); 2];

async fn pair(lab: &Lab, fabric: &Fabric, numbers: [u8; 2], mtu: u32) -> anyhow::Result<Pods> {
    let [one, two] = numbers;
    Ok([host_with_container(lab, fabric, one, mtu).await?, host_with_container(lab, fabric, two, mtu).await?])
}

fn path(name: &'static str, [(_, from), (_, to)]: &Pods) -> Path {
    Path::new(name, from, to, to.address())
}

fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::new(underlay(number).addr(), PORT)
}

/// Leads what is for another host's containers to the device.
async fn lead(host: &Host, other: u8) -> anyhow::Result<()> {
    host.iproute(&format!("ip link set {DEVICE} up")).await?;
    host.iproute(&format!("ip route add {} dev {DEVICE}", subnet(other, 0))).await?;
    Ok(())
}

/// What a host wants to be shown.
fn key(number: u8) -> anyhow::Result<Key> {
    Ok(Key::try_from(0x10de_0000 + u64::from(number))?)
}

/// An engine with one network and one peer.
fn engine(own: u8, other: u8) -> anyhow::Result<Engine> {
    let mut engine = Engine::default();
    let device = DEVICE.parse()?;
    let listening = Listening {
        vni: Vni::try_from(1)?,
        locals: vec![endpoint(own)],
        keys: vec![key(own)?],
        mtu: (MTU - OVERHEAD) as u16,
        limits: Limits::default(),
    };
    let behind = Behind { key: key(other)?, subnets: Subnets::new([subnet(other, 0)])? };
    engine.listen(device, listening, &Remotes::from([(endpoint(other), behind)]))?;
    Ok(engine)
}
