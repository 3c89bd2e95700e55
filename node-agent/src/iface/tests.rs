//! Tables of (what the host looks like, what is chosen).

use loden_datapath::DefaultRoute;

use super::*;

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

fn address(net: &str) -> InterfaceAddress {
    InterfaceAddress {
        net: net.parse().unwrap(),
        permanent: true,
        secondary: false,
        deprecated: false,
        tentative: false,
        global: true,
    }
}

fn interface(index: u32, name: &str, nets: &[&str]) -> Interface {
    Interface {
        index,
        name: device(name),
        kind: None,
        mtu: 1500,
        mac: None,
        up: true,
        running: true,
        loopback: name == "lo",
        broadcast: name != "lo",
        strict: false,
        forwards: true,
        qdisc: None,
        ours: name.starts_with("loden"),
        network: None,
        addresses: nets.iter().map(|net| address(net)).collect(),
    }
}

fn default_route(name: &str, gateway: &str, metric: u32) -> DefaultRoute {
    let gateway: IpAddr = gateway.parse().unwrap();
    DefaultRoute { family: Family::of(gateway), device: device(name), gateway: Some(gateway), metric }
}

fn host() -> HostFacts {
    HostFacts {
        interfaces: vec![
            interface(1, "lo", &["127.0.0.1/8", "::1/128"]),
            interface(2, "eth0", &["192.0.2.10/24", "2001:db8::10/64", "fe80::10/64"]),
            interface(3, "eth1", &["198.51.100.10/24"]),
            interface(4, "loden1a", &["10.244.1.0/32"]),
        ],
        default_routes: vec![
            default_route("eth1", "198.51.100.1", 200),
            default_route("eth0", "192.0.2.1", 100),
            default_route("eth0", "2001:db8::1", 1024),
        ],
        connected: Vec::new(),
        ..HostFacts::default()
    }
}

fn names(names: &[&str]) -> Selection {
    Selection { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Selection::default() }
}

fn pattern(text: &str) -> Selection {
    Selection { patterns: vec![Regex::new(text).unwrap()], ..Selection::default() }
}

fn using(used: &[IpAddr]) -> Known<'_> {
    Known { used, ..Known::default() }
}

/// `device v4 v6`, or what was tried.
fn chosen(selection: &Selection, facts: &HostFacts, route: Option<&RouteLookup>) -> String {
    let text =
        |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    match choose(selection, facts, Known { route, ..Known::default() }) {
        Ok(choice) => {
            let (v4, v6) = (choice.v4.map(IpAddr::V4), choice.v6.map(IpAddr::V6));
            format!("{} {} {}", choice.device, text(v4), text(v6))
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_interface_is_the_one_that_was_asked_for() {
    let cases = [
        (Selection::default(), "eth0 192.0.2.10 2001:db8::10"),
        (names(&["eth1"]), "eth1 198.51.100.10 -"),
        (names(&["198.51.100.10"]), "eth1 198.51.100.10 -"),
        (names(&["2001:db8::10"]), "eth0 192.0.2.10 2001:db8::10"),
        (names(&["eth7", "eth1"]), "eth1 198.51.100.10 -"),
        (names(&["lo"]), "lo 127.0.0.1 ::1"),
        (pattern(r"^198\.51"), "eth1 198.51.100.10 -"),
        (pattern("eth[1-9]"), "eth1 198.51.100.10 -"),
        (names(&["eth7"]), "no interface to send over: there is no interface eth7"),
        (names(&["203.0.113.1"]), "no interface to send over: no interface has the address 203.0.113.1"),
        (names(&["loden1a"]), "no interface to send over: loden1a is a tunnel of Loden"),
        (pattern("^10.244"), "no interface to send over: neither an address nor a name matches ^10.244"),
    ];
    for (selection, expected) in cases {
        assert_eq!(chosen(&selection, &host(), None), expected, "{selection:?}");
    }
}

#[test]
fn addresses_are_matched_before_names() {
    let mut facts = host();
    facts.interfaces[2].name = device("192");
    assert_eq!(chosen(&pattern("192"), &facts, None), "eth0 192.0.2.10 2001:db8::10");
}

#[test]
fn names_come_before_patterns_and_patterns_before_reach() {
    let all = Selection {
        names: vec!["eth7".into()],
        patterns: vec![Regex::new("nothing").unwrap()],
        can_reach: Some("203.0.113.1".parse().unwrap()),
        ..Selection::default()
    };
    let route = RouteLookup { device: device("eth1"), gateway: None, source: None };
    assert_eq!(chosen(&all, &host(), Some(&route)), "eth1 198.51.100.10 -");
    assert_eq!(
        chosen(&all, &host(), None),
        "no interface to send over: there is no interface eth7; neither an address nor a name matches \
         nothing; there is no route to 203.0.113.1"
    );
}

#[test]
fn the_source_of_the_way_is_preferred() {
    let mut facts = host();
    facts.interfaces[2].addresses.push(address("198.51.100.99/24"));
    let selection = Selection { can_reach: Some("203.0.113.1".parse().unwrap()), ..Selection::default() };
    let source = Some("198.51.100.99".parse().unwrap());
    let route = RouteLookup { device: device("eth1"), gateway: None, source };
    assert_eq!(chosen(&selection, &facts, Some(&route)), "eth1 198.51.100.99 -");
}

#[test]
fn several_next_hops_are_tried_in_turn() {
    let mut facts = host();
    facts.default_routes =
        vec![default_route("eth0", "192.0.2.1", 0), default_route("eth1", "198.51.100.1", 0)];
    assert_eq!(chosen(&Selection::default(), &facts, None), "eth0 192.0.2.10 2001:db8::10");
    facts.interfaces[1].up = false;
    assert_eq!(chosen(&Selection::default(), &facts, None), "eth1 198.51.100.10 -");
}

#[test]
fn a_host_with_ipv6_only_is_served_and_one_without_a_way_out_is_told() {
    let mut facts = host();
    facts.default_routes.retain(|route| route.family == Family::V6);
    facts.interfaces[1].addresses.remove(0);
    assert_eq!(chosen(&Selection::default(), &facts, None), "eth0 - 2001:db8::10");
    facts.default_routes.clear();
    assert_eq!(
        chosen(&Selection::default(), &facts, None),
        "no interface to send over: there is no default route; name one with --iface"
    );
}

#[test]
fn among_addresses_the_lasting_global_one_wins() {
    let change = |change: fn(&mut InterfaceAddress)| {
        let mut facts = host();
        facts.interfaces[1].addresses = vec![address("192.0.2.7/24"), address("192.0.2.8/24")];
        change(&mut facts.interfaces[1].addresses[0]);
        chosen(&Selection::default(), &facts, None)
    };
    assert_eq!(change(|_| {}), "eth0 192.0.2.7 -");
    assert_eq!(change(|address| address.permanent = false), "eth0 192.0.2.8 -");
    assert_eq!(change(|address| address.secondary = true), "eth0 192.0.2.8 -");
    assert_eq!(change(|address| address.deprecated = true), "eth0 192.0.2.8 -");
    assert_eq!(change(|address| address.tentative = true), "eth0 192.0.2.8 -");
    assert_eq!(change(|address| address.net = "169.254.1.1/16".parse().unwrap()), "eth0 192.0.2.8 -");
}

#[test]
fn a_public_address_is_advertised_and_never_bound() {
    let selection = Selection {
        public_v4: Some([203, 0, 113, 9].into()),
        public_v6: Some("2001:db8:ffff::9".parse().unwrap()),
        ..names(&["eth1"])
    };
    let choice = choose(&selection, &host(), Known::default()).unwrap();
    assert_eq!((choice.v4, choice.public_v4), (Some([198, 51, 100, 10].into()), selection.public_v4));
    assert_eq!((choice.v6, choice.public_v6), (None, None));
}

/// Addresses come later: those of keepalived and kube-vip, those that somebody sets by hand.
#[test]
fn an_address_that_comes_later_is_not_sent_from_while_the_one_in_use_is_there() {
    let used: Vec<IpAddr> = ["192.0.2.10", "2001:db8::10"].map(|used| used.parse().unwrap()).into();
    let reach = Selection { can_reach: Some("203.0.113.1".parse().unwrap()), ..Selection::default() };
    let later = ["192.0.2.7/32", "192.0.2.7/24", "2001:db8::7/128", "2001:db8::7/64"];
    for selection in [Selection::default(), names(&["eth0"]), pattern("^eth0"), pattern(r"^192\.0\.2"), reach]
    {
        for net in later {
            let mut facts = host();
            // Leased addresses, and one set by hand; the kernel has the newest IPv6 address first.
            facts.interfaces[1].addresses.iter_mut().for_each(|own| own.permanent = false);
            facts.interfaces[1].addresses.insert(0, address(net));
            let source = Some("192.0.2.7".parse().unwrap());
            let route = RouteLookup { device: device("eth0"), gateway: None, source };
            let known = Known { route: Some(&route), used: &used, ..Known::default() };
            let choice = choose(&selection, &facts, known).unwrap();
            assert_eq!(choice.addresses(), used, "{net} by {selection:?}");

            facts.interfaces[1].addresses.retain(|own| !used.contains(&own.net.addr()));
            let choice = choose(&names(&["eth0"]), &facts, using(&used)).unwrap();
            assert_eq!(choice.addresses(), [address(net).net.addr()], "what was in use is gone");
        }
    }
    let mut facts = host();
    facts.interfaces[1].addresses.push(address("192.0.2.7/32"));
    let choice = choose(&names(&["192.0.2.7"]), &facts, using(&used)).unwrap();
    assert_eq!(choice.addresses()[0].to_string(), "192.0.2.7", "somebody wants that one");
}

#[test]
fn at_the_start_an_address_of_a_whole_prefix_comes_last_and_a_primary_one_before_a_secondary_one() {
    let first = |nets: [InterfaceAddress; 2]| {
        let mut facts = host();
        facts.interfaces[1].addresses = nets.into();
        chosen(&Selection::default(), &facts, None)
    };
    let leased = InterfaceAddress { permanent: false, ..address("192.0.2.10/24") };
    let secondary = InterfaceAddress { secondary: true, ..address("192.0.2.7/24") };
    assert_eq!(first([address("192.0.2.7/32"), leased]), "eth0 192.0.2.10 -");
    assert_eq!(first([secondary, leased]), "eth0 192.0.2.10 -");
    assert_eq!(first([address("2001:db8::7/128"), address("2001:db8::10/64")]), "eth0 - 2001:db8::10");
    let mut facts = host();
    facts.interfaces[1].addresses = vec![address("192.0.2.7/32")];
    assert_eq!(chosen(&Selection::default(), &facts, None), "eth0 192.0.2.7 -");
}

#[test]
fn an_address_of_this_host_is_reached_by_the_interface_that_has_it() {
    let reach = |address: &str| {
        let selection = Selection { can_reach: Some(address.parse().unwrap()), ..Selection::default() };
        // The kernel sends over the loopback device whatever is its own.
        let source = Some(address.parse().unwrap());
        chosen(&selection, &host(), Some(&RouteLookup { device: device("lo"), gateway: None, source }))
    };
    assert_eq!(reach("198.51.100.10"), "eth1 198.51.100.10 -");
    assert_eq!(reach("2001:db8::10"), "eth0 192.0.2.10 2001:db8::10");
    for other in ["127.0.0.1", "203.0.113.1"] {
        let expected = format!("no interface to send over: {other} is reached over lo");
        assert_eq!(reach(other), expected);
    }
}

#[test]
fn a_pattern_takes_no_loopback() {
    for text in [".*", "^127", "lo|eth1"] {
        assert!(!chosen(&pattern(text), &host(), None).starts_with("lo"), "{text}");
    }
    assert_eq!(chosen(&pattern(".*"), &host(), None), "eth0 192.0.2.10 2001:db8::10");
}

#[test]
fn a_pattern_takes_no_bridge_of_pods() {
    let mut facts = host();
    facts.interfaces.insert(1, interface(5, "cni0", &["10.244.1.1/24"]));
    facts.interfaces.insert(1, interface(6, "lodenbr7", &["10.8.1.1/24"]));
    facts.interfaces.push(interface(9, "eth2", &["10.0.0.9/24"]));
    let pods = ["10.244.0.0/16".parse().unwrap()];
    let chosen = |selection: &Selection, facts: &HostFacts| {
        let choice = choose(selection, facts, Known { pods: &pods, ..Known::default() });
        choice.map_or_else(|error| error.to_string(), |choice| choice.device.to_string())
    };
    for text in [r"^10\.", "^(10|cni|eth2)", "cni0|eth2"] {
        assert_eq!(chosen(&pattern(text), &facts), "eth2", "{text}");
    }
    let nic = facts.interfaces.last_mut().unwrap();
    nic.addresses.clear();
    let none = r"no interface to send over: neither an address nor a name matches ^10\.";
    assert_eq!(chosen(&pattern(r"^10\."), &facts), none);
    assert_eq!(chosen(&names(&["cni0"]), &facts), "cni0", "somebody wants that one");
}

#[test]
fn a_pattern_stays_with_the_interface_whose_address_is_in_use() {
    let used = ["198.51.100.10".parse().unwrap()];
    for text in [r"^(192|198)\.", "^eth"] {
        let choice = choose(&pattern(text), &host(), Known::default()).unwrap();
        assert_eq!(choice.device, device("eth0"), "{text}");
        assert_eq!(choose(&pattern(text), &host(), using(&used)).unwrap().device, device("eth1"), "{text}");
    }
}
