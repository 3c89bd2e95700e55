//! The control plane as the agent sees it: its few calls, read into the model.
//!
//! One connection serves all networks, until another one takes its place; a handle is cheap to clone.

use std::future::Future;
use std::time::Duration;

use ipnet::IpNet;
use loden_proto::convert::{self, parse_subnets};
use loden_proto::model::{BootId, Endpoint, Epoch, InstanceId, LeaseName, Network, Subnets};
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_proto::v1::watch_peers_response::Update as Wire;
use loden_proto::{InvalidValue, names, v1};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::channels::Channels;
use crate::peers::{self, Delta, Token};
use crate::session::{Message, SnapshotEnd};
use crate::state::Held;

/// For an answer to a call that is no stream.
const ANSWER: Duration = Duration::from_secs(10);

/// What an acquire gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Granted {
    pub(crate) held: Held,
    pub(crate) network: Network,
}

/// The control plane, for one lease.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    channels: Channels,
    lease: LeaseName,
    instance: InstanceId,
    boot: Option<BootId>,
}

impl ControlPlane {
    pub(crate) fn new(
        channels: Channels,
        lease: LeaseName,
        instance: InstanceId,
        boot: Option<BootId>,
    ) -> Self {
        Self { channels, lease, instance, boot }
    }

    /// Waits until there is another connection, over which to watch from then on.
    pub(crate) async fn moved(&mut self) {
        self.channels.replaced().await;
    }

    fn leases(&self) -> LeaseServiceClient<Channel> {
        LeaseServiceClient::new(self.channels.now())
    }

    fn peers(&self) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(self.channels.now())
    }

    /// Empty when it is not known.
    fn boot_id(&self) -> String {
        self.boot.map(|boot| boot.to_string()).unwrap_or_default()
    }

    pub(crate) async fn acquire(
        &self,
        claim: Option<Subnets>,
        endpoint: &Endpoint,
        prefixes: &[IpNet],
    ) -> Result<Granted, Status> {
        let request = v1::AcquireLeaseRequest {
            network: names::network(&self.lease.network),
            instance_id: self.instance.to_string(),
            boot_id: self.boot_id(),
            claim: claim.iter().flat_map(Subnets::iter).map(|subnet| subnet.to_string()).collect(),
            endpoint: Some(endpoint.into()),
            underlay_prefixes: prefixes.iter().map(ToString::to_string).collect(),
        };
        let answer = answered(self.leases().acquire_lease(request)).await?;
        granted(answer).map_err(unreadable)
    }

    pub(crate) async fn update_endpoint(&self, epoch: Epoch, endpoint: &Endpoint) -> Result<(), Status> {
        let request = v1::UpdateEndpointRequest {
            name: self.lease.to_string(),
            epoch: epoch.0,
            endpoint: Some(endpoint.into()),
        };
        answered(self.leases().update_endpoint(request)).await.map(drop)
    }

    /// The epoch and the endpoint of the lease as peers know it; none when they know none of this instance.
    pub(crate) async fn published(&self) -> Result<Option<(Epoch, Endpoint)>, Status> {
        let request = v1::GetLeaseRequest { name: self.lease.to_string() };
        let lease = answered(self.leases().get_lease(request)).await?;
        if lease.state() != v1::LeaseState::Active || lease.instance_id != self.instance.to_string() {
            return Ok(None);
        }
        let endpoint = lease.endpoint.ok_or_else(|| InvalidValue::missing("endpoint"));
        let endpoint = endpoint.and_then(Endpoint::try_from).map_err(unreadable)?;
        Ok(Some((Epoch(lease.epoch), endpoint)))
    }

    pub(crate) async fn release(&self, epoch: Epoch) -> Result<(), Status> {
        let request = v1::ReleaseLeaseRequest { name: self.lease.to_string(), epoch: epoch.0 };
        answered(self.leases().release_lease(request)).await
    }

    pub(crate) async fn watch(
        self,
        resume: Option<Token>,
        seen: Option<Token>,
    ) -> Result<Streaming<v1::WatchPeersResponse>, Status> {
        let request = v1::WatchPeersRequest {
            network: names::network(&self.lease.network),
            resume_token: resume.map(Into::into).unwrap_or_default(),
            seen_token: seen.map(Into::into).unwrap_or_default(),
            instance_id: self.instance.to_string(),
            boot_id: self.boot_id(),
        };
        self.peers().watch_peers(request).await.map(Response::into_inner)
    }

    /// Answers when to report again.
    pub(crate) async fn report(&self, report: v1::ReportStatusRequest) -> Result<Duration, Status> {
        let answer = answered(self.peers().report_status(report)).await?;
        self.channels.trust(answer.trust_generation);
        let next = answer.next_report.ok_or_else(|| InvalidValue::missing("next_report"));
        next.and_then(convert::duration_from).map_err(unreadable)
    }
}

/// Waits for an answer, but not for ever.
pub(crate) async fn answered<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(ANSWER, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}

fn granted(answer: v1::AcquireLeaseResponse) -> Result<Granted, InvalidValue> {
    let lease = answer.lease.ok_or_else(|| InvalidValue::missing("lease"))?;
    let network = answer.network.ok_or_else(|| InvalidValue::missing("network"))?;
    let subnets = parse_subnets(&lease.subnets, "subnets").map_err(|invalid| invalid.at("lease"))?;
    let network = Network::try_from(network).map_err(|invalid| invalid.at("network"))?;
    Ok(Granted { held: Held { subnets, epoch: Epoch(lease.epoch) }, network })
}

/// Reads a message of the watch. A peer that cannot be read is set aside.
///
/// # Errors
/// The message as such cannot be read.
pub(crate) fn message(wire: v1::WatchPeersResponse) -> Result<Message, Status> {
    let token = Some(wire.resume_token).filter(|token| !token.is_empty()).map(Token::from);
    let update = wire.update.ok_or_else(|| unreadable(InvalidValue::missing("update")))?;
    let network = |network: Option<v1::Network>| {
        let network = network.map(Network::try_from).transpose();
        network.map(|network| network.map(Box::new)).map_err(|invalid| unreadable(invalid.at("network")))
    };
    Ok(match update {
        Wire::Snapshot(page) => {
            let (peers, refused) = peers::parse(page.peers);
            let end = if page.last {
                let missing = |field| unreadable(InvalidValue::missing(field).at("snapshot"));
                Some(SnapshotEnd {
                    network: network(page.network)?.ok_or_else(|| missing("network"))?,
                    adopting: page.adopting,
                    token: token.ok_or_else(|| missing("resume_token"))?,
                })
            } else {
                None
            };
            Message::Snapshot { peers, refused, end }
        }
        Wire::Delta(page) => {
            let (upserts, refused) = peers::parse(page.upserts);
            let network = network(page.network)?;
            let part = Delta { upserts, refused, removed: page.removed, network, token };
            Message::Delta { part, last: page.last }
        }
        Wire::Heartbeat(heartbeat) => {
            let interval = heartbeat.interval.map(convert::duration_from).transpose().map_err(unreadable)?;
            Message::Heartbeat { interval, adopting: heartbeat.adopting, token }
        }
    })
}

fn unreadable(invalid: InvalidValue) -> Status {
    Status::new(Code::DataLoss, format!("the server's answer cannot be read: {invalid}"))
}
