//! Whatever there is, one pass makes it right.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use loden_datapath::backend::{self, Delta, Desired, Me, Reason};
use loden_datapath::tables::{Only, Rival};
use loden_datapath::{Step, Tables, plan};
use loden_proto::model::{Family, Mac, Network, Peer, Receiver};
use proptest::prelude::*;
use support::{dual_underlay, me, network, peer, receiver, vni};

/// A peer of any number with any MAC address and underlay address: conflicts
/// are meant to happen.
fn any_peer() -> impl Strategy<Value = Peer> {
    (2u16..8, 2u16..8, 1u8..8, 2u8..8, any::<bool>()).prop_map(|(node, slot, mac, host, v6)| {
        let network = network();
        let mut peer = peer(&network, node);
        peer.subnets = support::subnets(slot, true);
        let mac = [2, 0, 0, 0, 0, mac].try_into().unwrap();
        let family = if v6 { Family::V6 } else { Family::V4 };
        peer.endpoint.v4 = (!v6).then(|| format!("192.0.2.{host}").parse().unwrap());
        peer.endpoint.v6 = v6.then(|| format!("2001:db8:ffff::{host}").parse().unwrap());
        peer.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, family, mac))];
        peer
    })
}

fn any_me() -> impl Strategy<Value = (Network, Me)> {
    (1u32..3, 1u8..3, any::<bool>(), 1u16..3, 1200u32..1500).prop_map(|(id, mac, both, slot, mtu)| {
        let mut network = network();
        network.vni = vni(id);
        let mut me = me(&network);
        if both {
            me = dual_underlay(me);
        }
        me.mac = [2, 0, 0, 0, 1, mac].try_into().unwrap();
        me.subnets = support::subnets(slot, true);
        me.underlay.mtu = mtu;
        (network, me)
    })
}

/// Tables that are not what any backend would make: parts are missing, down,
/// or were tampered with.
fn any_actual() -> impl Strategy<Value = Tables> {
    let peers = prop::collection::vec(any_peer(), 0..6);
    (any_me(), peers, any::<u64>()).prop_map(|((network, me), peers, damage)| {
        let (mut tables, _) = backend::tables(&network, &me, &peers);
        let mut bits = damage;
        let mut hit = || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bits >> 61 == 0
        };
        for device in tables.devices.values_mut() {
            if hit() {
                device.up = false;
            }
            if hit() {
                device.alias = None;
            }
            if hit() {
                device.no_link_local = false;
            }
            if hit() {
                device.plain = false;
            }
            if hit()
                && let Some(vxlan) = device.vxlan_mut()
            {
                vxlan.learning = true;
            }
            if hit() {
                device.attached = true;
            }
        }
        for key in tables.routes.keys().copied().collect::<Vec<_>>() {
            if hit() {
                let rival =
                    Rival { key, kind: 7, protocol: 3, device: None, gateway: None, only: Only::default() };
                tables.rivals.insert(rival, ());
            }
        }
        tables.fdb.retain(|_, _| !hit());
        tables.neighbours.retain(|_, _| !hit());
        tables.routes.retain(|_, _| !hit());
        tables.addresses.retain(|_, _| !hit());
        tables
    })
}

fn apply<'a>(tables: &mut Tables, steps: impl IntoIterator<Item = &'a Step>) {
    for step in steps {
        step.apply(tables);
    }
}

/// What a kernel can hold: IPv6 only on devices that are large enough.
fn possible(mut tables: Tables) -> Tables {
    let small: BTreeSet<_> =
        tables.devices.iter().filter(|(_, device)| device.mtu < 1280).map(|(name, _)| *name).collect();
    tables.addresses.retain(|key, _| !small.contains(&key.device) || key.address.addr().is_ipv4());
    tables.neighbours.retain(|key, _| !small.contains(&key.device) || key.address.is_ipv4());
    tables.routes.retain(|key, route| !small.contains(&route.device) || key.prefix.addr().is_ipv4());
    for (name, device) in &mut tables.devices {
        device.no_link_local |= small.contains(name);
    }
    for (key, value) in &mut tables.sysctls {
        if small.contains(&key.device) && key.setting.family() == Family::V6 {
            *value = key.setting.wanted();
        }
    }
    tables
}

proptest! {
    #[test]
    fn any_state_converges_in_one_pass(
        actual in any_actual(),
        (network, me) in any_me(),
        peers in prop::collection::vec(any_peer(), 0..6),
    ) {
        let (desired, _) = backend::tables(&network, &me, &peers);
        let desired = possible(desired);
        let mut kernel = possible(actual);
        let todo = plan(&kernel, &desired);
        apply(&mut kernel, todo.steps());
        // Where nothing of ours belongs, somebody else's routes stay.
        prop_assert!(kernel.rivals.keys().all(|rival| !desired.routes.contains_key(&rival.key)));
        kernel.rivals.clear();
        prop_assert_eq!(&kernel, &desired);
        prop_assert!(plan(&kernel, &desired).is_empty());
    }

    #[test]
    fn what_a_route_leans_on_is_there_whenever_the_route_is(
        before in prop::collection::vec(any_peer(), 0..6),
        after in prop::collection::vec(any_peer(), 0..6),
    ) {
        let network = network();
        let me = dual_underlay(me(&network));
        let mut screened = Desired::new(network, me);
        screened.replace(before);
        let mut kernel = screened.tables().clone();
        for step in screened.replace(after).steps() {
            step.apply(&mut kernel);
            for route in kernel.routes.values() {
                let neighbour = kernel.neighbours.iter().find(|(key, _)| {
                    key.device == route.device && Some(key.address) == route.gateway
                });
                let mac = neighbour.map(|(_, mac)| *mac);
                prop_assert!(mac.is_some(), "after {}: no neighbour {:?}", step, route.gateway);
                let entry = kernel.fdb.keys().any(|key| key.device == route.device && Some(key.mac) == mac.map(Mac::octets));
                prop_assert!(entry, "after {}: no entry for {:?}", step, mac);
            }
        }
        prop_assert_eq!(&kernel, screened.tables());
    }

    #[test]
    fn deltas_lead_where_the_whole_leads(
        deltas in prop::collection::vec(
            (prop::collection::vec(2u16..8, 0..3), prop::collection::vec(any_peer(), 0..3)), 1..12),
    ) {
        let network = network();
        let me = dual_underlay(me(&network));
        let mut desired = Desired::new(network.clone(), me.clone());
        let mut kernel = desired.tables().clone();
        let mut present: BTreeMap<_, Peer> = BTreeMap::new();
        for (removed, upserted) in deltas {
            let removed: Vec<_> = removed.iter().map(|node| format!("node-{node}").parse().unwrap()).collect();
            for node in &removed {
                present.remove(node);
            }
            for peer in &upserted {
                present.insert(peer.node.clone(), peer.clone());
            }
            let steps = desired.apply(Delta { removed, upserted: upserted.into_iter().map(Into::into).collect() });
            apply(&mut kernel, steps.steps());
            prop_assert_eq!(&kernel, desired.tables());

            // The tables are those of the accepted peers; everybody is accepted,
            // waiting or named.
            let (refused, waiting) = (desired.refused(), desired.waiting());
            let left_out = |node| refused.contains_key(node) || waiting.contains(node);
            let accepted: Vec<&Peer> = present.values().filter(|peer| !left_out(&peer.node)).collect();
            prop_assert!(waiting.iter().all(|node| present[node].endpoint.receivers.is_empty()));
            prop_assert!(refused.keys().all(|node| present.contains_key(node)));
            let (whole, errors) = backend::tables(&network, &me, accepted.iter().copied());
            prop_assert_eq!(errors, Vec::new());
            prop_assert_eq!(&whole, desired.tables());

            // Nobody is refused for what nobody holds.
            for (node, reason) in refused {
                let (Reason::SubnetTaken { holder, .. }
                | Reason::MacTaken { holder, .. }
                | Reason::AddressTaken { holder, .. }) = reason
                else {
                    continue;
                };
                prop_assert!(holder != node && accepted.iter().any(|peer| peer.node == *holder));
            }
        }
    }
}
