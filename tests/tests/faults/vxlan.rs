//! Faults of the tunnel: flannel repairs none of them before it is restarted or the peer's lease is renewed.

use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::{Deployment, Pair, Underlay};
use loden_tests::repairs::Repairs;
use loden_tests::scripted::{Scripted, vxlan_network, vxlan_peer};
use loden_tests::traffic::Ping;
use loden_tests::wait;

use crate::repaired::{metric, repaired};

const DUAL: &[&str] = &["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
const SOON: Duration = Duration::from_secs(30);
const DEVICE: &str = "loden1a";

/// What a foreign hand may break, by the name of the fault.
async fn faults(pair: &Pair) -> anyhow::Result<Vec<(&'static str, Vec<String>)>> {
    let (own, peer) = (pair.a.subnet_env()?, pair.b.subnet_env()?);
    let subnet = peer.subnet.trunc();
    let (own, base) = (own.subnet.network(), subnet.network());
    let subnet_v6 = peer.subnet_v6.map(|subnet| subnet.trunc().to_string()).unwrap_or_default();
    let mac: Vec<String> =
        pair.b.host.link_address(DEVICE).await?.iter().map(|octet| format!("{octet:02x}")).collect();
    let (mac, metric) = (mac.join(":"), metric(&pair.a).await?);
    let metric_v6 =
        peer.subnet_v6.map(|subnet| loden_datapath::tables::metric(subnet.trunc())).unwrap_or_default();
    let (wrong, elsewhere) = ("02:00:00:00:00:ee", "10.244.255.0");
    let one = |command: String| vec![command];
    Ok(vec![
        ("a route is deleted", one(format!("ip route del {subnet} dev {DEVICE}"))),
        ("an IPv6 route is deleted", one(format!("ip -6 route del {subnet_v6} dev {DEVICE}"))),
        (
            "a route is made wrong",
            one(format!(
                "ip route replace {subnet} via {elsewhere} dev {DEVICE} onlink metric {metric} proto 76"
            )),
        ),
        (
            "a route is made wrong and somebody else's",
            one(format!("ip route replace {subnet} via {elsewhere} dev {DEVICE} onlink metric {metric}")),
        ),
        (
            "a route is replaced by one that ends the way",
            one(format!("ip route replace blackhole {subnet} metric {metric}")),
        ),
        (
            "a route is replaced by one that ends the way, as ours",
            one(format!("ip route replace unreachable {subnet} metric {metric} proto 76")),
        ),
        (
            "a route of somebody else's is put before it in its place",
            one(format!("ip route prepend {subnet} via 192.0.2.1 dev eth0 metric {metric}")),
        ),
        (
            "an IPv6 route gets a second next hop",
            one(format!("ip -6 route append {subnet_v6} via fe80::ee dev {DEVICE} metric {metric_v6}")),
        ),
        (
            "an IPv6 route is replaced by one that ends the way, and one comes behind that",
            vec![
                format!("ip -6 route replace unreachable {subnet_v6} metric {metric_v6}"),
                format!("ip -6 route append {subnet_v6} via fe80::ee dev {DEVICE} metric {metric_v6}"),
            ],
        ),
        (
            "all routes are flushed",
            vec![format!("ip route flush dev {DEVICE}"), format!("ip -6 route flush dev {DEVICE} proto 76")],
        ),
        ("an FDB entry is deleted", one(format!("bridge fdb del {mac} dev {DEVICE} self"))),
        (
            "an FDB entry is made wrong",
            one(format!("bridge fdb replace {mac} dev {DEVICE} dst 192.0.2.250 self permanent")),
        ),
        ("a neighbour is deleted", one(format!("ip neigh del {base} dev {DEVICE}"))),
        (
            "a neighbour is made wrong",
            one(format!("ip neigh replace {base} lladdr {wrong} dev {DEVICE} nud permanent")),
        ),
        ("the device's address is deleted", one(format!("ip addr del {own}/32 dev {DEVICE}"))),
        (
            "the device's address is made wrong",
            vec![
                format!("ip addr add 10.244.255.255/32 dev {DEVICE}"),
                format!("ip addr del {own}/32 dev {DEVICE}"),
            ],
        ),
        ("the device gets a second address", one(format!("ip addr add 10.244.255.1/16 dev {DEVICE}"))),
        (
            "the device filters by the reverse path",
            one(format!("sysctl -q net.ipv4.conf.{DEVICE}.rp_filter=1")),
        ),
        ("the device does not forward", one(format!("sysctl -q net.ipv4.conf.{DEVICE}.forwarding=0"))),
        (
            "unknown frames are flooded",
            one(format!("bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 192.0.2.250 self permanent")),
        ),
        (
            "the device goes down and up",
            vec![format!("ip link set {DEVICE} down"), format!("ip link set {DEVICE} up")],
        ),
        ("the device stays down", one(format!("ip link set {DEVICE} down"))),
        ("the device gets another MAC", one(format!("ip link set {DEVICE} address {wrong}"))),
        (
            "the device sends from another address",
            one(format!("ip link set {DEVICE} type vxlan id 1 local 192.0.2.77")),
        ),
        ("the device learns", one(format!("ip link set {DEVICE} type vxlan id 1 learning"))),
        ("the device makes link-local addresses", one(format!("ip link set {DEVICE} addrgenmode eui64"))),
        ("the device has another alias", one(format!("ip link set {DEVICE} alias mine"))),
        // With the MAC that the peers know, and with every peer.
        ("the device is deleted", one(format!("ip link del {DEVICE}"))),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_tunnel_is_undone() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "f-vxlan", DUAL).await?;
    let mut repairs = Repairs::default();
    for (fault, commands) in faults(&pair).await? {
        repairs.note(fault, repaired(&pair.a.host, DEVICE, fault, &commands).await?);
        pair.reaches().await.with_context(|| format!("after: {fault}"))?;
    }
    repairs.are_prompt("the tunnel")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_ipv6_alone_gets_its_device_back_with_every_peer() -> anyhow::Result<()> {
    const VNI: u32 = 100;
    let deployment = Deployment::prepare("f-v6-only", &[]).await?;
    let network = vxlan_network(&["2001:db8:44::/48"], VNI);
    let mut server = Scripted::start(&deployment, network, &["2001:db8:44:1::/64"]).await?;
    let node = deployment.add_node("a", 11, &[]).await?;
    let mut peer = vxlan_peer("b", 20, VNI);
    peer.subnets = vec!["2001:db8:44:20::/64".into()];
    server.snapshot(vec![peer], false).await?;
    server.report(SOON).await?;
    let mut repairs = Repairs::default();
    for command in ["ip link set loden100a down", "ip link del loden100a"] {
        repairs.note(command, repaired(&node.host, "loden100a", command, &[command.to_owned()]).await?);
    }
    repairs.are_prompt("a tunnel of IPv6 alone")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_fails_takes_nothing_from_the_other() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "f-families", DUAL).await?;
    let (v4, v6): (Vec<_>, Vec<_>) = pair.pods[1].addresses().partition(|address| address.is_ipv4());
    let off = format!("net.ipv6.conf.{DEVICE}.disable_ipv6");
    let ping = Ping::to(v4[0]).interval(Duration::from_millis(5)).start(&pair.pods[0])?;
    ping.reach(SOON).await?;

    pair.a.host.sysctl(&off, "1")?;
    let told = wait::until("the failure to be told", SOON, async || {
        let status = pair.deployment.lodenctl(&["status"]).await?;
        ensure!(status.contains(&format!("{off} is 1: nothing of the network's IPv6 works")), "{status}");
        anyhow::Ok(())
    });
    told.await?;
    // What comes and goes in IPv4 is still followed.
    let c = pair.deployment.add_node("c", 13, &[]).await?;
    c.ready(SOON).await?;
    let to_c = Ping::to(c.attach("pod-c").await?.address()).start(&pair.pods[0])?;
    to_c.reach(SOON).await.context("a newcomer is not reached")?;

    pair.a.host.sysctl(&off, "0")?;
    let to_v6 = Ping::to(v6[0]).start(&pair.pods[0])?;
    to_v6.reach(SOON).await.context("IPv6 does not come back")?;
    let blink = ["1", "0"].map(|value| format!("sysctl -qw {off}={value}"));
    let mut repairs = Repairs::default();
    for _ in 0..3 {
        repairs.note("IPv6 off for a moment", repaired(&pair.a.host, DEVICE, "off and on", &blink).await?);
    }
    repairs.are_prompt("IPv6")?;
    let report = ping.stop().await?;
    println!("IPv6 off and on: {} of {} lost in IPv4", report.lost(), report.sent());
    ensure!(report.lost() == 0, "{} of {} lost in IPv4", report.lost(), report.sent());
    Ok(())
}
