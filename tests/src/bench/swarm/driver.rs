//! The one node whose address changes, or that is revoked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loden_proto::names::{self, NetworkId};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_transport::Role;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::changes::Mover;
use super::members::{self, Members};
use super::sightings::{self, Sightings};

/// How long everybody may take to see a change.
const SEEN: Duration = Duration::from_secs(60);
/// Before a call is made again.
const AGAIN: Duration = Duration::from_millis(20);
/// The driver's name.
pub(super) const NAME: &str = "driver";
/// The driver's number among the members: above all of them.
const INDEX: u16 = u16::MAX;

/// A node with a lease and no watch.
pub(super) struct Driver {
    leases: LeaseServiceClient<Channel>,
    lease: v1::Lease,
    network: v1::Network,
    change: u16,
}

impl Driver {
    /// Takes a lease.
    pub(super) async fn join(members: &Members, network: &NetworkId) -> anyhow::Result<Self> {
        Self::join_again(members, &names::network(network), 0, 0).await
    }

    /// With a certificate of an identity epoch, after so many changes.
    async fn join_again(members: &Members, network: &str, epoch: u32, change: u16) -> anyhow::Result<Self> {
        let channel = members.connect_as(Role::Node(NAME.parse()?), epoch)?;
        let mut leases = LeaseServiceClient::new(channel);
        let first = v1::Endpoint { address_v4: sightings::address(0).to_string(), ..Default::default() };
        let request = v1::AcquireLeaseRequest {
            boot_id: String::new(),
            underlay_prefixes: Vec::new(),
            network: network.to_owned(),
            instance_id: format!("{:032x}", u128::from(INDEX)),
            claim: Vec::new(),
            endpoint: Some(first),
        };
        let answer = leases.acquire_lease(request).await?.into_inner();
        let (lease, network) = (answer.lease.unwrap_or_default(), answer.network.unwrap_or_default());
        let mut driver = Self { leases, lease, network, change };
        driver.move_on().await?;
        Ok(driver)
    }

    /// Is revoked so many times, and comes back each time once all `count` members have forgotten it; answers how
    /// long after the call that revokes it each of them had, in ms.
    pub(super) async fn revocations(
        &mut self,
        members: &Members,
        sightings: &Arc<Sightings>,
        watchers: usize,
        count: u16,
    ) -> anyhow::Result<Vec<f64>> {
        let admin = members.connect_as(Role::Admin("bench".parse()?), 0)?;
        let mut nodes = NodeServiceClient::new(admin);
        let mut latencies = Vec::new();
        for _ in 0..count {
            sightings.expect(sightings::GONE, watchers);
            let begin = Instant::now();
            let request = v1::RevokeNodeRequest { name: format!("nodes/{NAME}"), allow_missing: false };
            let epoch = nodes.revoke_node(request).await?.into_inner().epoch;
            let seen = sightings.all(SEEN).await?;
            latencies.extend(seen.into_iter().map(|at| (at - begin).as_secs_f64() * 1e3));
            sightings.expect(self.change + 1, watchers);
            *self = Self::join_again(members, &self.network.name, epoch, self.change).await?;
            sightings.all(SEEN).await?;
        }
        Ok(latencies)
    }
}

impl Mover for Driver {
    fn change(&self) -> u16 {
        self.change
    }

    /// The next address. Who serves may go meanwhile: to say it once more changes nothing.
    async fn move_on(&mut self) -> anyhow::Result<()> {
        self.change += 1;
        let begin = Instant::now();
        let endpoint = members::endpoint(sightings::address(self.change), INDEX, &self.network)?;
        let request = v1::UpdateEndpointRequest {
            name: self.lease.name.clone(),
            epoch: self.lease.epoch,
            endpoint: Some((&endpoint).into()),
        };
        loop {
            match self.leases.update_endpoint(request.clone()).await {
                Ok(lease) => {
                    self.lease = lease.into_inner();
                    return Ok(());
                }
                Err(status) if has_gone(&status) && begin.elapsed() < SEEN => tokio::time::sleep(AGAIN).await,
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// Whether a call has no answer because the server, or the way to it, is gone.
fn has_gone(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}
