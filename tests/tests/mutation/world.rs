//! A host with a real agent and sixteen peers, beside things that are somebody else's.

use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{Error, Holdings, Host};
use loden_tests::scripted::{Scripted, vxlan_network, vxlan_peer};
use loden_tests::wait;
use nix::sys::signal::Signal;

use crate::change::Change;

pub(crate) const VNI: u32 = 100;
pub(crate) const DEVICE: &str = "loden100a";
/// Our table of the packet filter.
pub(crate) const TABLE: &str = "inet loden";
/// Somebody else's.
const THEIRS: &str =
    "table inet theirs { chain forward { type filter hook forward priority filter; accept; }; }";
pub(crate) const OWN_V4: &str = "10.244.1.0";
const OWN: [&str; 2] = ["10.244.1.0/24", "2001:db8:0:1::/64"];
/// The numbers of the peers.
pub(crate) const PEERS: Range<u8> = 20..36;
const PATIENCE: Duration = Duration::from_secs(60);
/// Route changes that fill the agent's receive buffer for notifications, and more.
const FLOOD: u32 = 60_000;

/// What somebody else has made on the host, and may have wherever it likes: also within the network's pools.
const FOREIGN: &[&str] = &[
    "ip link add br9 type bridge",
    "ip addr add 10.99.0.1/24 dev br9",
    "ip link set br9 up",
    // Down and with an address of its own: else its carrier and its address are of whatever is attached to it.
    "ip link add br8 address 02:00:00:00:00:97 type bridge",
    "ip route add 10.98.0.0/16 via 192.0.2.200 dev eth0",
    "ip route add 10.244.77.0/25 via 192.0.2.201 dev eth0 proto static",
    "ip neigh add 192.0.2.201 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
    "ip link add vx9 type vxlan id 9 dev eth0 dstport 4789 nolearning",
    "ip link set vx9 up",
    "bridge fdb append 02:00:00:00:00:98 dev vx9 dst 192.0.2.202 self permanent",
    "ip route add blackhole 10.97.0.0/16",
];

/// A peer by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) u8);

impl Peer {
    pub(crate) fn base(self) -> String {
        format!("10.244.{}.0", self.0)
    }

    pub(crate) fn pod(self) -> String {
        format!("10.244.{}.9", self.0)
    }

    pub(crate) fn subnet(self) -> String {
        self.base() + "/24"
    }

    pub(crate) fn subnet_v6(self) -> String {
        format!("2001:db8:0:{:x}::/64", self.0)
    }

    /// The metric of both of its routes.
    pub(crate) fn metric(self) -> u32 {
        u32::from(self.0) + 1
    }

    pub(crate) fn mac(self) -> String {
        format!("02:00:5e:10:00:{:02x}", self.0)
    }

    fn wire(self) -> v1::Peer {
        let of_ipv4 = vxlan_peer(&format!("node-{}", self.0), self.0, VNI);
        v1::Peer { subnets: vec![self.subnet(), self.subnet_v6()], ..of_ipv4 }
    }
}

pub(crate) struct World {
    node: Node,
    intended: Holdings,
    /// What nft lists of our table, and of the other one.
    rules: [String; 2],
    _server: Scripted,
    deployment: Deployment,
}

impl World {
    pub(crate) async fn start(name: &str) -> anyhow::Result<Self> {
        let deployment = Deployment::prepare(name, &[]).await?;
        let mut network = vxlan_network(&["10.244.0.0/16", "2001:db8::/48"], VNI);
        network.masquerade = Some(v1::Masquerade::default());
        let mut server = Scripted::start(&deployment, network, &OWN).await?;
        let mut node = deployment.prepare_node("a", 11, &[]).await?;
        for line in FOREIGN {
            node.host.iproute(line).await?;
        }
        node.host.nft(THEIRS)?;
        node.start()?;
        server.snapshot(PEERS.map(|number| Peer(number).wire()).collect(), false).await?;
        server.report(PATIENCE).await?;
        node.ready(PATIENCE).await?;
        let intended = Holdings::of(&node.host, DEVICE).await?;
        let routes = intended.ours.iter().filter(|line| line.starts_with("route")).count();
        ensure!(routes >= 2 * PEERS.len(), "{intended:#?}");
        let ruled = wait::until("our table", PATIENCE, async || rules(&node.host));
        let rules = ruled.await?;
        Ok(Self { node, intended, rules, _server: server, deployment })
    }

    /// Has a foreign hand do it.
    pub(crate) async fn change(&self, change: Change) -> anyhow::Result<()> {
        Ok(self.node.host.iproute(&change.command()).await?)
    }

    /// Waits until all that a change may have touched is as before; answers how long that took.
    pub(crate) async fn is_as_before(&self, change: Change, limit: Duration) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let undone = wait::until("everything to be as before", limit, async || {
            if change.is_of_rules() {
                self.rules_are_as_before()?;
            }
            match Holdings::of(&self.node.host, DEVICE).await?.differs_from(&self.intended) {
                None => anyhow::Ok(begin.elapsed()),
                Some(differs) => anyhow::bail!(differs),
            }
        });
        Ok(undone.await?)
    }

    /// The packet filter is as before, ours and the other table.
    pub(crate) fn rules_are_as_before(&self) -> anyhow::Result<()> {
        let now = rules(&self.node.host)?;
        ensure!(now == self.rules, "the rules are {now:#?}, not {:#?}", self.rules);
        Ok(())
    }

    /// Has so much happen while the agent sleeps that the kernel drops its notifications.
    pub(crate) async fn deafen(&self) -> anyhow::Result<()> {
        let mut flood = String::new();
        for number in 0..FLOOD {
            let verb = if number % 2 == 0 { "add" } else { "del" };
            writeln!(flood, "route {verb} 10.96.0.0/24 dev br9")?;
        }
        let file = self.deployment.lab.directory().join("flood.batch");
        fs::write(&file, flood)?;
        self.signal(Signal::SIGSTOP)?;
        let before = self.dropped()?;
        self.node.host.iproute_batch("ip", &file).await?;
        ensure!(self.dropped()? > before, "nothing was dropped");
        Ok(())
    }

    /// Lets the agent go on.
    pub(crate) fn hear(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// What the agent has logged last.
    pub(crate) fn last_words(&self) -> String {
        let log = self.node.process.as_ref().and_then(|agent| agent.log().text().ok()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(self.node.process.as_ref().context("the agent runs")?.signal(signal)?)
    }

    /// Notifications that the kernel could not deliver to sockets of the host's namespace.
    fn dropped(&self) -> anyhow::Result<u64> {
        let sockets = self.node.host.enter(|| fs::read_to_string("/proc/thread-self/net/netlink"))?;
        let (header, rows) = sockets.split_once('\n').context("/proc/net/netlink has a header")?;
        let column = header.split_ascii_whitespace().position(|name| name == "Drops");
        let column = column.context("/proc/net/netlink tells of drops")?;
        let drops =
            rows.lines().filter_map(|row| row.split_ascii_whitespace().nth(column)?.parse::<u64>().ok());
        Ok(drops.sum())
    }
}

fn rules(host: &Host) -> Result<[String; 2], Error> {
    Ok([host.nft(&format!("list table {TABLE}"))?, host.nft("list table inet theirs")?])
}
