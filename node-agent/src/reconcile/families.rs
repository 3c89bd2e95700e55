//! Which families of a network work on this host: a host may have IPv6 switched off, as a whole or in part, or an MTU
//! that is too small for it, and what is IPv4 goes on without it.
//!
//! ```text
//!  disable_ipv6 of all, default, devices ─┬▶ why nothing of IPv6 works ─▶ Underlay::inner ─▶ tables, files for pods
//!  MTU of the interface below ────────────┘                       └────▶ a warning
//! ```
//!
//! The setting is the host's own: it is told, not changed. That it is changed back is not always announced, so the
//! agent looks at it again and again while it is in the way.

use std::time::Duration;

use loden_datapath::{Datapath, DeviceName, Host, HostFacts, V6Off, backend};
use loden_proto::model::{Backend, Family, Mtu, Network};
use tokio::time::Instant;

use super::{Reconcile, settings};
use crate::conflist;
use crate::iface::Choice;
use crate::state::Held;

/// Between looks when IPv6 was switched off just now, which may be for a moment only.
const SOON: Duration = Duration::from_millis(250);
/// Between looks when it has been off for long.
const LATER: Duration = Duration::from_secs(1);
/// The smallest MTU that a tunnel can have (RFC 791 §3.1).
const LEAST_V4: u32 = 68;

impl<D: Datapath + Host> Reconcile<D> {
    /// Why nothing of the network's IPv6 works on this host.
    pub(super) fn without_v6(&self) -> Option<String> {
        let (held, network) = self.lease.as_ref()?;
        without_v6(&self.facts, self.choice.as_ref()?, network, held)
    }

    /// Why not even IPv4 fits through tunnels on this host.
    pub(super) fn cramped(&self) -> Option<String> {
        let ((_, network), choice) = (self.lease.as_ref()?, self.choice.as_ref()?);
        cramped(choice, network)
    }

    /// Sees to it that a host whose IPv6 is switched off is looked at again.
    pub(super) fn look_at_families_again(&mut self) {
        if self.without_v6().is_none() {
            self.off_since = None;
            return;
        }
        let now = Instant::now();
        let off_for = now.duration_since(*self.off_since.get_or_insert(now));
        self.facts_due.get_or_insert_with(|| now + (off_for / 2).clamp(SOON, LATER));
    }
}

/// The families of a network that work on this host.
pub(super) fn inner(facts: &HostFacts, choice: &Choice, network: &Network, held: &Held) -> Vec<Family> {
    let v6 = without_v6(facts, choice, network, held).is_none().then_some(Family::V6);
    [Family::V4].into_iter().chain(v6).collect()
}

/// Why nothing of a network's IPv6 works on this host. A network of IPv4 misses nothing.
fn without_v6(facts: &HostFacts, choice: &Choice, network: &Network, held: &Held) -> Option<String> {
    if !network.families().contains(&Family::V6) {
        return None;
    }
    let nothing = "nothing of the network's IPv6 works on this host";
    if let Some(narrow) = too_narrow(choice, network, Mtu::MIN_V6, "IPv6") {
        return Some(format!("{narrow}; {nothing}"));
    }
    let off = &facts.v6_off;
    if *off == V6Off::default() {
        return None;
    }
    if off.missing {
        return Some(format!("the kernel has no IPv6: {nothing}"));
    }
    let place = if off.all {
        "all".to_owned()
    } else {
        needed(facts, choice, network, held).find_map(|device| switched_off(facts, device))?
    };
    Some(format!("net.ipv6.conf.{place}.disable_ipv6 is 1: {nothing}; set it to 0"))
}

/// Why not even IPv4 fits through a network's tunnels.
fn cramped(choice: &Choice, network: &Network) -> Option<String> {
    let is_tunneled = matches!(network.backend, Backend::Vxlan(_) | Backend::Udp(_));
    let narrow = is_tunneled.then(|| too_narrow(choice, network, LEAST_V4, "IPv4")).flatten();
    narrow.map(|narrow| format!("{narrow}; nothing is programmed"))
}

/// That the interface below leaves less than the `least` MTU. Nobody knows how packets go without a backend.
fn too_narrow(choice: &Choice, network: &Network, least: u32, what: &str) -> Option<String> {
    let families = [choice.v4.map(|_| Family::V4), choice.v6.map(|_| Family::V6)].into_iter().flatten();
    let (overhead, place) = match network.backend {
        Backend::Vxlan(_) => (families.map(Family::vxlan_overhead).max()?, " in a tunnel"),
        Backend::Udp(_) => (families.map(Family::udp_overhead).max()?, " in a tunnel"),
        Backend::HostGw => (0, ""),
        Backend::Alloc => return None,
    };
    let needed = least + overhead;
    let (device, mtu) = (choice.device, choice.mtu);
    (mtu < needed).then(|| format!("{device} has an MTU of {mtu}: {what}{place} needs {needed}"))
}

/// The devices that pods' packets have to pass as IPv6; not all of them need be there yet.
fn needed(
    facts: &HostFacts,
    choice: &Choice,
    network: &Network,
    held: &Held,
) -> impl Iterator<Item = DeviceName> {
    let used = match network.backend {
        Backend::Vxlan(_) => [choice.v4.is_some(), choice.v6.is_some(), false],
        Backend::Udp(_) => [false, false, true],
        Backend::Alloc | Backend::HostGw => [false; 3],
    };
    let tunnels = backend::device_names(network.vni).into_iter().zip(used);
    let tunnels = tunnels.filter(|(_, used)| *used).map(|(name, _)| name);
    let mut pods: Vec<_> = settings::pods(facts, held).collect();
    if pods.is_empty() {
        pods.extend(conflist::bridge(network.vni).parse::<DeviceName>());
    }
    tunnels.chain(pods)
}

/// Whose setting switches IPv6 off on a device: its own, or where it is yet to come, that of such devices.
fn switched_off(facts: &HostFacts, device: DeviceName) -> Option<String> {
    match facts.interface(device) {
        Some(_) => facts.v6_off.devices.contains(&device).then(|| device.to_string()),
        None => facts.v6_off.default.then(|| "default".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{Epoch, Pool};

    use super::*;
    use crate::iface::{Known, Selection, choose};
    use crate::testing::{facts, network, peer};

    /// The setting that is in the way; "" where there is none.
    fn in_the_way(facts: &HostFacts, network: &Network) -> String {
        let choice = choose(&Selection::default(), facts, Known::default()).unwrap();
        let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
        let why = without_v6(facts, &choice, network, &held);
        let families = inner(facts, &choice, network, &held);
        assert_eq!(families.contains(&Family::V6), why.is_none());
        assert!(families.contains(&Family::V4));
        why.map(|why| why.split(':').next().unwrap().to_owned()).unwrap_or_default()
    }

    fn dual() -> Network {
        let mut network = network();
        network.pools.push(Pool::new("fd00::/48".parse().unwrap(), None).unwrap());
        network
    }

    fn device(facts: &mut HostFacts, name: &str, net: &str) {
        let mut interface = crate::testing::facts(net).interfaces.remove(0);
        interface.name = name.parse().unwrap();
        interface.ours = name.starts_with("loden");
        facts.interfaces.push(interface);
    }

    #[test]
    fn what_switches_ipv6_off_is_named_where_the_network_has_any() {
        let off = |change: fn(&mut V6Off)| {
            let mut host = facts("192.0.2.9");
            change(&mut host.v6_off);
            assert_eq!(in_the_way(&host, &network()), "", "a network of IPv4");
            in_the_way(&host, &dual())
        };
        assert_eq!(off(|_| {}), "");
        assert_eq!(off(|off| off.missing = true), "the kernel has no IPv6");
        assert_eq!(off(|off| off.all = true), "net.ipv6.conf.all.disable_ipv6 is 1");
        assert_eq!(off(|off| off.default = true), "net.ipv6.conf.default.disable_ipv6 is 1");
        assert_eq!(off(|off| off.devices = ["eth0".parse().unwrap()].into()), "", "nothing of ours");
    }

    #[test]
    fn a_device_that_is_there_has_its_own_setting() {
        let mut host = facts("192.0.2.9");
        host.v6_off.default = true;
        device(&mut host, "loden1a", "10.244.9.0");
        device(&mut host, "cni0", "10.244.9.1");
        assert_eq!(in_the_way(&host, &dual()), "");
        for name in ["loden1a", "cni0"] {
            host.v6_off.devices = [name.parse().unwrap()].into();
            assert_eq!(in_the_way(&host, &dual()), format!("net.ipv6.conf.{name}.disable_ipv6 is 1"));
        }
    }

    #[test]
    fn an_mtu_that_is_too_small_for_a_family_is_named_with_what_it_needs() {
        let mut host = facts("192.0.2.9");
        let v6 = facts("2001:db8::9").interfaces.remove(0).addresses;
        let told = |host: &HostFacts, network: &Network| {
            let choice = choose(&Selection::default(), host, Known::default()).unwrap();
            (in_the_way(host, network), cramped(&choice, network).unwrap_or_default())
        };
        let with_mtu = |host: &HostFacts, mtu| {
            let mut host = host.clone();
            host.interfaces[0].mtu = mtu;
            host
        };
        let none = (String::new(), String::new());
        assert_eq!(told(&with_mtu(&host, 1330), &dual()), none);
        let (v6_off, v4_off) = told(&with_mtu(&host, 1329), &dual());
        assert_eq!((&*v6_off, &*v4_off), ("eth0 has an MTU of 1329", ""));
        assert_eq!(told(&with_mtu(&host, 118), &network()), none);
        let (_, v4_off) = told(&with_mtu(&host, 117), &network());
        assert_eq!(v4_off, "eth0 has an MTU of 117: IPv4 in a tunnel needs 118; nothing is programmed");
        let routed = Network { backend: Backend::HostGw, ..dual() };
        assert_eq!(told(&with_mtu(&host, 1280), &routed), none);
        assert_eq!(told(&with_mtu(&host, 1279), &routed).0, "eth0 has an MTU of 1279");
        let alloc = Network { backend: Backend::Alloc, ..dual() };
        assert_eq!(told(&with_mtu(&host, 68), &alloc), none);
        // Tunnels over both families, of which one takes more.
        host.interfaces[0].addresses.extend(v6);
        assert_eq!(told(&with_mtu(&host, 1350), &dual()), none);
        let choice = choose(&Selection::default(), &with_mtu(&host, 1349), Known::default()).unwrap();
        let narrow = too_narrow(&choice, &dual(), Mtu::MIN_V6, "IPv6");
        assert_eq!(narrow.as_deref(), Some("eth0 has an MTU of 1349: IPv6 in a tunnel needs 1350"));
    }
}
