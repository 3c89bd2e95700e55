//! A foreign hand on our tunnel device and on what belongs to it: it is noticed, and undone in one pass.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use loden_datapath::{Datapath, Hint, Host, plan};
use loden_proto::model::{Backend, Network, VxlanBackend};
use support::netns::{Net, adrift, concerned, desired, foreign, in_namespace, joined, lines, scope};
use support::{me, network, peer};

#[test]
fn a_tunnel_that_was_put_into_a_bridge_is_taken_out() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        foreign("ip link add br9 type bridge");
        foreign("ip link set loden1a master br9");
        let hint = concerned(&mut hints, &wanted).await;
        assert!(matches!(hint, Hint::Device { device: Some(ref device), .. } if device.attached), "{hint:?}");
        let undone = net.converge(&network, &wanted).await;
        assert_eq!(lines(&undone)[0], "~ device loden1a nomaster");
        assert!(!foreign("ip -o link show loden1a").contains("master"));
    });
}

#[test]
fn a_tunnel_that_sends_otherwise_is_made_anew() {
    in_namespace(async |mut net| {
        let (network, _, wanted, _) = joined(&mut net, false).await;
        let before = foreign("ip -d link show loden1a");
        for change in [
            "type vxlan id 1 ttl 1",
            "type vxlan id 1 tos 0x20",
            "type vxlan id 1 df set",
            "arp off",
            "protodown on",
            "protodown_reason 3 on protodown on",
        ] {
            let mut hints = net.kernel.hints().await.unwrap();
            foreign(&format!("ip link set loden1a {change}"));
            concerned(&mut hints, &wanted).await;
            net.converge(&network, &wanted).await;
            let parts = |text: &str| text.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>();
            let now = foreign("ip -d link show loden1a");
            assert_eq!(parts(&now), parts(&before), "after {change}");
        }
    });
}

#[test]
fn an_address_that_is_not_ours_leaves_our_device_with_its_route() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        for address in ["10.244.2.7/24", "198.51.100.1/24", "10.244.99.0/32", "2001:db8:0:2::7/64"] {
            foreign(&format!("ip addr add {address} dev loden1a"));
            adrift(&mut hints, &network, &wanted).await;
            let undone = net.converge(&network, &wanted).await;
            assert_eq!(lines(&undone), [format!("- address {address} dev loden1a")]);
            our_way_is_taken(&mut net).await;
        }
    });
}

async fn our_way_is_taken(net: &mut Net) {
    let lookup = net.kernel.route_to("10.244.2.9".parse().unwrap()).await.unwrap().unwrap();
    let source = lookup.source.map(|source| source.to_string());
    assert_eq!((lookup.gateway.is_some(), source.as_deref()), (true, Some("10.244.1.0")));
}

#[test]
fn an_address_of_ours_that_was_altered_is_as_before() {
    in_namespace(async |mut net| {
        let (network, _, wanted, _) = joined(&mut net, false).await;
        let addresses = || foreign("ip -o addr show dev loden1a");
        let before = addresses();
        let (v4, v6) = ("10.244.1.0", "2001:db8:0:1::");
        for way in [
            vec![format!("change {v4}/32 dev loden1a valid_lft 100 preferred_lft 50")],
            vec![format!("change {v4}/32 dev loden1a preferred_lft 0")],
            vec![format!("change {v6}/128 dev loden1a valid_lft 100 preferred_lft 50")],
            // Brings a route to a pod of a peer's along.
            vec![format!("add {v4} peer 10.244.2.9/32 dev loden1a")],
            vec![format!("replace {v6} peer 2001:db8:0:2::9/128 dev loden1a")],
            vec![format!("del {v4}/32 dev loden1a"), format!("add {v4}/32 scope host dev loden1a")],
        ] {
            let mut hints = net.kernel.hints().await.unwrap();
            way.iter().for_each(|line| drop(foreign(&format!("ip addr {line}"))));
            adrift(&mut hints, &network, &wanted).await;
            net.converge(&network, &wanted).await;
            assert_eq!(addresses(), before, "after {way:?}");
            our_way_is_taken(&mut net).await;
            assert!(!foreign("ip -6 route show").contains("2001:db8:0:2::9"), "after {way:?}");
        }
    });
}

#[test]
fn a_forwarding_entry_of_ours_that_was_altered_leads_to_the_peer_again() {
    in_namespace(async |mut net| {
        let (network, _, wanted, _) = joined(&mut net, false).await;
        let mac = support::vtep(&peer(&network, 2)).mac;
        let entry = || {
            foreign("bridge fdb show dev loden1a")
                .lines()
                .find(|line| line.contains(&mac.to_string()))
                .map(str::to_owned)
        };
        let before = entry().unwrap();
        foreign("ip nexthop add id 10 via 192.0.2.9 fdb");
        foreign("ip nexthop add id 11 group 10 fdb");
        for way in [
            vec![format!("replace {mac} dev loden1a dst 192.0.2.250 self static")],
            vec![format!("replace {mac} dev loden1a dst 192.0.2.250 self dynamic")],
            vec![format!("replace {mac} dev loden1a dst 192.0.2.250 port 1 self")],
            vec![format!("replace {mac} dev loden1a dst 192.0.2.2 via eth0 self permanent")],
            vec![format!("del {mac} dev loden1a self"), format!("add {mac} dev loden1a nhid 11 self")],
        ] {
            let mut hints = net.kernel.hints().await.unwrap();
            way.iter().for_each(|line| drop(foreign(&format!("bridge fdb {line}"))));
            concerned(&mut hints, &wanted).await;
            net.converge(&network, &wanted).await;
            assert_eq!(entry().as_ref(), Some(&before), "after {way:?}");
        }
    });
}

/// With `learning` on, what was learned is the device's own; whatever else is there, somebody has set it.
#[test]
fn what_a_tunnel_has_learned_stays_where_the_network_learns() {
    in_namespace(async |mut net| {
        let learning = VxlanBackend { learning: true, ..VxlanBackend::default() };
        let network = Network { backend: Backend::Vxlan(learning), ..network() };
        let wanted = desired(&network, &me(&network), &[peer(&network, 2)]);
        net.converge(&network, &wanted).await;
        foreign("bridge fdb add 02:11:22:33:44:55 dev loden1a dst 192.0.2.7 self dynamic");
        foreign("bridge fdb add 02:11:22:33:44:66 dev loden1a dst 192.0.2.7 self");
        let todo = plan(&net.kernel.observe(&scope(&network)).await.unwrap(), &wanted);
        assert_eq!(lines(&todo), ["- fdb 02:11:22:33:44:66 dev loden1a"]);
    });
}

#[test]
fn frames_are_flooded_nowhere() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        for entry in [
            "00:00:00:00:00:00 dev loden1a dst 192.0.2.250 self permanent",
            "00:00:00:00:00:00 dev loden1a dst 192.0.2.250 self static",
            "33:33:00:00:00:77 dev loden1a dst 192.0.2.250 self dynamic",
            // Of a station that nobody is: as it comes, never forgotten, and for a while.
            "02:11:22:33:44:55 dev loden1a dst 192.0.2.250 self",
            "02:11:22:33:44:55 dev loden1a dst 192.0.2.250 self static",
            "02:11:22:33:44:55 dev loden1a dst 192.0.2.250 self dynamic",
        ] {
            foreign(&format!("bridge fdb add {entry}"));
            adrift(&mut hints, &network, &wanted).await;
            let undone = net.converge(&network, &wanted).await;
            assert_eq!(lines(&undone), [format!("- fdb {} dev loden1a", &entry[..17])]);
            let left = foreign("bridge fdb show dev loden1a");
            assert!(!left.contains("192.0.2.250"), "{left}");
        }
    });
}

/// A permanent neighbour does not fail by itself: whatever state it is in, somebody has set it, and a fresh
/// process writes it once. Where nobody has, it writes nothing.
#[test]
fn a_neighbour_is_written_when_it_was_altered_and_not_otherwise() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        let mac = support::vtep(&peer(&network, 2)).mac;
        for cable in ["down", "up"] {
            foreign(&format!("ip link set far0 {cable}"));
        }
        let writes = net.kernel.writes().count();
        assert!(net.converge(&network, &wanted).await.is_empty());
        assert_eq!(net.kernel.writes().count(), writes);
        for state in ["failed", "stale", "reachable"] {
            foreign(&format!("ip neigh replace 10.244.2.0 lladdr {mac} dev loden1a nud {state}"));
            concerned(&mut hints, &wanted).await;
            let undone = net.converge(&network, &wanted).await;
            assert_eq!(lines(&undone), [format!("+ neighbour 10.244.2.0 {mac} dev loden1a")]);
        }
    });
}
