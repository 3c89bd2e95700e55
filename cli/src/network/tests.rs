//! What is sent for which flags, and what is shown.

use std::time::Duration;

use clap::Parser;
use serde_json::json;

use super::*;
use crate::output::table;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

fn verb(line: &str) -> Verb {
    Line::try_parse_from(format!("network {line}").split(' ')).unwrap().verb
}

fn wire() -> v1::Network {
    v1::Network {
        name: "networks/blue".into(),
        pools: vec![v1::Pool { cidr: "10.1.0.0/16".into(), node_prefix_len: Some(24) }],
        vni: Some(7),
        backend: Some(v1::network::Backend::Vxlan(v1::VxlanBackend {
            port: Some(8472),
            learning: true,
            ..Default::default()
        })),
        create_time: Some(prost_types::Timestamp { seconds: 1_000_000, nanos: 0 }),
        revision: 3,
        lease_ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    }
}

#[test]
fn create_sends_what_was_typed() {
    let line = "create blue --pool 10.0.0.1/8:99 --vni 0 --learning --lease-ttl 90s \
                --masquerade --masquerade-except 10.0.0.1/9 --masquerade-random-fully";
    let Verb::Create(create) = verb(line) else { panic!("not a create") };
    let sent = create.network().unwrap();
    assert_eq!(
        sent,
        v1::Network {
            name: "networks/blue".into(),
            pools: vec![v1::Pool { cidr: "10.0.0.1/8".into(), node_prefix_len: Some(99) }],
            vni: Some(0),
            backend: Some(v1::network::Backend::Vxlan(v1::VxlanBackend {
                port: None,
                learning: true,
                ..Default::default()
            })),
            lease_ttl: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
            masquerade: Some(v1::Masquerade { except: vec!["10.0.0.1/9".into()], random_fully: true }),
            ..Default::default()
        }
    );
    let spared_alone = "network create blue --pool 10.0.0.0/8 --masquerade-except 10.0.0.0/9";
    assert!(Line::try_parse_from(spared_alone.split(' ')).is_err());
}

#[test]
fn what_another_backend_has_is_refused() {
    for (backend, flag, of) in [
        ("host-gw", "--port 7", "vxlan or udp"),
        ("alloc", "--port 7", "vxlan or udp"),
        ("host-gw", "--direct-routing", "vxlan"),
        ("udp", "--direct-routing", "vxlan"),
        ("udp", "--learning", "vxlan"),
        ("alloc", "--gbp", "vxlan"),
        ("vxlan", "--udp-offload tso", "udp"),
        ("vxlan", "--udp-single-sends", "udp"),
        ("host-gw", "--udp-single-receives", "udp"),
    ] {
        let line = format!("create blue --pool 10.0.0.0/8 --backend {backend} {flag}");
        let Verb::Create(create) = verb(&line) else { panic!("not a create") };
        let told = create.network().unwrap_err().to_string();
        assert_eq!(told, format!("{} is for --backend {of} alone", flag.split(' ').next().unwrap()));
    }
}

#[test]
fn a_udp_network_is_created_changed_and_shown_with_its_limits() {
    let sent = |flags: &str| {
        let line = format!("create blue --pool 10.0.0.0/8 --backend udp{flags}");
        let Verb::Create(create) = verb(&line) else { panic!("not a create") };
        create.network().unwrap().backend
    };
    let udp = |udp| Some(v1::network::Backend::Udp(udp));
    assert_eq!(sent(""), udp(v1::UdpBackend::default()));
    let limited = v1::UdpBackend {
        port: Some(9000),
        device_offload: v1::DeviceOffload::Plain.into(),
        single_sends: true,
        single_receives: true,
    };
    let flags = " --port 9000 --udp-offload plain --udp-single-sends --udp-single-receives";
    assert_eq!(sent(flags), udp(limited));

    let updated = |flags: &str, backend| {
        let Verb::Update(update) = verb(&format!("update blue {flags}")) else { panic!("not an update") };
        let request = update.request(v1::Network { backend, ..wire() })?;
        Ok::<_, Failure>((request.update_mask.unwrap().paths, request.network.unwrap().backend))
    };
    let cases = [
        ("--udp-offload tso", "udp.device_offload", {
            v1::UdpBackend { device_offload: v1::DeviceOffload::Tso.into(), ..limited }
        }),
        ("--no-udp-single-sends", "udp.single_sends", v1::UdpBackend { single_sends: false, ..limited }),
        ("--no-udp-single-receives", "udp.single_receives", {
            v1::UdpBackend { single_receives: false, ..limited }
        }),
        ("--udp-single-sends", "udp.single_sends", limited),
        ("--udp-single-receives", "udp.single_receives", limited),
    ];
    for (flag, path, next) in cases {
        assert_eq!(updated(flag, udp(limited)).unwrap(), (vec![path.to_owned()], udp(next)), "{flag}");
        let told = updated(flag, wire().backend).unwrap_err().to_string();
        let flag = flag.split(' ').next().unwrap();
        assert_eq!(told, format!("{flag}: the backend of network blue is vxlan 8472 learning, not udp"));
    }
    let (paths, _) = updated("--udp-single-sends --mtu 1300 --udp-offload uso", udp(limited)).unwrap();
    assert_eq!(paths, ["mtu", "udp.device_offload", "udp.single_sends"]);
    for both in ["--udp-single-sends --no-udp-single-sends", "--udp-single-receives --no-udp-single-receives"]
    {
        assert!(Line::try_parse_from(format!("network update blue {both}").split(' ')).is_err());
    }

    let shown = |udp| BackendView::from(Some(v1::network::Backend::Udp(udp)));
    assert_eq!(shown(limited).words(), "udp 9000 plain single-sends single-receives");
    assert_eq!(shown(v1::UdpBackend { port: Some(8285), ..Default::default() }).words(), "udp 8285");
    assert_eq!(
        serde_json::to_value(shown(limited)).unwrap(),
        json!({
            "kind": "udp", "port": 9000, "device_offload": "plain", "single_sends": true, "single_receives": true,
        })
    );
}

#[test]
fn update_sends_the_whole_list_of_pools_and_only_what_was_asked() {
    let update = |line: &str| match verb(line) {
        Verb::Update(update) => update.request(wire()),
        other => panic!("{other:?}"),
    };
    let request = update("update blue --add-pool 10.2.0.0/16:26").unwrap();
    let network = request.network.unwrap();
    let cidrs: Vec<_> = network.pools.iter().map(|pool| pool.cidr.as_str()).collect();
    assert_eq!(cidrs, ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(request.update_mask.unwrap().paths, ["pools"]);

    let request = update("update blue --no-mtu").unwrap();
    assert_eq!(request.network.unwrap().mtu, None);
    assert_eq!(request.update_mask.unwrap().paths, ["mtu"]);

    let request = update("update blue --remove-pool 10.1.0.0/16 --mtu 1300").unwrap();
    assert_eq!(request.update_mask.unwrap().paths, ["pools", "mtu"]);
    assert!(request.network.unwrap().pools.is_empty());

    let request = update("update blue --masquerade --masquerade-except 10.2.0.0/16").unwrap();
    assert_eq!(request.update_mask.unwrap().paths, ["masquerade"]);
    let masquerade = Some(v1::Masquerade { except: vec!["10.2.0.0/16".into()], random_fully: false });
    assert_eq!(request.network.unwrap().masquerade, masquerade);
    let request = update("update blue --no-masquerade").unwrap();
    assert_eq!(request.update_mask.unwrap().paths, ["masquerade"]);
    assert_eq!(request.network.unwrap().masquerade, None);
    assert!(Line::try_parse_from("network update blue --masquerade --no-masquerade".split(' ')).is_err());

    for (flag, direct_routing) in [("--direct-routing", true), ("--no-direct-routing", false)] {
        let request = update(&format!("update blue {flag}")).unwrap();
        assert_eq!(request.update_mask.unwrap().paths, ["vxlan.direct_routing"]);
        let Some(v1::network::Backend::Vxlan(vxlan)) = request.network.unwrap().backend else {
            panic!("no VXLAN")
        };
        assert_eq!(vxlan.direct_routing, direct_routing);
        let Verb::Update(of_host_gw) = verb(&format!("update blue {flag}")) else { panic!("not an update") };
        let backend = Some(v1::network::Backend::HostGw(v1::HostGwBackend {}));
        let failure = of_host_gw.request(v1::Network { backend, ..wire() }).unwrap_err();
        assert_eq!(failure.to_string(), format!("{flag}: the backend of network blue is host-gw, not vxlan"));
    }
    assert!(
        Line::try_parse_from("network update blue --direct-routing --no-direct-routing".split(' ')).is_err()
    );

    let failure = update("update blue --remove-pool 10.9.0.0/16").unwrap_err();
    assert!(failure.to_string().contains("10.9.0.0/16: network blue has no such pool"), "{failure}");
}

#[test]
fn json_names_are_stable() {
    let view = NetworkView::from(wire());
    assert_eq!(
        serde_json::to_value(view).unwrap(),
        json!({
            "name": "blue",
            "vni": 7,
            "pools": [{"cidr": "10.1.0.0/16", "node_prefix_len": 24}],
            "mtu": null,
            "backend": {"kind": "vxlan", "port": 8472, "learning": true, "gbp": false, "direct_routing": false},
            "lease_ttl_seconds": 60,
            "masquerade": null,
            "create_time": "1970-01-12T13:46:40Z",
            "revision": 3,
        })
    );
}

#[test]
fn the_table_fits_a_line() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060);
    assert_eq!(
        table(&[NetworkView::from(wire())], now),
        "NAME  VNI  POOLS           BACKEND              MTU   MASQUERADE  CREATED\n\
         blue  7    10.1.0.0/16:24  vxlan 8472 learning  auto  no          1m ago"
    );
    let except = vec!["10.2.0.0/16".into(), "fd00::/8".into()];
    let masquerade = Some(v1::Masquerade { except, random_fully: true });
    let line = table(&[NetworkView::from(v1::Network { masquerade, ..wire() })], now);
    assert!(line.contains(" yes random-fully except 10.2.0.0/16 fd00::/8  1m ago"), "{line}");
}
