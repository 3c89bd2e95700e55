//! Faults of next hops: flannel repairs a deleted route after up to ten seconds, and a wrong one never.

use anyhow::Context;
use loden_tests::deployment::{Pair, Underlay};
use loden_tests::repairs::Repairs;

use crate::repaired::{metric, repaired};

const HOST_GW: &[&str] = &["--pool", "10.244.0.0/16", "--backend", "host-gw"];
/// There is no tunnel; this would be its name.
const NO_TUNNEL: &str = "loden1a";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_next_hop_is_undone() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "f-hostgw", HOST_GW).await?;
    let (subnet, metric) = (pair.b.subnet_env()?.subnet.trunc(), metric(&pair.a).await?);
    let faults = [
        ("a route is deleted", vec![format!("ip route del {subnet} dev eth0")]),
        ("all routes are flushed", vec!["ip route flush proto 76".to_owned()]),
        (
            "a route is made wrong",
            vec![format!("ip route replace {subnet} via 192.0.2.1 dev eth0 metric {metric} proto 76")],
        ),
        (
            "a route is made wrong and somebody else's",
            vec![format!("ip route replace {subnet} via 192.0.2.1 dev eth0 metric {metric}")],
        ),
        (
            "a route is replaced by one that ends the way",
            vec![format!("ip route replace blackhole {subnet} metric {metric}")],
        ),
        (
            "a wrong route is put before it",
            vec![format!("ip route add {subnet} via 192.0.2.1 dev eth0 proto 76")],
        ),
        (
            "a route of somebody else's is put before it in its place",
            vec![format!("ip route prepend {subnet} via 192.0.2.1 dev eth0 metric {metric}")],
        ),
        ("the NIC goes down and up", vec!["ip link set eth0 down".into(), "ip link set eth0 up".into()]),
    ];
    let mut repairs = Repairs::default();
    for (fault, commands) in faults {
        repairs.note(fault, repaired(&pair.a.host, NO_TUNNEL, fault, &commands).await?);
        pair.reaches().await.with_context(|| format!("after: {fault}"))?;
    }
    repairs.are_prompt("next hops")
}
