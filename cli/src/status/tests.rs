use std::time::Duration;

use serde_json::json;

use super::*;

fn status() -> v1::ClusterStatus {
    v1::ClusterStatus {
        cluster: "demo".into(),
        version: "0.1.0".into(),
        incarnation: "5eed".into(),
        revision: 42,
        watches: 2,
        networks: 1,
        leases: 3,
        unconverged_nodes: 1,
        start_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        ..Default::default()
    }
}

fn nodes() -> Vec<NodeView> {
    let membership = |converged| v1::NodeNetwork {
        network: "networks/blue".into(),
        subnets: vec!["10.1.3.0/24".into()],
        converged,
        ready: true,
        applied_revision: 41,
        current_revision: 42,
        report_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        ..Default::default()
    };
    let node = |name: &str, converged| v1::Node {
        name: format!("nodes/{name}"),
        connected: true,
        networks: vec![membership(converged)],
        ..Default::default()
    };
    vec![node("a", true).into(), node("b", false).into()]
}

#[test]
fn what_is_not_converged_is_told_with_its_reason() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060);
    assert_eq!(
        StatusView::new(status(), &nodes()).text(now),
        "Cluster:       demo\n\
         Control plane: 0.1.0, started 1m ago\n\
         Store:         takes writes, revision 42, incarnation 5eed\n\
         Networks:      1\n\
         Leases:        3\n\
         Watches:       2\n\
         Nodes:         2\n\
         \n\
         Not converged:\n\
         NODE  NETWORK  WHY\n\
         b     blue     has applied revision 41 of 42"
    );
}

#[test]
fn a_node_that_is_refused_a_lease_keeps_the_cluster_from_being_converged() {
    let refusal = v1::LeaseRefusal {
        code: "RESOURCE_EXHAUSTED".into(),
        reason: "EXHAUSTED".into(),
        message: "no subnet is left".into(),
        ..Default::default()
    };
    let membership =
        v1::NodeNetwork { network: "networks/blue".into(), refusal: Some(refusal), ..Default::default() };
    let node = v1::Node { name: "nodes/c".into(), networks: vec![membership], ..Default::default() };
    let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
    let told = "\nNot converged:\n\
                NODE  NETWORK  WHY\n\
                c     blue     is refused a lease: EXHAUSTED: no subnet is left (RESOURCE_EXHAUSTED)";
    assert!(text.ends_with(told), "{text}");
}

#[test]
fn a_failed_store_and_adoption_are_told() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060);
    let wire = v1::ClusterStatus {
        store_failure: "no space left on device".into(),
        adopting_until: Some(Timestamp { seconds: 1_000_360, nanos: 0 }),
        ..status()
    };
    let text = StatusView::new(wire, &[]).text(now);
    assert!(text.contains("Store:         takes no writes: no space left on device\n"), "{text}");
    assert!(text.contains("Adopting:      leases held before, ends in 5m\n"), "{text}");
    assert!(text.ends_with("\nEvery node is converged."), "{text}");
}

#[test]
fn networks_that_were_left_out_are_not_taken_for_converged() {
    let node = v1::Node { name: "nodes/a".into(), networks_left_out: 7, ..Default::default() };
    let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
    assert!(text.ends_with("a     -        7 more networks were left out of a long answer"), "{text}");
}

#[test]
fn signs_of_a_former_life_are_told_with_what_to_do() {
    let knock_time = Some(Timestamp { seconds: 1_000_057, nanos: 0 });
    let former = v1::FormerLife { address: "192.0.2.7:4711".into(), knock_time, hosts: 2 };
    let wire = v1::ClusterStatus { former_life: Some(former), ..status() };
    let text = StatusView::new(wire, &[]).text(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060));
    let told = "Former life:   2 hosts know another CA of this cluster, last seen 192.0.2.7:4711 3s ago; new nodes \
                get no subnet: if the state directory was lost, run loden-control-plane recover, start";
    assert!(text.contains(told), "{text}");
}

#[test]
fn warnings_are_told_of_nodes_that_are_converged_too() {
    let membership = v1::NodeNetwork {
        network: "networks/blue".into(),
        converged: true,
        warnings: vec!["net.ipv4.ip_forward is 0".into()],
        ..Default::default()
    };
    let node = v1::Node { name: "nodes/a".into(), networks: vec![membership], ..Default::default() };
    let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
    let warned = "\nWarnings:\nNODE  NETWORK  WARNING\na     blue     net.ipv4.ip_forward is 0\n";
    assert!(text.ends_with(&format!("{warned}\nEvery node is converged.")), "{text}");
}

#[test]
fn both_agents_of_a_copied_identity_are_told() {
    let node = v1::Node {
        name: "nodes/a".into(),
        connected: true,
        address: "192.0.2.1:40000".into(),
        refused_agent: Some(v1::RefusedAgent {
            address: "192.0.2.9:40001".into(),
            instance_id: "07".into(),
            refuse_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        }),
        ..Default::default()
    };
    let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
    assert!(
        text.ends_with(
            "\nTwo agents with one identity (was a disk or certificate copied?):\n\
             NODE  CONNECTED        REFUSED\n\
             a     192.0.2.1:40000  192.0.2.9:40001\n\
             \nEvery node is converged."
        ),
        "{text}"
    );
}

#[test]
fn json_names_are_stable() {
    assert_eq!(
        serde_json::to_value(StatusView::new(status(), &nodes())).unwrap(),
        json!({
            "cluster": "demo",
            "version": "0.1.0",
            "start_time": "1970-01-12T13:46:40Z",
            "incarnation": "5eed",
            "revision": 42,
            "store_failure": null,
            "adopting_until": null,
            "former_life": null,
            "networks": 1,
            "leases": 3,
            "watches": 2,
            "nodes": 2,
            "refused_nodes": 0,
            "waiting_nodes": 0,
            "copied": [],
            "unconverged": [
                {"node": "b", "network": "blue", "reasons": ["has applied revision 41 of 42"]},
            ],
            "warnings": [],
        })
    );
}
