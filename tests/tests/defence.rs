//! The agent defends itself: a control plane that is broken, or in the wrong hands, tells it peers
//! that would take the host's own traffic or that of others.

#![cfg(test)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use loden_proto::v1::{self, receiver::Kind};
use loden_tests::{
    deployment::{Deployment, Node},
    hosts::{Tunnel, cidr},
    scripted::{Scripted, vxlan_network, vxlan_peer},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const VNI: u32 = 100;
const DEVICE: &str = "loden100a";
const OWN_SUBNET: &str = "10.244.1.0/24";

/// A peer that there is nothing wrong with.
fn good(node: &str, number: u8) -> v1::Peer {
    vxlan_peer(node, number, VNI)
}

fn endpoint(peer: &mut v1::Peer) -> &mut v1::Endpoint {
    peer.endpoint.get_or_insert_default()
}

fn vtep(peer: &mut v1::Peer) -> &mut v1::VxlanReceiver {
    match &mut endpoint(peer).receivers[0].kind {
        Some(Kind::Vxlan(vtep)) => vtep,
        _ => unreachable!("a good peer has a VTEP"),
    }
}

/// Peers with one thing wrong each, and what the agent has to say about it.
struct BadPeers {
    peers: Vec<v1::Peer>,
    says: BTreeMap<String, &'static str>,
}

impl BadPeers {
    fn add(&mut self, node: &str, says: &'static str, change: impl FnOnce(&mut v1::Peer)) {
        let number = 100 + u8::try_from(self.peers.len()).unwrap();
        let mut peer = good(node, number);
        change(&mut peer);
        self.says.insert(peer.node.clone(), says);
        self.peers.push(peer);
    }

    fn subnet(&mut self, node: &str, subnet: &str, says: &'static str) {
        self.add(node, says, |peer| peer.subnets = vec![subnet.into()]);
    }

    fn mac(&mut self, node: &str, mac: &str, says: &'static str) {
        self.add(node, says, |peer| vtep(peer).mac = mac.into());
    }

    fn address(&mut self, node: &str, address: &str, says: &'static str) {
        self.add(node, says, |peer| endpoint(peer).address_v4 = address.into());
    }

    /// All of them. Their names come after those of the good ones, which so hold what both claim.
    fn all(own_mac: &str) -> Self {
        let mut all = Self { peers: Vec::new(), says: BTreeMap::new() };
        // Subnets: the underlay's, one that the host is connected to, of the internet, everything,
        // the host's own, somebody else's.
        all.subnet("x-underlay", "192.0.2.0/24", "is not a slot of one of the network's pools");
        all.subnet(
            "x-connected",
            "10.244.200.0/24",
            "overlaps 10.244.200.0/24, which this host reaches over its underlay",
        );
        all.subnet("x-internet", "8.8.8.0/24", "is not a slot");
        all.subnet("x-everything", "0.0.0.0/0", "is not a slot");
        all.subnet("x-half", "128.0.0.0/1", "is not a slot");
        all.subnet("x-pool", "10.244.0.0/16", "is not a slot");
        all.subnet("x-part", "10.244.2.0/25", "is not a slot");
        all.subnet("x-own", OWN_SUBNET, "its subnet 10.244.1.0/24 is this host's own");
        all.subnet("x-taken", "10.244.2.0/24", "its subnet 10.244.2.0/24 is that of the peer good-2");
        all.subnet("x-bits", "10.244.9.1/24", "has host bits set");
        all.subnet("x-nonsense", "mine", "must be a CIDR");
        all.add("x-none", "at least one subnet", |peer| peer.subnets.clear());
        all.add("x-two", "one per family", |peer| peer.subnets.push("10.244.99.0/24".into()));
        // MAC addresses: everybody's, nobody's, the host's own, somebody else's.
        all.mac("x-mac-many", "01:00:5e:00:00:01", "multicast");
        all.mac("x-mac-all", "ff:ff:ff:ff:ff:ff", "multicast");
        all.mac("x-mac-zero", "00:00:00:00:00:00", "zero MAC");
        all.mac("x-mac-own", own_mac, "is this host's own");
        all.mac("x-mac-taken", "02:00:5e:10:00:02", "is that of the peer good-2");
        // Underlay addresses.
        all.address("x-to-none", "0.0.0.0", "unspecified");
        all.address("x-to-many", "224.0.0.5", "multicast");
        all.address("x-to-all", "255.255.255.255", "broadcast");
        all.address("x-to-self", "127.0.0.1", "loopback");
        all.address("x-to-own", "192.0.2.11", "its underlay address 192.0.2.11 is this host's own");
        all.address("x-to-taken", "192.0.2.2", "is that of the peer good-2");
        all.address("x-to-pool", "10.244.77.7", "lies in the network's own pool 10.244.0.0/16");
        all.address("x-to-word", "nowhere", "must be an IPv4 address");
        // Receivers.
        all.add("x-vni", "it receives on VNI 101 only; the network's is 100", |peer| vtep(peer).vni = 101);
        all.add("x-vni-0", "must be a VNI", |peer| vtep(peer).vni = 0);
        all.add("x-port-0", "must be a UDP port", |peer| vtep(peer).port = 0);
        all.add("x-port-big", "must be a UDP port", |peer| vtep(peer).port = 65_558);
        all.add("x-gbp", "receives on nothing that this host can send to", |peer| vtep(peer).gbp = true);
        all.add("x-nowhere", "is required", |peer| peer.endpoint = None);
        // Names.
        all.add("X_Name", "must be a DNS name", |_| ());
        all
    }
}

/// The tunnel that leads to these good peers and to nobody else.
fn to(peers: &[u8]) -> Tunnel {
    let mac = |number: u8| vec![0x02, 0, 0x5e, 0x10, 0, number];
    let base = |number: u8| IpAddr::from([10, 244, number, 0]);
    Tunnel {
        fdb: peers.iter().map(|&number| (mac(number), IpAddr::from([192, 0, 2, number]))).collect(),
        neighbours: peers.iter().map(|&number| (base(number), mac(number))).collect(),
        routes: peers.iter().map(|&number| (cidr(&format!("10.244.{number}.0/24")), base(number))).collect(),
    }
}

async fn leads_to(node: &Node, wanted: &Tunnel) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let reached = wait::until("the kernel to lead to the good peers", SOON, async || {
        let tunnel = node.host.tunnel(DEVICE).await?;
        ensure!(tunnel == *wanted, "{tunnel:?} is not {wanted:?}");
        Ok(())
    });
    reached.await?;
    Ok(begin.elapsed())
}

/// The report names exactly these, each with its reason.
fn names(report: &v1::ReportStatusRequest, wanted: &BTreeMap<String, &str>) -> anyhow::Result<()> {
    let told: BTreeSet<&str> = report.failures.iter().map(|failure| failure.node.as_str()).collect();
    let wanted_names: BTreeSet<&str> = wanted.keys().map(String::as_str).collect();
    ensure!(
        told == wanted_names,
        "differ in {:?}",
        told.symmetric_difference(&wanted_names).collect::<Vec<_>>()
    );
    for failure in &report.failures {
        let says = wanted[&failure.node];
        ensure!(failure.message.contains(says), "{}: {:?} lacks {says:?}", failure.node, failure.message);
        ensure!(failure.since.is_some(), "{failure:?}");
    }
    Ok(())
}

struct Attacked {
    fake: Scripted,
    a: Node,
    _deployment: Deployment,
}

async fn attacked(name: &str) -> anyhow::Result<Attacked> {
    let deployment = Deployment::prepare(name, &[]).await?;
    let network = vxlan_network(&["10.244.0.0/16"], VNI);
    let fake = Scripted::start(&deployment, network, &[OWN_SUBNET]).await?;
    let mut a = deployment.prepare_node("a", 11, &[]).await?;
    a.host.add_address("eth0", cidr("10.244.200.1/24")).await?;
    a.start()?;
    Ok(Attacked { fake, a, _deployment: deployment })
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_peers_are_named_and_do_not_delay_good_ones() -> anyhow::Result<()> {
    let Attacked { mut fake, a, _deployment } = attacked("defence").await?;
    let own_mac = loden_datapath::backend::mac_of(&"a".parse()?, &"default".parse()?).to_string();
    let BadPeers { peers: bad, mut says } = BadPeers::all(&own_mac);
    println!("{} bad peers", bad.len());

    // At once, with good ones before and after them, and with the node itself. One has only just
    // joined: there is nothing wrong with it, and nowhere to send to.
    let mut early = good("x-early", 50);
    endpoint(&mut early).receivers.clear();
    let mut all = vec![good("good-2", 2), good("a", 11), early];
    all.extend(bad.iter().cloned());
    all.push(good("good-3", 3));
    fake.snapshot(all, false).await?;
    leads_to(&a, &to(&[2, 3])).await?;
    let report = fake.report(SOON).await?;
    names(&report, &says)?;
    ensure!(report.peers == 2, "{report:?}");
    let left_out = a.metric("loden_agent_peers_left_out").await?;
    ensure!(left_out == says.len() as f64 && a.metric("loden_agent_peers").await? == 2.0, "{left_out}");
    let said = a.ready(SOON).await?;
    let left_out = format!("2 peers from server, 1 not ready to receive yet, {} left out", says.len());
    ensure!(said.contains(&left_out), "{said}");
    // One line of the log for all of them, with a few names.
    let process = a.process.as_ref().context("the agent runs")?;
    let line = process.wait_for_log("peers left out: ", SOON).await?;
    let rest = format!("and {} more; {} in all", says.len() - 3, says.len());
    ensure!(line.contains("WARN") && line.contains(&rest) && line.contains("X_Name"), "{line}");
    let link = a.host.link(DEVICE).await?;
    let mac = loden_proto::model::Mac::try_from(own_mac.clone())?.octets().to_vec();
    ensure!(link.attributes.contains(&netlink_packet_route::link::LinkAttribute::Address(mac)));

    // All bad ones again, and a good one behind them.
    let mut change = bad.clone();
    change.push(good("good-4", 4));
    fake.delta(change, &[]).await?;
    let took = leads_to(&a, &to(&[2, 3, 4])).await?;
    println!("a good peer behind {} bad ones was in the kernel after {took:?}", bad.len());
    names(&fake.report(SOON).await?, &says)?;

    // One is made good; another leaves, and three that wanted what it had get it: all at once.
    let fixed = good("x-mac-zero", 5);
    fake.delta(vec![fixed], &["good-2"]).await?;
    for heir in ["x-mac-zero", "x-taken", "x-mac-taken", "x-to-taken"] {
        says.remove(heir).context("was bad")?;
    }
    let report = fake.report(SOON).await?;
    names(&report, &says)?;
    ensure!(report.peers == 6, "{report:?}");
    let line = process.wait_for_log("4 peers no longer left out: ", SOON).await?;
    ensure!(line.contains("INFO") && line.contains("x-mac-taken, x-mac-zero, x-taken and 1 more"), "{line}");
    let lines = process.log().text()?.lines().filter(|line| line.contains("left out: ")).count();
    ensure!(lines == 2, "{lines} lines of the log are about peers that are left out");
    let tunnel = a.host.tunnel(DEVICE).await?;
    ensure!(tunnel.routes.contains_key(&cidr("10.244.2.0/24")), "of x-taken: {tunnel:?}");
    ensure!(tunnel.fdb.contains_key(&vec![0x02, 0, 0x5e, 0x10, 0, 2]), "of x-mac-taken: {tunnel:?}");
    ensure!(tunnel.fdb.values().any(|to| *to == IpAddr::from([192, 0, 2, 2])), "of x-to-taken: {tunnel:?}");
    ensure!([tunnel.fdb.len(), tunnel.neighbours.len(), tunnel.routes.len()] == [6; 3], "{tunnel:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_collects_leases_nothing_is_taken_away() -> anyhow::Result<()> {
    let Attacked { mut fake, a, _deployment } = attacked("adopting").await?;
    fake.snapshot(vec![good("good-2", 2), good("good-3", 3)], false).await?;
    leads_to(&a, &to(&[2, 3])).await?;

    // The server has lost its store: it knows only one of them, and a new one.
    fake.snapshot(vec![good("good-3", 3), good("good-4", 4)], true).await?;
    leads_to(&a, &to(&[2, 3, 4])).await?;
    fake.delta(vec![good("good-5", 5)], &["good-3"]).await?;
    leads_to(&a, &to(&[2, 3, 4, 5])).await?;

    fake.snapshot(vec![good("good-4", 4), good("good-5", 5)], false).await?;
    leads_to(&a, &to(&[4, 5])).await?;
    Ok(())
}
