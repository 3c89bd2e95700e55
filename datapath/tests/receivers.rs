//! What a host offers to receive on: devices of the network as it is.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use loden_datapath::backend;
use loden_proto::model::{Backend, Network, Receiver, Vni, VxlanBackend};
use support::{me, network_v4};

#[test]
fn a_device_of_a_vni_or_format_of_before_is_not_offered() {
    let before = network_v4();
    let mut now = before.clone();
    now.vni = Vni::try_from(before.vni.get() + 1).unwrap();
    let me = me(&before);
    let mut actual = backend::own_tables(&before, &me);
    actual.extend(backend::own_tables(&now, &me));
    assert_eq!(actual.devices.len(), 2, "side by side while nothing may be deleted");
    let offered = |network: &Network| {
        let receivers = backend::receivers(network, &me, &actual);
        let vnis = receivers.into_iter().filter_map(|receiver| match receiver {
            Receiver::Vxlan(vtep) => Some(vtep.vni),
            Receiver::Routed(_) => None,
        });
        vnis.collect::<Vec<_>>()
    };
    assert_eq!(offered(&now), [now.vni]);
    assert_eq!(offered(&before), [before.vni]);

    now.backend = Backend::Vxlan(VxlanBackend { gbp: true, ..VxlanBackend::default() });
    assert_eq!(offered(&now), [], "the kernel makes no device carry GBP later");
    now.backend = Backend::HostGw;
    assert_eq!(offered(&now), []);
}
