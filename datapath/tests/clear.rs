//! What is ours is removed as a whole, and what is not stays; and the route that ends the way for what no pod
//! takes.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::process::Command;
use std::time::Duration;

use loden_datapath::kernel::Remnant;
use loden_datapath::{Hint, Host};
use support::netns::{Apart, desired, in_namespace, name};
use support::{me, network, peer};

/// Runs a command line in the namespace of this thread; answers what it prints, or how it failed.
fn ip(line: &str) -> Result<String, String> {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Everything in the namespace that only changes when somebody changes it.
fn inventory() -> Vec<String> {
    let links = ip("-o link show").unwrap();
    let names = links.lines().map(|line| line.split(": ").nth(1).unwrap_or_default().to_owned());
    let mut all: Vec<String> = names.collect();
    for question in
        ["route show table all", "-6 route show table all", "rule show", "neigh show nud permanent"]
    {
        let answer = ip(question).unwrap();
        // Link-local addresses come when their link is up for a while, and routes with them.
        let lines = answer.lines().filter(|line| !line.contains("fe80:") && !line.starts_with("multicast"));
        all.extend(lines.map(|line| line.trim().to_owned()));
    }
    all.sort();
    all
}

#[test]
fn everything_of_ours_goes_and_nothing_else() {
    in_namespace(async |mut net| {
        for line in [
            "link add vxlan9 type vxlan id 9 dstport 4789 local 192.0.2.1",
            "link set vxlan9 alias loden-but-not-ours up",
            "link add loden1 type bridge",
            "link set loden1 up",
            // What is ours in part only: the name, or the alias.
            "link add loden8a type vxlan id 8 dstport 4788 local 192.0.2.1",
            "link add loden9a type vxlan id 99 dstport 4787 local 192.0.2.1",
            "link set loden9a alias loden:blue:vxlan-ipv4",
            "link add loden10a type bridge",
            "link set loden10a alias loden:blue:vxlan-ipv4",
            "route add 10.244.9.0/24 via 192.0.2.9 metric 5",
            "route add 198.51.100.0/24 via 192.0.2.9 proto 77",
            "route add blackhole 203.0.113.0/24",
            "-6 route add 2001:db8:9::/48 via 2001:db8:ffff::9",
            // In a table that none of ours is in.
            "route add 10.244.77.0/24 via 192.0.2.7 proto 76 metric 3 table 100",
            "neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev eth0",
        ] {
            ip(line).unwrap();
        }
        let before = inventory();
        let network = network();
        let mut me = me(&network);
        me.blackhole = true;
        net.converge(&network, &desired(&network, &me, &[peer(&network, 2), peer(&network, 3)])).await;
        for line in [
            // A tunnel of another network.
            "link add loden7a type vxlan id 7 dstport 8473 local 192.0.2.1",
            "link set loden7a alias loden:blue:vxlan-ipv4",
            // Routes of ours that no device of ours takes away.
            "route add 10.244.77.0/24 via 192.0.2.7 proto 76 metric 3",
            "-6 route add 2001:db8:0:77::/64 via 2001:db8:ffff::7 proto 76 metric 3",
            "link add lodenbr1 type bridge",
            "link add lodenbr2 type bridge",
        ] {
            ip(line).unwrap();
        }
        ip("link add pod0 type veth peer name pod1").unwrap();
        ip("link set pod0 master lodenbr2").unwrap();
        assert_ne!(inventory(), before);

        let bridges = || ["lodenbr1", "lodenbr2", "loden1b"].map(name).to_vec();
        let cleared = net.kernel.clear(bridges()).await.unwrap();
        assert!(cleared.failed.is_empty(), "{cleared:?}");
        assert_eq!(cleared.lent, [name("lodenbr2")]);
        for expected in [
            Remnant::Device(name("loden1a")),
            Remnant::Device(name("loden7a")),
            Remnant::Bridge(name("lodenbr1")),
        ] {
            assert!(cleared.removed.contains(&expected), "{cleared:?}");
        }
        let routes = cleared.removed.iter().filter(|remnant| matches!(remnant, Remnant::Route(_))).count();
        assert_eq!(routes, 4, "two by hand and a blackhole of each family: {cleared:?}");
        ip("link delete pod0").unwrap();
        let cleared = net.kernel.clear(bridges()).await.unwrap();
        assert_eq!(cleared.removed, [Remnant::Bridge(name("lodenbr2"))]);
        assert!(net.kernel.clear(bridges()).await.unwrap().removed.is_empty());
        assert_eq!(inventory(), before);
    });
}

#[test]
fn a_tunnel_of_ours_that_was_moved_goes_where_it_is_and_no_other() {
    in_namespace(async |mut net| {
        let apart = Apart::new();
        let network = network();
        let me = me(&network);
        net.converge(&network, &desired(&network, &me, &[])).await;
        ip("link add vxlan9 type vxlan id 9 dstport 4789 local 192.0.2.1").unwrap();
        for device in ["loden1a", "vxlan9"] {
            ip(&format!("link set {device} netns {}", apart.path())).unwrap();
        }
        // One of an agent of that namespace.
        apart.run(|| {
            ip("link add loden1a0 type vxlan id 1 dstport 8472 local 192.0.2.9").unwrap();
            ip("link set loden1a0 alias loden:default:vxlan-ipv4").unwrap();
        });
        let there = || apart.run(|| ip("-o link show type vxlan").unwrap().lines().count());
        assert_eq!(there(), 3);
        let cleared = net.kernel.clear(Vec::new()).await.unwrap();
        assert!(cleared.failed.is_empty(), "{cleared:?}");
        assert!(cleared.removed.contains(&Remnant::Moved(name("loden1a"))), "{cleared:?}");
        assert_eq!(there(), 2);
        assert!(net.kernel.clear(Vec::new()).await.unwrap().removed.is_empty());
    });
}

#[test]
fn what_no_pod_takes_ends_here_and_a_bridge_goes_before() {
    in_namespace(async |mut net| {
        ip("route add default via 192.0.2.254").unwrap();
        let network = network();
        let mut me = me(&network);
        let get = || ip("route get 10.244.1.5");
        net.converge(&network, &desired(&network, &me, &[])).await;
        assert!(get().unwrap().contains("via 192.0.2.254"));
        me.blackhole = true;
        let wanted = desired(&network, &me, &[]);
        net.converge(&network, &wanted).await;
        let shown = ip("route show type blackhole").unwrap() + &ip("-6 route show type blackhole").unwrap();
        assert!(shown.contains("10.244.1.0/24 proto 76") && shown.contains("2001:db8:0:1::/64"), "{shown}");
        assert!(get().unwrap_err().contains("Invalid argument"), "the packet is dropped");

        ip("link add cni0 type bridge").unwrap();
        ip("address add 10.244.1.1/24 dev cni0").unwrap();
        ip("link set cni0 up").unwrap();
        assert!(get().unwrap().contains("dev cni0"));
        ip("link delete cni0").unwrap();

        let mut hints = net.kernel.hints().await.unwrap();
        for line in ["route delete blackhole 10.244.1.0/24", "-6 route delete blackhole 2001:db8:0:1::/64"] {
            ip(line).unwrap();
            let wait = async { while !hints.recv().await.unwrap().concerns(&wanted) {} };
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect(line);
            net.converge(&network, &wanted).await;
            let key = wanted.blackholes.keys().next().unwrap();
            assert!(!Hint::Blackhole(*key).concerns(&wanted));
        }
        me.blackhole = false;
        net.converge(&network, &desired(&network, &me, &[])).await;
        assert_eq!(ip("route show type blackhole").unwrap(), "");
    });
}
