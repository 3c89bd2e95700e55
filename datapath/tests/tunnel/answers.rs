//! What pods are told of packets that go no further, and what the host's own link says.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::hosts::{Hosts, device, endpoint, pod};
use crate::{SERVICE, transfer};

#[test]
fn a_pod_hears_that_nobody_is_behind_an_address() {
    let mut hosts = Hosts::over(false);
    hosts.turn(1, |engine| engine.change(device(5), [(endpoint(2, false), None)]));
    for v6 in [false, true] {
        let at = pod(5, 1, v6);
        let socket = hosts.on(1, move || UdpSocket::bind((at, 0)).unwrap()).join().unwrap();
        if v6 {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap();
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        }
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.connect((pod(5, 2, v6), SERVICE)).unwrap();
        // The address that it is told from was given to the device a moment ago.
        let answers = (0..50).filter_map(|_| {
            let sent = socket.send(b"anybody?").and_then(|_| socket.recv(&mut [0]));
            sent.unwrap_err().raw_os_error().filter(|code| *code != libc::EAGAIN)
        });
        let answer = answers.take(1).next().expect("the pod was told nothing");
        assert!([libc::EHOSTUNREACH, libc::ENETUNREACH].contains(&answer), "{answer}");
    }
}

#[test]
fn a_link_of_the_host_that_takes_less_lowers_the_way_and_steps_nothing_down() {
    for outer in [false, true] {
        let hosts = Hosts::over(outer);
        let narrow = ["link", "set", "eth0", "mtu", "1350"];
        for number in [1, 2] {
            let done = hosts.on(number, move || Command::new("ip").args(narrow).status().unwrap().success());
            assert!(done.join().unwrap());
        }
        for inner in [false, true] {
            transfer(&hosts, 5, inner);
        }
        let rungs = hosts.engines[0].rungs(device(5)).unwrap();
        assert_eq!(rungs.singly, [], "IPv6 outside: {outer}");
        assert_eq!(rungs.narrow, [(endpoint(2, outer), 1350)]);
    }
}
