//! Whom chains as they are met on hosts drop, and what is inserted there.

use super::super::chains::{Base, Field, Test, Verdict};
use super::super::insert::{Accept, Edit, insertions};
use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn traffic() -> Traffic {
    Traffic {
        network: "default".parse().unwrap(),
        pools: vec![net("10.244.0.0/16"), net("fd00:244::/48")],
        subnets: vec![net("10.244.7.0/24"), net("fd00:244:0:7::/64")],
        pods: BTreeSet::from(["cni0".to_owned()]),
        links: BTreeSet::from(["loden1a".to_owned()]),
        lower: BTreeSet::from(["eth0".to_owned()]),
        tunnel: Some((8472, vec![Family::V4])),
    }
}

fn id(family: &str, name: &str) -> ChainId {
    ChainId { family: family.into(), table: "filter".into(), name: name.into() }
}

fn base(family: &str, name: &str, hook: Hook, drops: bool, rules: Vec<Rule>) -> Chain {
    Chain { id: id(family, name), base: Some(Base { hook, drops, tracked: true }), rules }
}

fn forward(drops: bool, rules: Vec<Rule>) -> Chain {
    base("ip", "FORWARD", Hook::Forward, drops, rules)
}

fn rule(tests: Vec<Test>, verdict: Verdict) -> Rule {
    Rule { handle: 1, comment: None, tests, verdict: Some(verdict) }
}

fn is(what: Field) -> Test {
    Test::Is { what, not: false }
}

fn range(text: &str) -> Vec<(std::net::IpAddr, std::net::IpAddr)> {
    vec![(net(text).network(), net(text).broadcast())]
}

fn told(chains: &[Chain]) -> Vec<String> {
    obstacles(chains, &[traffic()]).iter().map(ToString::to_string).collect()
}

/// Rules of ours as a listing shows them.
fn ours(accept: Accept, handle: u64) -> Rule {
    let test = match accept {
        Accept::From(net) => is(Field::Source(range(&net.to_string()))),
        Accept::To(net) => is(Field::Destination(range(&net.to_string()))),
        Accept::Udp(port) => is(Field::UdpPort(vec![(port, port)])),
    };
    let comment = Some(format!("loden-agent: {accept}"));
    Rule { handle, comment, ..rule(vec![test], Verdict::Accept) }
}

#[test]
fn a_policy_that_drops_is_named_unless_rules_accept_both_ways() {
    assert_eq!(told(&[forward(false, vec![])]), Vec::<String>::new());
    let named = "the chain FORWARD of the table ip filter drops what pods send each other (its policy is drop): \
                 accept 10.244.0.0/16 there";
    assert_eq!(told(&[forward(true, vec![])]), [named]);
    let from = |text| rule(vec![is(Field::Source(range(text)))], Verdict::Accept);
    let to = |text| rule(vec![is(Field::Destination(range(text)))], Verdict::Accept);
    assert_eq!(told(&[forward(true, vec![from("10.0.0.0/8")])]), Vec::<String>::new());
    assert_eq!(told(&[forward(true, vec![from("10.244.7.0/24")])]), [named]);
    assert_eq!(
        told(&[forward(true, vec![from("10.244.7.0/24"), to("10.244.7.0/24")])]),
        Vec::<String>::new()
    );
    // A part of the pool is not the pool, and an established connection not a new one.
    let some = is(Field::Destination(range("10.244.8.0/24")));
    assert_eq!(told(&[forward(true, vec![rule(vec![some], Verdict::Accept)])]), [named]);
    let established = is(Field::State(vec!["established".into()]));
    assert_eq!(told(&[forward(true, vec![rule(vec![established], Verdict::Accept)])]), [named]);
}

#[test]
fn a_rule_that_drops_is_named_with_its_chain_unless_one_before_it_accepts() {
    let user = Chain { id: id("ip", "USER"), base: None, rules: vec![rule(vec![], Verdict::Drop)] };
    let jump = rule(vec![], Verdict::Jump("USER".into()));
    let chains = [forward(false, vec![jump.clone()]), user.clone()];
    let text = told(&chains).join("");
    assert!(text.contains("(by a rule in USER)"), "{text}");
    let accept = rule(vec![is(Field::Source(range("10.244.0.0/16")))], Verdict::Accept);
    assert_eq!(told(&[forward(false, vec![accept, jump]), user]), Vec::<String>::new());
    // What cannot be understood neither drops nor accepts; what is for others does not either.
    let strange = rule(vec![Test::Unknown], Verdict::Drop);
    let docker = rule(vec![is(Field::Incoming(vec!["docker0".into()]))], Verdict::Drop);
    let tcp = rule(vec![is(Field::Protocol(vec!["tcp".into()]))], Verdict::Drop);
    assert_eq!(told(&[forward(false, vec![strange, docker, tcp])]), Vec::<String>::new());
    let back = rule(vec![], Verdict::Return);
    let unreached = rule(vec![], Verdict::Drop);
    assert_eq!(told(&[forward(false, vec![back, unreached])]), Vec::<String>::new());
}

#[test]
fn chains_that_call_each_other_end() {
    let circle = rule(vec![], Verdict::Jump("FORWARD".into()));
    assert_eq!(told(&[forward(true, vec![circle.clone(), circle])]).len(), 1);
}

#[test]
fn devices_count_once_there_are_pods() {
    let by = |name: &str, verdict| rule(vec![is(Field::Incoming(vec![name.into()]))], verdict);
    let chains =
        |verdict: &Verdict| [forward(true, vec![by("cni*", verdict.clone()), by("loden*", verdict.clone())])];
    assert_eq!(told(&chains(&Verdict::Accept)), Vec::<String>::new());
    let docker = [forward(true, vec![by("docker0", Verdict::Accept)])];
    assert_eq!(told(&docker).len(), 1);
    // Before there is a pod it may be the pods' device that is accepted, and nothing is dropped yet.
    let none = Traffic { pods: BTreeSet::new(), links: BTreeSet::new(), ..traffic() };
    assert_eq!(obstacles(&docker, std::slice::from_ref(&none)), []);
    assert_eq!(obstacles(&[forward(false, vec![by("docker0", Verdict::Drop)])], &[none]), []);
}

#[test]
fn families_and_the_tunnel_are_looked_at_by_themselves() {
    let v6 = base("ip6", "FORWARD", Hook::Forward, true, vec![]);
    assert!(told(&[v6])[0].contains("accept fd00:244::/48 there"));
    let both = base(
        "inet",
        "forward",
        Hook::Forward,
        true,
        vec![rule(vec![is(Field::Source(range("10.244.0.0/16")))], Verdict::Accept)],
    );
    assert!(told(&[both])[0].contains("accept 10.244.0.0/16, fd00:244::/48 there"));
    let not_v4 = Test::Is { what: Field::Source(range("192.168.0.0/16")), not: true };
    let other = base("inet", "forward", Hook::Forward, true, vec![rule(vec![not_v4], Verdict::Accept)]);
    assert_eq!(told(&[other]).len(), 1, "a test of IPv4 addresses fits no IPv6 packet");

    let input = |rules| base("ip", "INPUT", Hook::Input, true, rules);
    let text = told(&[input(vec![])]).join("");
    assert!(text.contains("through the tunnel") && text.contains("accept UDP port 8472 there"), "{text}");
    let udp = |first, last| rule(vec![is(Field::UdpPort(vec![(first, last)]))], Verdict::Accept);
    assert_eq!(told(&[input(vec![udp(8000, 9000)])]), Vec::<String>::new());
    assert_eq!(told(&[input(vec![udp(53, 53)])]).len(), 1);
}

#[test]
fn each_hook_is_passed_by_what_passes_there() {
    let drop = |tests| rule(tests, Verdict::Drop);
    let port = || is(Field::UdpPort(vec![(8472, 8472)]));
    let output = base("ip", "OUTPUT", Hook::Output, true, vec![]);
    assert_eq!(
        told(std::slice::from_ref(&output)),
        [
            "the chain OUTPUT of the table ip filter drops what this host sends to pods (its policy is drop): \
             accept 10.244.0.0/16 there",
            "the chain OUTPUT of the table ip filter drops what this host sends through the tunnel (its policy is \
             drop): accept UDP port 8472 there",
        ]
    );
    let to_pods = rule(vec![is(Field::Destination(range("10.244.0.0/16")))], Verdict::Accept);
    let to_nodes = rule(vec![is(Field::Destination(range("192.0.2.0/24"))), port()], Verdict::Accept);
    let open = base("ip", "OUTPUT", Hook::Output, true, vec![to_pods, to_nodes.clone()]);
    assert_eq!(told(&[open]), Vec::<String>::new(), "addresses beside the port are the nodes'");
    let others = rule(vec![is(Field::Destination(range("192.0.2.0/24")))], Verdict::Accept);
    assert_eq!(told(&[base("ip", "OUTPUT", Hook::Output, true, vec![others])]).len(), 2);

    let raw = |rules| base("inet", "raw", Hook::Prerouting, false, rules);
    let text = told(&[raw(vec![drop(vec![port()])])]);
    assert_eq!(
        text,
        [
            "the chain raw of the table inet filter drops what other nodes send through the tunnel before it is routed \
          (by a rule): accept UDP port 8472 there"
        ]
    );
    let from = drop(vec![is(Field::Source(range("10.0.0.0/8")))]);
    let text = told(&[raw(vec![from])]).join("");
    assert!(text.contains("drops what pods send each other before it is routed (by a rule)"), "{text}");
    let by_another = is(Field::Incoming(vec!["eth1".into()]));
    assert_eq!(told(&[raw(vec![drop(vec![by_another, port()])])]), Vec::<String>::new());

    let by = is(Field::Outgoing(vec!["eth0".into()]));
    let after = base("ip", "POSTROUTING", Hook::Postrouting, false, vec![drop(vec![by, port()])]);
    let text = told(&[after]).join("");
    assert!(
        text.contains("what this host sends through the tunnel after it was routed (by a rule)"),
        "{text}"
    );
    let all = base("ip", "POSTROUTING", Hook::Postrouting, true, vec![]);
    assert_eq!(told(&[all]).len(), 3, "between pods, from the host, and the tunnel");
}

#[test]
fn the_state_of_a_connection_is_not_known_before_connections_are_tracked() {
    let new = || rule(vec![is(Field::State(vec!["new".into()]))], Verdict::Drop);
    let mut chain = base("ip", "PREROUTING", Hook::Prerouting, false, vec![new()]);
    assert_eq!(told(std::slice::from_ref(&chain)).len(), 2);
    chain.base.as_mut().unwrap().tracked = false;
    assert_eq!(told(&[chain]), Vec::<String>::new());
}

#[test]
fn only_what_a_chain_drops_is_accepted_there() {
    let port = is(Field::UdpPort(vec![(8472, 8472)]));
    let raw = base("ip", "PREROUTING", Hook::Prerouting, false, vec![rule(vec![port], Verdict::Drop)]);
    let edits = insertions(std::slice::from_ref(&raw), &[traffic()], true);
    assert_eq!(edits[&raw.id], [Edit::Insert(raw.id.clone(), Accept::Udp(8472))]);
    let to = is(Field::Destination(range("10.244.0.0/16")));
    let output = base("ip", "OUTPUT", Hook::Output, false, vec![rule(vec![to], Verdict::Drop)]);
    let edits = insertions(std::slice::from_ref(&output), &[traffic()], true);
    assert_eq!(edits[&output.id], [Edit::Insert(output.id.clone(), Accept::To(net("10.244.0.0/16")))]);
}

#[test]
fn rules_of_ours_go_into_chains_that_would_drop_and_into_no_others() {
    let pool = net("10.244.0.0/16");
    let open = base("ip", "OPEN", Hook::Forward, false, vec![]);
    let input = base("ip", "INPUT", Hook::Input, true, vec![]);
    let chains = [forward(true, vec![]), open.clone(), input.clone()];
    let insert = |chain: &Chain, accept| Edit::Insert(chain.id.clone(), accept);
    let edits = insertions(&chains, &[traffic()], true);
    let expected = [
        (
            chains[0].id.clone(),
            vec![insert(&chains[0], Accept::From(pool)), insert(&chains[0], Accept::To(pool))],
        ),
        (input.id.clone(), vec![insert(&input, Accept::Udp(8472))]),
    ];
    assert_eq!(edits, expected.into_iter().collect());
    assert!(insertions(&chains, &[traffic()], false).is_empty());

    let there = vec![ours(Accept::From(pool), 7), ours(Accept::To(pool), 8)];
    let settled = [forward(true, there.clone())];
    assert!(insertions(&settled, &[traffic()], true).is_empty());
    assert_eq!(told(&settled), Vec::<String>::new());
    let delete = |handle| Edit::Delete(settled[0].id.clone(), handle);
    assert_eq!(
        insertions(&settled, &[traffic()], false).into_values().next(),
        Some(vec![delete(7), delete(8)])
    );
    // They are needed no more, or of another pool.
    let needless = [forward(false, there.clone())];
    assert_eq!(insertions(&needless, &[traffic()], true)[&needless[0].id].len(), 2);
    let old = [forward(true, [there.clone(), vec![ours(Accept::To(net("10.9.0.0/16")), 9)]].concat())];
    assert_eq!(insertions(&old, &[traffic()], true)[&old[0].id], [delete(9)]);
    // Somebody has put a rule before them.
    let mut late = vec![rule(vec![], Verdict::Drop)];
    late.extend(there);
    let edits = insertions(&[forward(true, late)], &[traffic()], true);
    assert_eq!(edits[&settled[0].id].len(), 4);
}

#[test]
fn a_drop_on_one_of_several_links_is_named_and_so_is_one_that_is_not_accepted() {
    let two = Traffic { links: BTreeSet::from(["loden1a".to_owned(), "eth0".to_owned()]), ..traffic() };
    let named = |chains: &[Chain]| obstacles(chains, std::slice::from_ref(&two)).len();
    let to = |name: &str, verdict| rule(vec![is(Field::Outgoing(vec![name.into()]))], verdict);
    assert_eq!(named(&[forward(false, vec![to("loden1a", Verdict::Drop)])]), 1);
    assert_eq!(named(&[forward(false, vec![to("loden1b", Verdict::Drop)])]), 0);
    let from = |name: &str| rule(vec![is(Field::Incoming(vec![name.into()]))], Verdict::Accept);
    let accepts = |name: &str| [from(name), to(name, Verdict::Accept)];
    assert_eq!(named(&[forward(true, accepts("loden1a").into())]), 1);
    assert_eq!(named(&[forward(true, [accepts("loden1a"), accepts("eth0")].concat())]), 0);
}
