//! What a tunnel leaves to the kernel: stepped down where it is refused or damaged, and limited from outside, while
//! packets flow.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use loden_datapath::tunnel::engine::{Listening, Remotes};
use loden_datapath::tunnel::limits::Limits;
use loden_proto::model::DeviceOffload;

use crate::hosts::{Hosts, device, listening};
use crate::{AT_A_TIME, transfer};

/// Peers of a host that are sent each datagram by itself.
fn singly(hosts: &Hosts, number: usize) -> Vec<String> {
    let rungs = hosts.engines[number - 1].rungs(device(5)).unwrap();
    rungs.singly.iter().map(ToString::to_string).collect()
}

/// Has the kernel refuse to send many datagrams at once from a socket: it would have to sum each.
#[allow(unsafe_code, reason = "an option that no library has")]
fn refuse_many(socket: &OwnedFd) {
    let (on, length) = (1_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and the value is as long as is said.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            length,
        )
    };
    assert_eq!(done, 0);
}

#[test]
fn what_the_kernel_refuses_to_send_at_once_is_sent_one_by_one() {
    let hosts = Hosts::over(false);
    refuse_many(&hosts.shelves[0].get("udp-8285-c0000201"));
    transfer(&hosts, 5, false);
    assert_eq!(singly(&hosts, 1), ["192.0.2.2:8285"]);
    assert_eq!(singly(&hosts, 2), Vec::<String>::new());
    let counters = hosts.counters(1, 5);
    assert_eq!(counters.sends(), counters.sent(), "one by one");
}

/// Something on the way loses what was sent at once, all of it.
#[test]
fn what_is_lost_when_it_is_sent_at_once_is_sent_one_by_one() {
    let hosts = Hosts::over(false);
    let rules = "add table inet card
        add chain inet card in { type filter hook prerouting priority -300; }
        add rule inet card in udp dport 8285 meta length > 1600 drop";
    let done = hosts.on(2, move || Command::new("nft").arg(rules).status().unwrap().success());
    assert!(done.join().unwrap());
    transfer(&hosts, 5, false);
    assert_eq!(singly(&hosts, 1), ["192.0.2.2:8285"]);
    let narrow = hosts.engines[0].rungs(device(5)).unwrap().narrow;
    assert_eq!(narrow, [], "the way itself takes what it did");
}

#[test]
fn limits_are_heeded_while_packets_flow() {
    let mut hosts = Hosts::over(false);
    let all = Limits { device: DeviceOffload::Plain, single_sends: true, single_receives: true };
    for limits in [all, Limits { device: DeviceOffload::Tso, ..all }, Limits::default()] {
        for number in [1, 2] {
            let wanted = Listening { limits, ..listening(5, number, false) };
            hosts.turn(number, |engine| engine.listen(device(5), wanted.clone(), &Remotes::new())).unwrap();
            assert_eq!(hosts.engines[usize::from(number) - 1].listening(device(5)), Some(&wanted));
        }
        let counted = |hosts: &Hosts| [hosts.counters(1, 5).sent(), hosts.counters(1, 5).sends()];
        let before = counted(&hosts);
        transfer(&hosts, 5, false);
        let rungs = hosts.engines[1].rungs(device(5)).unwrap();
        assert_eq!((rungs.device, rungs.single_receives), (limits.device, limits.single_receives));
        assert_eq!(rungs.limits, limits, "what is told is less than these, not than others");
        let after = counted(&hosts);
        let [sent, sends] = [after[0] - before[0], after[1] - before[1]];
        if limits.single_sends {
            assert_eq!(sent, sends);
        } else {
            assert!(sent > AT_A_TIME * sends, "{sent} datagrams with {sends} sends");
        }
    }
}
