//! Devices and settings of the host that decide whether the network's packets pass it. They are the
//! host's own: what is wrong is told, not changed.

use loden_datapath::{Datapath, Host, HostFacts};
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
        let tunnels = desired.tables().devices.keys().copied();
        let lower = self.choice.as_ref().map(|choice| choice.device);
        let link = lower.filter(|_| network.backend.is_routed());
        Devices {
            pods: pods(&self.facts, held),
            links: tunnels.chain(link).map(|device| device.to_string()).collect(),
            lower: lower.map(|device| device.to_string()).into_iter().collect(),
            families: desired.me().underlay.families().collect(),
        }
    }

    /// What of the host's settings is in the way. Where nothing is programmed, nobody here knows how packets go.
    pub(super) fn warnings(&self) -> Vec<String> {
        match (&self.lease, &self.choice) {
            (Some((_, network)), Some(choice)) if network.backend != Backend::Alloc => {
                warnings(&self.facts, choice, network)
            }
            _ => Vec::new(),
        }
    }
}

/// The devices, not ours, that have an address of the node's own subnets: the pods' bridge.
fn pods(facts: &HostFacts, held: &Held) -> std::collections::BTreeSet<String> {
    let own = |address: &ipnet::IpNet| held.subnets.iter().any(|subnet| subnet.contains(&address.addr()));
    let interfaces = facts.interfaces.iter().filter(|interface| !interface.ours);
    let behind = interfaces.filter(|interface| interface.addresses.iter().any(|address| own(&address.net)));
    behind.map(|interface| interface.name.to_string()).collect()
}

fn warnings(facts: &HostFacts, choice: &Choice, network: &Network) -> Vec<String> {
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
    let strict = facts.interface(choice.device).is_some_and(|nic| nic.strict);
    if strict && network.backend.is_routed() {
        let device = choice.device;
        let follows = match network.backend {
            Backend::HostGw => "packets whose way back leads elsewhere are dropped",
            Backend::Vxlan(_) | Backend::Alloc => "others send to this node through the tunnel only",
        };
        warnings.push(format!("net.ipv4.conf.{device}.rp_filter is 1 (strict): {follows}; set it to 2"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{Epoch, Pool, VxlanBackend};

    use super::*;
    use crate::iface::{Selection, choose};
    use crate::testing::{facts, network, peer};

    fn told(facts: &HostFacts, network: &Network) -> Vec<String> {
        let choice = choose(&Selection::default(), facts, None, &[]).unwrap();
        warnings(facts, &choice, network)
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
    fn pods_are_behind_what_has_an_address_of_their_subnet() {
        let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
        let mut host = facts("192.0.2.9");
        assert!(pods(&host, &held).is_empty());
        let mut bridge = facts("10.244.9.1").interfaces.remove(0);
        bridge.name = "cni0".parse().unwrap();
        host.interfaces.push(bridge.clone());
        bridge.ours = true;
        host.interfaces.push(bridge);
        assert_eq!(pods(&host, &held).into_iter().collect::<Vec<_>>(), ["cni0"]);
    }
}
