//! Who may call what: the one table of roles.
//!
//! ```text
//! certificate ─▶ SpiffeId ─┐
//! path ─▶ Rpc ─────────────┴─▶ rule(rpc, role) ─▶ Any | Own | Never
//! ```
//!
//! `Own` is decided by the request's resource name: [`Caller::may_act_for`].

use loden_proto::names::{ClusterName, NodeId};
use loden_proto::reason::{self, Reason};
use loden_transport::{Role, SpiffeId};
use tonic::{Code, Status};

/// Every call that there is a rule for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Rpc {
    /// `LeaseService.AcquireLease`
    AcquireLease,
    /// `NetworkService.CreateNetwork`
    CreateNetwork,
    /// `LeaseService.CreateReservation`
    CreateReservation,
    /// `NetworkService.DeleteNetwork`
    DeleteNetwork,
    /// `LeaseService.DeleteReservation`
    DeleteReservation,
    /// `ClusterService.GetClusterStatus`
    GetClusterStatus,
    /// `LeaseService.GetLease`
    GetLease,
    /// `NetworkService.GetNetwork`
    GetNetwork,
    /// `NodeService.GetNode`
    GetNode,
    /// `grpc.health.v1.Health.*`
    Health,
    /// `LeaseService.ListLeases`
    ListLeases,
    /// `NetworkService.ListNetworks`
    ListNetworks,
    /// `NodeService.ListNodes`
    ListNodes,
    /// `LeaseService.ListReservations`
    ListReservations,
    /// `grpc.reflection.v1(alpha).ServerReflection.*`
    Reflection,
    /// `LeaseService.ReleaseLease`
    ReleaseLease,
    /// `LeaseService.RenewLease`
    RenewLease,
    /// `PeerService.ReportStatus`
    ReportStatus,
    /// `NetworkService.UpdateNetwork`
    UpdateNetwork,
    /// `LeaseService.UpdateEndpoint`
    UpdateEndpoint,
    /// `PeerService.WatchPeers`
    WatchPeers,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::AcquireLease,
        Self::CreateNetwork,
        Self::CreateReservation,
        Self::DeleteNetwork,
        Self::DeleteReservation,
        Self::GetClusterStatus,
        Self::GetLease,
        Self::GetNetwork,
        Self::GetNode,
        Self::Health,
        Self::ListLeases,
        Self::ListNetworks,
        Self::ListNodes,
        Self::ListReservations,
        Self::Reflection,
        Self::ReleaseLease,
        Self::RenewLease,
        Self::ReportStatus,
        Self::UpdateNetwork,
        Self::UpdateEndpoint,
        Self::WatchPeers,
    ];

    /// The call that an HTTP/2 path names; none for what we do not serve.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match service {
            "grpc.health.v1.Health" => return Some(Self::Health),
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                return Some(Self::Reflection);
            }
            _ => {}
        }
        Self::ALL.into_iter().find(|rpc| rpc.service() == service && rpc.method() == method)
    }

    const fn service(self) -> &'static str {
        match self {
            Self::CreateNetwork
            | Self::DeleteNetwork
            | Self::GetNetwork
            | Self::ListNetworks
            | Self::UpdateNetwork => "loden.v1.NetworkService",
            Self::AcquireLease
            | Self::CreateReservation
            | Self::DeleteReservation
            | Self::GetLease
            | Self::ListLeases
            | Self::ListReservations
            | Self::ReleaseLease
            | Self::RenewLease
            | Self::UpdateEndpoint => "loden.v1.LeaseService",
            Self::ReportStatus | Self::WatchPeers => "loden.v1.PeerService",
            Self::GetNode | Self::ListNodes => "loden.v1.NodeService",
            Self::GetClusterStatus => "loden.v1.ClusterService",
            Self::Health => "grpc.health.v1.Health",
            Self::Reflection => "grpc.reflection.v1.ServerReflection",
        }
    }

    /// Its name in its service.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::AcquireLease => "AcquireLease",
            Self::CreateNetwork => "CreateNetwork",
            Self::CreateReservation => "CreateReservation",
            Self::DeleteNetwork => "DeleteNetwork",
            Self::DeleteReservation => "DeleteReservation",
            Self::GetClusterStatus => "GetClusterStatus",
            Self::GetLease => "GetLease",
            Self::GetNetwork => "GetNetwork",
            Self::GetNode => "GetNode",
            Self::Health => "Health",
            Self::ListLeases => "ListLeases",
            Self::ListNetworks => "ListNetworks",
            Self::ListNodes => "ListNodes",
            Self::ListReservations => "ListReservations",
            Self::Reflection => "ServerReflection",
            Self::ReleaseLease => "ReleaseLease",
            Self::RenewLease => "RenewLease",
            Self::ReportStatus => "ReportStatus",
            Self::UpdateNetwork => "UpdateNetwork",
            Self::UpdateEndpoint => "UpdateEndpoint",
            Self::WatchPeers => "WatchPeers",
        }
    }

    /// Who may, in words.
    const fn who(self) -> &'static str {
        match self {
            Self::AcquireLease | Self::RenewLease | Self::UpdateEndpoint | Self::ReportStatus => {
                "a node, for itself, may"
            }
            Self::ReleaseLease => "an admin, or a node for itself, may",
            Self::GetLease | Self::WatchPeers => "an admin or a reader, or a node for itself, may",
            Self::GetNetwork
            | Self::ListNetworks
            | Self::ListLeases
            | Self::ListReservations
            | Self::GetNode
            | Self::ListNodes
            | Self::GetClusterStatus => "an admin or a reader may",
            Self::CreateNetwork
            | Self::UpdateNetwork
            | Self::DeleteNetwork
            | Self::CreateReservation
            | Self::DeleteReservation => "an admin may",
            Self::Health | Self::Reflection => "an admin, a reader or a node may",
        }
    }
}

/// What a role may do with a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Everything.
    Any,
    /// Nothing.
    Never,
    /// What is its own.
    Own,
}

/// The table.
#[must_use]
pub const fn rule(rpc: Rpc, role: &Role) -> Access {
    match (role, rpc) {
        // A server's certificate never acts as a client.
        (Role::ControlPlane(_), _) => Access::Never,
        (_, Rpc::Health | Rpc::Reflection) => Access::Any,
        (
            Role::Node(_),
            Rpc::AcquireLease
            | Rpc::GetLease
            | Rpc::ReleaseLease
            | Rpc::RenewLease
            | Rpc::ReportStatus
            | Rpc::UpdateEndpoint
            | Rpc::WatchPeers,
        ) => Access::Own,
        // These speak for the calling node; nobody else can.
        (Role::Admin(_), Rpc::AcquireLease | Rpc::RenewLease | Rpc::ReportStatus | Rpc::UpdateEndpoint) => {
            Access::Never
        }
        (Role::Admin(_), _)
        | (
            Role::Reader(_),
            Rpc::GetClusterStatus
            | Rpc::GetLease
            | Rpc::GetNetwork
            | Rpc::GetNode
            | Rpc::ListLeases
            | Rpc::ListNetworks
            | Rpc::ListNodes
            | Rpc::ListReservations
            | Rpc::WatchPeers,
        ) => Access::Any,
        (Role::Node(_) | Role::Reader(_), _) => Access::Never,
    }
}

/// Who makes a call that the table lets through.
#[derive(Clone, Debug)]
pub struct Caller {
    /// From the certificate.
    pub id: SpiffeId,
    rpc: Rpc,
    access: Access,
}

impl Caller {
    /// Looks the call up in the table.
    ///
    /// # Errors
    /// PERMISSION_DENIED, saying who may.
    pub fn admit(id: &SpiffeId, cluster: &ClusterName, rpc: Rpc) -> Result<Self, Status> {
        if id.cluster != *cluster {
            let message = format!("{id} is not of this cluster, \"{cluster}\"");
            return Err(reason::status(Code::PermissionDenied, Reason::NotAllowed, message));
        }
        match rule(rpc, &id.role) {
            Access::Never => Err(denied(id, rpc, "")),
            access => Ok(Self { id: id.clone(), rpc, access }),
        }
    }

    /// What is called.
    #[must_use]
    pub const fn rpc(&self) -> Rpc {
        self.rpc
    }

    /// Checks that the caller may act for `node`.
    ///
    /// # Errors
    /// PERMISSION_DENIED, saying who may.
    pub fn may_act_for(&self, node: &NodeId) -> Result<(), Status> {
        match (self.access, &self.id.role) {
            (Access::Any, _) => Ok(()),
            (Access::Own, Role::Node(own)) if own == node => Ok(()),
            _ => Err(denied(&self.id, self.rpc, &format!(" for node \"{node}\""))),
        }
    }

    /// The calling node.
    ///
    /// # Errors
    /// PERMISSION_DENIED when it is no node.
    pub fn node(&self) -> Result<&NodeId, Status> {
        match &self.id.role {
            Role::Node(node) => Ok(node),
            _ => Err(denied(&self.id, self.rpc, "")),
        }
    }
}

fn denied(id: &SpiffeId, rpc: Rpc, whom: &str) -> Status {
    let message = format!("{id} may not call {}{whom}; {}", rpc.method(), rpc.who());
    reason::status(Code::PermissionDenied, Reason::NotAllowed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(role: &str) -> SpiffeId {
        format!("spiffe://loden/{role}/one").parse().unwrap()
    }

    /// For every call: node, admin, reader.
    const EXPECTED: [(Rpc, Access, Access, Access); 21] = {
        use Access::{Any, Never, Own};
        [
            (Rpc::AcquireLease, Own, Never, Never),
            (Rpc::CreateNetwork, Never, Any, Never),
            (Rpc::CreateReservation, Never, Any, Never),
            (Rpc::DeleteNetwork, Never, Any, Never),
            (Rpc::DeleteReservation, Never, Any, Never),
            (Rpc::GetClusterStatus, Never, Any, Any),
            (Rpc::GetLease, Own, Any, Any),
            (Rpc::GetNetwork, Never, Any, Any),
            (Rpc::GetNode, Never, Any, Any),
            (Rpc::Health, Any, Any, Any),
            (Rpc::ListLeases, Never, Any, Any),
            (Rpc::ListNetworks, Never, Any, Any),
            (Rpc::ListNodes, Never, Any, Any),
            (Rpc::ListReservations, Never, Any, Any),
            (Rpc::Reflection, Any, Any, Any),
            (Rpc::ReleaseLease, Own, Any, Never),
            (Rpc::RenewLease, Own, Never, Never),
            (Rpc::ReportStatus, Own, Never, Never),
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
                let id = id(role);
                let caller = Caller::admit(&id, &cluster, rpc);
                assert_eq!(caller.is_ok(), expected != Access::Never, "{role} {rpc:?}");
                let (own, other) = ("one".parse().unwrap(), "two".parse().unwrap());
                match caller {
                    Ok(caller) => {
                        assert!(caller.may_act_for(&own).is_ok(), "{role} {rpc:?}");
                        assert_eq!(
                            caller.may_act_for(&other).is_ok(),
                            expected == Access::Any,
                            "{role} {rpc:?}"
                        );
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
            assert!(Caller::admit(&id("admin"), &cluster, rpc).is_err());
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
}
