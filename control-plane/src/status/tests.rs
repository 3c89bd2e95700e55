use super::*;
use crate::registry::{EndReason, Registry};

const AT: SystemTime = SystemTime::UNIX_EPOCH;

fn link(registry: &Registry) -> Arc<Link> {
    registry.open(crate::registry::testing::client("node/a"), "192.0.2.1:1".parse().unwrap())
}

fn node() -> NodeId {
    "a".parse().unwrap()
}

fn membership(current: u64) -> Membership {
    let subnets = Subnets::new(["10.244.1.0/24".parse().unwrap()]).unwrap();
    Membership { network: "blue".parse().unwrap(), subnets, current }
}

#[test]
fn a_node_is_connected_while_one_watch_is_open_and_then_the_reason_is_told() {
    let (nodes, registry) = (Nodes::default(), Registry::default());
    let link = link(&registry);
    let first = nodes.watch_opened(node(), Arc::clone(&link), AT);
    let second = nodes.watch_opened(node(), Arc::clone(&link), AT);
    drop(first);
    assert!(nodes.view(&node(), &[], AT).connected);
    link.end(EndReason::Slow { lag: Duration::from_secs(61) });
    drop(second);
    let view = nodes.view(&node(), &[], AT);
    assert!(!view.connected);
    assert_eq!(view.disconnect_reason, "the client has not read for 61 s");
    nodes.retain(&BTreeSet::new());
    assert_eq!(nodes.view(&node(), &[], AT).since, None);
}

#[test]
fn both_agents_of_a_copied_identity_are_shown_for_a_minute() {
    let nodes = Nodes::default();
    let other = "192.0.2.9:7".parse().unwrap();
    assert!(!nodes.refused(&node(), InstanceId(7), other, AT));
    assert_eq!(nodes.view(&node(), &[], AT).refused_agent, None, "nobody is there");
    let watch = nodes.watch_opened(node(), link(&Registry::default()), AT);
    assert!(nodes.refused(&node(), InstanceId(7), other, AT));
    let again = "192.0.2.9:8".parse().unwrap();
    assert!(!nodes.refused(&node(), InstanceId(7), again, AT), "it is no news from another port");
    assert!(!nodes.refused(&node(), InstanceId(7), other, AT));
    let view = nodes.view(&node(), &[], AT + SHOWN);
    assert_eq!(view.address, "192.0.2.1:1");
    let refused = view.refused_agent.unwrap();
    assert_eq!(refused.address, "192.0.2.9:7");
    assert_eq!(refused.instance_id, InstanceId(7).to_string());
    assert_eq!(nodes.view(&node(), &[], AT + SHOWN * 2).refused_agent, None);
    assert!(nodes.refused(&node(), InstanceId(7), other, AT + SHOWN * 2));
    drop(watch);
    assert_eq!(nodes.view(&node(), &[], AT).address, "");
}

#[test]
fn a_node_converges_when_it_is_ready_current_and_without_failures() {
    let report = Report { applied: 7, ready: true, ..Default::default() };
    assert!(report.is_converged(7) && !report.is_converged(8));
    assert!(!Report { ready: false, ..report.clone() }.is_converged(7));
    let failures = vec![("b".to_owned(), "no".to_owned())];
    assert!(!Report { failures, ..report }.is_converged(7));
}

#[test]
fn why_a_node_is_not_ready_is_shown_until_it_is_and_cut_to_what_is_kept() {
    let nodes = Nodes::default();
    let network = membership(1).network;
    let shown = |wire: &v1::ReportStatusRequest| {
        nodes.file(&node(), network.clone(), Report::new(wire, 1), AT);
        nodes.view(&node(), &[membership(1)], AT).networks[0].not_ready_reason.clone()
    };
    let why = "SUBNET_TAKEN: ".to_owned() + &"ä".repeat(1000);
    let wire = v1::ReportStatusRequest { not_ready_reason: why.clone(), ..Default::default() };
    assert_eq!(shown(&wire), why.chars().take(TEXT).collect::<String>());
    assert_eq!(shown(&v1::ReportStatusRequest { ready: true, ..wire }), "");
}

#[test]
fn warnings_are_shown_and_keep_nobody_from_converging() {
    let nodes = Nodes::default();
    let warnings = vec!["FORWARD drops".to_owned(); 30];
    let wire = v1::ReportStatusRequest { ready: true, warnings, ..Default::default() };
    let report = Report::new(&wire, 1);
    assert!(report.is_converged(1));
    nodes.file(&node(), membership(1).network, report, AT);
    let shown = nodes.view(&node(), &[membership(1)], AT).networks.remove(0);
    assert_eq!(shown.warnings, vec!["FORWARD drops"; WARNINGS]);
    assert_eq!(shown.warnings_left_out, 30 - 20);
}

#[test]
fn a_node_of_many_networks_that_fail_stays_small_enough_for_every_client() {
    let nodes = Nodes::default();
    let failure =
        |peer: usize| v1::PeerFailure {
            node: format!("peer-{peer}"), message: "ä".repeat(300), since: None
        };
    let wire = v1::ReportStatusRequest {
        failures: (0..120).map(failure).collect(),
        failures_left_out: 5,
        ..Default::default()
    };
    let memberships: Vec<_> = (0..40)
        .map(|number| Membership { network: format!("net-{number}").parse().unwrap(), ..membership(1) })
        .collect();
    for membership in &memberships {
        nodes.file(&node(), membership.network.clone(), Report::new(&wire, 1), AT);
    }
    let view = nodes.view(&node(), &memberships, AT);
    assert!(prost::Message::encoded_len(&view) <= bound::MOST);
    assert_eq!((view.networks.len(), view.networks_left_out), (40, 0));
    assert_eq!(view.networks[0].failures.len(), FAILURES);
    assert_eq!(view.networks[0].failures_left_out, 20 + 5, "also those that were never kept");
    let told: usize =
        view.networks.iter().map(|network| network.failures.len() + network.failures_left_out as usize).sum();
    assert_eq!(told, 40 * 125);
    assert_eq!(view.networks[39].failures_left_out, 125);
}

#[test]
fn a_failure_keeps_the_time_it_was_first_reported() {
    let nodes = Nodes::default();
    let failing = |names: &[&str]| Report {
        failures: names.iter().map(|name| ((*name).to_owned(), "no route".to_owned())).collect(),
        ..Default::default()
    };
    let network = membership(1).network;
    nodes.file(&node(), network.clone(), failing(&["b"]), AT);
    let later = AT + Duration::from_secs(9);
    nodes.file(&node(), network.clone(), failing(&["c", "b"]), later);
    let view = nodes.view(&node(), &[membership(1)], AT);
    let since: Vec<_> = view.networks[0].failures.iter().map(|failure| failure.since).collect();
    assert_eq!(since, [Some(timestamp(later)), Some(timestamp(AT))]);
    assert_eq!(nodes.unconverged([(&node(), &network, 1)].into_iter()), 1);
    nodes.file(&node(), network.clone(), Report { applied: 1, ready: true, ..Default::default() }, later);
    assert_eq!(nodes.unconverged([(&node(), &network, 1)].into_iter()), 1, "it is not connected");
    let watch = nodes.watch_opened(node(), link(&Registry::default()), AT);
    assert_eq!(nodes.unconverged([(&node(), &network, 1)].into_iter()), 0);
    drop(watch);
    assert!(!nodes.view(&node(), &[membership(1)], AT).networks[0].converged);
}

#[test]
fn the_pace_follows_the_reports_that_are_filed() {
    let nodes = Nodes::default();
    let numbered = |number: usize| format!("n{number}").parse::<NodeId>().unwrap();
    let file = |number| nodes.file(&numbered(number), "blue".parse().unwrap(), Report::default(), AT);
    for number in 0..2000 {
        file(number);
    }
    assert_eq!(file(0), Duration::from_secs(5), "a second report of a node is not another reporter");
    nodes.retain(&(0..1000).map(numbered).collect());
    assert_eq!(file(0), Duration::from_millis(2500));
}

#[test]
fn reports_stay_below_five_hundred_a_second() {
    assert_eq!(pace(3), Duration::from_secs(2));
    assert_eq!(pace(10_000), Duration::from_secs(25));
    for reporters in [1, 500, 1000, 50_000_usize] {
        assert!(reporters as f64 / pace(reporters).as_secs_f64() <= 500.0);
    }
}
