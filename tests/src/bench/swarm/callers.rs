//! Clients that acquire leases, all at once: each call is one durable commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::names::{self, NetworkId};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::Answer;
use super::members::{self, Members};
use super::wire::{self, Wire};

/// One node each, connected.
pub(super) struct Callers {
    clients: Vec<LeaseServiceClient<Wire>>,
}

impl Callers {
    pub(super) async fn connect(members: &Members, count: u16) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for index in 0..count {
            let mut client = LeaseServiceClient::with_origin(
                members.dialler(&members::name(index)?)?.dial().await?,
                wire::origin(),
            );
            warm_up(&mut client).await?;
            clients.push(client);
        }
        Ok(Self { clients })
    }

    /// Acquires `leases` leases in these networks, one in flight per caller. A node has one lease
    /// in a network, so callers and networks must be enough for that many.
    pub(super) async fn acquire(&self, networks: &[String], leases: usize) -> anyhow::Result<Answer> {
        let callers = self.clients.len();
        ensure!(callers * networks.len() >= leases, "{callers} callers cannot have {leases} leases");
        let networks: Arc<[NetworkId]> =
            networks.iter().map(|network| Ok(network.parse()?)).collect::<anyhow::Result<_>>()?;
        let start = Arc::new(Barrier::new(callers + 1));
        let mut tasks = JoinSet::new();
        for (index, client) in (0_u16..).zip(&self.clients) {
            let (mut client, networks, start) = (client.clone(), Arc::clone(&networks), Arc::clone(&start));
            // The first callers have one more where it does not come out even.
            let share = leases / callers + usize::from(usize::from(index) < leases % callers);
            tasks.spawn(async move {
                start.wait().await;
                let mut latencies = Vec::with_capacity(share);
                for network in networks.iter().take(share) {
                    let begin = Instant::now();
                    acquire(&mut client, index, network).await?;
                    latencies.push(begin.elapsed());
                }
                anyhow::Ok(latencies)
            });
        }
        start.wait().await;
        let begin = Instant::now();
        let mut all: Vec<Duration> = Vec::with_capacity(leases);
        while let Some(latencies) = tasks.join_next().await {
            all.extend(latencies??);
        }
        let seconds = begin.elapsed().as_secs_f64();
        ensure!(all.len() == leases, "{} of {leases} leases were acquired", all.len());
        let latencies = all.into_iter().map(|latency| latency.as_secs_f64() * 1e3).collect();
        Ok(Answer::Acquired { seconds, latencies })
    }
}

/// One call, so that whatever is made once is there.
async fn warm_up(client: &mut LeaseServiceClient<Wire>) -> anyhow::Result<()> {
    let name = "networks/none/leases/none".to_owned();
    match client.get_lease(v1::GetLeaseRequest { name }).await {
        // A node may not look at others' leases; that it was told so proves the connection.
        Err(status) if matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::NotFound) => {
            Ok(())
        }
        Err(status) => Err(status).context("connect"),
        Ok(_) => Ok(()),
    }
}

async fn acquire(
    client: &mut LeaseServiceClient<Wire>,
    index: u16,
    network: &NetworkId,
) -> anyhow::Result<()> {
    let address_v4 = members::underlay(index).to_string();
    let request = v1::AcquireLeaseRequest {
        boot_id: String::new(),
        underlay_prefixes: Vec::new(),
        network: names::network(network),
        instance_id: format!("{index:032x}"),
        claim: Vec::new(),
        endpoint: Some(v1::Endpoint { address_v4, ..Default::default() }),
    };
    let answer = client.acquire_lease(request).await.with_context(|| format!("acquire in {network}"))?;
    ensure!(answer.into_inner().lease.is_some(), "a lease in {network} has no content");
    Ok(())
}
