//! What is programmed, and what of the host keeps it from working: told, not changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use loden_datapath::{HostFacts, Tables};
use loden_proto::model::Family;

use crate::iface::Choice;

/// All of it.
pub(super) fn warnings(facts: &HostFacts, choice: &Choice, tables: &Tables) -> Vec<String> {
    let told = crowds(facts, tables).into_iter().chain(queues(facts, tables));
    told.chain(crossed(facts, choice, tables)).collect()
}

/// More next hops than the kernel keeps neighbours. Those on devices of ours are permanent, and not counted.
fn crowds(facts: &HostFacts, tables: &Tables) -> Vec<String> {
    // No more next hops than routes: where there is nothing to tell nothing is counted.
    let limits = facts.neighbour_limits.iter().filter(|(_, limit)| tables.routes.len() > *limit);
    let told = limits.filter_map(|(family, limit)| {
        let on_links = tables.routes.values().filter(|route| !tables.devices.contains_key(&route.device));
        let hops = on_links.filter_map(|route| Some((route.device, route.gateway?)));
        let of_family = hops.filter(|(_, gateway)| Family::of(*gateway) == *family);
        let needed = of_family.collect::<BTreeSet<_>>().len();
        let ip = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        (needed > *limit).then(|| {
            format!(
                "net.{ip}.neigh.default.gc_thresh3 is {limit}: the kernel keeps no more neighbours, and this node \
                 needs {needed} as next hops; set it higher than that"
            )
        })
    });
    told.collect()
}

/// Tunnels of the kernel, which have none, that somebody has given a queue: it is theirs, and it may be what is slow.
fn queues(facts: &HostFacts, tables: &Tables) -> Vec<String> {
    let tunnels = tables.devices.iter().filter(|(_, device)| device.vxlan().is_some());
    let tunnels = tunnels.filter_map(|(name, _)| facts.interface(*name));
    let told = tunnels.filter_map(|tunnel| {
        let (name, qdisc) = (tunnel.name, tunnel.qdisc.as_ref().filter(|qdisc| *qdisc != "noqueue")?);
        Some(format!(
            "the tunnel {name} has the queueing discipline {qdisc}, which may delay or drop what is sent to peers; \
             `tc qdisc del dev {name} root` takes it away"
        ))
    });
    told.collect()
}

/// Peers that packets leave to by another device than the one whose address is sent from, to which the answers come.
fn crossed(facts: &HostFacts, choice: &Choice, tables: &Tables) -> Option<String> {
    let device = choice.device;
    if !facts.interface(device).is_some_and(|nic| nic.strict) {
        return None;
    }
    let ways = facts.best_routes(|route| route.prefix.addr().is_ipv4(), |route| route.device);
    let remotes = tables.remotes.keys().map(|key| key.endpoint.ip());
    let destinations = tables.fdb.values().map(|entry| entry.destination).chain(remotes);
    let elsewhere = |address: &IpAddr| match ways.lookup(*address) {
        Some(Some(other)) => *other != device,
        Some(None) | None => false,
    };
    let crossed: BTreeSet<_> = destinations.filter(IpAddr::is_ipv4).filter(elsewhere).collect();
    let first = crossed.first()?;
    let others = match crossed.len() {
        1 => String::new(),
        more => format!(" and to {} others", more - 1),
    };
    Some(format!(
        "net.ipv4.conf.{device}.rp_filter is 1 (strict), and packets to {first}{others} leave by another device: what \
         comes from there to {device} is dropped; set it to 2"
    ))
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use loden_datapath::backend::{Desired, Me};
    use loden_datapath::tables::{Route, RouteKey};
    use loden_datapath::{DeviceName, HostRoute, Interface};
    use loden_proto::model::Epoch;
    use loden_transport::Dialled;

    use super::*;
    use crate::iface::{Known, Selection, choose};
    use crate::reconcile::underlay;
    use crate::state::Held;
    use crate::testing::{facts, network, peer};

    #[test]
    fn more_next_hops_than_the_kernel_keeps_neighbours_are_told() {
        let mut tables = Tables::default();
        let mut add = |device: &str, third: u8, gateway: &str| {
            let prefix: IpNet = format!("10.244.{third}.0/24").parse().unwrap();
            let (device, gateway) = (device.parse().unwrap(), gateway.parse().ok());
            tables.routes.insert(
                RouteKey { prefix, metric: third.into() },
                Route { device, gateway, onlink: false, mtu: None },
            );
        };
        for host in 1..=4 {
            add("eth0", host, &format!("192.0.2.{host}"));
        }
        add("eth0", 5, "192.0.2.4");
        add("eth0", 6, "2001:db8::6");
        let told = |limits: [usize; 2]| {
            let neighbour_limits = vec![(Family::V4, limits[0]), (Family::V6, limits[1])];
            crowds(&HostFacts { neighbour_limits, ..facts("192.0.2.9") }, &tables)
        };
        assert_eq!(told([4, 1]), Vec::<String>::new(), "a node with two subnets is one next hop");
        let v4 = "net.ipv4.neigh.default.gc_thresh3 is 3: the kernel keeps no more neighbours, and this node needs 4 \
                  as next hops; set it higher than that";
        assert_eq!(told([3, 1]), [v4]);
        assert!(told([4, 0]).join("").contains("net.ipv6.neigh.default.gc_thresh3 is 0"));
        assert_eq!(crowds(&facts("192.0.2.9"), &tables), Vec::<String>::new(), "the kernel does not tell");
    }

    #[test]
    fn a_queue_on_a_tunnel_is_told_and_on_other_devices_is_not() {
        let mut host = facts("192.0.2.9");
        host.interfaces.push(Interface::ethernet(3, "cni0".parse().unwrap()));
        let mut tunnel = Interface { ours: true, ..Interface::ethernet(4, "loden1a".parse().unwrap()) };
        let tables = desired_tables(&host);
        assert!(tables.devices.contains_key(&tunnel.name));
        host.interfaces[1].qdisc = Some("fq_codel".to_owned());
        tunnel.qdisc = Some("noqueue".to_owned());
        host.interfaces.push(tunnel);
        assert_eq!(queues(&host, &tables), Vec::<String>::new());
        host.interfaces[2].qdisc = Some("tbf".to_owned());
        let told = queues(&host, &tables).join("");
        assert!(told.starts_with("the tunnel loden1a has the queueing discipline tbf, which may"), "{told}");
    }

    fn desired_tables(host: &HostFacts) -> Tables {
        let network = network();
        let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
        let choice = choose(&Selection::default(), host, Known::default()).unwrap();
        let underlay = underlay::of(&choice, host, &Dialled::default(), &network, &held);
        let (node, mac) = ("node-9".parse().unwrap(), "02:00:00:00:00:09".parse().unwrap());
        let me = Me {
            node,
            subnets: held.subnets,
            underlay,
            mac,
            keys: Vec::new(),
            blackhole: false,
            udp_port: None,
        };
        let mut desired = Desired::new(network, me);
        desired.replace([peer(1), peer(2), peer(3)]);
        desired.tables().clone()
    }

    #[test]
    fn neighbours_in_a_tunnel_are_permanent_and_not_counted() {
        let mut host = facts("192.0.2.9");
        host.neighbour_limits = vec![(Family::V4, 1)];
        let tables = desired_tables(&host);
        assert_eq!((tables.routes.len(), crowds(&host, &tables).len()), (3, 0));
    }

    #[test]
    fn a_strict_filter_where_packets_leave_elsewhere_is_told() {
        let mut host = facts("192.0.2.9");
        let tables = desired_tables(&host);
        let told = |host: &HostFacts| {
            let choice = choose(&Selection::default(), host, Known::default()).unwrap();
            crossed(host, &choice, &tables)
        };
        host.interfaces[0].strict = true;
        assert_eq!(told(&host), None);
        let eth1: DeviceName = "eth1".parse().unwrap();
        let route = |prefix: &str, metric| HostRoute {
            prefix: prefix.parse().unwrap(),
            device: Some(eth1),
            gateway: None,
            metric,
            drops: false,
        };
        host.routes.extend([route("198.51.100.0/24", 0), route("0.0.0.0/0", 9)]);
        assert_eq!(told(&host), None, "no peer is there");
        host.routes.push(route("192.0.2.2/32", 0));
        let text = told(&host).unwrap();
        assert!(
            text.starts_with("net.ipv4.conf.eth0.rp_filter is 1 (strict), and packets to 192.0.2.2 leave"),
            "{text}"
        );
        host.routes.push(route("192.0.2.0/24", 0));
        assert!(told(&host).unwrap().contains("to 192.0.2.1 and to 2 others leave"), "{:?}", told(&host));
        host.interfaces[0].strict = false;
        assert_eq!(told(&host), None);
    }
}
