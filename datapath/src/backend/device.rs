//! Names of tunnel devices, and what all of them have.

use ipnet::IpNet;
use loden_proto::model::{Family, Network, Vni};

use super::Me;
use crate::name::DeviceName;
use crate::tables::{AddressKey, Alias, Device, Kind, Lifetime, Setting, SysctlKey, Tables};

/// The letters after `loden<vni>`: VXLAN over IPv4, over IPv6, and the UDP tunnel.
const LETTERS: [char; 3] = ['a', 'b', 'u'];

/// The VXLAN device over an underlay family.
pub(super) fn of_vxlan(vni: Vni, underlay: Family) -> DeviceName {
    match underlay {
        Family::V4 => named(vni, 'a'),
        Family::V6 => named(vni, 'b'),
    }
}

/// The TUN device of the UDP tunnel.
pub(super) fn of_udp(vni: Vni) -> DeviceName {
    named(vni, 'u')
}

fn named(vni: Vni, letter: char) -> DeviceName {
    let name = format!("loden{vni}{letter}");
    // A VNI has at most 8 digits: at most 14 bytes.
    name.parse().unwrap_or_else(|_| unreachable!("{name} is a device name"))
}

/// The VNI of the tunnel that has a name, if tunnels have it.
#[must_use]
pub fn vni_of(name: DeviceName) -> Option<Vni> {
    let digits = name.as_str().strip_prefix("loden")?.strip_suffix(LETTERS)?;
    let vni = Vni::try_from(digits.parse::<u32>().ok()?).ok()?;
    device_names(vni).contains(&name).then_some(vni)
}

/// The names of the tunnels of a VNI: VXLAN over IPv4, over IPv6, and the UDP tunnel.
#[must_use]
pub fn device_names(vni: Vni) -> [DeviceName; 3] {
    LETTERS.map(|letter| named(vni, letter))
}

/// A device with its settings, and the base of each own subnet as address: whoever sends from the host itself, or tells
/// a pod what went wrong, does so from an address of the network. `instance` tells the network's devices apart.
pub(super) fn tables(
    network: &Network,
    me: &Me,
    name: DeviceName,
    instance: &str,
    kind: Kind,
    mtu: u32,
) -> Tables {
    let device = Device {
        alias: Some(Alias { network: network.id.clone(), instance: instance.to_owned() }),
        kind,
        mtu,
        plain: true,
        no_link_local: true,
        attached: false,
        up: true,
    };
    let settings = Setting::ALL.map(|setting| (SysctlKey { device: name, setting }, setting.wanted()));
    let bases = me.usable(&me.subnets).map(|subnet| IpNet::from(subnet.network()));
    Tables {
        devices: [(name, device)].into(),
        sysctls: settings.into(),
        addresses: bases.map(|base| (AddressKey::new(name, base), Lifetime::Infinite)).collect(),
        ..Tables::default()
    }
}
