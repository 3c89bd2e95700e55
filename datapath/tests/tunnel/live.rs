//! Tunnels change while they run.

use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use loden_datapath::tunnel::counters::Loss;
use loden_datapath::tunnel::engine::{Behind, Engine, Listening, Remotes};
use loden_proto::model::Key;

use crate::hosts::{Hosts, NETWORKS, behind, device, endpoint, key, listening, pod};
use crate::{PATIENCE, SERVICE, transfer};

/// Between two packets.
const PACE: Duration = Duration::from_micros(200);

/// Sends numbered packets from host 1 to host 2 of network 5 while something is done, and answers how many of how many
/// arrived, in order.
fn sent_while(hosts: &mut Hosts, what: impl FnOnce(&mut Hosts)) -> (u32, u32) {
    let bind = |number| {
        let at = pod(5, number, false);
        hosts.on(number, move || UdpSocket::bind((at, SERVICE)).unwrap()).join().unwrap()
    };
    let [from, to] = [1, 2].map(bind);
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let sender = thread::spawn(move || {
        let mut count = 0_u32;
        while stopped.recv_timeout(PACE).is_err_and(|error| matches!(error, mpsc::RecvTimeoutError::Timeout))
        {
            from.send_to(&count.to_be_bytes(), (pod(5, 2, false), SERVICE)).unwrap();
            count += 1;
        }
        // The last one is repeated until it is seen.
        for _ in 0..100 {
            from.send_to(&u32::MAX.to_be_bytes(), (pod(5, 2, false), SERVICE)).unwrap();
        }
        count
    });
    let receiver = thread::spawn(move || {
        let (mut count, mut next, mut buffer) = (0_u32, 0, [0; 4]);
        loop {
            to.recv(&mut buffer).unwrap();
            let number = u32::from_be_bytes(buffer);
            if number == u32::MAX {
                return count;
            }
            assert!(number >= next, "{number} came behind {next}");
            (count, next) = (count + 1, number + 1);
        }
    });
    what(hosts);
    drop(stop);
    (receiver.join().unwrap(), sender.join().unwrap())
}

#[test]
fn keys_peers_and_networks_change_without_a_lost_packet() {
    let mut hosts = Hosts::over(false);
    let (arrived, sent) = sent_while(&mut hosts, |hosts| {
        for round in 0..20 {
            let rotated = |by: u64| Key::try_from(key(5, 2).get() + by).unwrap();
            let (old, new) = (rotated(round), rotated(round + 1));
            // The receiver takes both before the sender is told.
            hosts
                .turn(2, |engine| {
                    let both = vec![new, old];
                    engine.listen(
                        device(5),
                        Listening { keys: both, ..listening(5, 2, false) },
                        &Remotes::new(),
                    )
                })
                .unwrap();
            let told = Behind { key: new, ..behind(5, 2) };
            hosts.turn(1, |engine| engine.change(device(5), [(endpoint(2, false), Some(told))]));
            // Another network of both ports comes and goes.
            for number in [1, 2] {
                hosts.turn(number, |engine| engine.close(device(6)));
                hosts
                    .turn(number, |engine| {
                        engine.listen(device(6), listening(6, number, false), &Remotes::new())
                    })
                    .unwrap();
            }
        }
    });
    assert!(arrived == sent && sent > 100, "{arrived} of {sent} arrived");
}

#[test]
fn a_peer_is_followed_to_another_endpoint() {
    let mut hosts = Hosts::over(false);
    transfer(&hosts, 5, false);
    // Over the other family of the wire, with a port of its own: both listen there before they send there.
    let mut elsewhere = |number: u8| {
        let mut changed = listening(5, number, true);
        changed.locals[0].set_port(9000 + u16::from(number));
        changed.locals.extend(listening(5, number, false).locals);
        hosts.turn(number, |engine| engine.listen(device(5), changed.clone(), &Remotes::new())).unwrap();
        changed.locals[0]
    };
    let [one, two] = [1, 2].map(&mut elsewhere);
    hosts.turn(2, |engine| {
        engine.change(device(5), [(endpoint(1, false), None), (one, Some(behind(5, 1)))]);
    });
    let rejected = hosts.counters(2, 5).lost(Loss::Sender);
    hosts.turn(1, |engine| {
        engine.change(device(5), [(endpoint(2, false), None), (two, Some(behind(5, 2)))]);
    });
    transfer(&hosts, 5, false);
    transfer(&hosts, 5, true);
    assert_eq!(hosts.counters(2, 5).lost(Loss::Sender), rejected);
    transfer(&hosts, 6, false);
}

#[test]
fn what_is_in_the_way_is_told_and_what_there_was_goes_on() {
    let mut hosts = Hosts::over(false);
    let taken = hosts.on(1, || UdpSocket::bind((endpoint(1, false).ip(), 7777)).unwrap()).join().unwrap();
    let mut there = listening(5, 1, false);
    there.locals[0].set_port(7777);
    let error = hosts.turn(1, |engine| engine.listen(device(5), there.clone(), &Remotes::new())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    transfer(&hosts, 5, false);
    let twice = hosts
        .turn(1, |engine| engine.listen(device(7), listening(6, 1, false), &Remotes::new()))
        .unwrap_err();
    assert_eq!(twice.to_string(), "another device receives VNI 6 on the same port");
    drop(taken);
    hosts.turn(1, |engine| engine.listen(device(5), there.clone(), &Remotes::new())).unwrap();
    assert_eq!(hosts.engines[0].listening(device(5)), Some(&there));
}

#[test]
fn a_device_that_somebody_deletes_is_noticed_and_can_be_had_again() {
    let mut hosts = Hosts::over(false);
    let deleted = hosts.on(1, || {
        let mut ip = std::process::Command::new("ip");
        assert!(ip.args(["link", "delete", "tun5"]).status().unwrap().success());
    });
    deleted.join().unwrap();
    let begin = Instant::now();
    while hosts.engines[0].listening(device(5)).is_some() {
        assert!(begin.elapsed() < PATIENCE, "nobody has noticed");
        thread::yield_now();
    }
    hosts.turn(1, |engine| engine.listen(device(5), listening(5, 1, false), &Remotes::new())).unwrap();
    assert!(hosts.engines[0].listening(device(5)).is_some());
    assert_eq!(hosts.engines[0].remotes(device(5)).unwrap().len(), 1, "its peers are known still");
    transfer(&hosts, 6, false);
}

/// Both networks of a port have been sent packets since the process before has ended, and are not back at the same time.
#[test]
fn what_was_sent_meanwhile_waits_for_the_last_of_the_networks() {
    const COUNT: u32 = 100;
    let mut hosts = Hosts::over(false);
    let found = hosts.shelves[1].found();
    hosts.turn(2, |engine| *engine = Engine::with(found));
    let sockets = NETWORKS.map(|network| {
        let [from, to] = [1, 2].map(|number| {
            let at = (pod(network, number, false), SERVICE);
            hosts.on(number, move || UdpSocket::bind(at).unwrap()).join().unwrap()
        });
        for number in 0..COUNT {
            from.send_to(&number.to_be_bytes(), (pod(network, 2, false), SERVICE)).unwrap();
            to.send_to(&number.to_be_bytes(), (pod(network, 1, false), SERVICE)).unwrap();
        }
        [from, to]
    });
    let mut begin = |network| {
        let remotes = Remotes::from([(endpoint(1, false), behind(network, 1))]);
        hosts
            .turn(2, |engine| engine.listen(device(network), listening(network, 2, false), &remotes))
            .unwrap();
    };
    let [first, second] = NETWORKS;
    begin(first);
    let [_, waiting] = &sockets[0];
    waiting.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(waiting.recv(&mut [0]).is_err(), "the port is read, and what is the second network's lost");
    begin(second);
    for socket in sockets.as_flattened() {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in 0..COUNT {
            let mut buffer = [0; 4];
            socket.recv(&mut buffer).unwrap();
            assert_eq!(u32::from_be_bytes(buffer), number);
        }
    }
}
