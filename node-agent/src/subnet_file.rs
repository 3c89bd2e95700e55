//! `subnet.env`, byte for byte as flannel writes it: what CNI plugins and
//! Docker start from. It appears last, when forwarding works.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::{Family, Network, Subnets};

/// The file's text. The subnet is written as its first usable address with the
/// prefix length: host bits are kept, readers have to mask them.
#[must_use]
pub fn render(network: &Network, subnets: &Subnets, mtu: u32) -> String {
    let mut text = String::new();
    for subnet in subnets.iter() {
        let (prefix, first) = match subnet {
            IpNet::V4(net) => ("FLANNEL", IpAddr::V4(u32::from(net.network()).wrapping_add(1).into())),
            IpNet::V6(net) => ("FLANNEL_IPV6", IpAddr::V6(u128::from(net.network()).wrapping_add(1).into())),
        };
        let pools = pools(network, Family::of_net(subnet));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{prefix}_NETWORK={pools}");
        let _ = writeln!(text, "{prefix}_SUBNET={first}/{}", subnet.prefix_len());
    }
    let _ = writeln!(text, "FLANNEL_MTU={mtu}");
    // flannel's plugin masquerades itself where this says that nobody else does.
    let _ = writeln!(text, "FLANNEL_IPMASQ={}", network.masquerade.is_some());
    text
}

/// The subnets that a file's text names, of each family.
pub(crate) fn subnets(text: &str) -> Vec<IpNet> {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let known = ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"].contains(&key);
        value.parse::<IpNet>().ok().filter(|_| known).map(|net| net.trunc())
    };
    text.lines().filter_map(value).collect()
}

/// The pools of a family; flannel's readers take a list.
fn pools(network: &Network, family: Family) -> String {
    let pools: Vec<_> = network
        .pools
        .iter()
        .filter(|pool| pool.family() == family)
        .map(|pool| pool.cidr().to_string())
        .collect();
    pools.join(",")
}

#[cfg(test)]
mod tests {
    use loden_proto::model::Pool;

    use super::*;
    use crate::testing::network;

    fn subnets(nets: &[&str]) -> Subnets {
        Subnets::new(nets.iter().map(|net| net.parse().unwrap())).unwrap()
    }

    #[test]
    fn the_text_is_flannels() {
        let text = render(&network(), &subnets(&["10.244.1.0/24"]), 1450);
        let expected = "FLANNEL_NETWORK=10.244.0.0/16\n\
                        FLANNEL_SUBNET=10.244.1.1/24\n\
                        FLANNEL_MTU=1450\n\
                        FLANNEL_IPMASQ=false\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn both_families_and_several_pools_are_told() {
        let mut network = network();
        for cidr in ["10.245.0.0/16", "fd00:10::/48"] {
            network.pools.push(Pool::new(cidr.parse().unwrap(), None).unwrap());
        }
        let text = render(&network, &subnets(&["10.245.255.0/24", "fd00:10:0:7::/64"]), 1380);
        let expected = "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\n\
                        FLANNEL_SUBNET=10.245.255.1/24\n\
                        FLANNEL_IPV6_NETWORK=fd00:10::/48\n\
                        FLANNEL_IPV6_SUBNET=fd00:10:0:7::1/64\n\
                        FLANNEL_MTU=1380\n\
                        FLANNEL_IPMASQ=false\n";
        assert_eq!(text, expected);
    }
}
