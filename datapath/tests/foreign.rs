//! A foreign hand in the places of our routes and on our settings: it is noticed, and undone in one pass.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::fs;
use std::time::Duration;

use loden_datapath::tables::{Setting, SysctlKey};
use loden_datapath::{Datapath, Hint, Host, plan};
use support::netns::{concerned, drift, foreign, in_namespace, joined, lines, name, scope};

#[test]
fn whatever_takes_the_place_of_a_route_of_ours_gives_it_back() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        let gateway = |prefix: &str| {
            let mut routes = wanted.routes.iter();
            routes.find(|(key, _)| key.prefix.to_string() == prefix).unwrap().1.gateway.unwrap().to_string()
        };
        let (v4, v6) = ("10.244.2.0/24 metric 3", "2001:db8:0:2::/64 metric 3");
        let own = |prefix: &str, more: &str| {
            let (kind, onlink) = if prefix.contains(':') { ("-6", "") } else { ("-4", "onlink") };
            let via = gateway(prefix.split(' ').next().unwrap());
            vec![format!("ip {kind} route replace {prefix} via {via} dev loden1a {onlink} proto 76 {more}")]
        };
        let ways = [
            // Ours, altered.
            own(v4, "mtu 600"),
            own(v4, "mtu lock 600"),
            own(v4, "advmss 100 initcwnd 1"),
            own(v4, "src 192.0.2.1"),
            own(v6, "mtu 1280"),
            own(v6, "mtu lock 1280"),
            own(v6, "src 2001:db8:0:1::"),
            own(v6, "expires 3000"),
            // IPv4 uses the first one.
            vec![format!("ip route prepend {v4} via 192.0.2.9 dev eth0")],
            vec![format!("ip route prepend unreachable {v4}"), format!("ip route prepend prohibit {v4}")],
            vec![format!("ip route prepend {v4} nexthop via 192.0.2.8 nexthop via 192.0.2.9")],
            vec![format!("ip route prepend {v4} dev loden1a proto 76")],
            vec![format!("ip route append blackhole {v4}")],
            vec![format!("ip route replace {v4} via 192.0.2.9 dev eth0 proto 76")],
            // IPv6 makes one of all gateways; what has none stays where it is.
            vec![format!("ip -6 route append {v6} via 2001:db8:ffff::9 dev eth0")],
            vec![format!("ip -6 route append {v6} via fe80::9 dev loden1a proto 76")],
            vec![format!("ip -6 route append {v6} dev eth0")],
            vec![format!("ip -6 route append blackhole {v6} proto 76")],
            vec![format!("ip -6 route replace unreachable {v6}")],
            vec![format!("ip -6 route replace blackhole {v6}")],
            vec![format!("ip -6 route replace prohibit {v6}")],
            vec![
                format!("ip -6 route replace unreachable {v6}"),
                format!("ip -6 route append {v6} via 2001:db8:ffff::9 dev eth0"),
            ],
            vec![
                format!("ip -6 route replace unreachable {v6}"),
                format!("ip -6 route append {v6} dev eth0"),
            ],
            vec![
                format!("ip -6 route replace blackhole {v6} proto 76"),
                format!("ip -6 route append {v6} via fe80::9 dev loden1a proto 76"),
            ],
        ];
        for way in ways {
            way.iter().for_each(|line| drop(foreign(line)));
            concerned(&mut hints, &wanted).await;
            let actual = net.kernel.observe(&scope(&network)).await.unwrap();
            let undone = plan(&actual, &wanted);
            assert_eq!(undone.clone().without_removals(), undone, "before anybody is known as well");
            net.converge(&network, &wanted).await;
            for (family, prefix, address) in
                [("-4", "10.244.2.0/24", "10.244.2.9"), ("-6", "2001:db8:0:2::/64", "2001:db8:0:2::9")]
            {
                let routes = foreign(&format!("ip {family} -o route show {prefix}"));
                assert_eq!(routes.lines().count(), 1, "after {way:?}: {routes}");
                let altered = ["mtu", "advmss", "src", "expires"].iter().any(|word| routes.contains(word));
                assert!(!altered, "after {way:?}: {routes}");
                let lookup = net.kernel.route_to(address.parse().unwrap()).await.unwrap();
                let lookup = lookup.unwrap_or_else(|| panic!("after {way:?} {address} is not reached"));
                let to = lookup.gateway.map(|gateway| gateway.to_string());
                assert_eq!((lookup.device, to), (name("loden1a"), Some(gateway(prefix))), "after {way:?}");
            }
        }
    });
}

/// The last step alone says that all is well.
#[test]
fn what_somebody_does_in_several_steps_is_known_at_the_end() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        let ours = "10.244.2.0/24 metric 3 via 10.244.2.0 dev loden1a onlink proto 76";
        let rival = "10.244.2.0/24 metric 3 via 192.0.2.9 dev eth0 proto 76";
        let (far, near) = ("10.244.9.0/24 via 192.0.2.9 proto 76", "10.244.9.0/24 via 192.0.2.8 proto 76");
        let fdb = |verb, to| format!("bridge fdb {verb} 00:00:00:00:00:00 dev loden1a dst 192.0.2.{to}");
        for way in [
            vec![
                format!("ip route append {rival}"),
                format!("ip route del {ours}"),
                format!("ip route append {ours}"),
            ],
            vec![format!("ip route replace {rival} onlink"), format!("ip route append {ours}")],
            vec![
                format!("ip route add {far}"),
                format!("ip route append {near}"),
                format!("ip route del {near}"),
            ],
            vec![fdb("append", 9), fdb("append", 8), fdb("del", 8)],
        ] {
            way.iter().for_each(|line| drop(foreign(line)));
            assert!(drift(&mut hints, &network, &wanted).await.since().is_some(), "after {way:?}");
            let undone = net.converge(&network, &wanted).await;
            assert!(!undone.is_empty(), "after {way:?}");
            let ours = drift(&mut hints, &network, &wanted).await;
            assert_eq!(ours.since(), None, "what we have done after {way:?}");
            assert!(net.converge(&network, &wanted).await.is_empty(), "after {way:?}");
        }
    });
}

#[test]
fn a_route_of_others_where_none_of_ours_belongs_stays() {
    in_namespace(async |mut net| {
        let (network, _, wanted, _) = joined(&mut net, false).await;
        let theirs = [
            // The metric that ours would have, if there were such a peer.
            "10.244.9.0/24 via 192.0.2.9 dev eth0 metric 10",
            "10.244.2.0/25 via 192.0.2.9 dev eth0 metric 5",
            "10.244.2.0/24 via 192.0.2.9 dev eth0 metric 4",
            "10.244.2.0/24 via 192.0.2.9 dev eth0 tos 0x10 metric 3",
            "unreachable 10.244.2.0/24 metric 9",
        ];
        theirs.iter().for_each(|route| drop(foreign(&format!("ip route add {route}"))));
        let before = foreign("ip -o route show");
        let scope = scope(&network);
        let actual = net.kernel.observe(&scope).await.unwrap();
        assert_eq!(lines(&plan(&actual, &wanted)), Vec::<String>::new());
        assert_eq!(foreign("ip -o route show"), before);

        // One that says that it is ours goes, but not before it is known who is who.
        foreign("ip route add unreachable 10.244.8.0/24 metric 9 proto 76");
        let actual = net.kernel.observe(&scope).await.unwrap();
        let todo = plan(&actual, &wanted);
        assert!(todo.clone().without_removals().is_empty());
        assert!(net.run(todo.into_steps()).await.is_complete());
        assert_eq!(foreign("ip -o route show"), before);
    });
}

#[test]
fn a_route_for_some_packets_only_goes_when_it_is_in_the_way_or_says_that_it_is_ours() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        let (v4, v6) = ("10.244.2.0/24", "2001:db8:0:2::/64");
        let before = || foreign("ip -o route show") + &foreign("ip -6 -o route show");
        let kept = before();
        for way in [
            format!("-6 route add {v6} from 2001:db8:7::/64 via 2001:db8:ffff::9 dev eth0 metric 3 proto 76"),
            // The kernel hides ours from all other sources, whatever the metric.
            format!("-6 route add {v6} from 2001:db8:7::/64 via 2001:db8:ffff::9 dev eth0 metric 3"),
            format!("-6 route add {v6} from 2001:db8:7::/64 via 2001:db8:ffff::9 dev eth0 metric 99"),
            format!("-6 route add unreachable {v6} from 2001:db8:7::/64 metric 1"),
            format!("-6 route add {v6} from 2001:db8:7::/64 via fe80::9 dev loden1a metric 3 proto 76"),
            format!("-4 route add {v4} tos 0x10 via 192.0.2.9 dev eth0 metric 3 proto 76"),
            format!("-4 route add blackhole {v4} tos 0x10 metric 7 proto 76"),
        ] {
            foreign(&format!("ip {way}"));
            concerned(&mut hints, &wanted).await;
            let undone = net.converge(&network, &wanted).await;
            assert_eq!(undone.len(), 1, "{way}: ours is as it was: {undone:?}");
            assert_eq!(before(), kept, "after {way}");
            let reached = net.kernel.route_to("2001:db8:0:2::9".parse().unwrap()).await.unwrap();
            assert_eq!(reached.map(|lookup| lookup.device), Some(name("loden1a")), "after {way}");
        }
        // Where none of ours is wanted, a source is somebody's own choice.
        foreign("ip -6 route add 2001:db8:0:9::/64 from 2001:db8:7::/64 via 2001:db8:ffff::9 dev eth0");
        let actual = net.kernel.observe(&scope(&network)).await.unwrap();
        assert_eq!(lines(&plan(&actual, &wanted)), Vec::<String>::new());
    });
}

#[test]
fn the_end_of_the_way_for_our_own_subnet_is_put_back() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, true).await;
        for (family, prefix) in [("-4", "10.244.1.0/24"), ("-6", "2001:db8:0:1::/64")] {
            let place = format!("{prefix} metric 1000000");
            for way in [
                format!("replace unreachable {place}"),
                format!("replace unreachable {place} proto 76"),
                format!("replace {place} dev eth0"),
                format!("append {place} dev eth0 proto 76"),
                format!("del blackhole {place}"),
            ] {
                foreign(&format!("ip {family} route {way}"));
                concerned(&mut hints, &wanted).await;
                net.converge(&network, &wanted).await;
                let routes = foreign(&format!("ip {family} -o route show {prefix}"));
                assert_eq!(routes.lines().count(), 1, "after {way}: {routes}");
                assert!(routes.contains("blackhole"), "after {way}: {routes}");
            }
        }
    });
}

#[test]
fn a_setting_that_the_kernel_tells_of_is_put_back_and_others_with_it() {
    in_namespace(async |mut net| {
        let (network, _, wanted, mut hints) = joined(&mut net, false).await;
        let set = |path: &str, value: &str| fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
        set("ipv4/ip_forward", "1");
        for (setting, told) in [
            (Setting::RpFilter, true),
            (Setting::Forwarding, true),
            (Setting::AcceptRa, false),
            (Setting::KeepAddrOnDown, false),
        ] {
            let key = SysctlKey { device: name("loden1a"), setting };
            let other = 1 - i32::from(setting.wanted() == 1);
            set(key.path().strip_prefix("net/").unwrap(), &other.to_string());
            if told {
                let hint = concerned(&mut hints, &wanted).await;
                assert_eq!(hint, Hint::Setting(key, other));
            }
            let undone = net.converge(&network, &wanted).await;
            assert_eq!(lines(&undone), [format!("+ sysctl {key} {}", setting.wanted())]);
        }
    });
}

#[test]
fn a_host_that_does_not_forward_has_the_say_over_our_device() {
    in_namespace(async |mut net| {
        let (network, _, wanted, _) = joined(&mut net, false).await;
        let file = "/proc/sys/net/ipv4/conf/loden1a/forwarding";
        let set = |value| fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap();
        set("0");
        assert!(net.converge(&network, &wanted).await.is_empty());
        assert_eq!(fs::read_to_string(file).unwrap().trim(), "0");
        set("1");
        assert!(net.converge(&network, &wanted).await.is_empty());
        assert_eq!(fs::read_to_string(file).unwrap().trim(), "1");
    });
}

#[test]
fn the_settings_of_a_pods_device_concern_nobody() {
    in_namespace(async |mut net| {
        let (_, _, wanted, mut hints) = joined(&mut net, false).await;
        foreign("ip link add pod9 type veth peer name far9");
        foreign("ip link set pod9 up");
        fs::write("/proc/sys/net/ipv4/conf/pod9/forwarding", "0").unwrap();
        fs::write("/proc/sys/net/ipv4/conf/pod9/rp_filter", "1").unwrap();
        let end = Hint::Setting(SysctlKey { device: name("pod9"), setting: Setting::RpFilter }, 1);
        loop {
            let hint = tokio::time::timeout(Duration::from_secs(10), hints.recv()).await.unwrap().unwrap();
            assert!(!hint.concerns(&wanted) && hint != Hint::Settings, "{hint:?}");
            if hint == end {
                break;
            }
        }
    });
}
