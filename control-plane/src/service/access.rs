//! Who may call what: the one table of roles.
//!
//! ```text
//! certificate ─▶ Holder ───┐
//! path ─▶ Rpc ─────────────┴─▶ rule(rpc, role) ─▶ Any | Own | Never
//! ```
//!
//! `Own` is decided by the request's resource name: [`Caller::may_act_for`].

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use loden_proto::names::{ClusterName, NodeId};
use loden_proto::reason::{self, Reason};
use loden_transport::{Holder, Role, SpiffeId};
use tonic::{Code, Status};

/// Every call that there is a rule for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Rpc {
    /// `LeaseService.AcquireLease`
    AcquireLease,
    /// `IdentityService.CreateJoinToken`
    CreateJoinToken,
    /// `NetworkService.CreateNetwork`
    CreateNetwork,
    /// `LeaseService.CreateReservation`
    CreateReservation,
    /// `IdentityService.DeleteJoinToken`
    DeleteJoinToken,
    /// `NetworkService.DeleteNetwork`
    DeleteNetwork,
    /// `NodeService.DeleteNode`
    DeleteNode,
    /// `LeaseService.DeleteReservation`
    DeleteReservation,
    /// `IdentityService.GetAuthority`
    GetAuthority,
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
    /// `IdentityService.Join`
    Join,
    /// `NodeService.ListConnections`
    ListConnections,
    /// `IdentityService.ListJoinTokens`
    ListJoinTokens,
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
    /// `IdentityService.RenewCertificate`
    RenewCertificate,
    /// `LeaseService.RenewLease`
    RenewLease,
    /// `PeerService.ReportStatus`
    ReportStatus,
    /// `NodeService.RevokeNode`
    RevokeNode,
    /// `IdentityService.RotateAuthority`
    RotateAuthority,
    /// `NetworkService.UpdateNetwork`
    UpdateNetwork,
    /// `LeaseService.UpdateEndpoint`
    UpdateEndpoint,
    /// `PeerService.WatchPeers`
    WatchPeers,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::AcquireLease,
        Self::CreateJoinToken,
        Self::CreateNetwork,
        Self::CreateReservation,
        Self::DeleteJoinToken,
        Self::DeleteNetwork,
        Self::DeleteNode,
        Self::DeleteReservation,
        Self::GetAuthority,
        Self::GetClusterStatus,
        Self::GetLease,
        Self::GetNetwork,
        Self::GetNode,
        Self::Health,
        Self::Join,
        Self::ListConnections,
        Self::ListJoinTokens,
        Self::ListLeases,
        Self::ListNetworks,
        Self::ListNodes,
        Self::ListReservations,
        Self::Reflection,
        Self::ReleaseLease,
        Self::RenewCertificate,
        Self::RenewLease,
        Self::ReportStatus,
        Self::RevokeNode,
        Self::RotateAuthority,
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
            Self::CreateJoinToken
            | Self::DeleteJoinToken
            | Self::GetAuthority
            | Self::Join
            | Self::ListJoinTokens
            | Self::RenewCertificate
            | Self::RotateAuthority => "loden.v1.IdentityService",
            Self::DeleteNode | Self::GetNode | Self::ListConnections | Self::ListNodes | Self::RevokeNode => {
                "loden.v1.NodeService"
            }
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
            Self::CreateJoinToken => "CreateJoinToken",
            Self::CreateNetwork => "CreateNetwork",
            Self::CreateReservation => "CreateReservation",
            Self::DeleteJoinToken => "DeleteJoinToken",
            Self::DeleteNetwork => "DeleteNetwork",
            Self::DeleteNode => "DeleteNode",
            Self::DeleteReservation => "DeleteReservation",
            Self::GetAuthority => "GetAuthority",
            Self::GetClusterStatus => "GetClusterStatus",
            Self::GetLease => "GetLease",
            Self::GetNetwork => "GetNetwork",
            Self::GetNode => "GetNode",
            Self::Health => "Health",
            Self::Join => "Join",
            Self::ListConnections => "ListConnections",
            Self::ListJoinTokens => "ListJoinTokens",
            Self::ListLeases => "ListLeases",
            Self::ListNetworks => "ListNetworks",
            Self::ListNodes => "ListNodes",
            Self::ListReservations => "ListReservations",
            Self::Reflection => "ServerReflection",
            Self::ReleaseLease => "ReleaseLease",
            Self::RenewCertificate => "RenewCertificate",
            Self::RenewLease => "RenewLease",
            Self::ReportStatus => "ReportStatus",
            Self::RevokeNode => "RevokeNode",
            Self::RotateAuthority => "RotateAuthority",
            Self::UpdateNetwork => "UpdateNetwork",
            Self::UpdateEndpoint => "UpdateEndpoint",
            Self::WatchPeers => "WatchPeers",
        }
    }

    /// Who may, in words.
    const fn who(self) -> &'static str {
        match self {
            Self::AcquireLease
            | Self::RenewCertificate
            | Self::RenewLease
            | Self::UpdateEndpoint
            | Self::ReportStatus => "a node, for itself, may",
            Self::Join => "a host that has a token, and shows no certificate, may",
            Self::ReleaseLease => "an admin, or a node for itself, may",
            Self::GetLease | Self::WatchPeers => "an admin or a reader, or a node for itself, may",
            Self::GetNetwork
            | Self::ListNetworks
            | Self::ListLeases
            | Self::ListReservations
            | Self::GetNode
            | Self::ListNodes
            | Self::ListConnections
            | Self::ListJoinTokens
            | Self::GetAuthority
            | Self::GetClusterStatus => "an admin or a reader may",
            Self::CreateJoinToken
            | Self::CreateNetwork
            | Self::UpdateNetwork
            | Self::DeleteJoinToken
            | Self::DeleteNetwork
            | Self::DeleteNode
            | Self::RevokeNode
            | Self::RotateAuthority
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
        // Whoever has a certificate has joined.
        (_, Rpc::Join) => Access::Never,
        (_, Rpc::Health | Rpc::Reflection) => Access::Any,
        (
            Role::Node(_),
            Rpc::AcquireLease
            | Rpc::GetLease
            | Rpc::ReleaseLease
            | Rpc::RenewCertificate
            | Rpc::RenewLease
            | Rpc::ReportStatus
            | Rpc::UpdateEndpoint
            | Rpc::WatchPeers,
        ) => Access::Own,
        // These speak for the calling node; nobody else can.
        (
            Role::Admin(_),
            Rpc::AcquireLease
            | Rpc::RenewCertificate
            | Rpc::RenewLease
            | Rpc::ReportStatus
            | Rpc::UpdateEndpoint,
        ) => Access::Never,
        (Role::Admin(_), _)
        | (
            Role::Reader(_),
            Rpc::GetAuthority
            | Rpc::GetClusterStatus
            | Rpc::GetLease
            | Rpc::GetNetwork
            | Rpc::GetNode
            | Rpc::ListConnections
            | Rpc::ListJoinTokens
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
    /// Of a node, from its certificate.
    pub epoch: u32,
    /// Where it calls from.
    pub from: SocketAddr,
    rpc: Rpc,
    access: Access,
}

impl Caller {
    /// Looks the call up in the table.
    ///
    /// # Errors
    /// PERMISSION_DENIED, saying who may.
    pub fn admit(holder: &Holder, cluster: &ClusterName, rpc: Rpc, from: SocketAddr) -> Result<Self, Status> {
        let (id, epoch) = (&holder.id, holder.epoch);
        if id.cluster != *cluster {
            let message = format!("{id} is not of this cluster, \"{cluster}\"");
            return Err(reason::status(Code::PermissionDenied, Reason::NotAllowed, message));
        }
        match rule(rpc, &id.role) {
            Access::Never => Err(denied(id, rpc, "")),
            access => Ok(Self { id: id.clone(), epoch, from, rpc, access }),
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
