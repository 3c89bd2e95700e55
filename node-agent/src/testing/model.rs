//! Networks and peers for tests.

use std::time::SystemTime;

use loden_proto::model::{
    Backend, Endpoint, Family, Network, Peer, Pool, Receiver, Subnets, Vni, VxlanBackend, VxlanReceiver,
};

/// `default`: 10.244.0.0/16 over VXLAN.
pub(crate) fn network() -> Network {
    Network {
        id: "default".parse().unwrap(),
        pools: vec![Pool::new("10.244.0.0/16".parse().unwrap(), Some(24)).unwrap()],
        vni: Vni::try_from(1).unwrap(),
        mtu: None,
        backend: Backend::Vxlan(VxlanBackend::default()),
        lease_ttl: None,
        masquerade: None,
        created: SystemTime::UNIX_EPOCH,
        revision: 1,
    }
}

/// `node-N` with 10.244.N.0/24 behind 192.0.2.N.
pub(crate) fn peer(number: u8) -> Peer {
    let vtep = VxlanReceiver {
        family: Family::V4,
        vni: Vni::try_from(1).unwrap(),
        port: loden_proto::model::Port::VXLAN,
        mac: [2, 0, 0, 0, 0, number].try_into().unwrap(),
        mtu: 1450,
        gbp: false,
    };
    Peer {
        node: format!("node-{number}").parse().unwrap(),
        subnets: Subnets::new([format!("10.244.{number}.0/24").parse().unwrap()]).unwrap(),
        endpoint: Endpoint {
            v4: Some([192, 0, 2, number].into()),
            v6: None,
            receivers: vec![Receiver::Vxlan(vtep)],
        },
    }
}
