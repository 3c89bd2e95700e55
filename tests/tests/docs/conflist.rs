//! The CNI configuration that `operations.md` shows is the one that the agent writes.

use std::time::SystemTime;

use loden_proto::model::{Backend, Network, Pool, Subnets, VxlanBackend};
use serde_json::Value;

use crate::markdown::document;

#[test]
fn the_cni_configuration_is_the_agents() {
    let section = document("docs/operations.md").section("## Container runtimes");
    let blocks = section.blocks();
    let block = blocks.iter().find(|block| block.language == "json").unwrap();
    let shown: Value = serde_json::from_str(&block.lines.join("\n")).unwrap();
    let network = Network {
        id: "default".parse().unwrap(),
        pools: vec![Pool::new("10.244.0.0/16".parse().unwrap(), None).unwrap()],
        vni: 1.try_into().unwrap(),
        mtu: None,
        backend: Backend::Vxlan(VxlanBackend::default()),
        lease_ttl: None,
        masquerade: None,
        created: SystemTime::UNIX_EPOCH,
        revision: 1,
    };
    let subnets = Subnets::new(["10.244.193.0/24".parse().unwrap()]).unwrap();
    let written = loden_agent::conflist::render(&network, &subnets, 1450);
    assert_eq!(shown, serde_json::from_str::<Value>(&written).unwrap());
}
