//! What a host offers to receive on: devices of the network as it is.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use loden_datapath::backend;
use loden_proto::model::{Backend, Mtu, Network, Receiver, UdpBackend, Vni, VxlanBackend};
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
            Receiver::Routed(_) | Receiver::Udp(_) => None,
        });
        vnis.collect::<Vec<_>>()
    };
    assert_eq!(offered(&now), [now.vni]);
    assert_eq!(offered(&before), [before.vni]);

    now.backend = Backend::Vxlan(VxlanBackend { gbp: true, ..VxlanBackend::default() });
    assert_eq!(offered(&now), [], "the kernel makes no device carry GBP later");
    for backend in [Backend::HostGw, Backend::Udp(UdpBackend::default())] {
        now.backend = backend;
        assert_eq!(offered(&now), []);
    }
}

#[test]
fn pods_of_a_udp_network_leave_room_for_the_family_that_takes_most() {
    let mut network = Network { backend: Backend::Udp(UdpBackend::default()), ..network_v4() };
    let mut underlay = me(&network).underlay;
    assert_eq!(backend::pod_mtu(&network, &underlay), 1460);
    underlay.v6 = "2001:db8:ffff::1".parse().ok();
    assert_eq!(backend::pod_mtu(&network, &underlay), 1440);
    network.mtu = Mtu::try_from(1300).ok();
    assert_eq!(backend::pod_mtu(&network, &underlay), 1300);
}
