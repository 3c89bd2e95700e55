//! The one node whose address changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loden_proto::names::{self, NetworkId};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use tonic::transport::Channel;

use super::members::{self, Members};
use super::sightings::{self, Sightings};

/// How long everybody may take to see a change.
const SEEN: Duration = Duration::from_secs(60);
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
        let mut leases = LeaseServiceClient::new(members.connect(&"driver".parse()?)?);
        let first = v1::Endpoint { address_v4: sightings::address(0).to_string(), ..Default::default() };
        let request = v1::AcquireLeaseRequest {
            boot_id: String::new(),
            underlay_prefixes: Vec::new(),
            network: names::network(network),
            instance_id: format!("{:032x}", u128::from(INDEX)),
            claim: Vec::new(),
            endpoint: Some(first),
        };
        let answer = leases.acquire_lease(request).await?.into_inner();
        let (lease, network) = (answer.lease.unwrap_or_default(), answer.network.unwrap_or_default());
        let mut driver = Self { leases, lease, network, change: 0 };
        driver.move_on().await?;
        Ok(driver)
    }

    /// Makes changes one after the other, each once all `count` members have seen the last;
    /// answers what each took to reach each member, in ms. The clock starts before the call
    /// that makes the change, so the commit itself is in it.
    pub(super) async fn changes(
        &mut self,
        sightings: &Arc<Sightings>,
        members: usize,
        (count, pause): (u16, Duration),
    ) -> anyhow::Result<Vec<f64>> {
        let mut latencies = Vec::new();
        for _ in 0..count {
            tokio::time::sleep(pause).await;
            sightings.expect(self.change + 1, members);
            let begin = Instant::now();
            self.move_on().await?;
            let seen = sightings.all(SEEN).await?;
            latencies.extend(seen.into_iter().map(|at| (at - begin).as_secs_f64() * 1e3));
        }
        Ok(latencies)
    }

    /// The next address.
    async fn move_on(&mut self) -> anyhow::Result<()> {
        self.change += 1;
        let endpoint = members::endpoint(sightings::address(self.change), INDEX, &self.network)?;
        let request = v1::UpdateEndpointRequest {
            name: self.lease.name.clone(),
            epoch: self.lease.epoch,
            endpoint: Some((&endpoint).into()),
        };
        self.lease = self.leases.update_endpoint(request).await?.into_inner();
        Ok(())
    }
}
