//! Neighbours in a real kernel are told of another MAC address, in two network namespaces per test.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use loden_datapath::{Error, Host};
use support::netns::{Apart, foreign, in_namespace, name};

const NEW: &str = "02:00:00:00:00:99";

#[test]
fn a_neighbour_takes_the_new_mac_address_at_once_in_both_families() {
    in_namespace(async |mut net| {
        foreign("ip address del 2001:db8:ffff::1/64 dev eth0");
        foreign("ip address add 2001:db8:ffff::1/64 dev eth0 nodad");
        let apart = Apart::new();
        foreign(&format!("ip link set far0 netns {}", apart.path()));
        apart.run(|| {
            foreign("ip link set far0 up");
            foreign("ip address add 192.0.2.2/24 dev far0");
            foreign("ip address add 2001:db8:ffff::2/64 dev far0 nodad");
            for address in ["192.0.2.1", "2001:db8:ffff::1"] {
                // As long as it is said to be reachable the kernel asks nobody.
                foreign(&format!(
                    "ip neighbour replace {address} lladdr 02:00:00:00:00:01 dev far0 nud reachable"
                ));
            }
        });
        foreign(&format!("ip link set eth0 address {NEW}"));
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8:ffff::1".parse().unwrap()];
        net.kernel.announce(name("eth0"), &addresses).await.unwrap();
        let begin = Instant::now();
        loop {
            let known = apart.run(|| foreign("ip neighbour show dev far0"));
            if addresses.iter().all(|address| known.contains(&format!("{address} lladdr {NEW}"))) {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "{known}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn an_address_that_is_not_there_keeps_no_other_one_untold() {
    in_namespace(async |mut net| {
        let addresses: [IpAddr; 2] = ["2001:db8:ffff::77".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let told = net.kernel.announce(name("eth0"), &addresses).await;
        assert!(matches!(told, Err(Error::Socket(_))), "{told:?}");
        let told = net.kernel.announce(name("eth9"), &addresses).await;
        assert!(matches!(told, Err(Error::NoDevice(_))), "{told:?}");
        // One without MAC addresses of others, as loopback is, has no neighbours.
        assert!(net.kernel.announce(name("lo"), &addresses).await.is_err());
    });
}
