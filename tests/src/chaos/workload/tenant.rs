//! A node that comes and goes: no host, no kernel, only what it says and is told.

use anyhow::Context;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use rand::Rng;
use tonic::transport::Channel;

use super::desk::{Desk, held};
use crate::history::{Held, Outcome, Wish};

/// Acquires, as the same instance or another one, renews and releases.
pub(super) struct Tenant {
    desk: Desk,
    network: String,
    endpoint: v1::Endpoint,
    leases: LeaseServiceClient<Channel>,
    /// As of the last answer; `None` also after a call that nobody has answered.
    known: Option<Held>,
}

impl Tenant {
    pub(super) fn new(desk: Desk, network: &str, endpoint: v1::Endpoint, channel: Channel) -> Self {
        let network = format!("networks/{network}");
        Self { desk, network, endpoint, leases: LeaseServiceClient::new(channel), known: None }
    }

    /// Until it is told to stop.
    pub(super) async fn work(mut self) -> anyhow::Result<()> {
        while self.desk.pause().await {
            let (outcome, takes) = match self.known.clone() {
                Some(known) if self.desk.random.random_bool(0.2) => (self.release(known.epoch).await?, false),
                Some(known) if self.desk.random.random_bool(0.5) => (self.renew(known.epoch).await?, false),
                Some(known) if self.desk.random.random_bool(0.5) => {
                    (self.acquire(known.instance).await?, true)
                }
                _ => {
                    let instance = self.desk.random.random();
                    (self.acquire(instance).await?, true)
                }
            };
            match outcome {
                Outcome::Done(known) => self.known = known,
                // It keeps what it has.
                Outcome::Refused if takes => {}
                Outcome::Refused | Outcome::Unknown => self.known = None,
            }
        }
        Ok(())
    }

    async fn acquire(&mut self, instance: u128) -> anyhow::Result<Outcome> {
        let request = v1::AcquireLeaseRequest {
            boot_id: String::new(),
            underlay_prefixes: Vec::new(),
            network: self.network.clone(),
            instance_id: format!("{instance:032x}"),
            claim: Vec::new(),
            endpoint: Some(self.endpoint.clone()),
        };
        let call = self.leases.acquire_lease(request);
        let granted = |answer: v1::AcquireLeaseResponse| {
            Ok(Some(held(&answer.lease.context("a granted lease has no content")?)?))
        };
        self.desk.call(Wish::Take { instance }, call, granted).await
    }

    async fn renew(&mut self, epoch: u64) -> anyhow::Result<Outcome> {
        let request = v1::RenewLeaseRequest { name: self.name(), epoch };
        let call = self.leases.renew_lease(request);
        self.desk.call(Wish::Keep, call, |lease: v1::Lease| Ok(Some(held(&lease)?))).await
    }

    async fn release(&mut self, epoch: u64) -> anyhow::Result<Outcome> {
        let request = v1::ReleaseLeaseRequest { name: self.name(), epoch };
        let call = self.leases.release_lease(request);
        self.desk.call(Wish::Give { epoch }, call, |_| Ok(None)).await
    }

    fn name(&self) -> String {
        self.desk.thing.to_string()
    }
}
