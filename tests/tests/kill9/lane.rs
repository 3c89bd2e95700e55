//! What one caller does, one call after the other, until the server is gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use loden_proto::reason::Reason;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_tests::client;
use rand::{Rng, rngs::StdRng};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::pool;
use crate::storm::{Account, Figures};
use crate::witness::{Deletions, Item, LeaseCall, LeaseItem, NetworkCall, NetworkItem};

/// One node in one network: acquires, acquires as another instance, releases.
pub(crate) struct LeaseLane {
    pub(crate) key: (String, String),
    /// Of its network.
    pub(crate) deletions: Arc<Deletions>,
    pub(crate) number: u16,
    pub(crate) client: LeaseServiceClient<Channel>,
    pub(crate) channel: Channel,
    pub(crate) rng: StdRng,
    pub(crate) begun: watch::Sender<()>,
}

impl LeaseLane {
    pub(crate) async fn run(
        mut self,
        mut item: LeaseItem,
    ) -> anyhow::Result<Account<(String, String), LeaseItem>> {
        let mut figures = Figures::default();
        loop {
            let call = match &item.known {
                Some(_) if self.rng.random_bool(0.4) => LeaseCall::Release,
                _ => LeaseCall::Acquire { instance: self.rng.random() },
            };
            item.open = Some(call);
            let deletions = self.deletions.done();
            match self.call(call, item.known.as_ref()).await {
                Ok(known) => {
                    item = Item { known, open: None, deletions };
                    figures.acknowledged += 1;
                    self.begun.send_replace(());
                }
                Err(status) if is_gone(&status) => {
                    figures.open += 1;
                    return Ok(Account { key: self.key, item, figures });
                }
                Err(status) => {
                    self.allowed(&status, call).with_context(|| format!("{:?}", self.key))?;
                    item.open = None;
                    figures.refused += 1;
                    if status.code() == Code::NotFound {
                        item.known = None;
                        // Its network comes again, at its own pace.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
        }
    }

    async fn call(
        &mut self,
        call: LeaseCall,
        known: Option<&v1::Lease>,
    ) -> Result<Option<v1::Lease>, Status> {
        match (call, known) {
            (LeaseCall::Release, Some(lease)) => {
                let request = v1::ReleaseLeaseRequest { name: lease.name.clone(), epoch: lease.epoch };
                self.client.release_lease(request).await.map(|_| None)
            }
            (LeaseCall::Release, None) => Err(Status::internal("there is nothing to release")),
            (LeaseCall::Acquire { instance }, _) => {
                let endpoint = client::endpoint(self.number + 1);
                client::acquire(&self.channel, &self.key.0, instance, endpoint).await.map(Some)
            }
        }
    }

    /// Only what the game itself brings about may be refused.
    fn allowed(&self, status: &Status, call: LeaseCall) -> anyhow::Result<()> {
        let passes = self.key.0.starts_with("passing");
        let allowed = match status.code() {
            Code::ResourceExhausted => matches!(call, LeaseCall::Acquire { .. }),
            Code::NotFound => passes,
            Code::FailedPrecondition => passes && Reason::InUse.is_of(status),
            _ => false,
        };
        ensure!(allowed, "{call:?} was refused: {status:?}");
        Ok(())
    }
}

/// One network: created, deleted with whatever is in it, and again.
pub(crate) async fn network_lane(
    (key, deletions): (String, Arc<Deletions>),
    number: u16,
    channel: Channel,
    mut item: NetworkItem,
) -> anyhow::Result<Account<String, NetworkItem>> {
    let mut figures = Figures::default();
    let mut client = NetworkServiceClient::new(channel.clone());
    loop {
        let call = if item.known.is_some() { NetworkCall::Delete } else { NetworkCall::Create };
        item.open = Some(call);
        let answer = match call {
            NetworkCall::Create => {
                client::create_network(&channel, &key, &pool(100 + number), 27).await.map(Some)
            }
            NetworkCall::Delete => {
                deletions.ask();
                let request = v1::DeleteNetworkRequest { name: format!("networks/{key}"), force: true };
                client.delete_network(request).await.map(|_| None)
            }
        };
        match answer {
            Ok(known) => {
                if known.is_none() {
                    deletions.settle();
                }
                item = Item { known, ..Item::default() };
                figures.acknowledged += 1;
            }
            Err(status) if is_gone(&status) => {
                figures.open += 1;
                return Ok(Account { key, item, figures });
            }
            Err(status) if item.deletions > 0 && status.code() == Code::NotFound => {
                deletions.settle();
                item = Item::default();
                figures.refused += 1;
            }
            // Its VNI may still cool down.
            Err(status) if Reason::Exhausted.is_of(&status) => {
                item.open = None;
                figures.refused += 1;
            }
            Err(status) => bail!("{key}: {call:?} was refused: {status:?}"),
        }
    }
}

/// Whether the call has no answer because the server is gone.
fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
        && loden_proto::reason::of(status).is_none()
}
