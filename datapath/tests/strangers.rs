//! A device of somebody else that has the name of ours: nothing is written to it, and ours comes when it goes.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::fs;

use loden_datapath::tables::{Setting, SysctlKey};
use loden_datapath::{Change, Datapath, Error, Hint, Host, Step, plan};
use support::netns::{concerned, desired, foreign, in_namespace, name, scope};
use support::{me, network, peer};

/// What somebody makes, and how it looks like ours.
const DEVICES: [&str; 5] = [
    "type veth peer name other0",
    "type bridge",
    "type vxlan id 77 dstport 4789 dev eth0 local 192.0.2.1",
    "type vxlan id 77 dstport 8472 dev eth0 local 192.0.2.1",
    // Our VNI and port, and no MAC address of ours.
    "type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1",
];

/// The device of the name, as far as nobody but a hand changes it.
fn inventory() -> Vec<String> {
    let link = foreign("ip -o link show loden1a");
    let index = link.split(':').next().unwrap().to_owned();
    let alias = link.split_once(" alias ").map(|(_, alias)| alias.to_owned()).unwrap_or_default();
    let questions = [
        "ip -o addr show dev loden1a",
        "ip -o route show",
        "ip -o -6 route show",
        "ip neigh show dev loden1a",
        "bridge fdb show dev loden1a",
    ];
    let settings = Setting::ALL.map(|setting| {
        let key = SysctlKey { device: name("loden1a"), setting };
        fs::read_to_string(format!("/proc/sys/{}", key.path())).unwrap()
    });
    [index, alias].into_iter().chain(questions.map(foreign)).chain(settings).collect()
}

fn make(kind: &str) {
    for line in [
        &format!("ip link add loden1a {kind}"),
        "ip link set loden1a addrgenmode none",
        "ip link set loden1a up",
        "ip addr add 172.31.5.1/24 dev loden1a",
        "ip route add 10.244.200.0/24 via 172.31.5.9",
        "ip neigh add 172.31.5.9 lladdr 02:11:22:33:44:55 dev loden1a nud permanent",
    ] {
        foreign(line);
    }
    if kind.contains("vxlan") {
        foreign("bridge fdb append 00:00:00:00:00:00 dev loden1a dst 192.0.2.12");
    }
}

#[test]
fn nothing_is_written_to_a_device_of_somebody_else_under_our_name() {
    in_namespace(async |mut net| {
        let network = network();
        let wanted = desired(&network, &me(&network), &[peer(&network, 2), peer(&network, 3)]);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv4/conf/default/forwarding", "0").unwrap();
        for kind in DEVICES {
            make(kind);
            let before = inventory();
            for _ in 0..2 {
                let todo = plan(&net.kernel.observe(&scope(&network)).await.unwrap(), &wanted);
                assert!(todo.steps().iter().all(|step| !matches!(step, Step::DeleteDevice(_))));
                let on_it = todo.steps().iter().filter(|step| step.device() == Some(name("loden1a"))).count();
                let report = net.kernel.execute(&todo).await;
                let (first, error) = &report.failed[0];
                assert!(matches!(first, Step::CreateDevice(..)), "{first}");
                assert!(error.to_string().contains("loden1a exists and is not Loden's"), "{error}");
                let taken =
                    |error: &Error| matches!(error, Error::NameTaken(of, _) if *of == name("loden1a"));
                assert!(report.failed.iter().all(|(_, error)| taken(error)), "{kind}: {:#?}", report.failed);
                assert_eq!(report.failed.len(), on_it, "{kind}");
                assert_eq!(inventory(), before, "{kind}");
            }
            // Changes of peers make no device, and the last of ours is deleted unless it has become another's.
            let entries: Vec<_> = plan(&Default::default(), &wanted)
                .into_steps()
                .into_iter()
                .filter(|step| step.device() == Some(name("loden1a")))
                .filter(|step| !matches!(step, Step::CreateDevice(..) | Step::ChangeDevice(..)))
                .collect();
            let (entries_of_ours, report) = (entries.len(), net.run(entries).await);
            assert_eq!((report.executed, report.failed.len()), (0, entries_of_ours), "{kind}");
            assert!(net.kernel.clear(Vec::new()).await.unwrap().failed.is_empty());
            assert_eq!(inventory(), before, "{kind}");

            let mut hints = net.kernel.hints().await.unwrap();
            let gone = Hint::DeviceGone(name("loden1a"));
            if kind.contains("bridge") {
                foreign("ip link set loden1a down");
                foreign("ip link set loden1a name theirs");
                while concerned(&mut hints, &wanted).await != gone {}
                foreign("ip link del theirs");
            } else {
                foreign("ip link del loden1a");
                while concerned(&mut hints, &wanted).await != gone {}
            }
            net.converge(&network, &wanted).await;
            foreign("ip link del loden1a");
        }
    });
}

#[test]
fn a_device_that_has_become_anothers_is_not_deleted_with_ours() {
    in_namespace(async |mut net| {
        make("type veth peer name other0");
        let before = inventory();
        let up = Step::ChangeDevice(name("loden1a"), Change::Mtu(1300));
        let report = net.run([Step::DeleteDevice(name("loden1a")), up]).await;
        assert_eq!((report.executed, report.failed.len()), (1, 1), "what we wanted gone is gone");
        assert_eq!(inventory(), before);
    });
}
