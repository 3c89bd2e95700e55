//! The paths, all there at once.
//!
//! ```text
//!  raw            host ═══ fabric ═══ host
//!  routed         container ─ bridge ─ host ═══ fabric ═══ host ─ bridge ─ container     routes by hand
//!  hostgw         the same by the control plane and two agents, the real programs, masquerading
//!  vxlan_hand     through a VXLAN device made with iproute2 as flannel makes it, without a rule
//!  vxlan_hand_ct  the same with connections tracked
//!  vxlan          the same by the control plane and two agents, masquerading
//! ```

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;

use super::super::Say;
use super::super::by_hand::{self, no_bridge_netfilter};
use super::super::carry::Path;
use crate::deployment::{Deployment, Node, Underlay};
use crate::hosts::{Container, Lab};
use crate::wait;

pub(super) const RAW: &str = "raw";
pub(super) const ROUTED: &str = "routed";
pub(super) const HOSTGW: &str = "hostgw";
pub(super) const VXLAN_HAND: &str = "vxlan_hand";
pub(super) const VXLAN_HAND_CT: &str = "vxlan_hand_ct";
pub(super) const VXLAN: &str = "vxlan";

/// How long a path may take to carry its first packet.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes of ours, and the path between their containers.
pub(super) struct Ours {
    pub(super) path: Path,
    pub(super) nodes: [Node; 2],
    /// Their addresses on the underlay.
    pub(super) underlay: [IpAddr; 2],
    /// The agents' tables in the packet filter, as nft lists them.
    pub(super) rules: [String; 2],
}

/// Everything that the paths need. Dropping it ends and removes it.
pub(super) struct Stage {
    pub(super) paths: Vec<Path>,
    /// The nodes by backend, host-gw first; before the deployment, so that processes end before their hosts go.
    pub(super) ours: [Ours; 2],
    _deployment: Deployment,
    _lab: Lab,
}

impl Stage {
    pub(super) async fn build(say: &Say<'_>) -> anyhow::Result<Self> {
        say("paths made by hand");
        let lab = Lab::new("throughput")?;
        let fabric = lab.fabric("fabric").await?;
        no_bridge_netfilter(&fabric)?;
        let [raw, routed] = by_hand::routed([RAW, ROUTED], &lab, &fabric).await?;
        let (hand, _) = by_hand::vxlan(VXLAN_HAND, &lab, &fabric, [3, 4], false).await?;
        let (hand_ct, _) = by_hand::vxlan(VXLAN_HAND_CT, &lab, &fabric, [5, 6], true).await?;
        say("one control plane and four agents");
        let deployment = Deployment::start("throughput", &[]).await?;
        no_bridge_netfilter(&deployment.fabric)?;
        let hostgw = ours(&deployment, HOSTGW, "10.245.0.0/16", "host-gw", 11).await?;
        let vxlan = ours(&deployment, VXLAN, "10.244.0.0/16", "vxlan", 21).await?;
        let paths = vec![raw, routed, hostgw.path.clone(), hand, hand_ct, vxlan.path.clone()];
        for path in &paths {
            path.carries(PATIENCE).await?;
        }
        Ok(Self { paths, ours: [hostgw, vxlan], _deployment: deployment, _lab: lab })
    }
}

/// A network that masquerades, and two nodes of it from this number on the underlay on.
async fn ours(
    deployment: &Deployment,
    name: &'static str,
    pool: &str,
    backend: &str,
    number: u8,
) -> anyhow::Result<Ours> {
    let create = ["network", "create", name, "--pool", pool, "--backend", backend, "--masquerade"];
    deployment.lodenctl(&create).await?;
    let node = async |place: u8| {
        let host = format!("{name}-{place}");
        let node = deployment.add_node(&host, number + place, &["--network", name]).await?;
        no_bridge_netfilter(&node.host)?;
        anyhow::Ok(node)
    };
    let nodes = [node(1).await?, node(2).await?];
    let pod = async |node: &Node| -> anyhow::Result<Container> {
        node.ready(PATIENCE).await?;
        node.attach(&format!("c-{}", node.name)).await
    };
    let (one, two) = (pod(&nodes[0]).await?, pod(&nodes[1]).await?);
    let rules = [rules(&nodes[0]).await?, rules(&nodes[1]).await?];
    let underlay = [1, 2].map(|place| Underlay::V4.address(number + place).addr());
    Ok(Ours { path: Path::new(name, &one, &two, two.address()), nodes, underlay, rules })
}

/// Waits for the agent's table in the packet filter.
async fn rules(node: &Node) -> anyhow::Result<String> {
    let listed = wait::until("the agent's table", PATIENCE, async || {
        let listing = node.host.nft("list table inet loden")?;
        ensure!(listing.contains(" masquerade "), "{listing}");
        anyhow::Ok(listing)
    });
    Ok(listed.await?)
}
