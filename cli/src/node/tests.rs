use std::time::Duration;

use serde_json::json;

use super::*;
use crate::output::table;

fn membership() -> v1::NodeNetwork {
    v1::NodeNetwork {
        network: "networks/blue".into(),
        subnets: vec!["10.1.3.0/24".into()],
        applied_revision: 9,
        current_revision: 9,
        converged: true,
        ready: true,
        peers: 2,
        failures: Vec::new(),
        report_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        not_ready_reason: String::new(),
        warnings: Vec::new(),
        failures_left_out: 0,
        warnings_left_out: 0,
        refusal: None,
    }
}

fn refusal(code: &str, reason: &str, message: &str) -> v1::LeaseRefusal {
    v1::LeaseRefusal {
        code: code.into(),
        reason: reason.into(),
        message: message.into(),
        address: "192.0.2.1:40000".into(),
        since: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        refuse_time: Some(Timestamp { seconds: 1_000_060, nanos: 0 }),
    }
}

fn node(networks: Vec<v1::NodeNetwork>) -> v1::Node {
    v1::Node {
        name: "nodes/node-1".into(),
        connected: true,
        since: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        disconnect_reason: String::new(),
        networks,
        version: "0.1.0".into(),
        address: "192.0.2.1:40000".into(),
        refused_agent: None,
        revoke_time: None,
        networks_left_out: 0,
    }
}

#[test]
fn every_cause_is_named_and_a_converged_node_has_none() {
    assert!(MembershipView::new(membership(), None).reasons.is_empty());
    let failure = v1::PeerFailure { node: "c".into(), message: "MAC is taken by b".into(), since: None };
    let behind = v1::NodeNetwork {
        converged: false,
        ready: false,
        applied_revision: 7,
        failures: vec![failure],
        failures_left_out: 3,
        not_ready_reason: "no interface to send over: there is no device eth0".into(),
        ..membership()
    };
    let mute = v1::NodeNetwork { converged: false, ready: false, ..membership() };
    assert_eq!(MembershipView::new(mute, None).reasons, ["not ready"]);
    let silent = v1::NodeNetwork { converged: false, report_time: None, ..membership() };
    assert_eq!(
        MembershipView::new(behind, None).reasons,
        [
            "not ready: no interface to send over: there is no device eth0",
            "has applied revision 7 of 9",
            "peer c: MAC is taken by b",
            "and 3 more peers"
        ]
    );
    assert_eq!(
        MembershipView::new(silent, Some("not connected: reads too slowly")).reasons,
        ["not connected: reads too slowly", "has not reported yet"]
    );
}

#[test]
fn json_names_are_stable() {
    assert_eq!(
        serde_json::to_value(NodeView::from(node(vec![membership()]))).unwrap(),
        json!({
            "name": "node-1",
            "connected": true,
            "since": "1970-01-12T13:46:40Z",
            "disconnect_reason": null,
            "revoke_time": null,
            "version": "0.1.0",
            "address": "192.0.2.1:40000",
            "refused_agent": null,
            "networks": [{
                "network": "blue",
                "subnets": ["10.1.3.0/24"],
                "converged": true,
                "reasons": [],
                "ready": true,
                "not_ready_reason": null,
                "peers": 2,
                "applied_revision": 9,
                "current_revision": 9,
                "failures": [],
                "failures_left_out": 0,
                "warnings": [],
                "warnings_left_out": 0,
                "report_time": "1970-01-12T13:46:40Z",
                "refusal": null,
            }],
            "networks_left_out": 0,
        })
    );
    assert_eq!(
        serde_json::to_value(RefusalView::from(refusal("RESOURCE_EXHAUSTED", "EXHAUSTED", "no subnet")))
            .unwrap(),
        json!({
            "code": "RESOURCE_EXHAUSTED",
            "reason": "EXHAUSTED",
            "message": "no subnet",
            "address": "192.0.2.1:40000",
            "since": "1970-01-12T13:46:40Z",
            "time": "1970-01-12T13:47:40Z",
        })
    );
}

#[test]
fn a_node_without_a_lease_says_why_and_not_what_follows() {
    let unleased = |refusal, said: &str| v1::NodeNetwork {
        network: "networks/blue".into(),
        refusal,
        not_ready_reason: said.into(),
        report_time: (!said.is_empty()).then_some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        current_revision: 9,
        ..Default::default()
    };
    let absent = Some("not connected");
    let why = |wire| MembershipView::new(wire, absent).reasons;
    let full = refusal("RESOURCE_EXHAUSTED", "EXHAUSTED", "networks/blue has no free IPv4 subnet left");
    let shown =
        "is refused a lease: EXHAUSTED: networks/blue has no free IPv4 subnet left (RESOURCE_EXHAUSTED)";
    assert_eq!(why(unleased(Some(full.clone()), "")), [shown]);
    let repeated = "peers are not known yet: control plane refuses: EXHAUSTED: networks/blue has no free \
                    IPv4 subnet left (RESOURCE_EXHAUSTED)";
    assert_eq!(why(unleased(Some(full.clone()), repeated)), [shown]);
    let settling = refusal("UNAVAILABLE", "SETTLING", "the server has just started");
    assert_eq!(
        why(unleased(Some(settling), "")),
        ["waits for a lease: SETTLING: the server has just started (UNAVAILABLE)"]
    );
    let eth9 = "no interface to send over: there is no interface eth9";
    assert_eq!(why(unleased(None, eth9)), [format!("not ready: {eth9}")]);
    let bare = refusal("ABORTED", "", "the records changed");
    assert_eq!(why(unleased(Some(bare), "")), ["is refused a lease: the records changed (ABORTED)"]);
    // It has one that expired, say, and is not given it again.
    let held = v1::NodeNetwork { converged: false, refusal: Some(full), ..membership() };
    assert_eq!(why(held), ["not connected", shown]);
}

#[test]
fn the_table_has_a_line_for_each_network_and_for_a_node_without_one() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_005);
    let views = [NodeView::from(node(vec![membership()])), NodeView::from(node(Vec::new()))];
    assert_eq!(
        table(&views, now),
        "NODE    CONNECTED    NETWORK  SUBNETS      PEERS  CONVERGED  VERSION\n\
         node-1  yes, 5s ago  blue     10.1.3.0/24  2      yes        0.1.0\n\
         node-1  yes, 5s ago  -        -            -      -          0.1.0"
    );
    let cut = v1::Node { networks_left_out: 7, ..node(vec![membership()]) };
    let text = table(&[NodeView::from(cut)], now);
    assert!(
        text.ends_with("node-1  yes, 5s ago  and 7 more  -            -      -          0.1.0"),
        "{text}"
    );
}
