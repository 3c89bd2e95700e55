//! What an agent may find in the kernel that it starts over: stale things of ours, and things of others.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::ensure;
use loden_tests::hosts::{Host, cidr, ip};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags};
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::{LinkVxlan, RouteMessageBuilder};

use crate::{DEVICE, PROTOCOL};

/// A peer of ours that nobody knows any more, as an agent that died half-way may leave it.
pub(crate) async fn leave_stale_peer(host: &Host) -> anyhow::Result<()> {
    let index = host.link_index(DEVICE).await?;
    let netlink = host.netlink();
    let (mac, gateway) = ([0x02, 0, 0x5e, 0x10, 0, 0xfa], Ipv4Addr::new(10, 244, 250, 0));
    let mut neighbour = netlink.neighbours().add(index, gateway.into()).link_layer_address(&mac);
    neighbour.message_mut().attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
    neighbour.execute().await?;
    let entry = netlink.neighbours().add_bridge(index, &mac).destination(ip("192.0.2.250"));
    entry.flags(NeighbourFlags::Own).execute().await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(gateway, 24)
        .gateway(gateway)
        .output_interface(index)
        .priority(251)
        .protocol(PROTOCOL)
        .onlink();
    Ok(netlink.route().add(route.build()).execute().await?)
}

/// Things of others, on our device too; answers their lines of the inventory.
pub(crate) async fn put_foreign_things(host: &Host) -> anyhow::Result<BTreeSet<String>> {
    let before = host.inventory().await?;
    let netlink = host.netlink();
    host.add_bridge("foreign0", 1500).await?;
    host.add_address("foreign0", cidr("198.18.0.1/24")).await?;
    let vxlan = LinkVxlan::new("vxlan99", 99).port(4790).local(Ipv4Addr::new(192, 0, 2, 11)).up();
    netlink.link().add(vxlan.build()).execute().await?;
    let [eth0, vxlan, ours] =
        [host.link_index("eth0").await?, host.link_index("vxlan99").await?, host.link_index(DEVICE).await?];
    let mac = [0x02, 0, 0x5e, 0x10, 0, 0xee];
    let entry = netlink.neighbours().add_bridge(vxlan, &mac).destination(ip("192.0.2.99"));
    entry.flags(NeighbourFlags::Own).execute().await?;
    for (device, address) in [(eth0, "192.0.2.77"), (ours, "10.9.9.9")] {
        let neighbour = netlink.neighbours().add(device, ip(address)).link_layer_address(&mac);
        neighbour.execute().await?;
    }
    // A metric and a prefix of ours, but not our protocol; and a route like ours to somewhere else.
    for (to, length, gateway, device) in
        [([198, 51, 100, 0], 24, [192, 0, 2, 1], eth0), ([203, 0, 113, 0], 24, [10, 9, 9, 9], ours)]
    {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::from(to), length)
            .gateway(Ipv4Addr::from(gateway))
            .output_interface(device)
            .protocol(RouteProtocol::Static)
            .onlink();
        netlink.route().add(route.build()).execute().await?;
    }
    let after = host.inventory().await?;
    ensure!(before.is_subset(&after));
    Ok(after.difference(&before).cloned().collect())
}

/// The same on a host that has no device of ours.
pub(crate) async fn put_foreign_things_without_device(host: &Host) -> anyhow::Result<()> {
    host.add_bridge("foreign0", 1500).await?;
    Ok(host.add_route(cidr("198.51.100.0/24"), ip("192.0.2.1")).await?)
}
