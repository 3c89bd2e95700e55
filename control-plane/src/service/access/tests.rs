//! Every role, every call, its own and others'.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::registry::Client;

const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

fn holder(role: &str) -> Holder {
    match crate::registry::testing::client(&format!("{role}/one")) {
        Client::Holder(holder) => holder,
        Client::Joining(_) => unreachable!(),
    }
}

/// For every call: node, admin, reader.
const EXPECTED: [(Rpc, Access, Access, Access); 31] = {
    use Access::{Any, Never, Own};
    [
        (Rpc::AcquireLease, Own, Never, Never),
        (Rpc::CreateJoinToken, Never, Any, Never),
        (Rpc::CreateNetwork, Never, Any, Never),
        (Rpc::CreateReservation, Never, Any, Never),
        (Rpc::DeleteJoinToken, Never, Any, Never),
        (Rpc::DeleteNetwork, Never, Any, Never),
        (Rpc::DeleteNode, Never, Any, Never),
        (Rpc::DeleteReservation, Never, Any, Never),
        (Rpc::GetAuthority, Never, Any, Any),
        (Rpc::GetClusterStatus, Never, Any, Any),
        (Rpc::GetLease, Own, Any, Any),
        (Rpc::GetNetwork, Never, Any, Any),
        (Rpc::GetNode, Never, Any, Any),
        (Rpc::Health, Any, Any, Any),
        (Rpc::Join, Never, Never, Never),
        (Rpc::ListConnections, Never, Any, Any),
        (Rpc::ListJoinTokens, Never, Any, Any),
        (Rpc::ListLeases, Never, Any, Any),
        (Rpc::ListNetworks, Never, Any, Any),
        (Rpc::ListNodes, Never, Any, Any),
        (Rpc::ListReservations, Never, Any, Any),
        (Rpc::Reflection, Any, Any, Any),
        (Rpc::ReleaseLease, Own, Any, Never),
        (Rpc::RenewCertificate, Own, Never, Never),
        (Rpc::RenewLease, Own, Never, Never),
        (Rpc::ReportStatus, Own, Never, Never),
        (Rpc::RevokeNode, Never, Any, Never),
        (Rpc::RotateAuthority, Never, Any, Never),
        (Rpc::UpdateNetwork, Never, Any, Never),
        (Rpc::UpdateEndpoint, Own, Never, Never),
        (Rpc::WatchPeers, Own, Any, Any),
    ]
};

#[test]
fn every_role_may_do_exactly_what_the_table_says() {
    let cluster = "loden".parse().unwrap();
    for (index, (rpc, node, admin, reader)) in EXPECTED.into_iter().enumerate() {
        assert_eq!(rpc, Rpc::ALL[index], "the two lists have one order");
        for (role, expected) in
            [("node", node), ("admin", admin), ("reader", reader), ("control-plane", Access::Never)]
        {
            let caller = Caller::admit(&holder(role), &cluster, rpc, FROM);
            assert_eq!(caller.is_ok(), expected != Access::Never, "{role} {rpc:?}");
            let (own, other) = ("one".parse().unwrap(), "two".parse().unwrap());
            match caller {
                Ok(caller) => {
                    assert!(caller.may_act_for(&own).is_ok(), "{role} {rpc:?}");
                    assert_eq!(caller.may_act_for(&other).is_ok(), expected == Access::Any, "{role} {rpc:?}");
                    assert_eq!(caller.node().is_ok(), role == "node");
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::PermissionDenied);
                    assert!(Reason::NotAllowed.is_of(&status));
                    assert!(status.message().ends_with("may"), "says who may: {}", status.message());
                }
            }
        }
    }
}

#[test]
fn another_clusters_certificate_may_nothing() {
    let cluster = "other".parse().unwrap();
    for rpc in Rpc::ALL {
        assert!(Caller::admit(&holder("admin"), &cluster, rpc, FROM).is_err());
    }
}

#[test]
fn every_method_of_the_protocol_has_a_rule() {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(loden_proto::DESCRIPTORS).unwrap();
    let mut methods = 0;
    for file in set.file.iter().filter(|file| file.package() == "loden.v1") {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/loden.v1.{}/{}", service.name(), method.name());
                assert!(Rpc::of_path(&path).is_some(), "{path}");
                methods += 1;
            }
        }
    }
    // All but health and reflection.
    assert_eq!(methods, Rpc::ALL.len() - 2);
    assert_eq!(Rpc::of_path("/loden.v1.PeerService/WatchPeers"), Some(Rpc::WatchPeers));
    assert_eq!(Rpc::of_path("/grpc.health.v1.Health/Check"), Some(Rpc::Health));
    assert_eq!(Rpc::of_path("/loden.v1.PeerService/Nothing"), None);
}
