//! Devices and settings of the host that decide whether the network's packets pass it. They are the
//! host's own: what is wrong is told, not changed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use loden_datapath::tables::Device;
use loden_datapath::tunnel::Prefixes;
use loden_datapath::{Datapath, DeviceName, Host, HostFacts, Tables};
use loden_proto::model::{Backend, Family, Network};

use super::Reconcile;
use crate::iface::Choice;
use crate::state::Held;
use crate::status::Devices;

impl<D: Datapath + Host> Reconcile<D> {
    /// The devices that the network's packets pass.
    pub(super) fn devices(&self) -> Devices {
        let (Some(desired), Some((held, network))) = (self.program.desired(), &self.lease) else {
            return Devices::default();
        };
        let tables = desired.tables();
        let tunnels: Vec<_> = tables.devices.keys().copied().collect();
        let lower = self.choice.as_ref().map(|choice| choice.device);
        let link = lower.filter(|_| network.backend.is_routed());
        let links = in_use(tunnels.iter().copied().chain(link).collect(), tables);
        let tunnels = in_use(tunnels, tables);
        Devices {
            pods: pods(&self.facts, held).map(|device| device.to_string()).collect(),
            links: links.iter().map(ToString::to_string).collect(),
            lower: lower.map(|device| device.to_string()).into_iter().collect(),
            families: tunnels.iter().flat_map(|name| underlays(tables, *name)).collect(),
        }
    }

    /// What of the host's settings is in the way. Where nothing is programmed, nobody here knows how packets go.
    pub(super) fn warnings(&self) -> Vec<String> {
        let (Some((held, network)), Some(choice)) = (&self.lease, &self.choice) else { return Vec::new() };
        let mut told: Vec<_> = self.without_v6().into_iter().collect();
        told.extend(narrow(network, choice, self.mtu()));
        if network.backend == Backend::Alloc {
            return told;
        }
        told.extend(warnings(&self.facts, choice, held, network));
        if let Some(desired) = self.program.desired() {
            told.extend(crowds(&self.facts, desired.tables()));
            told.extend(queues(&self.facts, desired.tables()));
            told.extend(crossed(&self.facts, choice, desired.tables()));
        }
        told
    }
}

/// The families of the underlay that a tunnel receives over.
fn underlays(tables: &Tables, tunnel: DeviceName) -> Vec<Family> {
    let vxlan = tables.devices.get(&tunnel).and_then(Device::vxlan).map(|vxlan| vxlan.local);
    let listening = tables.listening.get(&tunnel).map(|listening| &listening.locals);
    let udp = listening.into_iter().flatten().map(SocketAddr::ip);
    vxlan.into_iter().chain(udp).map(Family::of).collect()
}

/// More than the interface leaves was asked for; `mtu` is what pods are told, 0 while nothing is programmed.
fn narrow(network: &Network, choice: &Choice, mtu: u32) -> Option<String> {
    let wanted = network.mtu?.get();
    let Choice { device, mtu: below, .. } = choice;
    (mtu > 0 && mtu < wanted).then(|| {
        format!(
            "the network's MTU is {wanted}, and {device}, whose MTU is {below}, leaves {mtu}: pods are told {mtu}; raise \
             the MTU of {device}, or lower the network's"
        )
    })
}

/// Those of the devices that routes lead over; all of them while there are none.
fn in_use(devices: Vec<DeviceName>, tables: &Tables) -> Vec<DeviceName> {
    let is_used = |device: &DeviceName| tables.routes.values().any(|route| route.device == *device);
    let used: Vec<_> = devices.iter().copied().filter(is_used).collect();
    if used.is_empty() { devices } else { used }
}

/// The devices, not ours, that have an address of the node's own subnets: the pods' bridge.
pub(super) fn pods(facts: &HostFacts, held: &Held) -> impl Iterator<Item = DeviceName> {
    let own = |address: &ipnet::IpNet| held.subnets.iter().any(|subnet| subnet.contains(&address.addr()));
    let interfaces = facts.interfaces.iter().filter(|interface| !interface.ours);
    let behind =
        interfaces.filter(move |interface| interface.addresses.iter().any(|address| own(&address.net)));
    behind.map(|interface| interface.name)
}

fn warnings(facts: &HostFacts, choice: &Choice, held: &Held, network: &Network) -> Vec<String> {
    let mut warnings = Vec::new();
    for family in network.families().into_iter().filter(|family| !facts.forwards.contains(family)) {
        let setting = match family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        };
        warnings.push(format!(
            "{setting} is 0: this host does not forward the pods' {family} packets; set it to 1"
        ));
    }
    if facts.forwards.contains(&Family::V4) && network.families().contains(&Family::V4) {
        warnings.extend(deaf(facts, choice, held, network));
    }
    let strict = facts.interface(choice.device).is_some_and(|nic| nic.strict);
    if strict && network.backend.is_routed() {
        let device = choice.device;
        let follows = match network.backend {
            Backend::HostGw => "packets whose way back leads elsewhere are dropped",
            Backend::Vxlan(_) | Backend::Alloc | Backend::Udp(_) => {
                "others send to this node through the tunnel only"
            }
        };
        warnings.push(format!("net.ipv4.conf.{device}.rp_filter is 1 (strict): {follows}; set it to 2"));
    }
    if facts.interface(choice.device).is_some_and(|nic| !nic.running) {
        warnings.push(format!("{} has no carrier: what is sent over it is lost", choice.device));
    }
    warnings
}

/// Peers that packets leave to by another device than the one whose address is sent from, to which the answers come.
fn crossed(facts: &HostFacts, choice: &Choice, tables: &Tables) -> Option<String> {
    let device = choice.device;
    if !facts.interface(device).is_some_and(|nic| nic.strict) {
        return None;
    }
    let mut routes: Vec<_> = facts.routes.iter().filter(|route| route.prefix.addr().is_ipv4()).collect();
    // Of routes to one prefix the last one stays.
    routes.sort_unstable_by_key(|route| Reverse(route.metric));
    let mut ways = Prefixes::default();
    for route in routes {
        ways.insert(route.prefix.trunc(), route.device);
    }
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

/// Devices by which packets come that are not sent on, on a host that forwards.
fn deaf(facts: &HostFacts, choice: &Choice, held: &Held, network: &Network) -> Vec<String> {
    let pods = pods(facts, held).map(|name| (name, "what its pods send"));
    let link = network.backend.is_routed().then_some(choice.device);
    let link = link.map(|name| (name, "what other nodes send to pods here"));
    let is_deaf = |name: DeviceName| facts.interface(name).is_some_and(|nic| !nic.forwards);
    let told = pods.chain(link).filter(|(name, _)| is_deaf(*name));
    told.map(|(name, what)| {
        format!("net.ipv4.conf.{name}.forwarding is 0: {what} is not forwarded; set it to 1")
    })
    .collect()
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

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use loden_datapath::backend::{Desired, Me};
    use loden_datapath::tables::{Route, RouteKey};
    use loden_datapath::{HostRoute, Interface};
    use loden_proto::model::{Epoch, Pool, VxlanBackend};
    use loden_transport::Dialled;

    use super::*;
    use crate::iface::{Known, Selection, choose};
    use crate::reconcile::underlay;
    use crate::testing::{facts, network, peer};

    fn told(facts: &HostFacts, network: &Network) -> Vec<String> {
        let choice = choose(&Selection::default(), facts, Known::default()).unwrap();
        warnings(facts, &choice, &held(), network)
    }

    fn held() -> Held {
        Held { subnets: peer(9).subnets, epoch: Epoch(1) }
    }

    fn with_bridge(forwards: bool) -> HostFacts {
        let mut host = facts("192.0.2.9");
        let bridge = facts("10.244.9.1").interfaces.remove(0);
        host.interfaces.push(Interface { name: "cni0".parse().unwrap(), forwards, ..bridge });
        host
    }

    #[test]
    fn a_device_that_does_not_forward_is_told_where_packets_come_by_it() {
        let mut network = network();
        assert_eq!(told(&with_bridge(true), &network), Vec::<String>::new());
        let mut host = with_bridge(false);
        let pods = "net.ipv4.conf.cni0.forwarding is 0: what its pods send is not forwarded; set it to 1";
        assert_eq!(told(&host, &network), [pods]);
        host.interfaces[0].forwards = false;
        assert_eq!(told(&host, &network), [pods], "what comes through the tunnel comes by the tunnel");
        network.backend = Backend::HostGw;
        let link = "net.ipv4.conf.eth0.forwarding is 0: what other nodes send to pods here is not forwarded; \
                    set it to 1";
        assert_eq!(told(&host, &network), [pods, link]);
        host.forwards = vec![Family::V6];
        assert_eq!(told(&host, &network).len(), 1, "the host as a whole does not");
        host.forwards.push(Family::V4);
        network.pools = vec![Pool::new("fd00::/48".parse().unwrap(), None).unwrap()];
        assert_eq!(told(&host, &network), Vec::<String>::new(), "IPv6 has no such setting");
    }

    #[test]
    fn an_mtu_that_the_interface_does_not_leave_is_told() {
        let choice = choose(&Selection::default(), &facts("192.0.2.9"), Known::default()).unwrap();
        let mut network = network();
        assert_eq!(narrow(&network, &choice, 1450), None, "nobody asked for one");
        network.mtu = Some(9000.try_into().unwrap());
        let expected = "the network's MTU is 9000, and eth0, whose MTU is 1500, leaves 1450: pods are told 1450; \
                        raise the MTU of eth0, or lower the network's";
        assert_eq!(narrow(&network, &choice, 1450).as_deref(), Some(expected));
        assert_eq!(narrow(&network, &choice, 9000), None);
        assert_eq!(narrow(&network, &choice, 0), None, "nothing is programmed");
    }

    #[test]
    fn a_tunnel_that_no_peer_is_behind_is_not_in_use() {
        let both: Vec<DeviceName> = ["loden1a", "loden1b"].map(|name| name.parse().unwrap()).into();
        let mut tables = Tables::default();
        assert_eq!(in_use(both.clone(), &tables), both, "nobody knows yet");
        let key = RouteKey { prefix: "10.244.1.0/24".parse().unwrap(), metric: 1 };
        let gateway = "10.244.1.0".parse().ok();
        tables.routes.insert(key, Route { device: both[0], gateway, onlink: true });
        assert_eq!(in_use(both.clone(), &tables), both[..1]);
    }

    #[test]
    fn more_next_hops_than_the_kernel_keeps_neighbours_are_told() {
        let mut tables = Tables::default();
        let mut add = |device: &str, third: u8, gateway: &str| {
            let prefix: IpNet = format!("10.244.{third}.0/24").parse().unwrap();
            let (device, gateway) = (device.parse().unwrap(), gateway.parse().ok());
            tables
                .routes
                .insert(RouteKey { prefix, metric: third.into() }, Route { device, gateway, onlink: false });
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
        let mut host = with_bridge(true);
        let tunnel: DeviceName = "loden1a".parse().unwrap();
        let mut tunnel = Interface { name: tunnel, ours: true, ..host.interfaces[1].clone() };
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
        let choice = choose(&Selection::default(), host, Known::default()).unwrap();
        let underlay = underlay::of(&choice, host, &Dialled::default(), &network, &held());
        let (node, mac) = ("node-9".parse().unwrap(), "02:00:00:00:00:09".parse().unwrap());
        let me = Me { node, subnets: held().subnets, underlay, mac, keys: Vec::new(), blackhole: false };
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
    fn forwarding_that_is_off_is_told_per_family_of_the_pools() {
        let mut network = network();
        let mut host = facts("192.0.2.9");
        assert_eq!(told(&host, &network), Vec::<String>::new());
        host.forwards = vec![Family::V4];
        assert_eq!(told(&host, &network), Vec::<String>::new());
        network.pools.push(Pool::new("fd00::/48".parse().unwrap(), None).unwrap());
        let text = told(&host, &network).join("");
        assert!(text.starts_with("net.ipv6.conf.all.forwarding is 0: this host does not"), "{text}");
        host.forwards.clear();
        assert_eq!(told(&host, &network).len(), 2);
    }

    #[test]
    fn a_strict_reverse_path_filter_is_told_where_next_hops_are_used() {
        let mut network = network();
        let mut host = facts("192.0.2.9");
        host.interfaces[0].strict = true;
        assert_eq!(told(&host, &network), Vec::<String>::new());
        network.backend = Backend::Vxlan(VxlanBackend { direct_routing: true, ..VxlanBackend::default() });
        let text = told(&host, &network).join("");
        assert!(text.contains("net.ipv4.conf.eth0.rp_filter is 1 (strict): others send"), "{text}");
        network.backend = Backend::HostGw;
        assert!(told(&host, &network).join("").contains("way back leads elsewhere"));
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

    #[test]
    fn an_interface_without_a_carrier_is_told() {
        let mut host = facts("192.0.2.9");
        host.interfaces[0].running = false;
        assert_eq!(told(&host, &network()), ["eth0 has no carrier: what is sent over it is lost"]);
    }

    #[test]
    fn pods_are_behind_what_has_an_address_of_their_subnet() {
        assert_eq!(pods(&facts("192.0.2.9"), &held()).count(), 0);
        let mut host = with_bridge(true);
        let ours = Interface { ours: true, name: "loden1a".parse().unwrap(), ..host.interfaces[1].clone() };
        host.interfaces.push(ours);
        assert_eq!(pods(&host, &held()).collect::<Vec<_>>(), ["cni0".parse().unwrap()]);
    }
}
