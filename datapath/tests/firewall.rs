//! The packet filter of a real kernel, through nft: our table beside those of others, and what it makes of
//! packets.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use loden_datapath::firewall::{
    Firewall, FirewallError, FirewallHint, FirewallHints, Member, Nft, Traffic, insertions, masquerade,
    obstacles,
};
use loden_proto::model::{Family, Masquerade};
use support::netns::{Apart, in_namespace};

/// Runs a command line in the namespace of this thread.
fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{line}");
}

/// Has nft do what a stranger would.
fn nft(text: &str) -> String {
    use std::io::Write as _;
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("these tests need nft: run 'make tools'");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    String::from_utf8(output.stdout).unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const POOLS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/48"];
const SUBNETS: [&str; 2] = ["10.244.1.0/24", "fd00:244:0:1::/64"];

fn member(except: &[&str], random_fully: bool) -> Member {
    Member {
        network: "default".parse().unwrap(),
        pools: nets(&POOLS),
        subnets: nets(&SUBNETS),
        masquerade: Some(Masquerade::new(nets(except), random_fully).unwrap()),
    }
}

async fn next(hints: &mut FirewallHints) -> FirewallHint {
    tokio::time::timeout(Duration::from_secs(10), hints.recv()).await.expect("nobody was told").unwrap()
}

/// The hints until nothing more is on its way: a mark of a stranger comes last.
async fn told(hints: &mut FirewallHints, mark: u8) -> BTreeSet<FirewallHint> {
    nft(&format!("add table ip edge{mark}"));
    let mut told = BTreeSet::new();
    loop {
        let hint = next(hints).await;
        if hint == FirewallHint::Others {
            return told;
        }
        told.insert(hint);
    }
}

#[test]
fn our_table_is_replaced_as_a_whole_and_nobody_elses() {
    in_namespace(async |_| {
        nft(
            "table ip stranger { chain c { type nat hook postrouting priority 90; ip daddr 10.9.9.9 masquerade; }; }\n\
             table ip loden { chain c { counter; }; }",
        );
        let strangers = || nft("list ruleset");
        let before = strangers();
        let mut firewall = Nft;
        assert_eq!(firewall.table().await.unwrap(), None);
        firewall.replace(None).await.unwrap();

        let wanted =
            masquerade::table(&[member(&["192.168.0.0/16", "192.168.7.0/24", "fd00::/8"], true)]).unwrap();
        firewall.replace(Some(&wanted)).await.unwrap();
        let listed = firewall.table().await.unwrap().unwrap();
        assert_eq!(masquerade::networks(&listed).len(), 1);
        assert_eq!(listed.matches("masquerade fully-random").count(), 4, "{listed}");
        nft("add chain inet loden more\nadd rule inet loden postrouting accept");
        assert_ne!(firewall.table().await.unwrap().as_ref(), Some(&listed));
        firewall.replace(Some(&wanted)).await.unwrap();
        assert_eq!(firewall.table().await.unwrap(), Some(listed.clone()));

        let error = firewall.replace(Some("table inet loden { chain c { nonsense; }; }")).await.unwrap_err();
        assert!(matches!(&error, FirewallError::Refused(text) if text.contains("syntax error")), "{error}");
        assert_eq!(firewall.table().await.unwrap(), Some(listed), "all or nothing");
        firewall.replace(None).await.unwrap();
        assert_eq!(firewall.table().await.unwrap(), None);
        assert_eq!(strangers(), before);
    });
}

#[test]
fn what_happens_is_announced_ours_and_others_apart() {
    in_namespace(async |_| {
        let mut firewall = Nft;
        let mut hints = firewall.hints().await.unwrap();
        let ours = BTreeSet::from([FirewallHint::Ours]);
        firewall.replace(masquerade::table(&[member(&[], false)]).as_deref()).await.unwrap();
        assert_eq!(told(&mut hints, 1).await, ours);
        nft("flush chain inet loden postrouting");
        assert_eq!(told(&mut hints, 2).await, ours);
        nft("add table ip loden");
        assert_eq!(next(&mut hints).await, FirewallHint::Others);
        assert_eq!(told(&mut hints, 3).await, BTreeSet::new());
        nft("flush ruleset");
        let both = [next(&mut hints).await, next(&mut hints).await];
        assert_eq!(BTreeSet::from(both), BTreeSet::from([FirewallHint::Ours, FirewallHint::Others]));
    });
}

fn traffic() -> Traffic {
    Traffic {
        network: "default".parse().unwrap(),
        pools: nets(&POOLS),
        subnets: nets(&SUBNETS),
        pods: BTreeSet::from(["cni0".to_owned()]),
        links: BTreeSet::from(["loden1a".to_owned()]),
        lower: BTreeSet::from(["eth0".to_owned()]),
        tunnel: Some((8472, vec![Family::V4])),
    }
}

#[test]
fn chains_of_others_that_drop_are_found_and_rules_put_before_are_taken_away_again() {
    in_namespace(async |_| {
        let tables = "table ip filter {\n\
             chain USER { ip saddr 192.0.2.7 drop; }\n\
             chain FORWARD { type filter hook forward priority filter; policy drop;\n\
               ct state established,related accept; iifname \"docker0\" accept; jump USER; }\n\
             chain INPUT { type filter hook input priority filter; policy drop; udp dport 53 accept; }\n}\n\
             table ip6 filter { chain FORWARD { type filter hook forward priority filter; policy accept;\n\
               ip6 daddr fd00:244::/48 reject; }; }\n\
             table inet quiet { chain f { type filter hook forward priority filter; policy drop;\n\
               ip saddr 10.0.0.0/8 accept; meta nfproto ipv6 accept; }; }\n\
             table ip raw { chain PREROUTING { type filter hook prerouting priority raw;\n\
               ct state new drop; udp dport 8472 drop; }; }\n\
             table inet mangle { chain o { type route hook output priority mangle; ip daddr 10.0.0.0/8 drop; }; }\n\
             table inet wall { chain after { type filter hook postrouting priority srcnat + 5;\n\
               oifname \"eth0\" meta protocol ip udp dport 8472 drop; }; }\n";
        nft(tables);
        let list = || nft("list ruleset");
        let before = list();
        let mut firewall = Nft;
        let told = |chains: &[_]| {
            let found = obstacles(chains, &[traffic()]);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let chains = firewall.others().await.unwrap();
        assert_eq!(
            told(&chains),
            [
                "the chain o of the table inet mangle drops what this host sends to pods (by a rule): accept \
                 10.244.0.0/16, fd00:244::/48 there",
                "the chain after of the table inet wall drops what this host sends through the tunnel after it was \
                 routed (by a rule): accept UDP port 8472 there",
                "the chain FORWARD of the table ip filter drops what pods send each other (its policy is drop): \
                 accept 10.244.0.0/16 there",
                "the chain INPUT of the table ip filter drops what other nodes send through the tunnel (its policy \
                 is drop): accept UDP port 8472 there",
                "the chain PREROUTING of the table ip raw drops what other nodes send through the tunnel before it is \
                 routed (by a rule): accept UDP port 8472 there",
                "the chain FORWARD of the table ip6 filter drops what pods send each other (by a rule): accept \
                 fd00:244::/48 there",
            ]
        );
        for edits in insertions(&chains, &[traffic()], true).values() {
            firewall.edit(edits).await.unwrap();
        }
        let chains = firewall.others().await.unwrap();
        assert_eq!(told(&chains), Vec::<String>::new());
        assert!(insertions(&chains, &[traffic()], true).is_empty());
        let inserted = list();
        assert_eq!(inserted.matches("comment \"loden-agent: ").count(), 9, "{inserted}");
        for edits in insertions(&chains, &[traffic()], false).values() {
            firewall.edit(edits).await.unwrap();
        }
        assert_eq!(list(), before);
    });
}

/// Usable at once: without the search for duplicates.
fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// One datagram from a bound address; the address that the receiver sees.
fn seen(from: &Apart, source: IpAddr, to: &Apart, target: IpAddr, port: u16) -> IpAddr {
    let target = SocketAddr::new(target, port);
    let receiver = to.run(move || {
        loop {
            // A child that another test starts at this moment has all that is open here until it is another program.
            match UdpSocket::bind(target) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => std::thread::yield_now(),
                bound => return bound.unwrap(),
            }
        }
    });
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = from.run(move || UdpSocket::bind(SocketAddr::new(source, 0)).unwrap());
    sender.send_to(b"who", target).unwrap();
    let (_, address) = receiver.recv_from(&mut [0; 8]).unwrap_or_else(|error| panic!("{target}: {error}"));
    address.ip()
}

/// A pod, its host and the world outside, which plays a pod of another node as well:
///
/// ```text
///  pod 10.244.1.2 ── pod0 .1 [host] eth1 198.51.100.1 ── .2 world, 192.168.0.9, 10.244.2.2
/// ```
#[test]
fn packets_get_the_hosts_address_only_where_they_should() {
    in_namespace(async |_| {
        let (pod, world) = (Apart::new(), Apart::new());
        for (near, far) in [("pod0", &pod), ("eth1", &world)] {
            run(&format!("ip link add {near} type veth peer name far netns {}", far.path()));
            run(&format!("ip link set {near} up"));
            far.run(|| {
                run("ip link set lo up");
                run("ip link set far up");
            });
        }
        let host = [
            ("pod0", "10.244.1.1/24"),
            ("pod0", "fd00:244:0:1::1/64"),
            ("eth1", "198.51.100.1/24"),
            ("eth1", "2001:db8:51::1/64"),
            ("lo", "203.0.113.1/32"),
            ("lo", "2001:db8:113::1/128"),
        ];
        for (device, address) in host {
            run(&format!("ip address add {address} dev {device}{}", nodad(address)));
        }
        pod.run(|| {
            for (address, gateway) in
                [("10.244.1.2/24", "10.244.1.1"), ("fd00:244:0:1::2/64", "fd00:244:0:1::1")]
            {
                run(&format!("ip address add {address} dev far{}", nodad(address)));
                run(&format!("ip route add default via {gateway}"));
            }
        });
        world.run(|| {
            for address in [
                "198.51.100.2/24",
                "2001:db8:51::2/64",
                "192.168.0.9/32",
                "fd00:9::9/128",
                "10.244.2.2/32",
                "fd00:244:0:2::2/128",
            ] {
                run(&format!("ip address add {address} dev far{}", nodad(address)));
            }
            run("ip route add default via 198.51.100.1");
            run("ip route add default via 2001:db8:51::1");
        });
        for (net, gateway) in [
            ("10.244.2.0/24", "198.51.100.2"),
            ("192.168.0.0/16", "198.51.100.2"),
            ("fd00:244:0:2::/64", "2001:db8:51::2"),
            ("fd00:9::/32", "2001:db8:51::2"),
        ] {
            run(&format!("ip route add {net} via {gateway}"));
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        nft("table inet marker { chain c { type filter hook prerouting priority mangle;\n\
             udp dport 4000 meta mark set 0x5000; }; }");
        let mut firewall = Nft;
        let here = Apart::here();

        for random_fully in [false, true] {
            let wanted = masquerade::table(&[member(&["192.168.0.0/16", "fd00:9::/32"], random_fully)]);
            firewall.replace(wanted.as_deref()).await.unwrap();
            let families = [
                ["10.244.1.2", "198.51.100.2", "198.51.100.1", "10.244.2.2", "192.168.0.9", "203.0.113.1"],
                [
                    "fd00:244:0:1::2",
                    "2001:db8:51::2",
                    "2001:db8:51::1",
                    "fd00:244:0:2::2",
                    "fd00:9::9",
                    "2001:db8:113::1",
                ],
            ];
            for family in families {
                let [own, outside, node, elsewhere, spared, local] = family.map(|text| text.parse().unwrap());
                assert_eq!(seen(&pod, own, &world, outside, 7), node, "to the world outside");
                assert_eq!(seen(&pod, own, &world, elsewhere, 7), own, "to a pod of another node");
                assert_eq!(seen(&pod, own, &world, spared, 7), own, "to an exception");
                assert_eq!(seen(&pod, own, &world, outside, 4000), own, "what kube-proxy has marked");
                assert_eq!(
                    seen(&world, outside, &pod, own, 7),
                    outside,
                    "from outside to a pod of this node"
                );
                assert_eq!(seen(&here, local, &world, elsewhere, 7), node, "from outside to a pod elsewhere");
                assert_eq!(seen(&here, local, &pod, own, 7), local, "from the host to its pod");
            }
        }
        firewall.replace(None).await.unwrap();
        let own = "10.244.1.2".parse().unwrap();
        assert_eq!(seen(&pod, own, &world, "198.51.100.2".parse().unwrap(), 9), own);
    });
}
