//! Peers and networks for tests.

use std::time::SystemTime;

use loden_proto::model::{Backend, Endpoint, Network, Peer, Pool, Subnets, Vni};

/// A peer whose content depends on `n`.
pub(crate) fn a_peer(node: &str, n: usize) -> Peer {
    let (high, low) = (n / 256 % 256, n % 256);
    let subnet = format!("10.{high}.{low}.0/24").parse().unwrap();
    Peer {
        node: node.parse().unwrap(),
        subnets: Subnets::new([subnet]).unwrap(),
        endpoint: Endpoint {
            v4: Some(format!("192.0.{high}.{low}").parse().unwrap()),
            ..Endpoint::default()
        },
    }
}

/// A network that allocates only.
pub(crate) fn a_network(id: &str) -> Network {
    Network {
        id: id.parse().unwrap(),
        pools: vec![Pool::new("10.0.0.0/8".parse().unwrap(), Some(24)).unwrap()],
        vni: Vni::MIN,
        mtu: None,
        backend: Backend::Alloc,
        lease_ttl: None,
        masquerade: None,
        created: SystemTime::UNIX_EPOCH,
        revision: 1,
    }
}
